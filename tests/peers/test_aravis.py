"""The driver of GenICam cameras, against the fake GigE camera of aravis: real packets on the loopback."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from camera_conformance import CameraConformance, fault, newer
from pydantic import ValidationError

from rdt2.devices import libaravis
from rdt2.devices.camera_drivers import aravis as driver
from rdt2.devices.camera_drivers.aravis import AravisOptions, AravisSource, decoder, find, region
from rdt2.devices.opening import open_device
from rdt2.devices.peers import started
from rdt2.devices.peers.gige import _OfCell, mosaic
from rdt2.errors import ConfigError, RobotError
from rdt2.observation import wrist_picture
from rdt2.robot.settings import RobotSettings
from rdt2.sim.board import Board

pytestmark = pytest.mark.realtime

try:
    libaravis.library()
except RobotError as error:
    pytest.skip(str(error), allow_module_level=True)

NAME = f"T{os.getpid()}"
"""Serial numbers of other tests that run now must be others."""


@pytest.fixture
def opened():
    """Makes cameras, and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def opened(device, **options):
            device = {"pixel_format": "RGB8", "crop": 384, "fps": 20, **device, **options}
            settings = RobotSettings.read("bimanual_ur5e").changed(
                {"arms.right.camera.device": device, "arms.right.camera.latency": 0.005}
            )
            camera = open_device(settings, "right", "camera")
            stack.callback(camera.close)
            return camera

        yield opened


@contextlib.contextmanager
def peer(**options):
    with contextlib.ExitStack() as stack:
        try:
            device = stack.enter_context(started("gige", **options))
        except RobotError as error:
            if "loopback" in str(error) or "'ip'" in str(error):
                pytest.skip(f"a fake camera needs an address of its own: {error}")
            raise
        yield device


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Smooth colours and a fine pattern, 384 x 384, and its file."""
    y, x = np.mgrid[0:384, 0:384]
    image = np.stack([x * 0.6, y * 0.6, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("gige") / "picture.png"
    cv2.imwrite(str(path), image[..., ::-1])
    return image, str(path)


@pytest.fixture(scope="module")
def gige(picture):
    with peer(serial=NAME, picture=picture[1]) as device:
        yield device


@pytest.fixture
def camera(gige, opened):
    return opened(gige)


class TestConformance(CameraConformance):
    pass


# --------------------------------------------------------------------------------------------------------- pictures


def test_the_middle_of_the_sensor_arrives_bit_for_bit(camera, picture):
    camera.connect()
    np.testing.assert_array_equal(camera.read().image, picture[0])


@pytest.mark.parametrize("rows", ["RGGB", "GBRG", "GRBG", "BGGR"])
def test_raw_pictures_are_demosaicked_in_the_order_of_their_pattern(picture, rows):
    name = {"RGGB": "BayerRG8", "GBRG": "BayerGB8", "GRBG": "BayerGR8", "BGGR": "BayerBG8"}[rows]
    image = picture[0]
    seen = decoder(name)(mosaic(image, rows))
    wrong = decoder({"RGGB": "BayerGR8"}.get(rows, "BayerRG8"))(mosaic(image, rows))
    assert np.abs(seen[4:-4, 4:-4].astype(int) - image[4:-4, 4:-4]).mean() < 2
    assert np.abs(wrong[4:-4, 4:-4].astype(int) - image[4:-4, 4:-4]).mean() > 20


def test_a_raw_picture_is_cut_as_if_the_whole_sensor_had_been_demosaicked(gige, picture, opened):
    sensor = np.full((2048, 2048, 3), 40, np.uint8)
    sensor[832:1216, 832:1216] = picture[0]
    whole = decoder("BayerGR8")(mosaic(sensor, "GRBG"))
    camera = opened(gige, pixel_format="BayerGR8", crop=480)
    camera.connect()
    np.testing.assert_array_equal(camera.read().image, wrist_picture(whole, crop=480))
    # 480 pixels become 384: each of 4 is the mean of 5/4 pixels, along both sides
    square = whole[784:1264, 784:1264].astype(float)
    quarter = np.zeros((384, 480))
    for k in range(384):
        for j in range(5):
            part = (k * 5 + j) // 4
            quarter[k, part] += 0.2
    expected = np.stack([quarter @ channel @ quarter.T for channel in np.moveaxis(square, -1, 0)], -1)
    assert np.abs(wrist_picture(whole, crop=480) - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "crop", "steps", "expected"),
    [
        (1440, 480, (2, 2), (478, 484)),
        (1080, 480, (2, 2), (298, 484)),
        (1440, 480, (16, 8), (464, 504)),
        (1080, 480, (4, 4), (296, 488)),
        (1080, 1080, (4, 4), (0, 1080)),
        (481, 480, (2, 2), (0, 480)),
        (1936, 1000, (8, 8), (464, 1008)),
    ],
)
def test_the_least_region_holds_the_square_and_is_one_that_the_camera_takes(size, crop, steps, expected):
    begin, length = region(size, crop, *steps)
    assert (begin, length) == expected
    assert begin % steps[0] == 0
    assert length % steps[1] == 0
    corner = (size - crop) // 2
    assert begin <= corner
    assert corner + crop <= begin + length <= size


def test_a_picture_of_the_cell_is_sent_when_it_comes(monkeypatch):
    """Regression: it was sent at the camera's own turn; who knew its time by its arrival was wrong by as much."""
    monkeypatch.setattr("rdt2.devices.peers.gige.AWAITED", 20.0)
    board, picture = Board(), np.zeros((384, 384, 3), np.uint8)
    try:
        board.write_cell(began=0.0)
        board.put_picture("left camera", 1.0, 1, picture)
        shown = _OfCell(board.name, "left camera")
        shown.look()
        time.sleep(0.05)
        coming = threading.Timer(0.1, board.put_picture, ("left camera", 2.0, 2, picture + 9))
        coming.start()
        np.testing.assert_array_equal(shown.take()[0], picture + 9)
        coming.join()
    finally:
        board.close()


