"""A GigE Vision camera on the loopback: the fake one of aravis, which answers discovery and sends real packets.

    python -m rdt2.devices.peers.gige serial=A1
    device: {"serial": "A1", "address": "127.83.4.7"}

It shows a file (`picture`) or what a wrist camera of a running real-time cell sees (`cell`), in the middle of its
sensor, exposed when that was. SIGUSR1 makes it go on without sending a packet, and send again; SIGUSR2 makes every
picture `LATE` seconds late, and in time again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, Field

from rdt2.devices.drivers import Options, Peer
from rdt2.devices.libaravis import FILL, library
from rdt2.devices.peers import main
from rdt2.errors import RobotError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

SENSOR, OFFSET_X, OFFSET_Y = 2048, 0x130, 0x134
PATTERNS = {0x01080009: "RGGB", 0x0108000A: "GBRG", 0x01080008: "GRBG", 0x0108000B: "BGGR"}
"""GenICam's numbers of 8-bit Bayer formats, and what their first two rows begin with."""
RGB8 = 0x02180014
GREY = 40
GVCP, KNOCK = 3956, 0.005
"""The port of GigE cameras, and seconds after which the library's camera is woken."""
FRESH, AWAITED = 0.01, 0.25
"""Seconds for which a picture of a cell is sent at once after it came, and for which the next is waited for."""
LATE = 0.5
"""Seconds from an exposure until it is sent, while the camera is slow."""


class GigeOptions(Options):
    """What the camera is and shows."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    serial: str = Field(default="FAKE1", min_length=1, max_length=15, description="its serial number")
    address: str = Field(
        default="",
        description="its own address within 127.0.0.0/8, added to the loopback; empty: one that is free",
    )
    picture: str = Field(
        default="", description="a file with a colour picture to show; empty: a test pattern"
    )
    cell: str = Field(
        default="", description="the shared memory of a running RealtimeCell whose wrist camera is shown"
    )
    side: str = Field(default="right", description="which wrist camera of the cell: right or left")
    lost: float = Field(default=0.0, ge=0, le=1, description="share of its packets that get lost")
    late: float = Field(default=0.0, ge=0, le=5, description="seconds from an exposure until it is sent")
    drift: float = Field(
        default=0.0, ge=-1e-3, le=1e-3, description="seconds that its clock gains in a second"
    )


def serve(options: GigeOptions, ready: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer and send until interrupted.

    Raises:
        RobotError: aravis is not installed, the loopback has not the address, or there is no such picture.
    """
    aravis, shown = library(), _shown(options)
    address = (
        options.address
        or f"127.{64 + os.getpid() // 65536 % 64}.{os.getpid() // 256 % 256}.{os.getpid() % 256}"
    )
    _have(address)
    server = aravis.gv_fake_camera_new(address.encode(), options.serial.encode())
    if not aravis.gv_fake_camera_is_running(server):
        raise RobotError(f"the fake camera does not come up at {address}: another one has the address?")
    camera = aravis.gv_fake_camera_get_fake_camera(server)
    fill = FILL(lambda buffer, _, exposure, *__: _fill(buffer, camera, exposure, options, shown))
    aravis.fake_camera_set_fill_pattern(camera, fill, None)
    aravis.set_double(server, b"gvsp-lost-ratio", options.lost)
    silent = False

    def turn(*_: Any) -> None:
        nonlocal silent
        silent = not silent
        aravis.set_double(server, b"gvsp-lost-ratio", 1.0 if silent else options.lost)

    def slow(*_: Any) -> None:
        nonlocal options
        options = options.model_copy(update={"late": 0.0 if options.late else LATE})

    signal.signal(signal.SIGUSR1, turn)
    signal.signal(signal.SIGUSR2, slow)
    ready({"serial": options.serial, "address": address})
    # The library's camera sleeps 0.1 s, four pictures long, where the moment of a picture passes while it asks how long
    # it is until then. What comes at its port wakes it, and an empty packet asks for nothing.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knocking:
        while aravis.gv_fake_camera_is_running(server):
            shown.look()
            knocking.sendto(b"", (address, GVCP))
            time.sleep(KNOCK)


