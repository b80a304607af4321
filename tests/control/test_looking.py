"""Reading cameras: whoever looks is held up by none."""

from __future__ import annotations

import threading
import time

import pytest
from fake_robot import PICTURE, fake_robot, fake_settings

from rdt2.control.looking import PATIENCE, Eyes, Pairs
from rdt2.control.watch import Watch
from rdt2.errors import SafetyError
from rdt2.robot import Frame


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


class Rolling:
    """The newest pictures of two cameras that take one every 33 ms, the left one so many seconds later."""

    def __init__(self, clock, later):
        self.clock, self.later = clock, {"right": 0.0, "left": later}

    def look(self):
        frames = {}
        for side, later in self.later.items():
            number = int((self.clock.now() - later) * 30)
            frames[side] = Frame(number / 30 + later, number, PICTURE + number % 100)
        return frames


def looked(later):
    """What looking every millisecond for a second gave, of cameras so far out of step."""
    robot = fake_robot()
    arms = {side: arm.state().pose for side, arm in robot.arms.items()}
    watch = Watch(fake_settings({"safety.max_skew": 0.03}))
    pairs = Pairs(Rolling(robot.clock, later), watch, lambda side, _: arms[side], robot.clock)
    found = []
    for _ in range(1000):
        robot.clock.time += 0.001
        try:
            found.append(pairs.look(robot.clock.now()))
        except SafetyError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("later", [0.0, 0.001, 0.003, 0.010, 0.029])
def test_cameras_in_step_are_not_doubted_while_the_picture_of_one_is_on_its_way(later):
    """Regression: 33 ms less a moment lay between the next picture of one and the last of the other, which is more than
    the 30 ms that the files of real robots allow: arms paused for nothing."""
    found = looked(later)
    assert not [each for each in found if isinstance(each, str)]
    pairs = [each for each in found if each is not None]
    assert len(pairs) > 850
    assert max(abs(pair["left"].timestamp - pair["right"].timestamp) for pair in pairs) <= 0.03


@pytest.mark.parametrize(("apart", "waited"), [(0.04, 33), (0.07, 0)])
def test_cameras_out_of_step_are_told_once_the_other_picture_would_have_been_there(
    monkeypatch, apart, waited
):
    monkeypatch.setattr(Rolling, "look", lambda self: {
        "right": Frame(self.clock.now(), round(1000 * self.clock.now()), PICTURE),
        "left": Frame(self.clock.now() - apart, round(1000 * self.clock.now()), PICTURE),
    })  # fmt: skip
    found = looked(0.0)
    assert found[:waited] == [None] * waited
    assert "the one of the left camera is the older" in found[waited + 1]
