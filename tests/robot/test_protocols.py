"""Waypoints: the one rule every device follows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.errors import ActionError, PoseError
from rdt2.robot import Arm, Camera, Clock, Gripper, PoseTrajectory, WidthTrajectory


def pose(x: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
    matrix[0, 3] = x
    return matrix


def test_position_is_linear_and_rotation_slerp() -> None:
    path = PoseTrajectory(pose(), 1.0)
    assert path.schedule(pose(1.0, yaw=2.0), 2.0, now=1.0)
    for fraction in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_allclose(path.at(1.0 + fraction), pose(fraction, yaw=2.0 * fraction), atol=1e-12)


def test_stays_before_the_first_and_after_the_last_waypoint() -> None:
    path = WidthTrajectory(0.05, 1.0)
    path.schedule(0.01, 2.0, now=1.0)
    assert path.at(0.0) == 0.05
    assert path.at(3.0) == 0.01


def test_a_new_waypoint_replaces_those_at_its_time_or_later() -> None:
    path = WidthTrajectory(0.0, 0.0)
    for time in (1.0, 2.0, 3.0):
        path.schedule(time, time, now=0.0)
    path.schedule(10.0, 2.0, now=0.5)
    assert path.end == (2.0, 10.0)
    assert path.at(0.75) == pytest.approx(0.75)
    assert path.at(1.5) == pytest.approx(5.5)


def test_replacing_does_not_jump() -> None:
    """The path turns towards the new waypoint from where it is, not from the last waypoint passed."""
    path = WidthTrajectory(0.0, 0.0)
    path.schedule(1.0, 1.0, now=0.0)
    path.schedule(0.0, 0.9, now=0.5)
    assert path.at(0.5) == pytest.approx(0.5)
    assert path.at(0.7) == pytest.approx(0.25)


def test_moving_on_after_a_rest_starts_now() -> None:
    path = WidthTrajectory(0.0, 0.0)
    path.schedule(1.0, 10.0, now=9.0)
    assert path.at(9.5) == pytest.approx(0.5)


def test_a_waypoint_in_the_past_is_dropped_and_said_so() -> None:
    path = WidthTrajectory(0.0, 0.0)
    path.schedule(1.0, 2.0, now=0.0)
    assert not path.schedule(5.0, 1.0, now=1.0)
    assert path.end == (2.0, 1.0)


def test_hold_keeps_the_commanded_value() -> None:
    path = PoseTrajectory(pose(), 0.0)
    path.schedule(pose(1.0), 1.0, now=0.0)
    path.hold(now=0.25)
    np.testing.assert_allclose(path.at(5.0), pose(0.25))


def test_the_waypoint_before_a_time() -> None:
    path = WidthTrajectory(0.0, 0.0)
    path.schedule(1.0, 1.0, now=0.0)
    assert path.before(2.0, now=0.5) == (1.0, 1.0)
    assert path.before(1.0, now=0.5) == (0.5, 0.5)


def test_half_turns_and_no_turns_are_fine() -> None:
    path = PoseTrajectory(pose(), 0.0)
    path.schedule(pose(yaw=np.pi), 1.0, now=0.0)
    path.schedule(pose(yaw=np.pi), 2.0, now=0.0)
    for time in np.linspace(0, 2, 9):
        rotation = path.at(float(time))[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(path.at(1.5), pose(yaw=np.pi), atol=1e-12)


def test_the_path_keeps_its_own_copy() -> None:
    target = pose(1.0)
    path = PoseTrajectory(pose(), 0.0)
    path.schedule(target, 1.0, now=0.0)
    target[0, 3] = 99.0
    assert path.at(2.0)[0, 3] == 1.0


@pytest.mark.parametrize(
    "bad", [np.eye(3), np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1.0, 1.0, -1.0, 1.0])]
)
def test_what_is_no_pose_is_refused(bad: np.ndarray) -> None:
    path = PoseTrajectory(pose(), 0.0)
    with pytest.raises(PoseError, match="waypoint"):
        path.schedule(bad, 1.0, now=0.0)
    np.testing.assert_array_equal(path.at(9.0), pose())


def test_widths_and_times_must_be_finite() -> None:
    path = WidthTrajectory(0.0, 0.0)
    with pytest.raises(ActionError, match="width"):
        path.schedule(float("nan"), 1.0, now=0.0)
    with pytest.raises(ActionError, match="time"):
        path.schedule(0.1, float("inf"), now=0.0)


def test_the_cell_speaks_the_protocols() -> None:
    pytest.importorskip("mujoco")
    from rdt2.sim import Cell, make_scene

    robot = Cell("handheld", make_scene("pick", 0)).robot()
    for side in ("right", "left"):
        assert isinstance(robot.arms[side], Arm)
        assert isinstance(robot.grippers[side], Gripper)
        assert isinstance(robot.cameras[side], Camera)
    assert isinstance(robot.clock, Clock)
    robot.arms["left"].schedule(pose(), 1.0)
    robot.hold()
    before = robot.arms["left"].state().pose
    robot.clock.sleep_until(0.1)
    np.testing.assert_allclose(robot.arms["left"].state().pose, before, atol=1e-6)
