"""From the rate of a recording to 30 Hz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rdt2 import pose
from rdt2.action import ARMS, FPS
from rdt2.data.clock import pieces
from rdt2.data.episode import Episode
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def sample_frames(timestamps: Float[np.ndarray, " n"], *, rate: float = FPS) -> Int[np.ndarray, " m"]:
    """The recorded frames nearest to the instants of a rate (Hz), each at most once.

    A training sample needs a picture and a pose of the same instant, so its frame is a recorded one; only the
    24 steps after it fall between frames and are interpolated (:func:`~rdt2.data.cut_chunks`). After a pause of
    the recording the instants begin anew.

    Raises:
        ConfigError: a rate that is not above 0.
    """
    if rate <= 0:
        raise ConfigError(f"rate is {rate}, expected more than 0 Hz.")
    times = np.asarray(timestamps, np.float64)
    return np.concatenate(
        [part.start + np.unique(nearest(times[part], _grid(times[part], rate))) for part in pieces(times)]
    )


def resample(episode: Episode, *, fps: float = FPS) -> Iterator[Episode]:
    """The episode at an even rate, and a new one after each pause of the recording.

    Positions and widths are linear, rotations slerp, pictures and sentences those of the nearest frame. A picture
    may be up to half a recorded frame away from its pose; :func:`sample_frames` avoids that, this is for formats
    that want one even rate.

    Raises:
        ConfigError: fps is not positive.
    """
    if fps <= 0:
        raise ConfigError(f"fps is {fps}, expected more than 0.")
    stamps = np.asarray(episode.timestamps, np.float64)
    for part in pieces(stamps):
        times = stamps[part]
        query = np.minimum(_grid(times, fps), times[-1])
        frames = part.start + nearest(times, query)
        sentences = [episode.sentence(frame) for frame in frames.tolist()]
        yield replace(
            episode,
            videos={arm: _Chosen(episode.videos[arm], frames) for arm in ARMS},
            poses={
                arm: pose.interpolate(times, np.asarray(episode.poses[arm], np.float64)[part], query)
                for arm in ARMS
            },
            widths={arm: np.interp(query, times, np.asarray(episode.widths[arm])[part]) for arm in ARMS},
            timestamps=np.arange(len(query)) / fps,
            instruction=sentences if len(set(sentences)) > 1 else sentences[0],
            frame_meta=[episode.frame_meta[frame] for frame in frames.tolist()] if episode.frame_meta else (),
        )


def nearest(times: Float[np.ndarray, " n"], query: Float[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """For each instant the number of the nearest of ``times`` (increasing, seconds); of two alike the earlier."""
    if len(times) == 1:
        return np.zeros(len(query), np.int64)
    after = np.clip(np.searchsorted(times, query), 1, len(times) - 1)
    return after - (query - times[after - 1] <= times[after] - query)


def _grid(times: Float[np.ndarray, " n"], rate: float) -> Float[np.ndarray, " m"]:
    """Instants of a rate from the first time to the last, which may lie a rounding error before the last instant."""
    return times[0] + np.arange(int((times[-1] - times[0]) * rate + 1e-6) + 1) / rate


class _Chosen(Sequence):
    """Some pictures of a sequence, in order, none of them copied."""

    def __init__(self, pictures: Sequence, numbers: np.ndarray) -> None:
        self._pictures, self._numbers = pictures, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        if isinstance(number, slice):
            return [self[row] for row in range(*number.indices(len(self)))]
        return self._pictures[int(self._numbers[number])]
