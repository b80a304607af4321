"""GenICam cameras on GigE Vision or USB3 Vision, through the system's library aravis: Hikrobot's among others, without
their own software.

    device: {type: aravis, serial: DA6135210, fps: 30, exposure_us: 20000}

Only the middle of the sensor is asked for, a little more than the square that is wanted, so that two cameras fit on one
cable; raw Bayer pictures are demosaicked here. What a camera would change by itself (exposure, gain, white balance,
gamma) is switched off unless it is asked for: a model sees what it has seen in training.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from rdt2.devices.drivers import Driver, Found, Opening, Options
from rdt2.devices.libaravis import CONTINUOUS, LOST, STATUS, SUCCESS, library
from rdt2.devices.streaming import Grabbed, StreamingCamera
from rdt2.errors import RobotError
from rdt2.observation import wrist_picture
from rdt2.robot.protocols import Check

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

FORMATS = ("BayerRG8", "BayerGB8", "BayerGR8", "BayerBG8", "RGB8", "BGR8", "RGB8Packed", "BGR8Packed")
"""Pixel formats, the dearest first: raw pictures need a third of the cable."""
MARGIN = 2
"""Pixels around the square that a demosaicked pixel at its edge depends on."""
BUFFERS = 8
GRAB_US = 100_000
HELD_SECONDS = 6.0
"""A camera whose last program died is free again after its heartbeat, 3 s with most."""
CLOCKS = (("TimestampLatch", "TimestampLatchValue"), ("GevTimestampControlLatch", "GevTimestampValue"))
"""Command and value by which newer and older GenICam cameras say their time."""

_opening = threading.Lock()


def _auto(value: Any) -> Any:
    return "off" if value is False else value  # a bare off is False in yaml


Auto = Annotated[Literal["off", "once", "continuous"], BeforeValidator(_auto)]


class AravisOptions(Options):
    """What a GenICam camera is told."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    serial: str = Field(
        default="", description="serial number, as on its label; empty: the only camera there is"
    )
    address: str = Field(
        default="", description="IP address of a GigE camera that does not answer when it is looked for"
    )
    fps: float = Field(default=30, gt=0, le=500, description="pictures a second")
    exposure_us: float = Field(default=20000, gt=0, le=1e6, description="exposure in microseconds")
    gain: float | None = Field(
        default=None, ge=0, le=48, description="gain in the camera's own unit, mostly dB; none: as it is set"
    )
    crop: int = Field(
        default=480, ge=16, le=4096, description="side in pixels of the square of the middle that is seen"
    )
    pixel_format: str = Field(
        default="", description=f"GenICam's name of one of {', '.join(FORMATS)}; empty: the first it has"
    )
    white_balance: Auto = Field(
        default="off", description="off, once (when it is opened) or continuous, by the camera"
    )
    gamma: float | None = Field(default=None, gt=0, le=4, description="gamma; none: switched off")

    @model_validator(mode="after")
    def _consistent(self) -> AravisOptions:
        if self.exposure_us * self.fps > 1e6:
            raise ValueError(
                f"an exposure of {self.exposure_us:g} us is longer than the {1e6 / self.fps:.0f} us that "
                f"{self.fps:g} pictures a second leave"
            )
        if self.pixel_format and self.pixel_format not in FORMATS:
            raise ValueError(f"pixel_format is {self.pixel_format!r}, expected one of {', '.join(FORMATS)}")
        return self


