"""What every robot's devices must do, simulated or real: one suite, and a fixture `robot` for each implementation.

    class TestMine(Conformance):
        @pytest.fixture
        def robot(self):
            yield my_robot()        # a Robot, connected or not; both arms free to move by 10 cm up and down

Times are the robot's own clock's. Bounds allow for a machine that is busy with other tests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from rdt2.errors import RobotError, SafetyError
from rdt2.robot import WATCHDOG, Arm, Camera, Clock, Gripper, Robot
from rdt2.robot.protocols import GuidedArm, JointArm

PERIOD = 0.02
SPEED = 0.2
"""Metres per second of the tests' motion."""


def ready(robot: Robot) -> Robot:
    """Connected, enabled, and at rest."""
    robot.connect()
    robot.enable()
    assert robot.faults() == []
    return robot


def run(robot: Robot, seconds: float) -> None:
    robot.clock.sleep_until(robot.clock.now() + seconds)


def raised(pose, height: float):
    moved = pose.copy()
    moved[2, 3] += height
    return moved


def path(robot: Robot, side: str, seconds: float = 0.5, lead: float = 0.05):
    """Times and poses, `PERIOD` apart, of a gentle start upwards."""
    ticks = np.arange(1, round(seconds / PERIOD) + 1)
    start = robot.arms[side].state().pose
    way = np.cumsum(np.minimum(ticks / 5, 1.0)) * SPEED * PERIOD
    times = robot.clock.now() + lead + PERIOD * ticks
    return times, np.stack([raised(start, w) for w in way])


def follow(robot: Robot, device, times, values, *, until: float | None = None) -> None:
    """Say what is still ahead again and again, as whoever moves a device has to."""
    until = times[-1] if until is None else until
    while robot.clock.now() < until - 1e-6:
        ahead = times > robot.clock.now() + 0.005
        if ahead.any():
            device.execute(times[ahead], values[ahead])
        robot.clock.sleep_until(min(until, robot.clock.now() + PERIOD))


def height(robot: Robot, side: str) -> float:
    return float(robot.arms[side].state().pose[2, 3])


def wait_for_rest(robot: Robot, side: str, seconds: float = 0.6) -> None:
    until = robot.clock.now() + seconds
    while np.linalg.norm(robot.arms[side].state().velocity[:3]) > 0.01:
        assert robot.clock.now() < until, "it goes on moving"
        run(robot, 0.01)
    run(robot, 0.15)


def watched(robot: Robot, side: str, seconds: float):
    """Stamps and upward speeds of an arm from now on, each measurement once."""
    arm, until = robot.arms[side], robot.clock.now() + seconds
    states = [arm.state()]
    while robot.clock.now() < until:
        run(robot, 0.004)
        states.append(arm.state())
    stamps, first = np.unique([state.timestamp for state in states], return_index=True)
    return stamps, np.array([states[i].velocity[2] for i in first])


def brakes(stamps, speeds, *, within: float, rests: float) -> None:
    """It begins to within so many seconds, rests after so many, and is never slowed in a step, nor goes back."""
    slowing = -np.diff(speeds) / np.maximum(np.diff(stamps), 0.008)
    assert slowing.max() < 30.0, "it stops in a step"
    assert speeds.min() > -0.05, "it goes back"
    assert stamps[speeds < 0.85 * SPEED].min() < stamps[0] + within, "it does not brake"
    assert np.abs(speeds[stamps > stamps[0] + rests]).max() < 0.02, "it goes on"


