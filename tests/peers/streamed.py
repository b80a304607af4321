"""An arm of a peer as a robot, and one on its way up: for tests of arms that are told where to be again and again."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from conformance import follow, path, raised, ready, run
from fake_robot import fake_robot

from rdt2.devices import WallClock, open_device
from rdt2.errors import RobotError, SafetyError
from rdt2.robot import GuidedArm, Robot


def robot_of(settings):
    """Its right arm, with a gripper and a camera that are none."""
    others, clock = fake_robot(sides=("right",), honest=True, real=True), WallClock()
    return Robot(
        arms={"right": open_device(settings, "right", "arm", clock)},
        grippers=others.grippers, cameras=others.cameras, clock=clock,
        policy_to_tcp={"right": np.eye(4)}, name=settings.kind,
    )  # fmt: skip


def until(condition, seconds=15.0):
    """Wait for it, and say how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "it never came"
        time.sleep(0.002)
    return time.monotonic() - began


class Moving:
    """An arm on its way up, told so fifty times a second until it takes no more."""

    def __init__(self, robot):
        self.arm = ready(robot).arms["right"]
        self.times, self.poses = path(robot, "right", 6.0)
        self.poses = np.minimum(self.poses, raised(self.poses[0], 0.25))  # it has not all the room above it
        self.robot, self.refused = robot, ""
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        run(robot, 0.35)

    def _follow(self):
        with pytest.raises((SafetyError, RobotError)) as refused:
            follow(self.robot, self.arm, self.times, self.poses)
        self.refused = str(refused.value)

    def stopped_after(self, seconds=15.0):
        """Seconds until it took no more; `refused` says why."""
        began = time.monotonic()
        self.thread.join(seconds)
        assert self.refused, "it went on"
        return time.monotonic() - began


def is_moved_by_hand(robot, push):
    """In a person's hands it goes where these want, and is told nothing; given back, it stays there and follows."""
    arm = ready(robot).arms["right"]
    assert isinstance(arm, GuidedArm)
    held = arm.state().joints
    push()
    run(robot, 1.5)
    np.testing.assert_allclose(arm.state().joints, held, atol=0.02)  # nobody asked it to give way
    arm.guide(True)
    arm.guide(True)
    with pytest.raises(SafetyError, match="in a person's hands"):
        follow(robot, arm, *path(robot, "right", 0.1))
    push()
    until(lambda: np.abs(arm.state().joints - held).max() > 0.03)
    with pytest.raises(RobotError, match="still moves"):
        arm.guide(False)
    until(lambda: _given_back(arm))
    there = arm.state().joints
    assert np.abs(there - held).max() > 0.05
    run(robot, 0.5)
    np.testing.assert_allclose(arm.state().joints, there, atol=0.02)
    before = arm.state().pose[2, 3]
    follow(robot, arm, *path(robot, "right", 0.3))
    run(robot, 0.2)
    assert arm.state().pose[2, 3] > before + 0.02
    arm.guide(True)
    robot.stop()  # ends it, too
    run(robot, 0.5)
    there = arm.state().joints
    push()
    run(robot, 1.5)
    np.testing.assert_allclose(arm.state().joints, there, atol=0.02)
    robot.recover()
    assert robot.faults() == []


def _given_back(arm):
    try:
        arm.guide(False)
    except RobotError:
        return False
    return True
