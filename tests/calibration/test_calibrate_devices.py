"""`rdt2 calibrate` of devices and places in the cell, whose truth is known."""

from __future__ import annotations

import json
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.calibration import devices
from rdt2.calibration.places import arms, fingertips, from_points, from_reports, table
from rdt2.calibration.writing import write_changes
from rdt2.cli.asking import entered
from rdt2.cli.main import main
from rdt2.devices.opening import open_device
from rdt2.errors import CalibrationError, SafetyError
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings
from rdt2.sim.cell import Cell
from rdt2.sim.drawing import make_scene

TRUE = RobotSettings.read("cell_ur5e")
gripper = partial(devices.gripper, permit=lambda: "")


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
    with pytest.raises(SystemExit):  # it opens further than it says, and the cell has no words for that
        main([*command, "--measured", "0.0", "0.101"])
    assert figures_of(tmp_path, "gripper_right")["changes"] == {}


class Fingers:
    """A robot with one gripper, which opens by `ratio` metres for each that it is told, and no further than `most`."""

    def __init__(self, *, ratio: float = 1.0, most: float = 1.0) -> None:
        self.ratio, self.most, self.time, self.width = ratio, most, 0.0, 0.05
        self.clock = SimpleNamespace(now=lambda: self.time, sleep_until=self.sleep)
        self.grippers = {"right": self}
        self.arms = {"right": SimpleNamespace(state=lambda: SimpleNamespace(joints=None))}

    def sleep(self, until: float) -> None:
        self.time = until

    def faults(self) -> list[str]:
        return []

    def state(self) -> SimpleNamespace:
        return SimpleNamespace(width=self.width)

    def execute(self, times, widths) -> None:
        self.width = min(float(widths[0]), self.most)


def test_a_gripper_that_says_too_little_is_told_once() -> None:
    """Regression: each run made the models' scale larger, by the same ratio again."""
    rig = RobotSettings.read("bimanual_ur5e")
    settings = rig.changed({"arms.right.gripper.device.open_width": 0.11, "arms.right.gripper.stroke": 0.1})
    found = gripper(Fingers(), settings, "right", measured=(0.004, 0.114))
    assert found.changes == {
        "arms.right.gripper.device.open_width": pytest.approx(0.125),
        "arms.right.gripper.device.closed_width": pytest.approx(0.004),
        "arms.right.gripper.stroke": pytest.approx(0.114),
    }
    again = gripper(Fingers(), settings.changed(found.changes), "right", measured=(0.0, 0.114))
    assert again.changes == {}
    assert again.holds


def test_fingers_that_something_holds_change_nothing() -> None:
    settings = RobotSettings.read("bimanual_ur5e").changed({"arms.right.gripper.stroke": 0.1})
    found = gripper(Fingers(most=0.04), settings, "right", measured=None)
    assert not found.changes
    assert not found.holds
    assert gripper(Fingers(most=0.04), settings, "right", measured=(0.0, 0.04)).changes == {
        "arms.right.gripper.stroke": 0.04
    }
    with pytest.raises(CalibrationError, match="expected 0 <= closed < open, in metres"):
        gripper(Fingers(), settings, "right", measured=(0, 92))


@pytest.mark.parametrize(("opened", "stroke"), [(0.1185, 0.1185), (0.11027, 0.1102), (0.13, 0.13)])
def test_what_is_measured_of_a_gripper_can_be_opened(tmp_path, opened, stroke) -> None:
    """Regression: stroke stayed, or was rounded, beyond open_width, and the driver refused what was written."""
    settings = RobotSettings.read("bimanual_ur5e")
    found = gripper(Fingers(), settings, "right", measured=(0.0, opened))
    assert found.changes["arms.right.gripper.device.open_width"] == pytest.approx(opened)
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "bimanual_ur5e.yaml").read_text())
    write_changes(path, found.changes, by="test", copy_to=tmp_path)
    after = RobotSettings.read(path)
    assert after.arms["right"].gripper.stroke == pytest.approx(stroke)
    assert open_device(after, "right", "gripper").stroke == pytest.approx(stroke)