class GripperConformance:
    """What holds for every gripper; collected by subclasses that have a fixture `robot`."""

    @pytest.fixture(autouse=True)
    def _close(self, robot):
        yield
        assert robot.close() == {}

    def test_a_gripper_follows_its_widths(self, robot: Robot) -> None:
        ready(robot)
        gripper = robot.grippers[robot.sides[-1]]
        start = gripper.state().width
        goal = 0.03 if start > 0.045 else 0.06
        times = robot.clock.now() + 0.05 + PERIOD * np.arange(1, 26)
        follow(robot, gripper, times, np.linspace(start, goal, 25))
        run(robot, 0.3 + gripper.timing.latency)
        assert gripper.state().width == pytest.approx(goal, abs=0.003)

    @pytest.mark.parametrize("width", [np.nan, np.inf, -0.01, 0.6])
    def test_what_a_gripper_must_not_follow_is_refused_and_changes_nothing(
        self, robot: Robot, width: float
    ) -> None:
        ready(robot)
        gripper = robot.grippers[robot.sides[0]]
        before = gripper.state().width
        with pytest.raises(SafetyError):
            gripper.execute(np.array([robot.clock.now() + 0.3]), np.array([width]))
        with pytest.raises(SafetyError):
            gripper.execute(np.array([robot.clock.now() - 1.0]), np.array([0.02]))
        run(robot, 0.5)
        assert gripper.state().width == pytest.approx(before, abs=0.003)
        assert gripper.health().ok

    def test_a_stopped_gripper_stays_where_it_is(self, robot: Robot) -> None:
        ready(robot)
        gripper = robot.grippers[robot.sides[0]]
        start = gripper.state().width
        goal = 0.01 if start > 0.045 else 0.08
        times = robot.clock.now() + 0.05 + PERIOD * np.arange(1, 51)
        widths = np.linspace(start, goal, 50)
        follow(robot, gripper, times, widths, until=times[20])
        gripper.stop()
        run(robot, 0.4)
        width = gripper.state().width
        assert abs(width - start) < abs(goal - start) * 0.8
        with pytest.raises(SafetyError, match="stopped"):
            gripper.execute(times[-1:] + 1.0, widths[-1:])
        run(robot, 0.2)
        assert gripper.state().width == pytest.approx(width, abs=0.002)
        gripper.recover()
        assert gripper.health().ok

    def test_a_gripper_that_hears_nothing_while_it_moves_stops_by_itself(self, robot: Robot) -> None:
        ready(robot)
        gripper = robot.grippers[robot.sides[0]]
        start = gripper.state().width
        goal = 0.01 if start > 0.045 else 0.08
        gripper.execute(np.array([robot.clock.now() + 1.5]), np.array([goal]))
        run(robot, 0.5)
        assert "heard nothing for 100 ms" in gripper.health().fault
        assert abs(gripper.state().width - start) < 0.6 * abs(goal - start)


