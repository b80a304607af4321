"""USB video cameras (UVC), and video files in their stead, through OpenCV.

    device: {type: uvc, path: /dev/v4l/by-id/usb-Vendor_Camera_1234-video-index0, size: [640, 480], fps: 30}
    device: {type: uvc, path: wrist.mp4, loop: true}

Name a camera by its path under /dev/v4l/by-id: numbers change with the order of plugging in. A file is played in real
time: its pictures come when they are due, and those that this machine is too slow for are left out, as a camera's are.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from rdt2.devices.drivers import Driver, Found, Opening, Options
from rdt2.devices.streaming import Grabbed, Source, StreamingCamera
from rdt2.errors import RobotError
from rdt2.observation import wrist_picture
from rdt2.robot.protocols import Check

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

BY_HAND, BY_ITSELF = 1, 3
"""Video4Linux's numbers for an exposure that is set, and one that the camera chooses."""
DEVICES = Path("/dev/v4l/by-id")
CATCH_UP_SECONDS = 0.1
"""Pictures of a file are left out for so long: where that does not catch up, the machine is too slow for it."""
LONGEST_AGE = 2.0
"""Seconds: a stamp of the system that is older, or from the future, is none of the monotonic clock."""


class UvcOptions(Options):
    """What a USB video camera is told."""

    path: str | int = Field(
        description="a device (/dev/v4l/by-id/..., /dev/video0, or its number), or a video file"
    )
    size: tuple[int, int] = Field(default=(640, 480), description="width and height that it is asked for")
    fps: float | None = Field(
        default=None,
        gt=0,
        le=500,
        description="pictures a second; none: 30, or a file's own",
    )
    fourcc: str = Field(
        default="MJPG",
        min_length=4,
        max_length=4,
        description="how the camera packs pictures: MJPG, or YUYV where the cable is quick enough",
    )
    exposure_us: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="exposure in microseconds; none: the camera chooses, and changes it with the light",
    )
    gain: float | None = Field(
        default=None, ge=0, description="gain in the camera's own unit; none: as it is"
    )
    crop: int | None = Field(
        default=None,
        ge=16,
        description="side in pixels of the square of the middle that is seen; none: the largest",
    )
    loop: bool = Field(default=False, description="whether a file begins anew at its end")

    @model_validator(mode="after")
    def _fits(self) -> UvcOptions:
        if self.exposure_us is not None and self.exposure_us * (self.fps or 30) > 1e6:
            raise ValueError(
                f"an exposure of {self.exposure_us:g} us is longer than a picture of {self.fps or 30:g} a second lasts"
            )
        if self.crop is not None and self.crop > min(self.size):
            raise ValueError(
                f"a square of {self.crop} pixels is larger than pictures of {self.size[0]} x {self.size[1]}"
            )
        return self


class DeviceSource:
    """An open USB camera.

    Raises:
        RobotError: it does not open, or does not take a setting.
    """

    def __init__(self, options: UvcOptions) -> None:
        import cv2

        self._options, self._number = options, 0
        self.rate = options.fps or 30.0
        where: Any = options.path
        if isinstance(where, str):
            if not Path(where).exists():
                raise RobotError(f"{where}: no such device. {_there_are()}")
            where = str(Path(where).resolve())
        self._video = video = cv2.VideoCapture(where, cv2.CAP_V4L2)
        if not video.isOpened():
            raise RobotError(
                f"{options.path} does not open as a camera: another program holds it, or it gives no pictures. "
                f"{_there_are()}"
            )
        video.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
        video.set(cv2.CAP_PROP_FRAME_WIDTH, options.size[0])
        video.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size[1])
        video.set(cv2.CAP_PROP_FPS, self.rate)
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        video.set(cv2.CAP_PROP_AUTO_WB, 0)
        if options.exposure_us is None:
            video.set(cv2.CAP_PROP_AUTO_EXPOSURE, BY_ITSELF)
        else:
            video.set(cv2.CAP_PROP_AUTO_EXPOSURE, BY_HAND)
            video.set(cv2.CAP_PROP_EXPOSURE, round(options.exposure_us / 100))
        if options.gain is not None:
            video.set(cv2.CAP_PROP_GAIN, options.gain)
        size = (round(video.get(cv2.CAP_PROP_FRAME_WIDTH)), round(video.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if size != options.size:
            video.release()
            raise RobotError(
                f"{options.path} gives pictures of {size[0]} x {size[1]}, asked for {options.size[0]} x "
                f"{options.size[1]}. Set size to one that it has: 'v4l2-ctl --list-formats-ext' lists them."
            )

    def grab(self) -> Grabbed | None:
        """The next picture, stamped by the driver of the system.

        Raises:
            RobotError: it gives none any more.
        """
        import cv2

        found, image = self._video.read()
        if not found:
            raise RobotError("gives no picture any more: was it unplugged?")
        self._number += 1
        return Grabbed(
            cut(image, self._options), self._number, _stamp(self._video.get(cv2.CAP_PROP_POS_MSEC))
        )

    def ask(self) -> float | None:
        """None: such cameras have no clock to ask."""
        return None

    def remarks(self) -> str:
        """What to look at when no picture comes."""
        return "; look at its plug, and whether another camera needs the same USB controller"

    def checks(self) -> list[Check]:
        """Size, rate and format, as asked for and as the camera says."""
        import cv2

        options, video = self._options, self._video
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        rate, packed = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FOURCC))
        name = packed.to_bytes(4, "little").decode(errors="replace")
        found = [
            Check(
                "picture",
                f"{options.size[0]} x {options.size[1]}",
                f"{width:.0f} x {height:.0f}",
                (width, height) == options.size,
            ),
            Check("packed as", options.fourcc, name, name == options.fourcc),
            Check(
                "frame rate", f"{self.rate:g} Hz", f"{rate:g} Hz", abs(rate - self.rate) < 0.02 * self.rate
            ),
        ]
        if options.exposure_us is not None:
            got, by_hand = 100 * video.get(cv2.CAP_PROP_EXPOSURE), video.get(cv2.CAP_PROP_AUTO_EXPOSURE)
            fits = abs(got - options.exposure_us) <= 100 and by_hand == BY_HAND
            found.append(Check("exposure", f"{options.exposure_us:g} us, fixed", f"{got:g} us", fits))
        return found

    def close(self) -> None:
        """Let go of the camera."""
        self._video.release()


