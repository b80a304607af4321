"""A person takes over and gives back, through the same guard, without a jerk."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from fake_robot import ConstantPolicy, FakeArm, fake_robot, fake_settings
from recorded import Scripted

from rdt2.control import LoopConfig, Steer, run_episode
from rdt2.control.piloting import Helm
from rdt2.control.servo import TICK
from rdt2.errors import RobotError
from rdt2.robot import GuidedArm

SENTENCE = "Pick up the red cube with the left hand."
GENTLE = {
    f"arms.{side}.bounds.{name}": value
    for side in ("right", "left")
    for name, value in {"acceleration": 4, "jerk": 80, "turn_acceleration": 20, "turn_jerk": 400}.items()
}


class Watches:
    def __init__(self):
        self.moments = []

    def on_cycle(self, observation, chunk, time):
        """Of no interest."""

    def on_frame(self, moment):
        self.moments.append(moment)


def drive(act, *, seconds=4.0, begins=1.0, ends=2.5, changes=GENTLE, robot=None):
    robot = robot or fake_robot()
    watches, policy = Watches(), ConstantPolicy()
    result = run_episode(
        robot, policy, SENTENCE, settings=fake_settings(changes), recorder=watches,
        pilot=Scripted(robot, begins, ends, act), config=LoopConfig(latency=0.1), max_seconds=seconds,
    )  # fmt: skip
    ticks = [tick for moment in watches.moments for tick in moment.ticks]
    return result, watches.moments, ticks, policy


def left_up(_):
    return Steer({"left": np.array([0, 0, 0.2, 0, 0, 0.5])}, {"left": 0.03})


def test_the_arms_follow_the_person_and_then_the_policy_again():
    result, moments, _, _ = drive(left_up)
    assert result.ending == "time is up"
    assert not result.pauses
    drivers = [moment.driver for moment in moments]
    order = [driver for driver, before in zip(drivers, [None, *drivers], strict=False) if driver != before]
    assert order == ["policy", "nobody", "person", "nobody", "policy"]
    person = [moment for moment in moments if moment.driver == "person"]
    first, last = person[6], person[-4]
    seconds = last.time - first.time
    moved = {
        side: last.states[side].pose[:3, 3] - first.states[side].pose[:3, 3] for side in ("right", "left")
    }
    np.testing.assert_allclose(moved["left"] / seconds, [0, 0, 0.2], atol=0.02)
    np.testing.assert_allclose(moved["right"], 0, atol=2e-3)
    turned = last.states["left"].pose[:3, :3] @ first.states["left"].pose[:3, :3].T
    assert np.arctan2(turned[1, 0], turned[0, 0]) / seconds == pytest.approx(0.5, abs=0.06)
    assert last.widths["left"] == pytest.approx(0.03, abs=2e-3)
    # the policy went on from where the person had left the arms: 0.15 m/s
    after = [moment.states["left"].pose[:3, 3] for moment in moments if moment.since > 3.3]
    gone = (after[-1] - after[0]) / ((len(after) - 1) / 30)
    assert np.linalg.norm(gone) == pytest.approx(0.15, abs=0.02)
    assert abs(gone[2]) < 2e-3
    assert gone[1] > 0.05  # along the x axis that the person has turned
    # what was predicted from pictures before the person took over was never driven after
    driven = [cycle.time for cycle in result.cycles]
    assert not [time for time in driven if 1.0 <= time < 2.5]


def test_no_hand_over_exceeds_the_limits_of_the_arms():
    """From full motion to the person, who turns round at once, and back: speed, acceleration and jerk stay within."""
    _, _, ticks, _ = drive(
        lambda since: Steer({"left": np.array([(-1.0) ** int(4 * since) * 0.3, 0.1, 0, 0, 0, 1.0])})
    )
    for side in ("right", "left"):
        path = np.array([tick.told.command.poses[side][:3, 3] for tick in ticks])
        speed = np.diff(path, axis=0) / TICK
        gained = np.diff(speed, axis=0) / TICK
        assert np.linalg.norm(speed, axis=1).max() < 1.5
        assert np.linalg.norm(gained, axis=1).max() < 1.05 * 4
        assert np.linalg.norm(np.diff(gained, axis=0) / TICK, axis=1).max() < 1.1 * 80 * np.sqrt(3)


def test_a_person_cannot_push_an_arm_out_of_its_workspace_and_comes_back_at_once():
    changes = {**GENTLE, "arms.left.bounds.high": [4, 4, 0.30]}
    _, moments, _, _ = drive(
        lambda since: Steer({"left": np.array([0, 0, 0.3 if since < 1.0 else -0.3, 0, 0, 0])}),
        changes=changes,
    )
    height = {round(moment.since, 2): moment.states["left"].pose[2, 3] for moment in moments}
    assert max(height.values()) < 0.301
    at_top = [since for since, z in height.items() if z > 0.295]
    assert at_top[-1] - at_top[0] > 0.5
    # 0.7 s of pushing upwards were not put on a tab: 0.4 s after turning round it is well on its way down
    later = [z for since, z in height.items() if 2.4 < since < 2.5]
    assert later
    assert max(later) < 0.29


def test_a_person_who_falls_silent_lets_the_arms_rest():
    """The pilot's own driver answers no more, and so does the loop's thread: the wish ends a moment later."""
    robot = fake_robot()

    def falls_silent(since):
        return Steer({"left": np.array([0, 0, 0.2, 0, 0, 0])}) if since < 0.8 else Steer()

    _, moments, _, _ = drive(falls_silent, robot=robot)
    resting = [moment.states["left"].pose[2, 3] for moment in moments if 2.1 < moment.since < 2.45]
    assert np.ptp(resting) < 1e-3


@pytest.mark.parametrize("wrong", [np.full(6, np.nan), np.zeros(3)])
def test_a_pilot_that_says_no_numbers_is_not_followed(wrong):
    result, moments, _, _ = drive(lambda _: Steer({"left": wrong}))
    assert any("the pilot wants the left arm" in pause.reason for pause in result.pauses)
    rests = [moment for moment in moments if 1.6 < moment.since < 1.9]
    assert np.ptp([moment.states["left"].pose[0, 3] for moment in rests]) < 1e-3


class LedArm(FakeArm):
    """Can be moved by hand: then it goes 0.1 m/s upwards for a second, and is told nothing."""

    led = None
    told_meanwhile = 0

    def guide(self, on):
        if on:
            self.led = self.clock.now()
        elif self.led is not None:
            self.trajectory.stay(self._lead(self.clock.now()), now=self.clock.now())
            self.led = None

    def _lead(self, now):
        pose = self.trajectory.at(now).copy()
        pose[2, 3] += 0.1 * min(max(now - self.led, 0.0), 1.0)
        return pose

    def at(self, now):
        return super().at(now) if self.led is None else self._lead(now)

    def state(self):
        state = super().state()
        moves = self.led is not None and 0 < self.clock.now() - self.led < 1.0
        return dataclasses.replace(state, velocity=np.array([0, 0, 0.1, 0, 0, 0])) if moves else state

    def execute(self, times, values):
        self.told_meanwhile += self.led is not None
        super().execute(times, values)


def test_arms_that_are_moved_by_hand_are_told_nothing_and_then_go_on_from_there():
    robot = fake_robot()
    arm = robot.arms["left"] = LedArm(robot.clock, "left")
    assert isinstance(arm, GuidedArm)
    assert not isinstance(robot.arms["right"], GuidedArm)
    # the person lets go of the key in the middle of the motion: the arm is taken when it stands
    result, moments, ticks, _ = drive(
        lambda _: Steer(by_hand=True), robot=robot, begins=1.0, ends=1.8, seconds=4.0
    )
    assert result.ending == "time is up"
    assert not result.pauses
    assert arm.told_meanwhile == 0
    drivers = [moment.driver for moment in moments]
    order = [driver for driver, before in zip(drivers, [None, *drivers], strict=False) if driver != before]
    assert order == ["policy", "nobody", "person", "nobody", "policy"]
    path = {side: np.array([tick.arms[side].pose[:3, 3] for tick in ticks]) for side in ("right", "left")}
    assert path["left"][-1, 2] - path["left"][0, 2] == pytest.approx(0.1, abs=3e-3)
    assert path["right"][-1, 2] == pytest.approx(path["right"][0, 2], abs=1e-3)
    assert max(np.linalg.norm(np.diff(path["left"], axis=0), axis=1)) < 0.2 * TICK + 1e-4
    assert path["left"][-1, 0] - path["left"][-126, 0] == pytest.approx(0.15, abs=0.02)


class Hand:
    """A pilot who takes the arms, until `steers` is None."""

    def __init__(self):
        self.steers = Steer(by_hand=True)

    def steer(self):
        return self.steers


def held(velocity):
    """What the servo told last, if anything: to an arm in a hand it tells no velocity."""
    return SimpleNamespace(command=SimpleNamespace(velocity=velocity))


def test_an_arm_is_let_go_only_when_the_servo_tells_it_nothing_any_more():
    """Regression: a tick that was under way told the arm something when it was in the person's hands already."""
    robot, guided = fake_robot(), []
    arm = robot.arms["left"] = LedArm(robot.clock, "left")
    arm.guide = guided.append
    servo = SimpleNamespace(
        robot=robot, guard=SimpleNamespace(at_rest=True), told=held({"left": np.zeros(6)}), by_hand=False,
        pause=lambda: None, states={side: arm.state() for side, arm in robot.arms.items()},
        let_go=lambda: setattr(servo, "by_hand", False),
    )  # fmt: skip
    helm, hand, now = Helm(fake_settings(), servo, lead=0.01), Hand(), 0.0

    def turn():
        nonlocal now
        now += 1.0
        assert helm.turn(hand, now)

    for _ in range(3):  # it comes to rest, the person holds it, and the servo is told
        turn()
    assert servo.by_hand
    assert guided == []
    turn()  # no tick came round
    servo.told = held({"left": np.zeros(6)})  # and this one was under way
    turn()
    assert guided == []
    servo.told = held({})
    turn()
    turn()
    assert guided == [True]
    hand.steers = None
    turn()
    assert guided == [True, False]
    assert not servo.by_hand
    # a person who thinks better of it before it was let go
    hand.steers = Steer(by_hand=True)
    while not servo.by_hand:
        turn()
    hand.steers = None
    turn()
    assert not servo.by_hand
    assert guided == [True, False]


