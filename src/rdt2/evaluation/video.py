"""Small videos that live inside a report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import RecordingError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray


@dataclass(frozen=True)
class Clip:
    """An encoded video: MP4 with H.264 that every browser plays, or an animated WebP image."""

    data: bytes
    mime: str
    width: int
    height: int
    frames: int

    @property
    def uri(self) -> str:
        """The clip as a data URI."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode('ascii')}"


class ClipWriter:
    """Encodes pictures one at a time, so that a minute of video never lies in memory as pixels.

    `close` returns the clip. Without an H.264 encoder the clip becomes an animated WebP.
    """

    def __init__(
        self, width: int, height: int, *, fps: int = 10, quality: int = 26, codec: str = "libx264"
    ) -> None:
        """Open a clip of `width` and `height` pixels; `quality` is H.264's CRF, smaller is better.

        Raises:
            RecordingError: an odd width or height.
        """
        if width % 2 or height % 2:
            raise RecordingError(
                f"video is {width} x {height}, expected even numbers: H.264 codes 2 x 2 blocks."
            )
        self.width, self.height, self.fps = width, height, fps
        self.frames = 0
        self._buffer = io.BytesIO()
        self._images: list[Any] = []
        self._container, self._stream = _open_h264(self._buffer, width, height, fps, quality, codec)

    def add(self, picture: UInt8[ndarray, "h w 3"]) -> None:
        """Append one RGB picture. Raises RecordingError for another size or dtype."""
        if picture.shape != (self.height, self.width, 3) or picture.dtype != np.uint8:
            raise RecordingError(
                f"video frame {self.frames} is {picture.dtype} {picture.shape}, "
                f"expected uint8 {(self.height, self.width, 3)}."
            )
        if self._container is not None:
            import av

            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        else:
            from PIL import Image

            self._images.append(Image.fromarray(picture))
        self.frames += 1

    def close(self) -> Clip:
        """Finish the clip and return it. Raises RecordingError when no picture was added."""
        if not self.frames:
            raise RecordingError("a video needs at least one frame; none was recorded.")
        if self._container is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            mime = "video/mp4"
        else:
            first, rest = self._images[0], self._images[1:]
            first.save(
                self._buffer,
                format="WEBP",
                save_all=True,
                append_images=rest,
                duration=1000 // self.fps,
                loop=0,
                quality=60,
            )
            mime = "image/webp"
        return Clip(self._buffer.getvalue(), mime, self.width, self.height, self.frames)


def _open_h264(
    buffer: io.BytesIO, width: int, height: int, fps: int, quality: int, codec: str
) -> tuple[Any, Any]:
    """A PyAV container and stream, or (None, None) where PyAV or the encoder is not installed."""
    try:
        import av
        from av.codec import Codec

        Codec(codec, "w")
    except (ImportError, ValueError):  # av raises UnknownCodecError, a ValueError
        return None, None
    container = av.open(buffer, mode="w", format="mp4")
    stream: Any = container.add_stream(codec, rate=Fraction(fps))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"crf": str(quality), "preset": "veryfast", "threads": "1", "g": str(4 * fps)}
    return container, stream
