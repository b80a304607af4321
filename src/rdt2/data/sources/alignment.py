"""Messages of several topics, each with a clock and a rate of its own, brought to the frames of one camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.data.clock import longest_step, usual_step
from rdt2.data.resample import nearest
from rdt2.errors import RecordingError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_SLOWEST_S = 0.2
"""Numbers that usually come this far apart do not follow a hand; most likely they are sent only when they change."""


@dataclass
class Topic:
    """Messages of one topic, in order. stamps: seconds of their headers, None where there is none; logged: seconds
    at which they were recorded."""

    stamps: list[float | None] = field(default_factory=list)
    logged: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def times(self, clock: Literal["header", "recorder"]) -> Float[np.ndarray, " n"]:
        """Seconds of the messages, all by one clock."""
        headers = [stamp for stamp in self.stamps if stamp is not None]
        own = clock == "header" and len(headers) == len(self.stamps)
        return np.array(headers if own else self.logged)


def common_frames(
    cameras: Mapping[str, Float[np.ndarray, " m"]],
    numbers: Mapping[str, Float[np.ndarray, " k"]],
    *,
    where: str,
) -> Int[np.ndarray, " n"]:
    """The pictures of the first camera for which everything else is known. Both: topic -> increasing seconds.

    A picture of another camera is known three quarters of a frame away; poses and openings between two messages no
    further apart than :func:`~rdt2.data.clock.longest_step`. Frames in a pause of any topic are left out, which
    leaves a pause in the frames.

    Raises:
        RecordingError: numbers that come too slowly, or topics without a common time.
    """
    first = next(iter(cameras))
    frames = cameras[first]
    known = np.ones(len(frames), bool)
    for name, times in numbers.items():
        if usual_step(times) > _SLOWEST_S:
            raise RecordingError(
                f"{where}: messages of {name} come every {usual_step(times):.2g} s, expected at least "
                f"{1 / _SLOWEST_S:.0f} a second. Between so few the motion is not known: name another topic, or leave "
                f"that file out."
            )
        known &= _between(frames, times)
    for times in cameras.values():
        period = usual_step(frames) or longest_step(0)
        known &= np.abs(times[nearest(times, frames)] - frames) <= 0.75 * period
    if not known.any():
        spans = ", ".join(
            f"{name} {times[0]:.3f} .. {times[-1]:.3f}" for name, times in {**cameras, **numbers}.items()
        )
        raise RecordingError(
            f"{where}: its topics have no time in common (seconds: {spans}). Where they were stamped by different "
            f"clocks: --message-clock recorder takes the time at which they were recorded. Else leave that file out."
        )
    return np.flatnonzero(known)


def _between(frames: Float[np.ndarray, " n"], times: Float[np.ndarray, " k"]) -> Bool[np.ndarray, " n"]:
    """Whether a frame lies between two messages with no pause between them, or at a message."""
    at = np.searchsorted(times, frames)
    after, before = times[np.minimum(at, len(times) - 1)], times[np.maximum(at - 1, 0)]
    inside = (at > 0) & (at < len(times)) & (after - before <= longest_step(usual_step(times)))
    return inside | (after == frames)


def poses_at(
    times: Float[np.ndarray, " k"],
    values: Sequence[Sequence[float]],
    frames: Float[np.ndarray, " n"],
    *,
    where: str,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 4"]]:
    """Positions (metres) and quaternions x y z w at the frames: linear, slerp; times in seconds.

    values: of each message position, then quaternion.

    Raises:
        RecordingError: a message with NaN, or a quaternion that is none.
    """
    from scipy.spatial.transform import Rotation, Slerp

    rows = np.array(values, dtype=np.float64)
    bad = ~np.isfinite(rows).all(1) | (np.abs(np.linalg.norm(rows[:, 3:], axis=1) - 1) > 1e-2)
    if bad.any():
        raise RecordingError(
            f"{where}: message {int(bad.argmax())} holds NaN or a quaternion that is none. Cut the recording there."
        )
    position = np.stack([np.interp(frames, times, rows[:, axis]) for axis in range(3)], axis=1)
    if len(times) == 1:
        return position, np.repeat(rows[:, 3:], len(frames), axis=0)
    return position, Slerp(times, Rotation.from_quat(rows[:, 3:]))(frames).as_quat()