@pytest.mark.parametrize(
    ("most", "measured", "message"),
    [
        (0.06, (0.0, 0.1), "says that it opened to 60.0 mm, expected 100.0"),
        (1.0, (0.0, 0.13), "1.30 mm were measured, expected 0.8 to 1.25"),
        (1.0, (0.05, 0.1), "0.50 mm were measured, expected 0.8 to 1.25"),
    ],
)
def test_a_measurement_of_other_fingers_is_not_believed(most, measured, message) -> None:
    """Regression: what was measured before was written, though the fingers were held now."""
    settings = RobotSettings.read("bimanual_ur5e").changed({"arms.right.gripper.stroke": 0.1})
    with pytest.raises(CalibrationError, match=message):
        gripper(Fingers(most=most), settings, "right", measured=measured)


def test_fingers_whose_opening_nobody_typed_are_not_believed() -> None:
    settings = RobotSettings.read("bimanual_ur5e").changed({"arms.right.gripper.stroke": 0.1})
    told = {"closed": 0.0, "open": None}
    found = gripper(Fingers(most=0.04), settings, "right", measured=None, ask=told.get)
    assert (found.changes, found.holds) == ({}, False)


def test_fingers_that_somebody_stops_are_stopped() -> None:
    """Regression: nothing but Ctrl-C did."""
    settings, robot, said, stops = RobotSettings.read("bimanual_ur5e"), Fingers(), [], []

    def permit() -> str:
        said.append(robot.time)
        return "emergency stop" if robot.time > 0.5 else ""

    robot.stop = lambda: stops.append(robot.time)
    with pytest.raises(SafetyError, match="the fingers were stopped: emergency stop"):
        gripper(robot, settings, "right", permit=permit, measured=None)
    assert stops == said[-1:]
    assert 0.5 < stops[0] < 0.52
    assert robot.width > 0.02, "they closed no further"


def test_enter_is_a_stop_at_a_terminal_alone(monkeypatch) -> None:
    ours, theirs = os.openpty()
    with open(theirs) as terminal, open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert entered() == "", "what has ended is no terminal"
        monkeypatch.setattr("sys.stdin", terminal)
        assert entered() == ""
        os.write(ours, b"\n")
        assert entered() == "Enter was pressed."
        assert entered() == ""
    os.close(ours)


def test_fingers_that_would_touch_something_stay() -> None:
    with Cell.of(TRUE, make_scene("pick", seed=3)) as cell:
        robot, tips = cell.robot(TRUE.sides), {}
        for side, arm in robot.arms.items():
            tips[side] = fingertips(TRUE, side, arm.state().pose, robot.grippers[side].state().width)
        post = {"post": {"centre": tips["right"].tolist(), "size": [0.01] * 3}}
        with pytest.raises(SafetyError, match=r"with the fingers of the right gripper .* post"):
            gripper(robot, TRUE.changed({"safety.obstacles": post}), "right", measured=None)


