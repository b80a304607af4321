"""What libraries would print and nobody needs to see is quieted where it comes from; what we say is not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

SMALL = (
    "steps=1",
    "size=tiny",
    "batch_size=2",
    "warmup_steps=0",
    "evaluate_every=0",
    "evaluate_samples=2",
    "trackers=[]",
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is printed without a GPU")
def test_training_prints_its_own_lines_only(shards, tmp_path):
    """regression: DeepSpeed, where it is installed, wrote on stdout that it found no GPU."""
    from rdt2.data import fit_normalizer

    fit_normalizer(shards).save_pretrained(shards)
    words = ["train", "tokenizer", "--data", str(shards), "--out", str(tmp_path / "run")]
    for setting in SMALL:
        words += ["--set", setting]
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DS_ACCELERATOR", "TRANSFORMERS_VERBOSITY")
    }
    done = subprocess.run(
        [sys.executable, "-m", "rdt2.cli.main", *words],
        env=environment, capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    begins = ("training on ", "looked through ", "tokenizer: ", "model: ", "next: ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(begins)] == []


def test_bitsandbytes_does_not_ask_for_a_package_that_is_not_needed():
    import rdt2.vlm.quantize  # noqa: F401

    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
