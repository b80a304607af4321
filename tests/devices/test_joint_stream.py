"""The way of streamed joints, on a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.devices.joint_stream import LONGEST, JointStream
from rdt2.errors import LateError, SafetyError
from rdt2.robot.settings import RobotSettings

pytestmark = pytest.mark.realtime

BEAT = 0.004
HOME = (0.0, -0.2, 0.0, -2.2, 0.0, 2.0, 0.785)
SETTINGS = RobotSettings.read("bimanual_fr3")
BOUNDS = SETTINGS.arms["left"].bounds


@pytest.fixture
def stream():
    return JointStream("left arm", SETTINGS.kinematics()["left"], BOUNDS, HOME, 10.0)


def upwards(stream, speed=0.2, seconds=1.0):
    times = 10.05 + 0.02 * np.arange(1, round(seconds / 0.02) + 1)
    poses = np.repeat(stream.path.at(10.0)[None], len(times), axis=0)
    poses[:, 2, 3] += speed * (times - 10.05)
    return times, poses


def steps(stream, begins, ends):
    """TCP heights at each beat."""
    heights = []
    for now in np.arange(begins, ends, BEAT):
        joints, _ = stream.step(now)
        heights.append(stream.kinematics.forward(joints)[2, 3])
    return np.array(heights)


def test_it_follows_waypoints_and_stays_after_the_last(stream) -> None:
    times, poses = upwards(stream)
    start = stream.path.at(10.0)[2, 3]
    stream.execute(times, poses, 10.0)
    heights = steps(stream, 10.0, 11.5)
    told = np.interp(np.arange(10.0, 11.5, BEAT), [10.0, *times], [start, *poses[:, 2, 3]])
    assert np.abs(heights - told).max() < 0.002
    assert np.abs(heights[-20:] - poses[-1, 2, 3]).max() < 1e-4
    assert np.abs(stream.speeds).max() < 1e-3


def test_it_brakes_within_its_bounds_and_forgets_what_was_pending(stream) -> None:
    times, poses = upwards(stream)
    stream.execute(times, poses, 10.0)
    steps(stream, 10.0, 10.5)
    stream.brake(10.5)
    heights = steps(stream, 10.5, 11.2)
    speeds = np.diff(heights) / BEAT
    assert 0.15 < speeds[:3].mean() < 0.21
    assert np.abs(np.diff(speeds) / BEAT).max() < 1.3 * BOUNDS.acceleration
    assert heights[-1] - heights[0] < 0.03
    assert np.abs(speeds[-20:]).max() < 1e-4
    assert not stream.settled(10.55)
    assert stream.settled(11.2)


def test_a_path_faster_than_the_bounds_is_refused_and_changes_nothing(stream) -> None:
    times, poses = upwards(stream, speed=0.8)
    with pytest.raises(SafetyError, match=r"left arm refuses a path of 0\.\d+ m/s .* at most 0\.5 m/s"):
        stream.execute(times, poses, 10.0)
    assert stream.until == 10.0
    with pytest.raises(LateError):
        stream.execute(*upwards(stream), 20.0)


def test_a_command_that_comes_late_stops_nothing_and_is_caught_up_with_within_the_bounds(stream) -> None:
    """Regression: the first waypoint, half a millisecond ahead by then, was taken for 10 m/s and all arms stopped."""
    stream.execute(*upwards(stream), 10.0)
    steps(stream, 10.0, 10.3)
    times, poses = upwards(stream)
    poses[:, 2, 3] += 0.006
    late = times[15] - 0.0005
    here = stream.kinematics.forward(stream.step(late)[0])[2, 3]
    stream.execute(times, poses, late)
    heights = np.append(here, steps(stream, late + BEAT, 10.5))
    assert np.diff(heights).max() <= 1.25 * BOUNDS.speed * BEAT
    assert heights[-1] == pytest.approx(stream.path.at(10.496)[2, 3], abs=0.002)
    poses[:, 2, 3] += 0.06
    with pytest.raises(SafetyError, match="refuses a path"):
        stream.execute(times, poses, 10.5)


def test_after_a_pause_it_goes_on_within_its_bounds(stream) -> None:
    stream.execute(*upwards(stream), 10.0)
    before = steps(stream, 10.0, 10.2)[-1]
    heights = np.append(before, steps(stream, 10.28, 10.6))  # a beat that came 80 ms late
    assert 0 < np.diff(heights)[0] <= 1.25 * BOUNDS.speed * LONGEST
    assert np.diff(heights)[1:].max() <= 1.25 * BOUNDS.speed * BEAT
    assert heights[-1] == pytest.approx(stream.path.at(10.596)[2, 3], abs=0.002)
    with pytest.raises(SafetyError, match=r"cannot follow the path: it is \d+ mm behind"):
        stream.step(11.3)


def test_who_brakes_and_was_not_led_for_a_while_does_not_jump(stream) -> None:
    """Regression: after a connection that hung, an arm that stood was told to be where its ramp would have ended."""
    stream.execute(*upwards(stream, speed=0.4), 10.0)
    before = steps(stream, 10.0, 10.4)[-1]
    stream.brake(10.4)
    heights = np.append(before, steps(stream, 10.7, 11.2))
    assert 0 < np.diff(heights)[0] <= 0.4 * LONGEST * 1.01
    assert np.diff(heights).max() <= 0.4 * LONGEST * 1.01
    assert np.diff(heights)[1:].max() <= 0.4 * BEAT * 1.01
    assert stream.braked(11.2)
    assert np.abs(stream.speeds).max() < 1e-6


def test_joints_are_led_within_the_bounds_of_the_tcp(stream) -> None:
    """Regression: only the joints' own top speeds held, several times those of the yaml at the TCP."""
    goal = stream.joints + np.array([0.6, 0, 0, 0, 0, 0, 0])
    before = stream.joints.copy()
    with pytest.raises(SafetyError, match=r"left arm refuses a path of 0\.\d+ m/s .* at most 0\.5 m/s"):
        stream.execute_joints(np.array([10.4]), goal[None], 10.0)
    stream.execute_joints(np.array([11.2]), goal[None], 10.0)
    steps(stream, 10.0, 10.3)
    here = stream.kinematics.forward(stream.joints)[:3, 3]
    there = stream.kinematics.forward(stream.step(10.45)[0])[:3, 3]  # a beat that came late
    assert 0 < np.linalg.norm(there - here) <= 1.25 * BOUNDS.speed * LONGEST
    for now in np.arange(10.454, 11.4, BEAT):
        stream.step(now)
    np.testing.assert_allclose(stream.joints, goal, atol=1e-3)
    assert (stream.joints != before).any()