class Conformance(GripperConformance):
    """Collected by subclasses that have a fixture `robot`."""

    def test_speaks_the_protocols(self, robot: Robot) -> None:
        assert isinstance(robot.clock, Clock)
        for side in robot.sides:
            assert isinstance(robot.arms[side], Arm)
            assert isinstance(robot.grippers[side], Gripper)
            assert isinstance(robot.cameras[side], Camera)
            assert np.asarray(robot.arms[side].base).shape == (4, 4)
            assert 0 < robot.grippers[side].stroke < 0.5
        for _, device in robot.devices():
            assert 0 <= device.timing.latency < 0.8
            assert 0 <= device.timing.clock_error < 0.8

    def test_life_cycle(self, robot: Robot) -> None:
        ready(robot)
        ready(robot)  # again: nothing happens
        assert robot.close() == {}
        assert robot.close() == {}
        assert not any(device.health().connected for _, device in robot.devices())
        assert len(robot.faults()) == len(list(robot.devices()))
        side = robot.sides[0]
        for _, device in robot.devices():
            with pytest.raises(RobotError, match="connect"):
                device.enable()
        with pytest.raises(SafetyError, match="not connected"):
            robot.arms[side].execute(*path_from(robot, np.eye(4)))
        with pytest.raises(SafetyError, match="not connected"):
            robot.grippers[side].execute(np.array([robot.clock.now() + 0.1]), np.array([0.02]))
        with pytest.raises(RobotError, match="not connected"):
            robot.cameras[side].read()
        ready(robot)
        times, poses = path(robot, side, 0.4)
        follow(robot, robot.arms[side], times, poses)
        run(robot, 0.1 + robot.arms[side].timing.latency)
        np.testing.assert_allclose(robot.arms[side].state().pose, poses[-1], atol=0.006)

    def test_states_are_measured_again_and_again(self, robot: Robot) -> None:
        ready(robot)
        for _ in range(3):
            for device in (*robot.arms.values(), *robot.grippers.values()):
                first, now = device.state(), robot.clock.now()
                assert -device.timing.clock_error - 0.004 <= now - first.timestamp < 0.1
                run(robot, 0.05)
                second = device.state()
                assert second.timestamp > first.timestamp
                assert second.sequence > first.sequence

    def test_states_are_what_they_say(self, robot: Robot) -> None:
        ready(robot)
        for arm in robot.arms.values():
            state = arm.state()
            rotation = state.pose[:3, :3]
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
            assert state.velocity.shape == (6,)
            assert state.joints.ndim == 1
            if arm.model is not None:
                assert len(state.joints) == len(arm.model.links)
            assert state.wrench is None or state.wrench.shape == (6,)
        for gripper in robot.grippers.values():
            assert -0.002 <= gripper.state().width <= gripper.stroke + 0.002

    def test_pictures_are_new_and_come_at_once(self, robot: Robot) -> None:
        ready(robot)
        for camera in robot.cameras.values():
            first = camera.read()
            assert first.image.shape == (384, 384, 3)
            assert first.image.dtype == np.uint8
            assert first.timestamp <= robot.clock.now() + camera.timing.clock_error
            run(robot, 0.4)
            second = camera.read()
            assert second.timestamp > first.timestamp
            assert second.sequence > first.sequence

    def test_an_arm_follows_its_waypoints_and_stays_after_the_last(self, robot: Robot) -> None:
        ready(robot)
        for side in robot.sides:
            arm = robot.arms[side]
            times, poses = path(robot, side, 0.4)
            follow(robot, arm, times, poses, until=times[-2])
            assert arm.state().velocity[2] == pytest.approx(SPEED, abs=0.08)
            follow(robot, arm, times, poses)
            run(robot, 0.2 + arm.timing.latency)
            np.testing.assert_allclose(arm.state().pose, poses[-1], atol=0.006)
            run(robot, 0.2)
            np.testing.assert_allclose(arm.state().pose, poses[-1], atol=0.006)
            assert np.linalg.norm(arm.state().velocity[:3]) < 0.02

    def test_new_waypoints_replace_those_at_their_time_or_later(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        times, poses = path(robot, side, 0.6)
        follow(robot, arm, times, poses, until=times[12])
        middle = robot.clock.now()
        ahead = times > middle + 0.06
        back = np.stack([raised(poses[12], 0.01)] * int(ahead.sum()))
        follow(robot, arm, times[ahead], back)
        run(robot, 0.2 + arm.timing.latency)
        np.testing.assert_allclose(arm.state().pose, back[-1], atol=0.006)

    @pytest.mark.parametrize(
        "wrong",
        ["past", "nan", "inf", "no pose", "mirrored", "shape", "count", "order", "nan time", "none", "words"],
    )
    def test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(
        self, robot: Robot, wrong: str
    ) -> None:
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        before = arm.state().pose
        times, poses = path(robot, side, 0.2, lead=0.3)
        if wrong == "past":
            times = times - 10.0
        elif wrong in ("nan", "inf"):
            poses[3, 0, 3] = float(wrong)
        elif wrong == "no pose":
            poses[3, :3, :3] *= 2
        elif wrong == "mirrored":
            poses[3, :3, 0] *= -1
        elif wrong == "shape":
            poses = poses[:, :3, :3]
        elif wrong == "count":
            times = times[:-1]
        elif wrong == "order":
            times = times[::-1]
        elif wrong == "nan time":
            times[3] = np.nan
        elif wrong == "none":
            times, poses = times[:0], poses[:0]
        else:
            poses = "up"
        with pytest.raises(SafetyError):
            arm.execute(times, poses)
        run(robot, 0.6)
        np.testing.assert_allclose(arm.state().pose, before, atol=0.004)
        assert arm.health().ok

    def test_stopping_decelerates_and_lasts_until_a_person_says_so(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        times, poses = path(robot, side, 1.0)
        follow(robot, arm, times, poses, until=times[15])
        assert arm.state().velocity[2] > 0.5 * SPEED
        assert robot.stop() == {}
        stamps, speeds = watched(robot, side, 0.6)
        assert arm.health().stopped
        brakes(stamps, speeds, within=0.1 + arm.timing.latency, rests=0.4 + arm.timing.latency)
        resting = arm.state().pose
        assert height(robot, side) - poses[15][2, 3] < 0.08
        times, poses = path(robot, side, 0.3)
        with pytest.raises(SafetyError, match="stopped"):
            arm.execute(times, poses)
        for device in (*robot.arms.values(), *robot.grippers.values()):
            assert device.health().stopped
        run(robot, 0.2)
        np.testing.assert_allclose(arm.state().pose, resting, atol=0.004)
        robot.recover()
        assert robot.faults() == []
        run(robot, 0.2)
        np.testing.assert_allclose(arm.state().pose, resting, atol=0.006)
        times, poses = path(robot, side, 0.3)
        follow(robot, arm, times, poses)
        run(robot, 0.1 + arm.timing.latency)
        assert height(robot, side) > resting[2, 3] + 0.02

    def test_who_recovers_at_once_does_not_cut_its_brake_off(self, robot: Robot) -> None:
        """As where the next episode begins by itself. It waits, or is refused while the arm moves."""
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        times, poses = path(robot, side, 1.0)
        follow(robot, arm, times, poses, until=times[15])
        arm.stop()
        if robot.concurrent:
            with ThreadPoolExecutor(1) as aside:
                recovered = aside.submit(arm.recover)
                stamps, speeds = watched(robot, side, 0.6)
                with suppress(RobotError):
                    recovered.result(10)
        else:
            with suppress(RobotError):
                arm.recover()
            stamps, speeds = watched(robot, side, 0.6)
        brakes(stamps, speeds, within=0.1 + arm.timing.latency, rests=0.4 + arm.timing.latency)
        arm.recover()
        follow(robot, arm, *path(robot, side, 0.2))
        assert arm.health().ok

    def test_an_arm_that_hears_nothing_while_it_moves_stops_by_itself(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        times, poses = path(robot, side, 1.5)
        follow(robot, arm, times, poses, until=times[15])
        there, slack = height(robot, side), 0.1 if robot.concurrent else 0.004
        stamps, speeds = watched(robot, side, WATCHDOG - PERIOD)
        assert arm.health().ok
        assert speeds.min() > 0.8 * SPEED
        # the last word was up to a period ago
        stamps, speeds = watched(robot, side, 0.6)
        brakes(stamps, speeds, within=PERIOD + 0.04 + slack, rests=PERIOD + 0.3 + slack)
        assert "heard nothing for 100 ms" in arm.health().fault
        wait_for_rest(robot, side)
        assert height(robot, side) - there < 0.1
        with pytest.raises(SafetyError, match="heard nothing"):
            arm.execute(*path(robot, side, 0.2))
        arm.recover()
        assert arm.health().ok
        follow(robot, arm, *path(robot, side, 0.2))

    def test_an_arm_whose_sender_falls_silent_brakes_on_the_way_to_rest_that_was_sent_along(
        self, robot: Robot
    ) -> None:
        """As the servo does behind every step: a process that hangs, or is killed, must not stop arms dead."""
        ready(robot)
        side = robot.sides[0]
        arm, step, braking = robot.arms[side], 0.008, 0.8
        start, way, due = arm.state().pose, 0.0, robot.clock.now() + 3 * step
        for k in range(50):
            speed = SPEED * min((k + 1) / 12, 1.0)
            way += speed * step
            slower = np.maximum(speed - braking * step * np.arange(1, 40), 0.0)
            ways = way + step * np.append(0.0, np.cumsum(slower))
            arm.execute(due + step * np.arange(40), np.stack([raised(start, w) for w in ways]))
            due += step
            robot.clock.sleep_until(due - 3 * step)
        stamps, speeds = watched(robot, side, 0.7)
        assert speeds[0] > 0.8 * SPEED
        late = arm.timing.latency + (0.1 if robot.concurrent else 0.0)
        brakes(stamps, speeds, within=WATCHDOG + step + late, rests=WATCHDOG + 0.2 + late)
        assert "heard nothing for 100 ms" in arm.health().fault
        assert height(robot, side) - start[2, 3] < ways[-1] + 0.01

    def test_an_arm_that_takes_joints_is_led_along_them(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        if not isinstance(arm, JointArm):
            pytest.skip("it takes poses of its TCP alone")
        start = np.asarray(arm.state().joints)
        goal = start.copy()
        goal[-1] -= np.copysign(0.1, start[-1])
        times = robot.clock.now() + 0.05 + PERIOD * np.arange(1, 41)
        share = np.linspace(0.0, 1.0, 40)[:, None]
        led = SimpleNamespace(execute=arm.execute_joints)
        follow(robot, led, times, start + share**2 * (3 - 2 * share) * (goal - start))
        run(robot, 0.2 + arm.timing.latency)
        np.testing.assert_allclose(arm.state().joints, goal, atol=0.01)
        now = robot.clock.now()
        for late, joints in ((1.0, goal + np.nan), (-9.0, goal), (1.0, goal[:-1])):
            with pytest.raises(SafetyError):
                arm.execute_joints(np.array([now + late]), joints[None])
        run(robot, 0.3)
        np.testing.assert_allclose(arm.state().joints, goal, atol=0.01)
        follow(robot, arm, *path(robot, side, 0.2))
        assert arm.health().ok

    def test_an_arm_in_a_persons_hands_is_told_nothing(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        arm = robot.arms[side]
        if not isinstance(arm, GuidedArm):
            pytest.skip("nobody can move it by hand")
        arm.guide(True)
        arm.guide(True)
        run(robot, 0.3)
        assert arm.health().ok
        assert arm.state().timestamp > robot.clock.now() - 0.2
        with pytest.raises(SafetyError, match="hands"):
            arm.execute(*path(robot, side, 0.2))
        arm.guide(False)
        arm.guide(False)
        follow(robot, arm, *path(robot, side, 0.2))
        run(robot, 0.3)
        arm.guide(True)
        arm.stop()
        assert arm.health().stopped
        with pytest.raises(SafetyError):
            arm.execute(*path(robot, side, 0.2))

    def test_silence_at_rest_is_no_fault(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        times, poses = path(robot, side, 0.2)
        follow(robot, robot.arms[side], times, poses)
        run(robot, 0.4)
        assert robot.faults() == []

    def test_closing_while_it_moves_stops_it(self, robot: Robot) -> None:
        ready(robot)
        side = robot.sides[0]
        times, poses = path(robot, side, 1.0)
        follow(robot, robot.arms[side], times, poses, until=times[15])
        assert robot.close() == {}
        run(robot, 0.5)
        ready(robot)
        wait_for_rest(robot, side)
        assert height(robot, side) < poses[40][2, 3]

    def test_the_clock_never_goes_back(self, robot: Robot) -> None:
        ready(robot)
        readings = []
        for _ in range(20):
            readings.append(robot.clock.now())
            run(robot, 0.003)
        assert (np.diff(readings) > 0).all()
        robot.clock.sleep_until(readings[0])
        assert robot.clock.now() >= readings[-1]


def path_from(robot: Robot, pose):
    return robot.clock.now() + np.array([0.1, 0.2]), np.stack([pose, pose])
