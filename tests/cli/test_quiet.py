"""What libraries would print and nobody needs to see is quieted where it comes from; what we say is not."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys

import pytest
import torch
from made_up import write_recordings
from PIL import Image

SMALL = (
    "steps=1",
    "size=tiny",
    "batch_size=2",
    "warmup_steps=0",
    "evaluate_every=0",
    "evaluate_samples=2",
    "trackers=[]",
)


# Several commands in one process, and on both streams a line before each.
PROGRAM = """
import json, sys
from rdt2.cli.main import main
for words in json.loads(sys.argv[1]):
    for stream in (sys.stdout, sys.stderr):
        print("$", *words, file=stream, flush=True)
    main(words)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What commands print where nothing is quieted from outside: by their names, (stdout, stderr), lines."""
    pytest.importorskip("mujoco")
    folder = tmp_path_factory.mktemp("quiet")
    write_recordings(folder / "shards")
    for side in ("left", "right"):
        Image.new("RGB", (384, 384)).save(folder / f"{side}.png")
    train = ["train", "tokenizer", "--data", "shards", "--out", "run"]
    pictures = ["--left", "left.png", "--right", "right.png", "--instruction", "Pick up the red cube."]
    words = [
        [*train, *(part for setting in SMALL for part in ("--set", setting))],
        ["predict", *pictures],
        ["evaluate", "cell", "--policy", "demo-fm", "--episodes", "1", "--max-seconds", "0.3"],
    ]
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DS_ACCELERATOR", "TRANSFORMERS_VERBOSITY")
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    parts = [
        [part.splitlines()[1:] for part in re.split(r"^\$ ", text, flags=re.M)[1:]]
        for text in (done.stdout, done.stderr)
    ]
    return dict(zip(("train", "predict", "evaluate"), zip(*parts, strict=True), strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is printed without a GPU")
@pytest.mark.parametrize(
    ("command", "begins"),
    [
        ("train", ("training on ", "looked through ", "tokenizer: ", "model: ", "next: ", "or, where ")),
        ("predict", ("loading demo-fm",)),
        ("evaluate", ("loading demo-fm", "pick on ur5e: ")),
    ],
)
def test_a_command_prints_its_own_lines_only(said, command, begins):
    """regression: DeepSpeed, where it is installed, wrote on stdout that it found no GPU."""
    out, err = said[command]
    assert [line for line in err if not line.startswith(begins)] == []
    table = r"[┏┡│└┃]|  |$|predicted motion|observation|demo-fm on "
    assert [line for line in out if command == "train" or not re.match(table, line)] == []


def test_bitsandbytes_does_not_ask_for_a_package_that_is_not_needed():
    import rdt2.vlm.quantize  # noqa: F401

    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