class FileSource:
    """A video file, played in real time from the moment it is opened.

    Raises:
        RobotError: it cannot be read.
    """

    def __init__(self, options: UvcOptions) -> None:
        import cv2

        self._options = options
        self._video = cv2.VideoCapture(str(options.path))
        self.rate = options.fps or self._video.get(cv2.CAP_PROP_FPS)
        if not self._video.isOpened() or not self.rate > 0:
            self._video.release()
            raise RobotError(f"{options.path} is no video that can be read.")
        self._number, self._began = 0, time.monotonic()

    def grab(self) -> Grabbed | None:
        """The picture that is due, when it is due; late ones are left out.

        Raises:
            RobotError: the video is at its end, or damaged.
        """
        until = time.monotonic() + CATCH_UP_SECONDS
        while self._late() > 1 / self.rate and time.monotonic() < until and self._next():
            pass
        self._began += max(0.0, self._late() - 1 / self.rate)  # too slow for this machine: it is shown slower
        due = self._began + self._number / self.rate
        if not self._next():
            raise RobotError("has come to the end of its video: say 'loop: true' to play it again and again")
        found, image = self._video.retrieve()
        if not found:
            raise RobotError("has met a picture that cannot be decoded")
        picture = cut(image, self._options)
        time.sleep(max(0.0, due - time.monotonic()))
        return Grabbed(picture, self._number, due)

    def _late(self) -> float:
        """Seconds since the next picture was due."""
        return time.monotonic() - self._began - self._number / self.rate

    def _next(self) -> bool:
        """Go on to the next picture, whether it is decoded or not."""
        import cv2

        found = self._video.grab()
        if not found and self._options.loop and self._number:
            self._video.set(cv2.CAP_PROP_POS_FRAMES, 0)
            found = self._video.grab()
        self._number += found
        return bool(found)

    def ask(self) -> float | None:
        """This machine's clock, which its stamps are of."""
        return time.monotonic()

    def remarks(self) -> str:
        """Nothing: a file loses no picture on the way."""
        return ""

    def checks(self) -> list[Check]:
        """None: a file has no settings."""
        return []

    def close(self) -> None:
        """Close the file."""
        self._video.release()


def cut(image: UInt8[ndarray, "h w 3"], options: UvcOptions) -> UInt8[ndarray, "384 384 3"]:
    """OpenCV's picture as the models see it."""
    return wrist_picture(image, crop=options.crop, bgr=True)


def _stamp(milliseconds: float) -> float | None:
    """What Video4Linux said of a picture, seconds; None where that is no time of the system's monotonic clock."""
    stamp = 1e-3 * milliseconds
    return stamp if 0 <= time.monotonic() - stamp < LONGEST_AGE else None


def open_source(options: UvcOptions) -> Source:
    """The device, or the file."""
    if isinstance(options.path, str) and Path(options.path).is_file():
        return FileSource(options)
    return DeviceSource(options)


def _there_are() -> str:
    found = [item.device["path"] for item in find()]
    return f"There are: {', '.join(found)}." if found else f"{DEVICES} names none: is it plugged in?"


def find() -> list[Found]:
    """USB cameras that are plugged in."""
    with contextlib.suppress(OSError):
        return [Found({"path": str(path)}) for path in sorted(DEVICES.iterdir()) if "index0" in path.name]
    return []


def open_camera(opening: Opening[UvcOptions]) -> StreamingCamera:
    """A wrist camera, not yet connected."""
    return StreamingCamera(opening, lambda: open_source(opening.options))


DRIVER = Driver(open=open_camera, options=UvcOptions, extra="", find=find)
