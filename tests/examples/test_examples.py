"""The examples run as they are, at their smallest, and leave a picture; they read as notebooks."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import rdt2

pytest.importorskip("mujoco")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = Path(rdt2.__file__).parent / "checkpoints" / "demo"
BRIEFLY = ["--seconds", "0.3"]
PARTS = ["--device", "cpu", "--vlm", str(DEMO / "vlm"), "--processor", str(DEMO / "vlm")]
"""The demo's, in the published layout; its expert and its tokenizer have a normalizer each."""
RUNS: list[tuple[str, list[str], str]] = [
    ("01_first_prediction", [], r"left  hand: +\d+ mm and +\d+ degrees in 0.8 s"),
    ("02_inside_the_tokenizer", [], r"pos: 6 columns, 6 codebook\(s\)"),
    ("03_train_on_simulated_data", ["--size", "small"], r"2 steps in \d+ s"),
    ("04_evaluate_and_film", ["--episodes", "1", *BRIEFLY], r"0 of 1: 0 %  \[0, 79\]"),
    ("05_serve_and_drive", ["--questions", "2", *BRIEFLY], r"time is up after 0\.3 s"),
    ("new_arm", BRIEFLY, r"time is up after 0\.3 s"),
    ("new_task", ["--episodes", "1", *BRIEFLY], r"0 of 1"),
    (
        "published_weights_on_one_gpu",
        [*PARTS, "--expert", str(DEMO / "expert"), "--normalizer", str(DEMO / "expert")],
        r"fm: .*expert .*total",
    ),
    (
        "published_weights_on_one_gpu",
        [*PARTS, "--kinds", "vq", "--tokenizer", str(DEMO / "tokenizer"), "--normalizer", str(DEMO)],
        r"vq: .*total",
    ),
]
"""Options that make a run small, and what it prints."""
NAMES = {name for name, _, _ in RUNS}


@pytest.mark.parametrize(("name", "options", "printed"), RUNS)
def test_it_runs(name, options, printed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(file), *options, "--out", "shown"])
    runpy.run_path(str(file), run_name="__main__")
    assert re.search(printed, capsys.readouterr().out)
    assert (tmp_path / "shown" / f"{name}.png").stat().st_size > 5000


def test_every_example_is_run():
    assert {file.stem for file in EXAMPLES.glob("*.py")} - {"new_gripper", "new_arm_driver"} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_it_reads_as_a_notebook(name):
    cells = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").split("# %%")
    assert cells[0] == ""
    assert cells[1].startswith(" [markdown]\n# # ")
    for cell in cells[1:]:
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in cell.strip().splitlines()[1:])
        else:
            compile(cell, name, "exec")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_its_page_shows_its_picture_or_says_why_not(name):
    said = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").replace("\n#", "")
    shown = (EXAMPLES.parent / "docs" / "images" / f"{name}.webp").is_file()
    assert shown is not ("not shown here" in said)


def test_the_published_weights_are_asked_for_by_name(tmp_path, monkeypatch):
    """Regression: the normalizer was a file that nobody has who begins."""
    asked = {}

    def load_policy(path, **options):
        asked.update(options, policy=path)
        raise StopIteration

    picture = tmp_path / "wrist.png"
    Image.new("RGB", (384, 384)).save(picture)
    file = EXAMPLES / "published_weights_on_one_gpu.py"
    monkeypatch.setattr("rdt2.policy.load_policy", load_policy)
    monkeypatch.setattr(
        sys, "argv",
        [str(file), "--left", str(picture), "--right", str(picture), "--out", str(tmp_path / "out")],
    )  # fmt: skip
    with pytest.raises(StopIteration):
        runpy.run_path(str(file), run_name="__main__")
    for part in ("policy", "vlm", "processor", "normalizer"):
        assert re.fullmatch(r"[\w-]+/[\w.-]+", asked[part]), part


def test_a_robot_is_described_in_sixty_lines():
    described = (EXAMPLES / "new_arm.py").read_text(encoding="utf-8").split("# %% [markdown]")[1]
    assert len([line for line in described.splitlines() if line.strip()]) <= 60
