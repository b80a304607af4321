"""The servo tick by tick, above devices made of nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_robot import SIDES, FakeGripper, fake_robot, fake_settings

from rdt2.control.guard import Guard
from rdt2.control.plan import Plan
from rdt2.control.servo import TICK, Servo
from rdt2.control.watch import Watch

HELD = 0.05
"""Metres across what the fingers hold."""


class HoldingGripper(FakeGripper):
    """Its fingers are told to be closer together than what they hold allows."""

    def __init__(self, clock, side):
        super().__init__(clock, side)
        self.trajectory.stay(0.03, now=clock.now())

    def state(self):
        state = super().state()
        return replace(state, width=max(state.width, HELD))

    @property
    def told(self):
        """All openings that it was ever told, metres."""
        return np.concatenate([widths for _, _, widths in self.calls]) if self.calls else np.array([])


@pytest.fixture
def robot():
    robot = fake_robot()
    robot.grippers["left"] = HoldingGripper(robot.clock, "left")
    return robot


@pytest.fixture
def servo(robot):
    settings = fake_settings()
    servo = Servo(robot, settings, Guard(settings, settings.kinematics(), period=TICK), Watch(settings), None)
    servo.start(robot.clock.now())
    return servo


def ticks(servo, count):
    clock = servo.robot.clock
    for _ in range(count):
        clock.time += TICK
        servo.tick(clock.time)
    assert not servo.stopped


def stays(servo, widths):
    """A plan of arms that stand, and of openings."""
    now = servo.robot.clock.now()
    poses = {side: np.repeat(servo.states[side].pose[None], 2, axis=0) for side in SIDES}
    return Plan(now, now + np.array([0.0, 2.0]), poses, {side: np.full(2, widths[side]) for side in SIDES})


def test_what_a_gripper_holds_is_held_until_a_plan_moves_its_fingers(robot, servo):
    """Regression: from the first tick on it was told to be as far open as it was, and what it held fell."""
    left, right = robot.grippers["left"], robot.grippers["right"]
    ticks(servo, 5)
    assert robot.arms["left"].calls
    servo.drive(stays(servo, servo.widths), robot.clock.now())
    ticks(servo, 20)
    assert left.calls == right.calls == []
    servo.drive(stays(servo, {"left": 0.02, "right": servo.widths["right"]}), robot.clock.now())
    ticks(servo, 100)
    assert left.told[-1] == pytest.approx(0.02, abs=1e-3)
    assert left.told.max() < HELD
    assert right.calls == []


def test_what_a_gripper_holds_is_held_when_a_person_gives_the_arms_back(robot, servo):
    """Regressions: it was told to be as far open as it was then; while it was led by hand its recorded command was the
    width of what it held, and a policy learnt to let go."""
    left = robot.grippers["left"]
    servo.drive(stays(servo, {"left": 0.02, "right": 0.08}), robot.clock.now())
    ticks(servo, 100)
    servo.pause()
    servo.by_hand = True
    ticks(servo, 5)
    assert servo.told.command.widths["left"] == pytest.approx(0.02, abs=1e-3), "not what its fingers measure"
    told = len(left.calls)
    servo.let_go()
    ticks(servo, 20)
    assert len(left.calls) > told
    np.testing.assert_allclose(np.concatenate([widths for *_, widths in left.calls[told:]]), 0.02, atol=1e-3)
    assert servo.told.command.widths["left"] == pytest.approx(0.02, abs=1e-3)


def test_a_thread_that_wakes_late_sends_no_pose_sooner_than_a_period_after_the_one_before(monkeypatch):
    """Regression: of arms that count as resting a period before their way to rest ends, the next pose could be due 4 ms
    after the last one that had been sent."""
    monkeypatch.setattr("rdt2.control.guard.STANDING", 0.01)
    monkeypatch.setattr("rdt2.control.guard.STILL", 10.0)
    robot = replace(fake_robot(), concurrent=True)
    settings = fake_settings()
    servo = Servo(robot, settings, Guard(settings, settings.kinematics(), period=TICK), Watch(settings), None)
    servo.start(robot.clock.now())
    now, away = robot.clock.now(), np.eye(4)
    away[0, 3] = 0.02
    poses = {side: np.stack([servo.states[side].pose, away @ servo.states[side].pose]) for side in SIDES}
    servo.drive(Plan(now, now + np.array([0.0, 1.0]), poses, {side: np.full(2, 0.05) for side in SIDES}), now)
    for late in np.arange(0.01, 0.05, 0.0017):
        ticks(servo, 5)
        robot.clock.time += late
    told = list[float]()
    for _, times, _ in robot.arms["left"].calls:
        told = [due for due in told if due < times[0] - 1e-6] + [float(due) for due in times]
    assert np.diff(told).min() > TICK - 1e-6


def test_a_tick_that_hung_while_the_robot_was_stopped_and_let_go_on_tells_the_arms_nothing(robot, servo):
    ticks(servo, 3)
    arm = robot.arms["left"]
    state, told = arm.state, [len(each.calls) for each in robot.arms.values()]

    def hangs():
        servo.stop("the servo has not come round.")
        robot.recover()
        return state()

    arm.state = hangs
    servo.tick(robot.clock.now() + TICK)
    assert [len(each.calls) for each in robot.arms.values()] == told
    assert robot.faults() == []


def test_arms_rest_where_no_chunk_has_come_for_the_command_timeout(robot):
    """Regression: nothing noticed when the setting did nothing."""
    settings = fake_settings({"safety.command_timeout": 0.3})
    servo = Servo(robot, settings, Guard(settings, settings.kinematics(), period=TICK), Watch(settings), None)
    servo.start(robot.clock.now())
    now, away = robot.clock.now(), np.eye(4)
    away[0, 3] = 0.1
    poses = {side: np.stack([servo.states[side].pose, away @ servo.states[side].pose]) for side in SIDES}
    began = poses["left"][0, 0, 3]
    plan = Plan(now, now + np.array([0.0, 1.0]), poses, {side: np.full(2, 0.05) for side in SIDES})
    driven = servo.drive(plan, now)
    assert driven.ends == pytest.approx(now + 0.3)
    ticks(servo, 120)
    assert servo.states["left"].pose[0, 3] - began == pytest.approx(0.03, abs=2e-3)
