"""Steps of the limiter: within the norms of all limits, at rest where it says, and close behind a moving wish."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from guarded import CALM as BOUNDS
from guarded import PERIOD, norms
from scipy.spatial.transform import Rotation

from rdt2.control.limiter import Limiter, LimitError, Motion
from rdt2.robot.braking import Brake
from rdt2.robot.kinematics import rotation_vector

LOW, HIGH = np.array([-0.45, -0.6, -0.1]), np.array([0.45, 0.6, 0.7])


def follow(limiter, wishes, motion=None):
    """Motions behind wishes (positions at 125 Hz), whose speed is that of their differences."""
    motion = motion or Motion.at_rest(np.eye(4))
    before, motions = wishes[0], [motion]
    for wish in wishes:
        velocity = np.concatenate([(wish - before) / PERIOD, np.zeros(3)])
        motion = limiter.towards(motion, wish, np.eye(3), velocity, low=LOW, high=HIGH)
        before = wish
        motions.append(motion)
    return motions


def test_a_moving_wish_is_followed_without_lag():
    """Waypoints at 30 Hz, linear between, up to 1.25 m/s round a curve."""
    waypoints = np.arange(0, 2, 1 / 30)
    ticks = np.arange(0, 1.9, PERIOD)
    angle = 1.25 / 0.25 * np.maximum(waypoints - 0.3, 0) ** 2 / (np.maximum(waypoints - 0.3, 0) + 0.3)
    path = np.stack([0.25 * np.sin(angle), 0.25 * np.cos(angle) - 0.25, np.zeros_like(angle)], axis=1)
    wishes = np.stack([np.interp(ticks, waypoints, axis) for axis in path.T], axis=1)
    motions = follow(Limiter(BOUNDS, period=PERIOD), wishes)
    error = np.linalg.norm(np.stack([m.position for m in motions[1:]]) - wishes, axis=1)
    fast = np.linalg.norm(np.diff(wishes, axis=0), axis=1) / PERIOD
    assert fast.max() > 1.0
    assert error.mean() / fast.mean() < 0.008  # seconds
    assert error.max() < 0.02


def test_a_rough_wish_is_followed_without_swinging():
    """Regression: rows 33 ms apart that are half a millimetre off, as every policy's, made arms swing by millimetres
    around the wish, with all of the jerk that was allowed: the fastest way to it was planned anew in each period."""
    waypoints, ticks = np.arange(0, 4, 1 / 30), np.arange(0, 3.9, PERIOD)
    smooth = np.stack(
        [0.1 * np.sin(2 * waypoints), 0.1 * np.cos(1.5 * waypoints) - 0.1, 0.1 * waypoints], axis=1
    )
    rough = smooth + np.random.default_rng(0).normal(scale=0.0005, size=smooth.shape)
    wishes = np.stack([np.interp(ticks, waypoints, axis) for axis in rough.T], axis=1)
    motions = follow(Limiter(BOUNDS, period=PERIOD), wishes)[100:]
    acceleration = np.stack([m.acceleration[:3] for m in motions])
    jerk = np.linalg.norm(np.diff(acceleration, axis=0), axis=1) / PERIOD
    assert np.sqrt((jerk**2).mean()) < 0.3 * BOUNDS.jerk
    error = np.linalg.norm(np.stack([m.position for m in motions]) - wishes[99:], axis=1)
    assert error.mean() < 0.002


def test_the_norms_of_all_limits_hold_in_every_direction():
    rng = np.random.default_rng(0)
    limiter = Limiter(BOUNDS, period=PERIOD)
    motion = Motion.at_rest(np.eye(4))
    poses = [motion.pose] * 4
    stop, tick = limiter.stop(motion), 0
    for _ in range(60):
        goal, turn = rng.uniform(LOW, HIGH), Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        for _ in range(rng.integers(1, 30)):
            following = limiter.towards(motion, goal, turn, np.zeros(6), low=LOW, high=HIGH)
            path = limiter.stop(following)
            if path.within(BOUNDS.speed, BOUNDS.turn_rate):
                motion, stop, tick = following, path, 0
            else:
                tick += 1
                motion = stop.at(tick)
            poses.append(motion.pose)
    poses += [stop.at(k).pose for k in range(tick + 1, stop.ticks + 3)]
    assert np.abs(stop.at(stop.ticks).velocity).max() == 0.0
    used = np.divide(
        norms(poses),
        [
            BOUNDS.speed,
            BOUNDS.acceleration,
            BOUNDS.jerk,
            BOUNDS.turn_rate,
            BOUNDS.turn_acceleration,
            BOUNDS.turn_jerk,
        ],
    )
    assert used.max() <= 1.0 + 1e-6
    assert used[:3].min() > 0.85, "a straight motion may use nearly all of a limit"
    assert np.abs(np.stack(poses)[-1, :3, :3] @ np.stack(poses)[-1, :3, :3].T - np.eye(3)).max() < 1e-9


@pytest.mark.parametrize("turn", [0.0, 3.0])
@pytest.mark.parametrize("speed", [0.05, 0.3, 0.8, 1.4])
def test_a_device_that_stops_by_itself_ends_within_what_is_left_of_a_way_to_rest(speed, turn):
    """Regression: its ramp is pi / 4 * v^2 / a long, a way was v^2 / 2a, and moving ended before turning did."""
    velocity = np.array([0.6 * speed, 0.0, 0.8 * speed, 0.0, turn, 0.0])
    stop = Limiter(BOUNDS, period=PERIOD).stop(Motion(np.zeros(3), np.eye(3), velocity, np.zeros(6)))
    moved = np.linalg.norm(np.diff(stop.positions, axis=0), axis=1)
    turned = [np.linalg.norm(rotation_vector(b @ a.T)) for a, b in pairwise(stop.rotations)]
    speeds = np.linalg.norm(stop.velocities.reshape(-1, 2, 3), axis=2)
    for tick, (fast, turning) in enumerate(speeds[:-1]):
        ramp = Brake.of(
            0.0,
            (fast, BOUNDS.acceleration, BOUNDS.jerk),
            (turning, BOUNDS.turn_acceleration, BOUNDS.turn_jerk),
        )
        # a third of a^3 / j^2: the ramp's jerk, where a way brakes already
        assert (
            ramp.way(ramp.ends) * fast < moved[tick:].sum() + 0.34 * BOUNDS.acceleration**3 / BOUNDS.jerk**2
        )
        slack = 0.34 * BOUNDS.turn_acceleration**3 / BOUNDS.turn_jerk**2
        assert ramp.way(ramp.ends) * turning < sum(turned[tick:]) + slack
    if speed and turn:
        assert (speeds[-3] > 0).all(), "all ends together"


def test_an_arm_slows_down_before_the_end_of_its_workspace():
    limiter = Limiter(BOUNDS, period=PERIOD)
    wishes = np.minimum(np.arange(1, 120)[:, None] * PERIOD * np.array([1.4, 0.2, 0.0]), HIGH)
    for motion in follow(limiter, wishes):
        assert (limiter.stop(motion).positions <= HIGH + 1e-6).all()


def test_a_quarter_turn_ends_where_it_should():
    limiter = Limiter(BOUNDS, period=PERIOD)
    goal = Rotation.from_rotvec([0.3, -1.2, 0.9]).as_matrix()
    motion = Motion.at_rest(np.eye(4))
    for _ in range(150):
        motion = limiter.towards(motion, np.zeros(3), goal, np.zeros(6), low=LOW, high=HIGH)
    assert np.linalg.norm(rotation_vector(goal @ motion.rotation.T)) < 1e-6
    assert np.abs(motion.velocity).max() < 1e-6


def test_what_ruckig_refuses_is_a_limit_error():
    limiter = Limiter(BOUNDS, period=PERIOD)
    broken = Motion(np.zeros(3), np.eye(3), np.full(6, np.nan), np.zeros(6))
    with pytest.raises(LimitError):
        limiter.stop(broken)
    with pytest.raises(LimitError):
        limiter.towards(broken, np.ones(3), np.eye(3), np.zeros(6), low=LOW, high=HIGH)