@pytest.mark.parametrize("seconds", [0.3, 10.0])
def test_an_arm_whose_driver_sees_it_move_for_a_moment_is_taken_a_moment_later(seconds):
    """Regression: TCPs stood, a driver still saw an elbow swing, and that ended the episode."""
    robot = fake_robot()
    arm = robot.arms["left"] = LedArm(robot.clock, "left")
    guide, asked = arm.guide, []

    def swings(on):
        asked.append(robot.clock.now())
        still = [moment for moment in asked if moment > 101.8]
        if not on and robot.clock.now() - still[0] < seconds:
            raise RobotError("the left arm still moves. Hold it still, then give it back.")
        guide(on)

    arm.guide = swings
    act = lambda _: Steer(by_hand=True)  # noqa: E731
    result, moments, _, _ = drive(act, robot=robot, begins=1.0, ends=1.8, seconds=5.0)
    if seconds > 1:
        assert "the left arm still moves" in result.ending
        assert "no longer waited out" in result.ending
        return
    assert (result.ending, result.pauses) == ("time is up", [])
    assert moments[-1].driver == "policy"


def test_arms_that_cannot_be_moved_by_hand_say_so():
    result, _, _, _ = drive(lambda _: Steer(by_hand=True), seconds=3.0)
    assert any("no arm of this robot can be moved by hand" in pause.reason for pause in result.pauses)
