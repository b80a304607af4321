"""A robot as one: what one device refuses stops all, and one that raises or hangs keeps no other from stopping."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
from fake_robot import fake_robot

from rdt2.errors import ConfigError, LateError, RobotError, SafetyError
from rdt2.robot import Arm, Camera, Clock, Gripper, Robot


def soon(robot: Robot, seconds: float = 0.1) -> np.ndarray:
    return np.array([robot.clock.now() + seconds])


def shifted(robot: Robot, side: str) -> np.ndarray:
    pose = robot.arms[side].state().pose.copy()
    pose[0, 3] += 0.01
    return pose[None]


def commands(robot: Robot) -> tuple[np.ndarray, dict, dict]:
    poses = {side: shifted(robot, side) for side in robot.sides}
    return soon(robot), poses, {side: np.array([0.05]) for side in robot.sides}


def one_armed(robot: Robot, side: str) -> Robot:
    parts = ("arms", "grippers", "cameras", "policy_to_tcp")
    return dataclasses.replace(robot, **{part: {side: getattr(robot, part)[side]} for part in parts})


def test_without_any_camera_it_is_blind_and_without_one_of_two_it_is_none() -> None:
    robot = fake_robot()
    blind = dataclasses.replace(robot, cameras={})
    assert [name for name, _ in blind.devices()] == ["right arm", "left arm", "right gripper", "left gripper"]
    blind.execute(*commands(blind))
    with pytest.raises(ConfigError, match="has no camera on the left side"):
        dataclasses.replace(robot, cameras={"right": robot.cameras["right"]})


def test_a_stop_between_two_recoveries_stops_all() -> None:
    """Regression: the arm that had been recovered before it stood, the other one was ready to move, without a word."""
    robot = fake_robot()
    robot.stop()
    original = robot.arms["left"].recover

    def recover() -> None:
        robot.stop()  # somebody presses it while the right arm is ready already
        original()

    robot.arms["left"].recover = recover  # type: ignore[method-assign]
    with pytest.raises(RobotError, match="right arm: stopped again while the robot was being recovered"):
        robot.recover()
    assert all(device.health().stopped for device in (*robot.arms.values(), *robot.grippers.values()))
    robot.arms["left"].recover = original  # type: ignore[method-assign]
    robot.recover()
    assert robot.faults() == []


def test_one_command_moves_everything() -> None:
    robot = fake_robot()
    robot.execute(*commands(robot))
    robot.clock.sleep_until(robot.clock.now() + 0.2)
    for side in robot.sides:
        assert robot.arms[side].state().pose[0, 3] == pytest.approx(0.01)
        assert robot.grippers[side].state().width == pytest.approx(0.05)


@pytest.mark.parametrize("error", [SafetyError("too far"), RuntimeError("socket closed"), OSError()])
def test_what_one_refuses_stops_all(error: Exception) -> None:
    robot = fake_robot()

    def refuse(times, values):
        raise error

    robot.arms["left"].execute = refuse
    with pytest.raises(SafetyError, match=r"the left arm did not take a command: .*Everything was stopped"):
        robot.execute(*commands(robot))
    assert [fault for fault in robot.faults() if "camera" not in fault] == [
        f"{name}: stopped" for name in ("right arm", "left arm", "right gripper", "left gripper")
    ]
    assert robot.faults(stops=False) == []
    robot.arms["left"].fail("a protective stop")
    assert robot.faults(stops=False) == ["left arm: stopped: a protective stop"]
    with pytest.raises(SafetyError, match="right arm takes no command: stopped"):
        robot.arms["right"].execute(soon(robot), shifted(robot, "right"))
    robot.recover()
    assert robot.faults() == []


def test_what_comes_too_late_for_one_stops_nobody() -> None:
    robot = fake_robot()
    times, poses, widths = commands(robot)

    def late(times, values):
        raise LateError("the last waypoint is 3 ms past.")

    robot.arms["right"].execute = late
    with pytest.raises(
        LateError, match="the right arm did not take a command: the last waypoint is 3 ms past"
    ):
        robot.execute(times, poses, widths)
    assert robot.faults() == []
    assert len(robot.arms["left"].calls) == len(robot.grippers["right"].calls) == 1


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("no answer"), KeyboardInterrupt(), SystemExit(1)])
def test_a_device_that_raises_keeps_no_other_from_stopping(concurrent: bool, error: BaseException) -> None:
    """Regression: devices were stopped one after the other, and the first that raised left the others moving."""
    robot = dataclasses.replace(fake_robot(), concurrent=concurrent)

    def broken():
        raise error

    robot.arms["right"].stop = broken
    failed = robot.stop()
    assert list(failed) == ["right arm"]
    assert (str(error) or type(error).__name__) in failed["right arm"]
    others = [device for name, device in robot.devices() if name != "right arm" and "camera" not in name]
    assert all(device.health().stopped for device in others)


def test_a_device_that_hangs_keeps_no_other_from_stopping_and_is_told_of() -> None:
    robot, let_go = dataclasses.replace(fake_robot(), concurrent=True), threading.Event()
    robot.arms["right"].stop = lambda: let_go.wait(10)
    started = time.monotonic()
    failed = robot.stop()
    assert time.monotonic() - started < 0.9
    assert failed == {"right arm": "it has not answered within 0.5 s."}
    assert robot.arms["left"].health().stopped
    assert robot.grippers["left"].health().stopped
    let_go.set()


def test_all_are_stopped_at_the_same_time() -> None:
    robot = dataclasses.replace(fake_robot(), concurrent=True)
    meeting = threading.Barrier(2, timeout=2)
    for side in robot.sides:
        robot.arms[side].stop = meeting.wait  # comes back only when the other is being stopped, too
    assert robot.stop() == {}


def test_a_simulation_is_called_from_its_own_thread_only() -> None:
    robot, threads = fake_robot(), set()
    for _, device in robot.devices():
        device.stop = lambda: threads.add(threading.current_thread())
    robot.stop()
    assert threads == {threading.current_thread()}


def test_connecting_names_what_does_not_answer_and_closes_the_others() -> None:
    robot = fake_robot()
    robot.close()

    def unplugged():
        raise OSError("No route to host")

    robot.grippers["left"].connect = unplugged
    with pytest.raises(RobotError, match="the left gripper cannot be connected: No route to host"):
        robot.connect()
    assert not any(device.health().connected for _, device in robot.devices())


def test_closing_never_raises_and_says_what_failed() -> None:
    robot = fake_robot()

    def broken():
        raise RuntimeError("gone")

    robot.cameras["left"].close = broken
    assert robot.close() == {"left camera": "gone."}
    assert not robot.arms["right"].health().connected
    assert "right arm: not connected" in robot.faults()


def test_a_device_that_does_not_even_say_how_it_is_counts_as_a_fault() -> None:
    robot = fake_robot()

    def broken():
        raise RuntimeError("gone")

    robot.arms["left"].health = broken
    assert robot.faults() == ["left arm: does not say how it is (gone.)"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_one_arm_is_a_robot(side: str) -> None:
    robot = one_armed(fake_robot(), side)
    assert robot.sides == (side,)
    robot.execute(*commands(robot))
    robot.clock.sleep_until(robot.clock.now() + 0.2)
    assert robot.arms[side].state().pose[0, 3] == pytest.approx(0.01)
    assert robot.stop() == {}


def test_half_an_arm_is_none() -> None:
    robot = fake_robot()
    with pytest.raises(ConfigError, match="no gripper on the left side"):
        dataclasses.replace(robot, grippers={"right": robot.grippers["right"]})
    with pytest.raises(ConfigError, match="'middle'"):
        dataclasses.replace(robot, arms={"middle": robot.arms["left"]})
    with pytest.raises(ConfigError, match="sides"):
        Robot({}, {}, {}, robot.clock, {}, "nothing")


def test_the_cell_speaks_the_protocols() -> None:
    pytest.importorskip("mujoco")
    from rdt2.sim import Cell, make_scene

    with Cell("handheld", make_scene("pick", 0)) as cell:
        robot = cell.robot()
        for side in ("right", "left"):
            assert isinstance(robot.arms[side], Arm)
            assert isinstance(robot.grippers[side], Gripper)
            assert isinstance(robot.cameras[side], Camera)
        assert isinstance(robot.clock, Clock)
        assert robot.faults() == []
        starts = {side: cell.arms[side].state().pose[0, 3] for side in robot.sides}
        left = cell.robot(sides=("left",))
        assert left.sides == ("left",)
        left.execute(*commands(left))
        robot.clock.sleep_until(0.2)
        moved = {s: cell.arms[s].state().pose[0, 3] - starts[s] for s in starts}
        assert moved["left"] == pytest.approx(0.01, abs=1e-3)
        assert moved["right"] == pytest.approx(0.0, abs=1e-3)


def test_a_question_of_a_device_is_told_without_a_full_stop_behind_it() -> None:
    """Regression: "does nobody else hold its RTDE inputs?."."""
    robot = fake_robot()

    def unwell() -> None:
        raise RobotError("is it switched on?")

    device = robot.arms["left"]
    device.health = unwell
    assert any("(is it switched on?)" in fault for fault in robot.faults())
