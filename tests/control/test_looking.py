"""Reading cameras: whoever looks is held up by none."""

from __future__ import annotations

import threading
import time

import pytest
from fake_robot import fake_robot

from rdt2.control.looking import PATIENCE, Eyes
from rdt2.errors import SafetyError


@pytest.fixture
def released():
    event = threading.Event()
    yield event
    event.set()


def until(call, seconds=2.0):
    """What it returns in the end, and the longest that it took to say anything."""
    longest, began = 0.0, time.monotonic()
    while time.monotonic() < began + seconds:
        started = time.monotonic()
        try:
            said = call()
        finally:
            longest = max(longest, time.monotonic() - started)
        if said is not None:
            return said, longest
        time.sleep(0.001)
    raise AssertionError("it never says anything")


def threads():
    return sum(thread.name == "camera" for thread in threading.enumerate())


def test_a_camera_that_hangs_holds_nobody_up_and_may_come_back(released):
    """Regressions: the loop waited for 0.2 s a look, and every look left another thread behind."""
    robot = fake_robot(real=True)
    eyes, before = Eyes(robot), threads()
    frames, _ = until(eyes.look)
    assert list(frames) == ["right", "left"]
    read = robot.cameras["left"].read
    robot.cameras["left"].read = lambda: released.wait(10.0) and read()
    took = []

    def look():
        started = time.monotonic()
        try:
            return eyes.look()
        finally:
            took.append(time.monotonic() - started)

    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(SafetyError, match=r"left camera has not answered for 0.1 s: its driver hangs"):
            until(look)
    assert time.monotonic() - began >= PATIENCE
    assert sorted(took)[len(took) // 2] < 0.03
    assert threads() == before, "one a camera, and no more"
    released.set()
    time.sleep(0.05)
    frames, _ = until(eyes.look)
    assert time.monotonic() - frames["right"].timestamp < 0.5
    eyes.close()
    end = time.monotonic() + 2.0
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads()


def test_what_a_camera_raises_is_said_and_the_next_look_is_a_new_one():
    robot = fake_robot(real=True)
    eyes, calls = Eyes(robot), []
    read = robot.cameras["right"].read

    def fails_once():
        calls.append(True)
        if len(calls) == 1:
            raise OSError("no such device")
        return read()

    robot.cameras["right"].read = fails_once
    with pytest.raises(SafetyError, match="right camera gives no picture: OSError: no such device"):
        until(eyes.look)
    assert set(until(eyes.look)[0]) == {"right", "left"}
    eyes.close()


def test_on_a_simulated_clock_pictures_are_there_at_once():
    eyes = Eyes(fake_robot())
    assert set(eyes.look()) == {"right", "left"}
    eyes.close()


def test_what_this_process_sleeps_through_is_not_the_cameras_fault(released):
    """Regression: on a busy machine whoever looked got no turn for 0.1 s, and blamed the camera."""
    robot = fake_robot(real=True)
    eyes = Eyes(robot)
    read = robot.cameras["left"].read
    robot.cameras["left"].read = lambda: released.wait(10.0) and read()
    assert eyes.look() is None
    time.sleep(0.15)
    assert eyes.look() is None
    released.set()
    frames, _ = until(eyes.look)
    assert list(frames) == ["right", "left"]
    eyes.close()
