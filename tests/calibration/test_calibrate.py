"""`rdt2 calibrate` in the cell, whose truth is known: what is written into the robot's yaml is right."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

pytest.importorskip("mujoco")

from rdt2.calibration.handeye import difference
from rdt2.cli.main import main
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings

TRUE = RobotSettings.read("cell_ur5e")


def off(pose: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    change = difference(np.asarray(pose), true)
    return 1e3 * float(np.linalg.norm(change[:3])), float(np.degrees(np.linalg.norm(change[3:])))


def wrong_robot(folder):
    """A file whose right policy_to_tcp is off by 20 mm and 5 degrees."""
    text = (CONFIGS / "cell_ur5e.yaml").read_text()
    values = yaml.safe_load(text)
    rows = values["arms"]["right"]["policy_to_tcp"]
    error = np.eye(4)
    error[:3, 3] = 0.02 * np.array([1, -1, 0]) / np.sqrt(2)
    error[:3, :3] = Rotation.from_rotvec([5, 0, 0], degrees=True).as_matrix()
    for row, new in zip(rows, np.array(rows) @ error, strict=True):
        told = "[" + ", ".join(f"{v:g}" for v in row) + "]"
        assert told in text
        if row != [0, 0, 0, 1]:
            text = text.replace(told, str(new.tolist()), 1)
    path = folder / "mine.yaml"
    path.write_text(text)
    assert off(RobotSettings.read(path).arms["right"].policy_to_tcp, TRUE.arms["right"].policy_to_tcp)[0] > 15
    return path


@pytest.fixture(scope="module")
def mended(tmp_path_factory):
    """A wrong file, calibrated."""
    folder = tmp_path_factory.mktemp("robot")
    path = wrong_robot(folder)
    main(
        [
            "calibrate",
            "handeye",
            "--robot",
            str(path),
            "--out",
            str(folder / "out"),
            "--seconds",
            "20",
            "--yes",
        ]
    )
    return path


def test_a_wrong_tool_is_mended(mended):
    after = RobotSettings.read(mended)
    mm, degrees = off(after.arms["right"].policy_to_tcp, TRUE.arms["right"].policy_to_tcp)
    assert mm < 0.5
    assert degrees < 0.1
    assert after.arms["left"] == TRUE.arms["left"]
    assert after.safety == TRUE.safety


def test_arms_are_placed_by_two_of_them(mended, tmp_path):
    """Under the same stations each tells where its arm stands."""
    robot = shutil.copy(mended, tmp_path)
    options = ["--robot", robot, "--out", str(tmp_path)]
    main(["calibrate", "handeye", *options, "--side", "left", "--seconds", "12", "--yes"])
    reports = [
        str(folder / f"handeye_{side}.json")
        for side, folder in (("left", tmp_path), ("right", mended.parent / "out"))
    ]
    main(["calibrate", "arms", *options, "--reports", *reports])
    mm, degrees = off(RobotSettings.read(robot).arms["right"].base, TRUE.arms["right"].base)
    assert mm < 1.0
    assert degrees < 0.1
    assert "Bases from above" in (tmp_path / "arms.html").read_text()


def test_what_was_there_is_kept(mended):
    (old,) = mended.parent.glob("mine.yaml.before-*")
    text = mended.read_text()
    assert "# before rdt2 calibrate handeye" in text
    assert "# The simulated cell with two UR5e." in text
    assert (
        yaml.safe_load(old.read_text())["arms"]["right"]["policy_to_tcp"]
        != (yaml.safe_load(text)["arms"]["right"]["policy_to_tcp"])
    )
    assert "<svg" in (mended.parent / "out" / "handeye_right.html").read_text()


def test_a_recording_is_solved_without_a_robot(mended, tmp_path):
    """Regression (PITFALLS 42): what one script recorded the other did not find."""
    figures = tmp_path / "f.json"
    recording = mended.parent / "out" / "recording_right"
    arguments = ["calibrate", "handeye", "--robot", "cell_ur5e", "--recording", str(recording), "--published"]
    main([*arguments, "--out", str(tmp_path), "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert off(found["policy_to_tcp"], TRUE.arms["right"].policy_to_tcp)[0] < 0.5
    assert found["delay_s"] == pytest.approx(0.02, abs=2e-3)
    assert set(found["published"]) == {"y", "z"}
    assert RobotSettings.read(tmp_path / "cell_ur5e.yaml").name == "cell_ur5e"
    assert RobotSettings.read("cell_ur5e") == TRUE


def test_a_recording_is_of_its_own_arm(mended, tmp_path, capsys):
    """Regression: without --side the left arm's went into the right one."""
    recording = tmp_path / "recording"
    shutil.copytree(mended.parent / "out" / "recording_right", recording)
    options = [
        "calibrate",
        "handeye",
        "--robot",
        "cell_ur5e",
        "--recording",
        str(recording),
        "--out",
        str(tmp_path),
    ]
    with pytest.raises(SystemExit):
        main([*options, "--side", "left"])
    assert "was recorded with the right arm, and --side says left" in capsys.readouterr().err
    (recording / "about.json").write_text('{"side": "left"}')
    main(options)
    assert (tmp_path / "handeye_left.json").is_file()
    (recording / "about.json").unlink()
    with pytest.raises(SystemExit):
        main(options)
    assert "does not say of which arm it is: --side right or left" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off"])
