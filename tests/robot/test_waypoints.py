"""Waypoints: the one rule every device follows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.errors import SafetyError
from rdt2.robot import PoseTrajectory, WidthTrajectory


def pose(x: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
    matrix[0, 3] = x
    return matrix


def test_position_is_linear_and_rotation_slerp() -> None:
    path = PoseTrajectory(pose(), 1.0)
    path.execute([2.0], [pose(1.0, yaw=2.0)], now=1.0)
    for fraction in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_allclose(path.at(1.0 + fraction), pose(fraction, yaw=2.0 * fraction), atol=1e-12)


def test_stays_before_the_first_and_after_the_last_waypoint() -> None:
    path = WidthTrajectory(0.05, 1.0)
    path.execute([2.0], [0.01], now=1.0)
    assert path.at(0.0) == 0.05
    assert path.at(3.0) == 0.01


def test_a_new_waypoint_replaces_those_at_its_time_or_later() -> None:
    path = WidthTrajectory(0.0, 0.0)
    for time in (1.0, 2.0, 3.0):
        path.execute([time], [time], now=0.0)
    path.execute([2.0], [10.0], now=0.5)
    assert path.end == (2.0, 10.0)
    assert path.at(0.75) == pytest.approx(0.75)
    assert path.at(1.5) == pytest.approx(5.5)


def test_replacing_does_not_jump() -> None:
    """The path turns towards the new waypoint from where it is, not from the last waypoint passed."""
    path = WidthTrajectory(0.0, 0.0)
    path.execute([1.0], [1.0], now=0.0)
    path.execute([0.9], [0.0], now=0.5)
    assert path.at(0.5) == pytest.approx(0.5)
    assert path.at(0.7) == pytest.approx(0.25)


def test_moving_on_after_a_rest_starts_now() -> None:
    path = WidthTrajectory(0.0, 0.0)
    path.execute([10.0], [1.0], now=9.0)
    assert path.at(9.5) == pytest.approx(0.5)


def test_waypoints_that_are_past_are_dropped_and_all_of_them_is_an_error() -> None:
    """Regression: a command that came too late was dropped without a word that anybody heard."""
    path = WidthTrajectory(0.0, 0.0)
    path.execute([2.0], [1.0], now=0.0)
    with pytest.raises(SafetyError, match="100 ms past: the command came too late"):
        path.execute([0.8, 0.9], [5.0, 5.0], now=1.0)
    assert path.end == (2.0, 1.0)
    path.execute([0.9, 1.5], [5.0, 0.7], now=1.0)
    assert path.at(1.0) == pytest.approx(0.5)
    assert path.at(1.25) == pytest.approx(0.6)
    assert path.end == (1.5, 0.7)


def test_several_waypoints_are_followed_through() -> None:
    path = PoseTrajectory(pose(), 0.0)
    path.execute([1.0, 2.0, 3.0], np.stack([pose(1.0), pose(3.0), pose(3.0, yaw=1.0)]), now=0.0)
    for time, there in (
        (0.5, pose(0.5)),
        (1.5, pose(2.0)),
        (2.5, pose(3.0, yaw=0.5)),
        (9.0, pose(3.0, yaw=1.0)),
    ):
        np.testing.assert_allclose(path.at(time), there, atol=1e-12)


def test_staying_forgets_what_is_pending() -> None:
    path = PoseTrajectory(pose(), 0.0)
    path.execute([1.0], [pose(1.0)], now=0.0)
    path.stay(path.at(0.25), now=0.25)
    np.testing.assert_allclose(path.at(5.0), pose(0.25))


def test_half_turns_and_no_turns_are_fine() -> None:
    path = PoseTrajectory(pose(), 0.0)
    path.execute([1.0], [pose(yaw=np.pi)], now=0.0)
    path.execute([2.0], [pose(yaw=np.pi)], now=0.0)
    for time in np.linspace(0, 2, 9):
        rotation = path.at(float(time))[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(path.at(1.5), pose(yaw=np.pi), atol=1e-12)


def test_the_path_keeps_its_own_copy() -> None:
    target = pose(1.0)
    path = PoseTrajectory(pose(), 0.0)
    path.execute([1.0], [target], now=0.0)
    target[0, 3] = 99.0
    assert path.at(2.0)[0, 3] == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        np.eye(3), np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1.0, 1.0, -1.0, 1.0]), None, "here",
        pose() + np.eye(4)[3],
    ],
)  # fmt: skip
def test_what_is_no_pose_is_refused(bad: np.ndarray) -> None:
    path = PoseTrajectory(pose(), 0.0)
    with pytest.raises(SafetyError, match="waypoint"):
        path.execute([1.0], [bad], now=0.0)
    np.testing.assert_array_equal(path.at(9.0), pose())


@pytest.mark.parametrize(
    ("times", "widths", "told"),
    [
        ([1.0], [float("nan")], "width"),
        ([float("inf")], [0.1], "time"),
        ([float("nan"), 2.0], [0.1, 0.1], "time"),
        ([2.0, 1.0], [0.1, 0.1], "increase"),
        ([1.0, 1.0], [0.1, 0.1], "increase"),
        ([1.0, 2.0], [0.1], "one time for each"),
        ([], [], "at least one"),
        ([1.0], [[0.1, 0.2], 0.1], "waypoints are no numbers"),
        (1.0, 0.1, "one time for each"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_changes_nothing(times, widths, told) -> None:
    path = WidthTrajectory(0.05, 0.0)
    path.execute([4.0], [0.01], now=0.0)
    with pytest.raises(SafetyError, match=told):
        path.execute(times, widths, now=0.5)
    assert path.end == (4.0, 0.01)
    assert path.at(2.0) == pytest.approx(0.03)
