"""What every driver of a wrist camera must do, whatever it speaks: one suite, and a fixture `camera` for each.

    class TestMine(CameraConformance):
        @pytest.fixture
        def camera(self):
            return open_device(settings, "right", "camera")       # not yet connected; its clock is this machine's

Waits are long: the machine may be busy.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from rdt2.errors import RobotError
from rdt2.robot import Camera

PATIENCE = 20.0


def newer(camera: Camera, than: int):
    """The first picture with a larger number that is seen."""
    until = time.monotonic() + PATIENCE
    while (frame := camera.read()).sequence <= than:
        assert time.monotonic() < until, "no new picture"
        time.sleep(0.002)
    return frame


def fault(camera: Camera) -> str:
    """What it says is wrong, as soon as it says so."""
    until = time.monotonic() + PATIENCE
    while not (words := camera.health().fault):
        assert time.monotonic() < until, "it says nothing"
        time.sleep(0.01)
    return words


class CameraConformance:
    """Collected by subclasses that have a fixture `camera`."""

    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch):
        monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 5.0)  # of a machine that is busy otherwise

    @pytest.fixture(autouse=True)
    def _close(self, camera):
        yield
        camera.close()

    def test_life_cycle(self, camera: Camera) -> None:
        assert isinstance(camera, Camera)
        with pytest.raises(RobotError, match="not connected"):
            camera.read()
        with pytest.raises(RobotError, match="connect"):
            camera.enable()
        for _ in range(2):
            for _ in range(2):  # again: nothing happens
                camera.connect()
                camera.enable()
            assert camera.health().ok
            camera.stop()
            camera.recover()
            assert camera.health().ok
            assert camera.read().image.shape == (384, 384, 3)
            for _ in range(2):
                camera.close()
            assert not camera.health().connected
            with pytest.raises(RobotError, match="not connected"):
                camera.read()

    def test_pictures_are_new_and_stamped_when_they_were_taken(self, camera: Camera) -> None:
        camera.connect()
        camera.enable()
        frame = camera.read()
        assert frame.image.dtype == np.uint8
        for _ in range(5):
            before = time.monotonic()
            again = camera.read()
            assert time.monotonic() - before < 1.0  # it does not wait for a picture
            if again.sequence == frame.sequence:
                assert again.timestamp == frame.timestamp
            frame, last = newer(camera, frame.sequence), frame
            assert last.timestamp < frame.timestamp <= time.monotonic()
        assert time.monotonic() - frame.timestamp < PATIENCE
        assert 0 <= camera.timing.latency < 0.8
        assert 0 <= camera.timing.clock_error < 0.8

    def test_what_is_shown_is_not_changed_by_what_comes_later(self, camera: Camera) -> None:
        camera.connect()
        frame = camera.read()
        kept = frame.image.copy()
        for _ in range(12):  # more than any ring of buffers of a small driver
            latest = newer(camera, camera.read().sequence)
        assert latest.sequence > frame.sequence
        np.testing.assert_array_equal(frame.image, kept)
