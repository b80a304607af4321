"""`rdt2 calibrate` of devices and places in the cell, whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.cli.main import main
from rdt2.robot.settings import RobotSettings

TRUE = RobotSettings.read("cell_ur5e")


def figures_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_latencies_are_those_of_the_cell(tmp_path):
    main(["calibrate", "latency", "--robot", "cell_ur5e", "--out", str(tmp_path), "--yes", "--side", "left"])
    found, world = figures_of(tmp_path, "latency_left"), TRUE.cell
    assert found["arm"]["seconds"] == pytest.approx(world.arms.latency, abs=0.002)
    # the fingers' servos trail by 10 ms of their own (damping over stiffness), and a little for their friction
    assert found["gripper"]["seconds"] == pytest.approx(world.grippers.latency + 0.012, abs=0.002)
    assert found["camera"]["seconds"] == pytest.approx(world.cameras.delay, abs=0.015)
    assert abs(found["camera_stamp_error_s"]) < world.cameras.stamp_error + 0.015
    after = RobotSettings.read(tmp_path / "cell_ur5e.yaml").arms["left"]
    assert after.latency == pytest.approx(found["arm"]["seconds"], abs=1e-4)
    assert RobotSettings.read(tmp_path / "cell_ur5e.yaml").arms["right"] == TRUE.arms["right"]


def test_a_grippers_opening_is_measured(tmp_path):
    command = ["calibrate", "gripper", "--robot", "cell_ur5e", "--out", str(tmp_path), "--yes"]
    main([*command, "--measured", "0.0", "0.092"])
    found = figures_of(tmp_path, "gripper_right")
    assert found["says_m"]["open"] == pytest.approx(0.092, abs=2e-3)
    assert found["says_m"]["closed"] == pytest.approx(0.0, abs=2e-3)
    main([*command, "--measured", "0.0", "0.184"])  # it opens twice as far as it says
    assert figures_of(tmp_path, "gripper_right")["changes"]["arms.right.gripper.scale"] == pytest.approx(
        0.5, rel=0.05
    )


def test_the_table_is_touched(monkeypatch, tmp_path):
    """In a dozen ways, of one go: between two of them nobody lets arms go on in a person's place."""
    from rdt2.calibration import places
    from rdt2.robot import Robot
    from rdt2.sim.drawing import make_scene

    def recover(robot):
        raise AssertionError("only a person lets arms go on that were stopped")

    monkeypatch.setattr(Robot, "recover", recover)
    monkeypatch.setattr(places, "DOWN", 0.02)  # a test has less patience
    main(["calibrate", "table", "--robot", "cell_ur5e", "--out", str(tmp_path), "--yes", "--seed", "3"])
    found = figures_of(tmp_path, "table")
    assert found["highest"] == pytest.approx(make_scene("pick", seed=3).table_height, abs=3e-3)
    assert found["tilt_deg"] < 2


def test_an_arm_that_meets_nothing_says_so(monkeypatch, tmp_path):
    from rdt2.calibration import places

    monkeypatch.setattr(places, "LOWER", 0.012)
    monkeypatch.setattr(places, "FORCE", 1e3)
    command = ["calibrate", "table", "--robot", "cell_ur5e", "--out", str(tmp_path), "--yes", "--seed", "3"]
    with pytest.raises(SystemExit):
        main(command)
    assert not (tmp_path / "table.json").exists()


def test_arms_are_placed(tmp_path):
    truth = np.linalg.inv(TRUE.arms["left"].base) @ TRUE.arms["right"].base
    points = np.array([[0.1, -0.1, 0.1], [0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.3, -0.1, 0.15]])
    touched = tmp_path / "touched.json"
    touched.write_text(json.dumps({"left": points.tolist(), "right": points.tolist()}))
    main(["calibrate", "arms", "--robot", "cell_ur5e", "--points", str(touched), "--out", str(tmp_path)])
    assert np.allclose(figures_of(tmp_path, "arms")["tx_left_right"], truth, atol=1e-6)
    reports = []
    for side in ("left", "right"):
        reports.append(tmp_path / f"{side}.json")
        reports[-1].write_text(
            json.dumps({"base": (np.diag([1.0, -1, -1, 1]) @ TRUE.arms[side].base).tolist()})
        )
    main(
        ["calibrate", "arms", "--robot", "cell_ur5e", "--reports", *map(str, reports), "--out", str(tmp_path)]
    )
    assert np.allclose(figures_of(tmp_path, "arms")["tx_left_right"], truth, atol=1e-6)


def test_cameras_are_looked_at_and_a_board_is_drawn(tmp_path):
    main(["calibrate", "camera", "--robot", "cell_ur5e", "--out", str(tmp_path), "--yes"])
    assert set(figures_of(tmp_path, "camera")["exposure"]) == {"right", "left"}
    main(["calibrate", "camera", "--robot", "cell_ur5e", "--board", str(tmp_path / "board.png")])
    assert (tmp_path / "board.png").stat().st_size > 1000


def test_a_robot_of_the_package_is_calibrated_command_by_command(tmp_path, capsys) -> None:
    """Regression: each command began from the package's file again, and wrote over what the one before had found."""
    touched = tmp_path / "touched.json"
    copy = tmp_path / "out" / "cell_ur5e.yaml"
    for height in (0.011, 0.012):
        touched.write_text(json.dumps([[0.3, 0.1, height], [0.5, 0.1, height], [0.5, -0.1, height]]))
        main(
            [
                "calibrate",
                "table",
                "--robot",
                "cell_ur5e",
                "--points",
                str(touched),
                "--out",
                str(copy.parent),
            ]
        )
    options = ("--measured", "0.0", "0.08", "--yes", "--out", str(copy.parent))
    main(["calibrate", "gripper", "--robot", "cell_ur5e", *options])
    found = RobotSettings.read(copy)
    assert found.safety.table_height == pytest.approx(0.012)
    assert found.arms["right"].gripper.scale != TRUE.arms["right"].gripper.scale
    assert len(list(copy.parent.glob("cell_ur5e.yaml.before-*"))) >= 1
    assert "as calibrated before" in capsys.readouterr().err
    assert RobotSettings.read("cell_ur5e") == TRUE
