"""From the rate of a recording to 30 Hz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rdt2 import pose
from rdt2.action import ARMS, FPS
from rdt2.data.episode import Episode
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def sample_frames(timestamps: Float[np.ndarray, " n"], *, rate: float = FPS) -> Int[np.ndarray, " m"]:
    """The recorded frames nearest to the instants of a rate (Hz), each at most once.

    A training sample needs a picture and a pose of the same instant, so its frame is a recorded one; only the
    24 steps after it fall between frames and are interpolated (:func:`~rdt2.data.cut_chunks`).
    """
    if rate <= 0:
        raise ConfigError(f"rate is {rate}, expected more than 0 Hz.")
    times = np.asarray(timestamps, np.float64)
    # The last instant may lie a rounding error after the last frame.
    grid = times[0] + np.arange(int((times[-1] - times[0]) * rate + 1e-6) + 1) / rate
    after = np.clip(np.searchsorted(times, grid), 1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(1, np.int64)
    nearer = after - (grid - times[after - 1] <= times[after] - grid)
    return np.unique(nearer)


def resample(episode: Episode, *, fps: float = FPS) -> Episode:
    """The episode at an even rate: positions and widths linear, rotations slerp, the nearest picture.

    A picture may be up to half a recorded frame away from its pose; :func:`sample_frames` avoids that, this
    is for formats that want one even rate.

    Raises:
        ConfigError: fps is not positive.
    """
    if fps <= 0:
        raise ConfigError(f"fps is {fps}, expected more than 0.")
    times = np.asarray(episode.timestamps, np.float64)
    count = int((times[-1] - times[0]) * fps + 1e-6) + 1
    query = np.minimum(times[0] + np.arange(count) / fps, times[-1])
    after = np.clip(np.searchsorted(times, query), 1, max(1, len(times) - 1))
    if len(times) == 1:
        nearest = np.zeros(1, np.int64)
    else:
        nearest = after - (query - times[after - 1] <= times[after] - query)
    return replace(
        episode,
        videos={arm: _Chosen(episode.videos[arm], nearest) for arm in ARMS},
        poses={
            arm: pose.interpolate(times, np.asarray(episode.poses[arm], np.float64), query) for arm in ARMS
        },
        widths={arm: np.interp(query, times, episode.widths[arm]) for arm in ARMS},
        timestamps=np.arange(count) / fps,
    )


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
