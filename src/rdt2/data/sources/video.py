"""Pictures of a video file by the rows of a table: which one belongs to which row, and decoding them in order."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.resample import nearest
from rdt2.data.sources.pictures import MAX_SIDE, NOT_COLOUR
from rdt2.errors import RecordingError
from rdt2.files import unreadable

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_SHORT = 1
"""So many pictures may lack at the end of a video: encoders lose the last one. More may be missing anywhere."""


def picture_stamps(path: Path) -> tuple[Int[np.ndarray, " m"], float]:
    """The stamps of all pictures of a video in the order they are shown, and the seconds of one unit.

    Read from the container; nothing is decoded.

    Raises:
        RecordingError: no video, cut off, or no stamps.
    """
    try:
        written = path.stat()
    except OSError as error:
        raise RecordingError(
            unreadable(path, f"cannot be read ({error}). Copy or download it again.")
        ) from None
    return _picture_stamps(path, written.st_size, written.st_mtime_ns)


@lru_cache(maxsize=16)
def _picture_stamps(path: Path, *_: int) -> tuple[Int[np.ndarray, " m"], float]:
    """Of the file as it was written: many episodes lie in one, which is read once."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise RecordingError(f"{path}: holds no video.")
            stream = container.streams.video[0]
            if max(stream.width, stream.height) > MAX_SIDE:
                raise RecordingError(f"{path}: {stream.width} x {stream.height} is no wrist camera.")
            if str(stream.pix_fmt).startswith("gray"):
                raise RecordingError(f"{path}: the pictures are {stream.pix_fmt}. {NOT_COLOUR}")
            shown = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            stamps = [packet.pts for packet in shown if packet.pts is not None]
            seconds = float(stream.time_base or 0)
    except (av.FFmpegError, OSError) as error:
        raise RecordingError(
            unreadable(path, f"is no whole video ({error}). Copy or download it again.")
        ) from None
    if not stamps or len(stamps) < len(shown) or not seconds:
        raise RecordingError(
            f"{path}: {len(shown)} pictures, {len(stamps)} with a time. Encode the video again."
        )
    return np.unique(np.array(stamps, np.int64)), seconds


class VideoFrames:
    """Pictures of a video, decoded forwards with the file kept open; stepping back seeks.

    rows: (n,) stamp of the picture of each row, -1 where the video has none.
    """

    def __init__(self, path: Path, rows: Int[np.ndarray, " n"]) -> None:
        self._path, self._rows = path, rows
        self._shown: tuple[int, np.ndarray] | None = None
        self._container: Any = None
        self._decoder: Any = None

    def __call__(self, number: int) -> np.ndarray:
        """The picture of row `number` of the table, RGB uint8 (h, w, 3).

        Raises:
            RecordingError: there is none, or it cannot be decoded.
        """
        import av

        stamp = int(self._rows[number])
        if stamp < 0:
            raise RecordingError(
                f"{self._path}: has no picture for row {number} of the table. A missing frame is never filled in: "
                f"download the video again, or leave the episode out."
            )
        if self._shown is not None and self._shown[0] == stamp:
            return self._shown[1]
        try:
            if self._shown is None or stamp < self._shown[0]:
                self._open(stamp)
            for frame in self._decoder:
                if frame.pts is None or frame.pts < stamp:
                    continue
                if frame.pts > stamp:
                    break
                self._shown = (stamp, frame.to_ndarray(format="rgb24"))
                return self._shown[1]
        except (av.FFmpegError, OSError) as error:
            raise RecordingError(f"{self._path}: row {number} cannot be decoded ({error}).") from None
        raise RecordingError(
            f"{self._path}: the picture of row {number} cannot be decoded. Download the video again, or leave the "
            f"episode out."
        )

    def _open(self, stamp: int) -> None:
        import av

        if self._container is not None:
            self._container.close()
        self._container = av.open(str(self._path))
        stream = self._container.streams.video[0]
        self._container.seek(stamp, stream=stream)
        self._decoder = self._container.decode(stream)


def by_number(path: Path, first: int, count: int) -> VideoFrames:
    """The ``count`` pictures from number ``first`` on."""
    return VideoFrames(path, picture_stamps(path)[0][first : first + count])


def by_time(
    path: Path,
    times: Float[np.ndarray, " n"],
    *,
    offset: float = 0.0,
    start: float = 0.0,
    end: float = np.inf,
    step: float,
) -> VideoFrames:
    """For each row the nearest picture, at most half a step of the table away.

    times: (n,) seconds from the first row. offset: what the table's own clock shows at the first row.
    start, end: seconds of the file that belong to the episode. step: seconds between two rows.

    Raises:
        RecordingError: fewer pictures than rows, so that nothing says which are missing.
    """
    stamps, unit = picture_stamps(path)
    seconds = stamps * unit
    own = (seconds >= start - step / 2) & (seconds < end - step / 2)
    stamps, seconds = stamps[own], seconds[own]
    if len(seconds) < len(times) - _SHORT:
        raise RecordingError(
            f"{path}: {len(seconds)} pictures for {len(times)} rows of the table, and nothing says which are missing. "
            f"Download the video again, or leave the episode out."
        )
    # The table's clock is the video's, or runs on from episode to episode, or the video's starts anywhere.
    begins = [start + offset, start]
    if start == 0 and seconds[0] > times[-1]:
        begins.append(float(seconds[0]))
    best = np.full(len(times), -1, np.int64)
    for begin in begins:
        near = nearest(seconds, begin + times)
        close = np.abs(seconds[near] - begin - times) <= step / 2 + 1e-6
        if close.sum() > (best >= 0).sum():
            best = np.where(close, stamps[near], -1)
    return VideoFrames(path, best)
