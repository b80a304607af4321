"""The driver of USB cameras: a video file in the stead of one, and a Video4Linux device that OpenCV would give."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from camera_conformance import CameraConformance, fault, newer

from rdt2.devices.opening import open_device
from rdt2.errors import ConfigError, RobotError
from rdt2.observation import wrist_picture
from rdt2.robot.settings import RobotSettings

pytestmark = pytest.mark.realtime


def opened(**options):
    settings = RobotSettings.read("bimanual_ur5e").changed(
        {"arms.right.camera.device": {"type": "uvc", **options}, "arms.right.camera.latency": 0.03}
    )
    return open_device(settings, "right", "camera")


def grey(number: int) -> int:
    return 20 + 4 * number


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A second and a half, 20 pictures a second, each lighter than the one before; red on the left."""
    path = str(tmp_path_factory.mktemp("uvc") / "wrist.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 20, (640, 480))
    for number in range(30):
        image = np.full((480, 640, 3), grey(number), np.uint8)
        image[:, :200] = (0, 0, 255)  # blue, green, red
        writer.write(image)
    writer.release()
    return path


@pytest.fixture
def camera(video):
    camera = opened(path=video, loop=True)
    yield camera
    camera.close()


class TestConformance(CameraConformance):
    pass


def test_a_file_is_played_in_real_time(camera, monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 10.0)
    camera.connect()
    seen = [camera.read()]
    for _ in range(4):
        seen.append(newer(camera, seen[-1].sequence))
        time.sleep(0.12)  # meanwhile others come and go
    first = round((int(seen[0].image[200, 300, 1]) - grey(0)) / 4) - seen[0].sequence
    began = seen[0].timestamp - seen[0].sequence / 20
    for frame in seen:
        assert (
            frame.timestamp - frame.sequence / 20 > began - 0.02
        )  # later where the machine is too slow for it
        assert int(frame.image[200, 300, 1]) == pytest.approx(grey((frame.sequence + first) % 30), abs=2)
        assert frame.image[200, 10, 0] > 200  # red, and not blue
        assert frame.image[200, 10, 2] < 60
    assert seen[-1].sequence - seen[0].sequence >= 8


def test_a_file_that_ends_is_a_fault(video):
    camera = opened(path=video, fps=200)
    camera.connect()
    assert "come to the end of its video: say 'loop: true'" in fault(camera)
    with pytest.raises(RobotError, match="loop: true"):
        camera.read()
    camera.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "path: is missing"),
        ({"path": "/dev/video0", "exposure_us": 40000}, "longer than a picture of 30 a second lasts"),
        ({"path": "/dev/video0", "crop": 600}, "a square of 600 pixels is larger than pictures of 640 x 480"),
        ({"path": "/dev/video0", "fourcc": "MPEG4"}, "at most 4 characters"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_opened(options, words):
    with pytest.raises(ConfigError, match=words):
        opened(**options)


def test_what_is_no_camera_and_no_video_is_said(tmp_path):
    with pytest.raises(RobotError, match="video77: no such device"):
        opened(path="/dev/video77").connect()
    with pytest.raises(RobotError, match="77 does not open as a camera"):
        opened(path=77).connect()
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(RobotError, match=r"notes\.mp4 is no video"):
        opened(path=str(tmp_path / "notes.mp4")).connect()


class Device:
    """What OpenCV gives for /dev/video0: settings that stick or do not, pictures 50 a second."""

    def __init__(self, sizes=((640, 480),), stamped=True, stuck=()):
        self.values, self.sizes, self.stamped, self.stuck = {}, sizes, stamped, stuck
        self.plugged, self.released = True, False

    def isOpened(self):
        return True

    def set(self, key, value):
        if key not in self.stuck:
            self.values[key] = value
        return True

    def get(self, key):
        size = (self.values.get(cv2.CAP_PROP_FRAME_WIDTH), self.values.get(cv2.CAP_PROP_FRAME_HEIGHT))
        size = size if size in self.sizes else self.sizes[0]
        if key == cv2.CAP_PROP_FRAME_WIDTH:
            return float(size[0])
        if key == cv2.CAP_PROP_FRAME_HEIGHT:
            return float(size[1])
        if key == cv2.CAP_PROP_POS_MSEC:
            return 1e3 * self.exposed if self.stamped else 0.0
        return float(self.values.get(key, 0))

    def read(self):
        time.sleep(0.02)
        self.exposed = time.monotonic() - 0.03
        return self.plugged, np.full((480, 640, 3), (0, 0, 200), np.uint8)

    def release(self):
        self.released = True


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: device)
    monkeypatch.setattr("rdt2.devices.streaming.JUDGED_SECONDS", 0.2)
    return device


def test_a_camera_is_told_all_that_it_does_by_itself_otherwise(device):
    camera = opened(path=0, exposure_us=8000, gain=4, fps=50, crop=480)
    camera.connect()
    assert device.values[cv2.CAP_PROP_AUTO_EXPOSURE] == 1  # by hand
    assert device.values[cv2.CAP_PROP_EXPOSURE] == 80  # of 100 us
    assert device.values[cv2.CAP_PROP_AUTO_WB] == 0
    assert device.values[cv2.CAP_PROP_GAIN] == 4
    assert int(device.values[cv2.CAP_PROP_FOURCC]).to_bytes(4, "little") == b"MJPG"
    checks = {check.name: check for check in camera.checks()}
    assert all(checks[name].ok for name in ("picture", "packed as", "frame rate", "exposure"))
    np.testing.assert_array_equal(
        camera.read().image, wrist_picture(np.full((480, 640, 3), (200, 0, 0), np.uint8))
    )
    camera.close()
    assert device.released


def test_what_does_not_stick_fails_its_check(device):
    device.stuck = (cv2.CAP_PROP_EXPOSURE, cv2.CAP_PROP_FOURCC)
    camera = opened(path=0, exposure_us=8000, fps=50)
    camera.connect()
    checks = {check.name: check.ok for check in camera.checks()}
    assert (checks["exposure"], checks["packed as"], checks["frame rate"]) == (False, False, True)
    camera.close()


def test_another_size_than_the_one_that_was_asked_for_is_refused(device):
    with pytest.raises(RobotError, match="gives pictures of 640 x 480, asked for 1280 x 720"):
        opened(path=0, size=[1280, 720]).connect()
    assert device.released


@pytest.mark.parametrize("stamped", [True, False])
def test_pictures_are_stamped_when_they_were_taken(device, stamped):
    device.stamped = stamped
    camera = opened(path=0, fps=50)
    camera.connect()
    ages = []
    for _ in range(5):
        frame = newer(camera, camera.read().sequence)
        ages.append(time.monotonic() - frame.timestamp)
    assert 0.025 < min(ages) < 1.0  # the calibration says 30 ms; the machine may be busy
    camera.close()


def test_a_camera_that_is_unplugged_says_so(device):
    camera = opened(path=0, fps=50)
    camera.connect()
    device.plugged = False
    assert "was it unplugged?" in fault(camera)
    device.plugged = True
    camera.recover()
    assert camera.health().fault == ""
    camera.close()