class AravisSource:
    """An open camera.

    Raises:
        RobotError: aravis is not installed; no such camera, and which there are; another program holds it; or it does
            not take a setting.
    """

    def __init__(self, options: AravisOptions) -> None:
        self.rate, self._options = options.fps, options
        self._aravis = library()
        self._bad: Counter[int] = Counter()
        self._stream = 0
        with _opening:  # aravis' list of devices belongs to the process
            self._camera = _opened(options)
        try:
            self._device = self._aravis.camera_get_device(self._camera)
            self._gone = threading.Event()
            self._on_lost = LOST(lambda *_: self._gone.set())
            self._aravis.connect(self._device, b"control-lost", self._on_lost)
            self._set_up()
            self._begin()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------------------------------ settings

    def _set_up(self) -> None:
        ask, camera, options = self._aravis, self._camera, self._options
        ask.camera_clear_triggers(camera)
        ask.camera_set_acquisition_mode(camera, CONTINUOUS)
        self.format = self._choose_format()
        self._decode = decoder(self.format)
        if ask.camera_is_binning_available(camera):
            ask.camera_set_binning(camera, 1, 1)
        self._place()
        balance = options.white_balance.capitalize()
        for feature, value in (("ExposureAuto", "Off"), ("GainAuto", "Off"), ("BalanceWhiteAuto", balance)):
            if self._has(feature):
                ask.camera_set_string(camera, feature.encode(), value.encode())
            elif value != "Off":
                raise RobotError(f"the camera has no {feature}: leave out white_balance.")
        if self._has("GammaEnable"):
            ask.camera_set_boolean(camera, b"GammaEnable", options.gamma is not None)
        if options.gamma is not None:
            if not self._has("Gamma"):
                raise RobotError("the camera has no Gamma: leave out gamma.")
            ask.camera_set_float(camera, b"Gamma", options.gamma)
        ask.camera_set_frame_rate(camera, options.fps)
        ask.camera_set_exposure_time(camera, options.exposure_us)
        if options.gain is not None:
            ask.camera_set_gain(camera, options.gain)
        self.exposure = ask.camera_get_exposure_time(camera) * 1e-6
        if ask.camera_is_gv_device(camera):
            ask.camera_gv_auto_packet_size(camera)
        self._latch = next((pair for pair in CLOCKS if all(self._has(name) for name in pair)), None)
        self._tick = 1e-9
        if self._latch is not None and self._latch[0].startswith("Gev"):
            self._tick = 1 / (ask.gv_device_get_timestamp_tick_frequency(self._device) or 1e9)

    def _has(self, feature: str) -> bool:
        return bool(self._aravis.camera_is_feature_available(self._camera, feature.encode()))

    def _choose_format(self) -> str:
        ask, count = self._aravis, ctypes.c_uint()
        names = ask.camera_dup_available_pixel_formats_as_strings(self._camera, ctypes.byref(count))
        offered = [names[i].decode() for i in range(count.value)]
        ask.free(names)
        wanted = (self._options.pixel_format,) if self._options.pixel_format else FORMATS
        found = next((name for name in wanted if name in offered), None)
        if found is None:
            raise RobotError(
                f"the camera offers the pixel formats {', '.join(offered)}, expected {' or '.join(wanted)}. "
                "Set pixel_format to one of both, or take a colour camera."
            )
        ask.camera_set_pixel_format_from_string(self._camera, found.encode())
        return found

    def _place(self) -> None:
        """Have the camera send the middle of its sensor: the square and what its edge depends on."""
        ask, camera, crop = self._aravis, self._camera, self._options.crop
        ask.camera_set_region(camera, 0, 0, *self._numbers("camera_get_sensor_size", 2))
        whole = self._numbers("camera_get_region", 4)
        steps = [
            (ask.camera_get_x_offset_increment(camera), ask.camera_get_width_increment(camera)),
            (ask.camera_get_y_offset_increment(camera), ask.camera_get_height_increment(camera)),
        ]
        self.sensor = (whole[2], whole[3])
        if crop > min(self.sensor):
            raise RobotError(
                f"a square of {crop} pixels is asked for, the camera's picture is {self.sensor[0]} x {self.sensor[1]}. "
                "Set crop to what fits."
            )
        x, y = (
            region(size, crop, max(offset, 2), max(length, 2))
            for size, (offset, length) in zip(self.sensor, steps, strict=True)
        )
        ask.camera_set_region(camera, x[0], y[0], x[1], y[1])
        left, top, width, height = self._numbers("camera_get_region", 4)
        self._corner = ((self.sensor[0] - crop) // 2 - left, (self.sensor[1] - crop) // 2 - top)
        if min(self._corner) < 0 or self._corner[0] + crop > width or self._corner[1] + crop > height:
            raise RobotError(
                f"the camera was asked for the region {x[1]} x {y[1]} at {x[0]}, {y[0]} and took {width} x {height} at "
                f"{left}, {top}. Look whether binning or decimation is set in its own user set."
            )

    def _numbers(self, name: str, count: int) -> list[int]:
        values = [ctypes.c_int() for _ in range(count)]
        getattr(self._aravis, name)(self._camera, *(ctypes.byref(value) for value in values))
        return [value.value for value in values]

    # ------------------------------------------------------------------------------------------------------- pictures

    def _begin(self) -> None:
        ask = self._aravis
        self._stream = ask.camera_create_stream(self._camera, None, None) or 0
        if not self._stream:
            raise RobotError("the camera's stream cannot be opened: another program holds the camera?")
        payload = ask.camera_get_payload(self._camera)
        for _ in range(BUFFERS):
            ask.stream_push_buffer(self._stream, ask.buffer_new_allocate(payload))
        ask.camera_start_acquisition(self._camera)

    def grab(self) -> Grabbed | None:
        """The newest whole picture; None when none came within 0.1 s.

        Raises:
            RobotError: the camera is lost.
        """
        if self._gone.is_set():
            raise RobotError("is lost: it does not answer any more. Look at its cable and power")
        ask = self._aravis
        buffer = ask.stream_timeout_pop_buffer(self._stream, GRAB_US)
        while buffer and (newer := ask.stream_try_pop_buffer(self._stream)):
            ask.stream_push_buffer(self._stream, buffer)
            buffer = newer
        if not buffer:
            return None
        try:
            status = ask.buffer_get_status(buffer)
            if status != SUCCESS:
                self._bad[status] += 1
                return None
            self._bad.clear()
            moment = 1e-9 * ask.buffer_get_timestamp(buffer) + self.exposure / 2
            return Grabbed(self._picture(buffer), ask.buffer_get_frame_id(buffer), moment)
        finally:
            ask.stream_push_buffer(self._stream, buffer)

    def _picture(self, buffer: int) -> UInt8[ndarray, "384 384 3"]:
        ask, size = self._aravis, ctypes.c_size_t()
        width, height = ask.buffer_get_image_width(buffer), ask.buffer_get_image_height(buffer)
        data = ask.buffer_get_data(buffer, ctypes.byref(size))
        memory: Any = (ctypes.c_uint8 * size.value).from_address(data)
        raw = np.frombuffer(memory, np.uint8)
        channels = 1 if self.format.startswith("Bayer") else 3
        needed = width * height * channels
        if size.value < needed:
            raise RobotError(
                f"sends {size.value} bytes for a picture of {width} x {height} in {self.format}, expected {needed}"
            )
        colours = self._decode(raw[:needed].reshape(height, width, *([3] if channels == 3 else [])))
        left, top = self._corner
        crop = self._options.crop
        return wrist_picture(np.array(colours[top : top + crop, left : left + crop]), crop=crop)

    def ask(self) -> float | None:
        """The camera's clock now, seconds; None where it cannot latch it."""
        if self._latch is None:
            return None
        self._aravis.camera_execute_command(self._camera, self._latch[0].encode())
        return self._tick * self._aravis.camera_get_integer(self._camera, self._latch[1].encode())

    def remarks(self) -> str:
        """How many pictures came damaged, and what to look at."""
        if self._bad.total() < 3:
            return "; look at its cable and power, and whether a firewall lets UDP from a GigE camera through"
        damaged = ", ".join(f"{count} {STATUS.get(status, 'damaged')}" for status, count in self._bad.items())
        return (
            f"; since the last whole one came {damaged}: give the camera a cable or network card of its own, or ask "
            "for fewer pictures a second"
        )

    def checks(self) -> list[Check]:
        """Exposure, rate, size and gain, as asked for and as the camera says."""
        ask, camera, options = self._aravis, self._camera, self._options
        exposure, rate = ask.camera_get_exposure_time(camera), ask.camera_get_frame_rate(camera)
        width, height = self.sensor
        found = [
            _number("exposure", options.exposure_us, exposure, "us", within=0.02),
            _number("frame rate", options.fps, rate, "Hz", within=0.02),
            Check("picture", f"at least {options.crop} x {options.crop}", f"{width} x {height}", True),
        ]
        if options.gain is not None:
            found.append(_number("gain", options.gain, ask.camera_get_gain(camera), "", within=0.05))
        for feature in ("ExposureAuto", "GainAuto", "BalanceWhiteAuto"):
            if self._has(feature):
                wanted = options.white_balance.capitalize() if feature == "BalanceWhiteAuto" else "Off"
                got = ask.camera_get_string(camera, feature.encode()).decode()
                found.append(Check(feature, wanted, got, got == wanted or wanted == "Once"))
        return found

    def close(self) -> None:
        """End the stream and let go of the camera."""
        ask, stream, camera = self._aravis, self._stream, self._camera
        self._stream = self._camera = 0
        if camera and not self._gone.is_set():
            with contextlib.suppress(RobotError):  # gone meanwhile
                ask.camera_stop_acquisition(camera)
        for item in (stream, camera):
            if item:
                ask.unref(item)


def _number(name: str, wanted: float, got: float, unit: str, *, within: float) -> Check:
    ok = abs(got - wanted) <= within * max(wanted, 1.0)
    return Check(name, f"{wanted:g} {unit}".strip(), f"{got:.6g} {unit}".strip(), ok)


def region(size: int, crop: int, offset_step: int, size_step: int) -> tuple[int, int]:
    """Offset and length of the least part of a sensor's side that holds its middle `crop` pixels with their margin."""
    begin = max((size - crop) // 2 - MARGIN, 0) // offset_step * offset_step
    end = min((size - crop) // 2 + crop + MARGIN, size)
    length = min(-(-(end - begin) // size_step) * size_step, (size - begin) // size_step * size_step)
    return begin, length


def decoder(pixel_format: str) -> Callable[[ndarray], UInt8[ndarray, "h w 3"]]:
    """From a picture in one of `FORMATS` to RGB.

    GenICam names a Bayer pattern by the first two pixels of the first row, and so does OpenCV in names of four letters.
    """
    import cv2

    if pixel_format.startswith("Bayer"):
        rows = {"RG": "RGGB", "GB": "GBRG", "GR": "GRBG", "BG": "BGGR"}[pixel_format[5:7]]
        code = getattr(cv2, f"COLOR_Bayer{rows}2RGB")
        return lambda raw: cv2.cvtColor(raw, code)
    if pixel_format.startswith("BGR"):
        return lambda raw: raw[..., ::-1]
    return lambda raw: raw


def _opened(options: AravisOptions) -> int:
    """The camera that `options` name, held by nobody else."""
    aravis = library()
    wanted = options.address or options.serial
    until = time.monotonic() + HELD_SECONDS
    while True:
        name = options.address or _id_of(options.serial)
        try:
            camera = aravis.camera_new(name.encode())
        except RobotError as error:
            raise RobotError(f"the camera {wanted} does not open: {error} {_there_are()}") from error
        device = aravis.camera_get_device(camera)
        if not aravis.camera_is_gv_device(camera) or aravis.gv_device_is_controller(device):
            if options.address and options.serial:
                _require_serial(camera, options)
            return int(camera)
        aravis.unref(camera)
        if time.monotonic() > until:
            raise RobotError(
                f"the camera {wanted} is held by another program: a viewer, or another loop. End that first."
            )
        time.sleep(0.3)


def _require_serial(camera: int, options: AravisOptions) -> None:
    serial = library().camera_get_device_serial_number(camera).decode()
    if serial != options.serial:
        library().unref(camera)
        raise RobotError(
            f"the camera at {options.address} has the serial number {serial}, expected {options.serial}. "
            "Mend the address or the serial number."
        )


def _id_of(serial: str) -> str:
    found = _listed()
    if not serial and len(found) != 1:
        raise RobotError(f"serial is empty and there is not just one camera. {_there_are()}")
    for name, number, _, _ in found:
        if not serial or number == serial:
            return name
    raise RobotError(f"no camera has the serial number {serial}. {_there_are()}")


def _there_are() -> str:
    found = _listed()
    if not found:
        return "None answers: look at cables and power, the rights to USB devices, and the network card's address."
    return "There are: " + ", ".join(f"{serial} ({what})" for _, serial, _, what in found) + "."


def _listed() -> list[tuple[str, str, str, str]]:
    """Name, serial number, address and description of all that answer."""
    aravis = library()
    aravis.update_device_list()

    def text(name: str, i: int) -> str:
        return (getattr(aravis, f"get_device_{name}")(i) or b"").decode(errors="replace")

    return [
        (
            text("id", i),
            text("serial_nbr", i),
            text("address", i),
            f"{text('vendor', i)} {text('model', i)}, {text('protocol', i)}",
        )
        for i in range(aravis.get_n_devices())
    ]


def find() -> Sequence[Found]:
    """All cameras that answer."""
    with _opening:
        return [Found({"serial": serial}, what) for _, serial, _, what in _listed()]


def open_camera(opening: Opening[AravisOptions]) -> StreamingCamera:
    """A wrist camera, not yet connected."""
    return StreamingCamera(opening, lambda: AravisSource(opening.options))


DRIVER = Driver(open=open_camera, options=AravisOptions, extra="", find=find)
