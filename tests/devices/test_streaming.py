"""Cameras that send by themselves: numbers, times, and every way of falling silent."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from camera_conformance import fault, newer

from rdt2.devices import Opening, WallClock
from rdt2.devices.skew import skew
from rdt2.devices.stamps import DRIFT, ClockMap
from rdt2.devices.streaming import Grabbed, StreamingCamera
from rdt2.errors import RobotError
from rdt2.robot.protocols import Check, Frame, Timing
from rdt2.robot.settings import RobotSettings

pytestmark = pytest.mark.realtime

PICTURE = np.zeros((384, 384, 3), np.uint8)


class Script:
    """A source that gives what it is told: pictures, or errors."""

    rate = 30.0

    def __init__(self) -> None:
        self.queue: queue.Queue = queue.Queue()
        self.said = self.closed = None
        self.open = threading.Event()
        self.open.set()

    def show(self, number, moment=None):
        self.queue.put(Grabbed(PICTURE, number, moment))

    def grab(self):
        try:
            item = self.queue.get(timeout=0.02)
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        if callable(item):
            return item()
        return item

    def ask(self):
        return self.said and self.said()

    def remarks(self):
        return "; look at its plug"

    def checks(self):
        return [Check("exposure", "1 us", "1 us", True)]

    def close(self):
        self.closed = True


@pytest.fixture
def scripts():
    return []


@pytest.fixture
def camera(scripts):
    settings = RobotSettings.read("bimanual_ur5e").changed({"arms.right.camera.latency": 0.05})
    arm = settings.arms["right"]

    def source():
        if not scripts:
            raise RobotError("no camera has the serial number 7. None answers.")
        return scripts.pop(0)

    camera = StreamingCamera(Opening("right camera", "right", None, WallClock(), arm, settings), source)
    yield camera
    camera.close()


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 20.0)
    monkeypatch.setattr("rdt2.devices.streaming.JUDGED_SECONDS", 0.3)


def started(camera, scripts, number=1, moment=None):
    script = Script()
    script.show(number, moment)
    scripts.append(script)
    camera.connect()
    camera.enable()
    return script


def test_pictures_are_numbered_as_the_device_does_also_over_16_bits(camera, scripts, patient):
    script = started(camera, scripts, 65533)
    first = camera.read().sequence
    script.show(65535)
    assert newer(camera, first).sequence == first + 2  # one was lost
    script.show(65535)  # sent again
    script.show(65530)  # overtaken by newer ones
    script.show(1)
    script.show(4)
    while (now := camera.read()).sequence < first + 6:
        time.sleep(0.005)
    assert now.sequence == first + 6


def test_a_picture_without_a_stamp_is_as_old_as_the_calibration_says(camera, scripts, patient):
    before = time.monotonic()
    script = started(camera, scripts)
    frame = camera.read()
    assert before - 0.05 <= frame.timestamp <= time.monotonic() - 0.05
    script.show(2)
    assert newer(camera, frame.sequence).timestamp > frame.timestamp


def test_a_device_that_tells_its_time_is_believed_whatever_the_pictures_take(camera, scripts, patient):
    script = Script()
    script.said = lambda: time.monotonic() + 1e9
    exposed = time.monotonic() - 0.3
    script.show(1, exposed + 1e9)
    scripts.append(script)
    camera.connect()
    assert camera.read().timestamp == pytest.approx(exposed, abs=0.1)  # asking may take as long
    (clock,) = [check for check in camera.checks() if check.name == "clock"]
    assert "known to 10 ms" in clock.expected


def test_an_old_picture_is_never_shown_as_a_newer_one(camera, scripts, patient):
    """A device whose clock goes back, or that sends the last picture again."""
    script = started(camera, scripts, 1, moment=100.0)
    frame = camera.read()
    script.show(2, 99.0)
    script.show(2, 100.5)
    for number in range(3, 8):
        script.show(number, 100.0)
        time.sleep(0.05)  # the two clocks are taken for each other a little otherwise each time
    time.sleep(0.2)
    assert camera.read() is frame
    script.show(8, 100.6)
    assert newer(camera, frame.sequence).timestamp > frame.timestamp


def test_silence_is_a_fault_until_a_person_says_so(camera, scripts, monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 0.3)
    script = started(camera, scripts)
    frame, _ = camera.read(), scripts.append(Script())
    assert "has given no picture for 0." in fault(camera)
    script.show(2)
    time.sleep(0.1)
    assert not camera.health().ok  # pictures that come again do not take the fault away
    with pytest.raises(RobotError, match=r"the right camera has given no picture.*its plug.*recover\(\)"):
        camera.read()
    scripts[0].show(1)
    camera.recover()
    assert camera.health().ok
    assert camera.read().sequence > frame.sequence
    assert script.closed


def test_a_camera_that_is_gone_says_why_and_stays_so(camera, scripts):
    script = started(camera, scripts)
    script.queue.put(RobotError("is lost: it does not answer any more."))
    assert fault(camera) == "is lost: it does not answer any more"
    with pytest.raises(RobotError, match="still gives no pictures: no camera has the serial number 7"):
        camera.recover()
    assert camera.health().fault
    with pytest.raises(RobotError):
        camera.read()
    again = Script()
    again.show(1)
    scripts.append(again)
    camera.recover()
    assert camera.health().ok


def test_what_goes_wrong_in_a_driver_is_a_fault_and_not_an_old_picture(camera, scripts):
    script = started(camera, scripts)
    script.queue.put(ZeroDivisionError("by zero"))
    assert "ZeroDivisionError: by zero" in fault(camera)
    with pytest.raises(RobotError, match="ZeroDivisionError"):
        camera.read()


def test_a_driver_that_hangs_is_noticed_and_left_behind(camera, scripts, monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 0.3)
    script, free = started(camera, scripts), threading.Event()

    def hang():
        free.wait(20)
        return Grabbed(PICTURE, 2, None)

    script.queue.put(hang)
    assert "has given no picture" in fault(camera)
    again = Script()
    again.show(1)
    scripts.append(again)
    camera.recover()
    frame = camera.read()
    free.set()  # its late picture is nobody's any more
    time.sleep(0.1)
    assert camera.read() is frame


def test_pictures_that_come_late_are_a_fault(camera, scripts, monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 0.4)
    script = Script()
    script.said = time.monotonic
    script.show(1, time.monotonic())
    scripts.append(script)
    camera.connect()

    def feed():
        for number in range(2, 400):
            script.show(number, time.monotonic() - 1.0 if number > 5 else time.monotonic())
            time.sleep(0.02)
            if script.closed:
                return

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    words = fault(camera)
    assert "after they were taken" in words or "no picture" in words
    camera.close()
    thread.join(20)


def test_a_camera_that_gives_nothing_at_first_is_not_connected(camera, scripts, monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.START_SECONDS", 0.2)
    script = Script()
    scripts.append(script)
    with pytest.raises(RobotError, match=r"no picture within 0\.2 s; look at its plug"):
        camera.connect()
    assert not camera.health().connected
    assert script.closed


def test_checks_say_how_pictures_come(camera, scripts, patient):
    script = started(camera, scripts)
    for number in range(2, 40):
        script.show(number if number < 20 else number + 10)
    checks = {check.name: check for check in camera.checks()}
    assert checks["exposure"].ok
    assert not checks["pictures lost"].ok
    assert checks["pictures lost"].got == "20.8%"
    assert not checks["pictures a second"].ok  # all at once


# ----------------------------------------------------------------------------------------------------------- stamps


def test_a_clock_that_runs_otherwise_is_known_by_its_quickest_pictures():
    rng, clock = np.random.default_rng(0), ClockMap()
    errors = []
    for k in range(3000):
        now = 5.0 + k / 30
        device = 1e6 + now * (1 + 1e-4)  # a clock of its own, too fast by 0.1 ms a second
        delay = 0.02 + rng.exponential(0.01)
        clock.arrived(device, now + delay)
        errors.append(clock.time(device, 0.02) - now)
    assert (
        np.abs(errors[300:]).max() < 0.003
    )  # where taking each arrival for the exposure errs by 30 ms and more
    assert clock.error == np.inf


def test_a_clock_that_was_asked_is_bounded_from_both_sides():
    clock = ClockMap()
    clock.asked(1000.0, 5.0, 5.004)
    assert clock.time(1001.0, 0.5) == pytest.approx(6.002)
    assert clock.error == pytest.approx(0.002)
    clock.asked(1010.0, 14.999, 15.009)  # a slow answer narrows nothing
    assert clock.error == pytest.approx(0.002 + 10 * DRIFT, rel=0.5)
    clock.asked(3.0, 20.0, 20.002)  # started again
    assert clock.time(4.0, 0.5) == pytest.approx(21.001)
    assert clock.error == pytest.approx(0.001)


# ------------------------------------------------------------------------------------------------------------- skew


class Periodic:
    """A camera that exposes 30 times a second from a moment on."""

    timing = Timing(clock_error=0.002)

    def __init__(self, clock, late, lost=()):
        self.clock, self.late, self.lost = clock, late, lost

    def read(self):
        number = int((self.clock.now() - self.late) * 30)
        number -= number in self.lost
        return Frame(number / 30 + self.late, number, PICTURE)


class Steps:
    """A clock that waits for nobody."""

    time = 100.0

    def now(self):
        return self.time

    def sleep_until(self, time):
        self.time = time


def test_the_skew_of_two_cameras_is_found_also_where_one_loses_pictures():
    clock = Steps()
    found = skew(Periodic(clock, 0.0), Periodic(clock, 0.011, lost=(3010, 3020)), clock, 2.0)
    assert found.median == pytest.approx(0.011)
    assert 0.011 < found.worst < 0.034
    assert found.error == 0.004
    assert found.pairs > 50
    found = skew(Periodic(clock, 0.005), Periodic(clock, 0.0), clock, 1.0)
    assert (found.median, found.worst) == (pytest.approx(-0.005), pytest.approx(0.005))


def test_a_camera_that_gives_no_new_pictures_has_no_skew():
    clock = Steps()
    frozen = Periodic(Steps(), 0.0)
    with pytest.raises(RobotError, match="60 and 1 pictures"):
        skew(Periodic(clock, 0.0), frozen, clock, 2.0)


def test_a_program_that_ends_with_an_open_camera_ends_in_order(tmp_path):
    """Regression: a thread that was cut off inside of OpenCV aborted the program (exit 134)."""
    path = str(tmp_path / "wrist.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 100, (1280, 960))
    for _ in range(10):
        writer.write(np.random.default_rng(0).integers(0, 255, (960, 1280, 3), np.uint8))
    writer.release()
    program = f"""
from rdt2.devices import open_device
from rdt2.robot.settings import RobotSettings
device = {{"type": "uvc", "path": {path!r}, "loop": True}}
settings = RobotSettings.read("bimanual_ur5e").changed({{"arms.left.camera.device": device}})
camera = open_device(settings, "left", "camera")
camera.connect()
print(camera.read().image.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(384, 384, 3)\n"), done.stderr