def test_a_picture_of_the_cell_arrives_bit_for_bit_with_the_time_of_its_exposure(opened, monkeypatch):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 20.0)
    board, rng = Board(), np.random.default_rng(0)
    try:
        board.write_cell(began=100.0)
        pictures = rng.integers(0, 255, (3, 384, 384, 3), np.uint8)
        board.put_picture("left camera", time.monotonic() - 100.0, 7, pictures[0])
        with peer(serial=f"{NAME}C", cell=board.name, side="left") as device:
            camera = opened(device)
            camera.connect()
            for number, image in enumerate(pictures[1:]):
                exposed = time.monotonic() - 0.5 * number
                before = camera.read()
                board.put_picture("left camera", exposed - 100.0, 8 + number, image)
                if number:  # taken before the last one, or never: nothing is shown as newer than it is
                    time.sleep(0.3)
                    assert camera.read() is before
                else:
                    frame = newer(camera, before.sequence)
                    np.testing.assert_array_equal(frame.image, image)
                    assert frame.timestamp > before.timestamp
        assert board.picture("left camera") is not None  # the peer has left the cell its memory
        Board(board.name).close()
    finally:
        board.close()


# --------------------------------------------------------------------------------------------------------- settings


def test_what_is_asked_for_is_set_and_checked(gige, opened):
    camera = opened(gige, exposure_us=12000, fps=25, gain=3)
    camera.connect()
    checks = {check.name: check for check in camera.checks()}
    assert checks["exposure"].got == "12000 us"
    assert checks["exposure"].ok
    assert checks["frame rate"].ok
    assert checks["gain"].ok
    assert checks["GainAuto"].got == "Off"
    assert {"pictures a second", "pictures lost"} <= set(checks)
    # somebody else changes it
    source = camera._stream.source
    source._aravis.camera_set_exposure_time(source._camera, 30000)
    assert not next(check for check in source.checks() if check.name == "exposure").ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exposure_us": 50000, "fps": 30}, "longer than the 33333 us"),
        ({"pixel_format": "Mono8"}, "expected one of BayerRG8"),
        ({"white_balance": "yes"}, "'off', 'once' or 'continuous'"),
        ({"crop": 0}, "greater than or equal to 16"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_opened(options, words, opened):
    with pytest.raises(ConfigError, match=words):
        opened({"serial": "1"}, **options)


def test_a_serial_number_and_a_bare_off_are_read_as_yaml_gives_them():
    options = AravisOptions.model_validate({"serial": 21067015, "white_balance": False})
    assert (options.serial, options.white_balance) == ("21067015", "off")
    with pytest.raises(ValidationError):
        AravisOptions.model_validate({"white_balance": True})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"white_balance": "once"}, "no BalanceWhiteAuto: leave out white_balance"),
        ({"gamma": 1.0}, "no Gamma: leave out gamma"),
        ({"pixel_format": "BGR8"}, "offers the pixel formats .*RGB8.*, expected BGR8"),
        ({"crop": 4000}, "a square of 4000 pixels is asked for, the camera's picture is 2048 x 2048"),
    ],
)
def test_what_a_camera_does_not_have_is_said(gige, options, words):
    with pytest.raises(RobotError, match=words):
        AravisSource(AravisOptions(**{**gige, **options}))


@pytest.mark.parametrize(
    ("latch", "tick", "said"),
    [(("TimestampLatch", "TimestampLatchValue"), 1e-9, 2_000_000_000), (driver.CLOCKS[1], 8e-9, 250_000_000)],
)
def test_a_camera_that_can_tell_its_time_is_asked_for_it(gige, monkeypatch, latch, tick, said):
    """The fake camera cannot: its clock is known by its quickest pictures."""
    source = AravisSource(AravisOptions(**gige))
    try:
        assert source.ask() is None
        calls = []
        asked = {
            "camera_execute_command": lambda _, name: calls.append(name.decode()),
            "camera_get_integer": lambda _, name: calls.append(name.decode()) or said,
        }
        monkeypatch.setattr(source, "_latch", latch)
        monkeypatch.setattr(source, "_tick", tick)
        monkeypatch.setattr(source, "_aravis", SimpleNamespace(**{**vars(source._aravis), **asked}))
        assert source.ask() == pytest.approx(2.0)
        assert calls == list(latch)
    finally:
        source.close()