def _have(address: str) -> None:
    """Give the loopback an address of 127.0.0.0/8: aravis serves only what a network card has."""
    if address == "127.0.0.1":
        return
    add = ["ip", "address", "add", f"{address}/8", "dev", "lo"]
    try:
        done = subprocess.run(add, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RobotError("there is no command 'ip'. Install it: sudo apt-get install iproute2") from None
    if done.returncode and "exists" not in done.stderr:
        raise RobotError(
            f"the loopback has no address {address}, and it cannot be added ({done.stderr.strip()}). Run "
            f"'sudo {' '.join(add)}' and give address={address}, or take address=127.0.0.1 for one camera."
        )
    if not done.returncode:  # taken away again by one that outlives this process, however that ends
        quiet = subprocess.DEVNULL
        line = f"read -r _; ip address del {address}/8 dev lo"
        subprocess.Popen(
            ["sh", "-c", line], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
        )


class _Shown:
    """What gives the picture in the middle of the sensor, and when it was exposed (seconds since the epoch)."""

    def look(self) -> None:
        """Notice what is new; called again and again."""

    def take(self) -> tuple[UInt8[ndarray, "h w 3"], float]:
        """The newest picture, just after it came."""
        raise NotImplementedError


class _Still(_Shown):
    """The same at any time."""

    def __init__(self, picture: UInt8[ndarray, "h w 3"]) -> None:
        self._picture = picture

    def take(self) -> tuple[UInt8[ndarray, "h w 3"], float]:
        return self._picture, time.time()


class _OfCell(_Shown):
    """What a wrist camera of a cell sees that another process runs.

    It is sent when it comes, as by a camera that has just exposed it: who knows the time of a picture by its arrival
    would be wrong by as much as it has waited.
    """

    def __init__(self, memory: str, camera: str) -> None:
        from rdt2.sim.board import Board

        try:
            self._board = Board.watched(memory)
        except FileNotFoundError:
            raise RobotError(
                f"no cell runs with the shared memory {memory!r}: say RealtimeCell.memory."
            ) from None
        self._camera = camera
        self._place, self._came = -1, float("-inf")

    def look(self) -> None:
        if (place := self._board.picture_place(self._camera)) != self._place:
            self._place, self._came = place, time.monotonic()

    def take(self) -> tuple[UInt8[ndarray, "h w 3"], float]:
        until = time.monotonic() + AWAITED
        self.look()
        while self._came + FRESH < time.monotonic() < until:
            time.sleep(0.002)
            self.look()
        record, cell = self._board.picture(self._camera), self._board.cell()
        if record is None or cell is None:
            return np.full((384, 384, 3), GREY, np.uint8), time.time()
        return record["image"], float(record["timestamp"] + cell["began"]) + time.time() - time.monotonic()


def _shown(options: GigeOptions) -> _Shown:
    if options.cell:
        return _OfCell(options.cell, f"{options.side} camera")
    if options.picture:
        import cv2

        found = cv2.imread(options.picture) if Path(options.picture).is_file() else None
        if found is None:
            raise RobotError(f"{options.picture} is no picture that can be read.")
        return _Still(found[..., ::-1])
    ramp = np.arange(480).astype(np.uint8)
    return _Still(np.stack(np.broadcast_arrays(ramp, ramp[:, None], np.uint8(128)), axis=-1))


def _fill(buffer: int, camera: int, exposure_us: int, options: GigeOptions, shown: _Shown) -> None:
    """Draw what the sensor sees of the picture, and stamp it with the beginning of its exposure."""
    aravis = library()
    picture, moment = shown.take()
    width, height = aravis.buffer_get_image_width(buffer), aravis.buffer_get_image_height(buffer)
    number = aravis.buffer_get_image_pixel_format(buffer)
    corner = [
        (SENSOR - edge) // 2 - _register(camera, offset)
        for edge, offset in zip(picture.shape[:2], (OFFSET_Y, OFFSET_X), strict=True)
    ]
    seen = np.full((height, width, 3), GREY, np.uint8)
    top, left = (max(at, 0) for at in corner)
    y, x = (max(-at, 0) for at in corner)
    part = picture[y : y + height - top, x : x + width - left]
    seen[top : top + part.shape[0], left : left + part.shape[1]] = part
    if number in PATTERNS or number == RGB8:
        wire = mosaic(seen, PATTERNS[number]) if number in PATTERNS else seen
        data = aravis.buffer_get_data(buffer, None)
        ctypes.memmove(data, wire.ctypes.data, wire.nbytes)
    stamp = (moment - 0.5e-6 * exposure_us) * (1 + options.drift)
    aravis.buffer_set_timestamp(buffer, int(1e9 * stamp))
    if options.late:
        time.sleep(options.late)


def _register(camera: int, address: int) -> int:
    value = ctypes.c_uint()
    library().fake_camera_read_register(camera, address, ctypes.byref(value))
    return value.value


def mosaic(picture: UInt8[ndarray, "h w 3"], pattern: str) -> UInt8[ndarray, "h w"]:
    """An RGB picture as a sensor under a Bayer pattern ("RGGB": the first two rows from the left) gives it."""
    raw = np.empty(picture.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        y, x = divmod(place, 2)
        raw[y::2, x::2] = picture[y::2, x::2, "RGB".index(colour)]
    return raw


PEER = Peer(serve=serve, options=GigeOptions, what="a GigE Vision camera")

if __name__ == "__main__":
    main(PEER)