def test_a_joint_at_its_stop_stays_there_until_it_is_led_back():
    """Regression: the joint was pulled away as soon as the arm was enabled, and no way led back."""
    kinematics = SETTINGS.kinematics()["left"]
    start = np.array(HOME)
    start[-1] = kinematics.upper[-1] + 0.015
    stream = JointStream("left arm", kinematics, BOUNDS, start, 10.0)
    steps(stream, 10.0, 10.2)
    np.testing.assert_allclose(stream.joints, start, atol=1e-6)
    out, back = start.copy(), start.copy()
    out[-1], back[-1] = start[-1] + 0.01, start[-1] - 0.2
    with pytest.raises(SafetyError, match=r"beyond its limits: joint 7 at .* degrees, expected"):
        stream.execute_joints(np.array([10.5]), out[None], 10.2)
    stream.execute_joints(np.array([11.0]), back[None], 10.2)
    steps(stream, 10.2, 11.1)
    np.testing.assert_allclose(stream.joints, back, atol=1e-6)


def test_a_path_out_of_its_reach_is_said(stream) -> None:
    times = 10.0 + 0.02 * np.arange(1, 400)
    poses = np.repeat(stream.path.at(10.0)[None], len(times), axis=0)
    poses[:, 0, 3] += 0.3 * (times - 10.0)
    stream.execute(times, poses, 10.0)
    with pytest.raises(SafetyError, match="cannot follow the path"):
        steps(stream, 10.0, 17.9)


def test_it_is_led_along_joints_and_back_to_poses(stream) -> None:
    goal = np.add(HOME, [0.2, 0, 0, 0.1, 0, 0, 0])
    stream.execute_joints(np.array([10.5]), goal[None], 10.0)
    assert stream.until == 10.5
    steps(stream, 10.0, 10.6)
    np.testing.assert_allclose(stream.joints, goal, atol=1e-6)
    here = stream.kinematics.forward(stream.joints)
    stream.execute(np.array([10.7]), here[None], 10.6)
    steps(stream, 10.6, 10.8)
    np.testing.assert_allclose(stream.joints, goal, atol=1e-3)
    with pytest.raises(SafetyError, match="too fast for its joints"):
        stream.execute_joints(np.array([10.85]), goal[None] + 0.5, 10.8)
    with pytest.raises(SafetyError, match="beyond its limits"):
        stream.execute_joints(np.array([20.0]), np.full((1, 7), 4.0), 10.8)