def test_cameras_are_found_by_serial_number_and_told_apart(gige):
    with peer(serial=f"{NAME}B", late=0.01) as other:
        found = {item.device["serial"]: item.note for item in find()}
        assert "Aravis Fake, GigEVision" in found[NAME]
        assert f"{NAME}B" in found
        source = AravisSource(AravisOptions(serial=f"{NAME}B"))
        try:
            with pytest.raises(RobotError, match=f"has the serial number {NAME}, expected {NAME}B"):
                AravisSource(AravisOptions(serial=f"{NAME}B", address=gige["address"]))
            with pytest.raises(RobotError, match=rf"no camera has the serial number 7.*{NAME} \(Aravis Fake"):
                AravisSource(AravisOptions(serial="7"))
        finally:
            source.close()
        assert other["address"] != gige["address"]


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(RobotError, match=r"sudo apt-get install libaravis-0\.8-0"):
        libaravis.library.__wrapped__()


# ----------------------------------------------------------------------------------------------------------- faults


def test_a_camera_that_is_held_is_said_to_be_and_is_free_after_its_holder_was_killed(gige, monkeypatch):
    monkeypatch.setattr(driver, "HELD_SECONDS", 0.5)
    holder = f"""
import time
from rdt2.devices.camera_drivers.aravis import *
source = AravisSource(AravisOptions(**{dict(gige)!r}))
print("holds", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "holds\n"
        with pytest.raises(RobotError, match="is held by another program"):
            AravisSource(AravisOptions(**gige))
    finally:
        process.kill()
        process.wait()
    monkeypatch.setattr(driver, "HELD_SECONDS", 20.0)
    source = AravisSource(AravisOptions(**gige))
    source.close()


def test_a_camera_that_stops_sending_is_a_fault_and_comes_back_on_a_persons_word(gige, camera):
    camera.connect()
    camera.enable()
    last = newer(camera, camera.read().sequence)
    gige.process.send_signal(signal.SIGUSR1)
    assert "has given no picture for" in fault(camera)
    with pytest.raises(RobotError, match="firewall"):
        camera.read()
    gige.process.send_signal(signal.SIGUSR1)
    camera.recover()
    assert camera.health().ok
    frame = camera.read()
    assert frame.sequence > last.sequence
    assert frame.timestamp > last.timestamp


def test_a_camera_that_is_unplugged_is_a_fault_and_opens_when_it_is_there_again(monkeypatch, opened):
    monkeypatch.setattr("rdt2.devices.streaming.START_SECONDS", 20.0)
    with peer(serial=f"{NAME}U") as device:
        camera = opened(device)
        camera.connect()
        last = newer(camera, camera.read().sequence)
        device.process.send_signal(signal.SIGSTOP)  # as a pulled plug: nothing answers
        assert "has given no picture for" in fault(camera)
        with pytest.raises(RobotError, match="recover"):
            camera.read()
        device.process.send_signal(signal.SIGCONT)
        camera.recover()
        assert camera.read().sequence > last.sequence
        device.process.send_signal(signal.SIGKILL)
        fault(camera)
        before = time.monotonic()
        with pytest.raises(RobotError, match="right camera still gives no pictures"):
            camera.recover()
        assert time.monotonic() - before < 15


def test_pictures_that_lost_packets_are_left_out_and_counted():
    with peer(serial=f"{NAME}L", lost=0.01) as device:  # of 320 packets a picture: hardly one is whole
        source = AravisSource(AravisOptions(**device, pixel_format="RGB8", crop=384))
        try:
            until = time.monotonic() + 20
            while source._bad.total() < 3 and time.monotonic() < until:
                grabbed = source.grab()
                assert grabbed is None or (grabbed.image[190, 190] > 40).all()
            assert "packets missing" in source.remarks() or "timed out" in source.remarks()
            assert "for fewer pictures a second" in source.remarks()
        finally:
            source.close()


def test_a_slow_camera_fails_its_check(monkeypatch, opened):
    monkeypatch.setattr("rdt2.devices.streaming.PATIENCE", 20.0)
    monkeypatch.setattr("rdt2.devices.streaming.JUDGED_SECONDS", 1.0)
    with peer(serial=f"{NAME}W", late=0.2) as device:
        camera = opened(device)
        camera.connect()
        newer(camera, newer(camera, camera.read().sequence).sequence)
        (check,) = [check for check in camera.checks() if check.name == "pictures a second"]
        assert float(check.got) < 6
        assert not check.ok