def test_the_table_is_touched(monkeypatch, tmp_path):
    """In a dozen ways, of one go: between two of them nobody lets arms go on in a person's place."""
    from rdt2.calibration import places
    from rdt2.robot import Robot

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
    points = np.array([[-0.2, -0.2, 0.1], [-0.2, 0.2, 0.1], [0.2, 0.2, 0.1], [0.2, -0.2, 0.15]])
    touched = tmp_path / "touched.json"
    touched.write_text(json.dumps({"left": points.tolist(), "right": points.tolist()}))
    main(["calibrate", "arms", "--robot", "cell_ur5e", "--points", str(touched), "--out", str(tmp_path)])
    assert np.allclose(figures_of(tmp_path, "arms")["tx_left_right"], truth, atol=1e-6)
    assert 1e-3 < figures_of(tmp_path, "arms")["sigma_m"] < 5e-3
    reports = []
    for side in ("left", "right"):
        reports.append(tmp_path / f"{side}.json")
        base = np.diag([1.0, -1, -1, 1]) @ TRUE.arms[side].base
        told = {"side": side, "base": base.tolist(), "base_sigma_mm": [0.1] * 3, "doubts": []}
        reports[-1].write_text(json.dumps(told))
    main(
        ["calibrate", "arms", "--robot", "cell_ur5e", "--reports", *map(str, reports), "--out", str(tmp_path)]
    )
    assert np.allclose(figures_of(tmp_path, "arms")["tx_left_right"], truth, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doubts": ["the motion determines nothing"]}, "the motion determines nothing"),
        ({"base_sigma_mm": [9.0, 0, 0]}, "its base is known to 9.0 mm only"),
        ({"side": "right"}, "is of the right arm, expected the left one"),
        ({"base": None}, "is no report"),
    ],
)
def test_arms_are_not_placed_by_what_was_refused(tmp_path, change, message) -> None:
    """Regression: reports that had been refused for themselves moved an arm by 8 cm."""
    told = {"side": "left", "base": np.eye(4).tolist(), "base_sigma_mm": [0.1] * 3, "doubts": []}
    paths = [tmp_path / "left.json", tmp_path / "right.json"]
    for path, values in zip(paths, (told | change, told | {"side": "right"}), strict=True):
        path.write_text(json.dumps(values))
    with pytest.raises(CalibrationError, match=message):
        from_reports(*paths)


def test_arms_are_not_placed_by_points_that_lie_together(tmp_path) -> None:
    """Regression: a base was written that three points 10 cm apart told to 22 mm."""
    near = np.array([[0.2, 0.0, 0.1], [0.3, 0.0, 0.1], [0.2, 0.1, 0.1]])
    with pytest.raises(
        CalibrationError, match=r"where it works to .* only \(one sigma\), expected 5 mm or less"
    ):
        arms(TRUE, from_points(TRUE, {"left": near, "right": near}), "by touched points")
    far = near + 4 * (near - near.mean(axis=0))
    ((name, said),) = arms(TRUE, from_points(TRUE, {"left": far, "right": far}), "by touched points").rows[
        -1:
    ]
    assert name == "known to, one sigma"
    assert "mm at its base" in said
    assert "degrees" in said
    with pytest.raises(
        CalibrationError, match="from the base of the arm that touched it, expected 3 m or less"
    ):
        from_points(TRUE, {"left": 1e3 * far, "right": 1e3 * far})


def test_a_table_in_millimetres_is_refused() -> None:
    """Regression: three points in millimetres wrote a table 13 m high."""
    with pytest.raises(
        CalibrationError, match=r"point \(500, 100, 13\) lies .* m outside of every arm's workspace"
    ):
        table(1e3 * np.array([[0.3, 0.1, 0.013], [0.5, 0.1, 0.013], [0.3, -0.1, 0.013]]), TRUE)


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
    points = touched.with_name("both.json")
    shown = [[-0.2, -0.2, 0.1], [-0.2, 0.2, 0.1], [0.2, 0.2, 0.1]]
    points.write_text(json.dumps({"left": [[x, y, z + 0.01] for x, y, z in shown], "right": shown}))
    main(["calibrate", "arms", "--robot", "cell_ur5e", "--points", str(points), "--out", str(copy.parent)])
    found = RobotSettings.read(copy)
    assert found.safety.table_height == pytest.approx(0.012)
    assert found.arms["right"].base[2, 3] == pytest.approx(TRUE.arms["right"].base[2, 3] + 0.01)
    assert len(list(copy.parent.glob("cell_ur5e.yaml.before-*"))) >= 1
    assert "as calibrated before" in capsys.readouterr().err
    assert RobotSettings.read("cell_ur5e") == TRUE
