"""The same data in rerun."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings

pytest.importorskip("rerun", reason="the extra 'view' is not installed")
pytest.importorskip("trimesh", reason="the extra 'view' is not installed")

from rdt2.cli.main import main
from rdt2.control import LoopConfig, run_episode
from rdt2.dashboard import Looking, open_desk
from rdt2.dashboard.figure import Figure
from rdt2.errors import ConfigError

SENTENCE = "Pick up the red cube with the left hand."


def logged(path):
    """The names of what is in a file, by the package's own reader."""
    told = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", str(path)], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"episode_\d+/[\w/]+", told.stdout))


def test_an_episode_is_in_the_file_and_nobody_has_to_press_start(tmp_path):
    path = tmp_path / "runs" / "run.rrd"
    robot, settings = fake_robot(), fake_settings()
    with open_desk(Looking(rerun=str(path)), goes_on=False) as operator:
        for _ in range(2):
            operator.begin(robot, Figure.of_robot(settings), SENTENCE, title="cubes")
            result = run_episode(
                robot, ConstantPolicy(), operator.sentence, settings=settings, recorder=operator,
                permit=operator.permit, config=LoopConfig(latency=0.1), max_seconds=1.0,
            )  # fmt: skip
            assert operator.end(robot, result, judged=False) is None
            assert result.ending == "time is up"
    assert operator.dropped == 0
    found = logged(path)
    for name in ("chunk", "asked", "after_safety", "sent", "measured", "wrist", "measured/x_mm"):
        assert {f"episode_000/left/{name}", f"episode_001/left/{name}"} <= found
    assert "episode_000/timing/inference_ms" in found


def test_the_demo_writes_a_file(tmp_path, monkeypatch):
    """The line of docs/dashboard.md, short."""
    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell

    run_trial = cell.run_trial
    monkeypatch.setattr(cell, "run_trial", lambda *of, **how: run_trial(*of, **{**how, "max_seconds": 0.5}))
    monkeypatch.chdir(tmp_path)
    main(
        [
            "demo",
            "--rerun",
            "run.rrd",
            "--robot",
            "handheld",
            "--task",
            "press",
            "--episodes",
            "1",
            "--out",
            "r.html",
        ]
    )
    found = logged(tmp_path / "run.rrd")
    for name in ("title", "left/wrist", "right/chunk", "left/measured", "timing/inference_ms"):
        assert f"episode_000/{name}" in found
    assert (tmp_path / "r.html").is_file()


def test_a_file_that_cannot_be_written_is_refused_before_anything_moves(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        open_desk(Looking(rerun=str(tmp_path / "file" / "run.rrd")), goes_on=False),
    ):
        pass