def test_a_recording_that_is_damaged_is_told(mended, tmp_path, data, capsys):
    recording = tmp_path / "recording"
    shutil.copytree(mended.parent / "out" / "recording_right", recording)
    (recording / "tracker.npz").write_bytes(data)
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "handeye", "--robot", "cell_ur5e", "--recording", str(recording)])
    assert ended.value.code == 2
    assert "tracker.npz cannot be read" in capsys.readouterr().err


def test_check_says_whether_it_holds(mended, tmp_path):
    (old,) = mended.parent.glob("mine.yaml.before-*")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(old.read_text())
    main(["calibrate", "check", "--robot", str(mended), "--out", str(tmp_path), "--yes"])
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "check", "--robot", str(wrong), "--out", str(tmp_path / "w"), "--yes"])
    assert ended.value.code == 1
    assert json.loads((tmp_path / "w" / "check_right.json").read_text())["holds"] is False
    assert wrong.read_text() == old.read_text()


def off_limits(option, value):
    return pytest.param([option, value], f"{option} is {value}, expected", id=f"{option} {value}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        off_limits("--degrees", "nan"), off_limits("--degrees", "200"), off_limits("--seconds", "3"),
        (["--side", "left", "--recording", "nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_what_is_no_motion_is_refused_before_anything_moves(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", "handeye", "--robot", "cell_ur5e", "--yes", *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_while_the_arm_moves_stops_it_and_changes_nothing(tmp_path, monkeypatch, number, code, capsys):
    """Regressions: it ended with 2, as if it had been refused; the published scripts crash where they are stopped
    (PITFALLS 42)."""
    from rdt2.sim.controller import ArmController
    from rdt2.sim.tracker import CellTracker

    path, stopped, looked = wrong_robot(tmp_path), [], []
    before, measured, stop = path.read_text(), CellTracker.state, ArmController.stop

    def state(self):
        looked.append(self)
        if len(looked) == 200:
            os.kill(os.getpid(), number)
        return measured(self)

    monkeypatch.setattr(CellTracker, "state", state)
    monkeypatch.setattr(ArmController, "stop", lambda self: stopped.append(self.name) or stop(self))
    command = ["calibrate", "handeye", "--robot", str(path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--yes"])
    assert ended.value.code == code
    assert f"stopped while they were calibrated: {number.name}" in capsys.readouterr().err
    assert len(looked) < 210
    assert {"right arm", "left arm"} <= set(stopped)
    assert path.read_text() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize("command", ["handeye", "check"])
def test_nothing_moves_before_it_was_said_and_confirmed(tmp_path, monkeypatch, command, capsys):
    """Of the cell, too: without --yes it waits for go. Regression: a check that was quit ended with 0 as if it held."""
    from rdt2.sim.controller import ArmController

    moved = []
    monkeypatch.setattr(ArmController, "execute_joints", lambda *_: moved.append(1))
    monkeypatch.setattr("sys.stdin", io.StringIO("quit\n"))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", command, "--robot", "cell_ur5e", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert moved == []
    told = capsys.readouterr().err
    assert "the right arm turns by up to " in told
    assert "not begun: you left before go" in told
    assert not (tmp_path / "out").exists()
