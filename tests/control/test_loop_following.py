"""Arms whose drivers do something else than they are told, or nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings

from rdt2.control import LoopConfig, run_episode
from rdt2.errors import LateError

START = 100.0


def run(robot, seconds=3.0, policy=None, **options):
    return run_episode(
        robot, policy or ConstantPolicy(), "Go.", settings=fake_settings(), config=LoopConfig(latency=0.1),
        max_seconds=seconds, **options,
    )  # fmt: skip


def moved_since(robot, side="right"):
    """When an arm was first told to be elsewhere."""
    calls = robot.arms[side].calls
    return next(now for now, _, poses in calls if abs(poses[0, 0, 3] - calls[0][2][0, 0, 3]) > 1e-6)


def test_a_driver_that_does_nothing_is_noticed_soon():
    """Regression: what was commanded within 0.3 s counted as where the arm may be, and then it was on a leash for
    ten seconds."""
    robot = fake_robot()
    robot.arms["left"].execute = lambda *values: None
    result = run(robot)
    assert "left arm has not moved at all since it was first commanded to" in result.ending
    assert robot.clock.now() - moved_since(robot) < 0.35


def test_commands_that_come_too_late_are_told_where_an_arm_has_not_moved():
    """Regression: an arm whose host every command reached too late was said to be held by something."""
    robot = fake_robot()

    def late(times, poses):
        raise LateError("3 commands reached its host too late. Give its driver a larger lead.")

    robot.arms["left"].execute = late
    result = run(robot)
    assert "left arm has not moved at all since it was first commanded to" in result.ending
    assert "the left arm did not take a command: 3 commands reached its host too late" in result.ending


def test_a_driver_that_does_nothing_any_more_is_noticed():
    robot = fake_robot()
    arm = robot.arms["left"]
    execute = arm.execute
    arm.execute = lambda *values: execute(*values) if robot.clock.now() < START + 1.0 else None
    result = run(robot, 8.0)
    assert "left arm has stood still for 4 s and not followed its commands" in result.ending
    assert robot.clock.now() - START < 5.3


def test_an_arm_that_lags_is_waited_for():
    """0.1 s later than its settings say, at 0.15 m/s: 15 mm behind."""
    robot = fake_robot()
    arm, states = robot.arms["left"], []
    state = arm.state

    def late():
        states.append(state())
        now = states[-1]
        then = next((s for s in reversed(states) if s.timestamp <= now.timestamp - 0.1), states[0])
        return dataclasses.replace(now, pose=then.pose, velocity=then.velocity)

    arm.state = late
    result = run(robot)
    assert result.ending == "time is up"
    assert any("left arm presses no harder" in held.what for held in result.slowed)
    x = [poses[0, 0, 3] for _, _, poses in arm.calls]
    assert x[-1] - x[0] > 0.1, "it goes on, slower"


@pytest.mark.parametrize("turned", [False, True])
def test_an_arm_that_is_suddenly_elsewhere_stops_the_robot_within_a_tick(turned):
    robot = fake_robot()
    arm = robot.arms["left"]
    state = arm.state

    def elsewhere():
        true = state()
        if robot.clock.now() < START + 1.0:
            return true
        pose = true.pose.copy()
        if turned:
            pose[:3, :3] = pose[:3, :3] @ [
                [np.cos(0.3), -np.sin(0.3), 0],
                [np.sin(0.3), np.cos(0.3), 0],
                [0, 0, 1],
            ]
        else:
            pose[1, 3] += 0.06
        return dataclasses.replace(true, pose=pose)

    arm.state = elsewhere
    result = run(robot)
    assert ("17.2 degrees" if turned else "left arm is 60 mm") in result.ending
    assert robot.clock.now() - START - 1.0 < 0.02
