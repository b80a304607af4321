"""Recorded clocks: stamps in any unit to seconds, and the pauses that no motion may be made up for."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import FPS
from rdt2.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from jaxtyping import Float

TimeUnit = Literal["s", "ms", "us", "ns"]

_PER_SECOND: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_RATES = 0.5, 2000.0
"""Frames a second that a recording may have: a likely unit gives a rate between these."""
_SINCE_1970 = 946_684_800.0, 4_102_444_800.0
"""Seconds since 1970 in the years 2000 and 2100: a wall clock starts between these."""
_LATEST = 4.2e18
"""Nanoseconds since 1970 in the year 2103; larger numbers are of no clock, and too large to subtract."""
_BRIDGED_S = 3.5 / FPS
"""The longest step that is interpolated: two missing frames of 30 a second. A hand that accelerates at 2 m/s2 strays
under 4 mm from the straight line in that time, and 60 mm in half a second."""
_BURST = 3
"""Frames so many times further apart on average than usually come in bursts."""
_DISAGREE = 0.1
"""A clock and a stated rate may differ by this part: stamps in whole milliseconds do, and cameras."""


def longest_step(usual: float) -> float:
    """The longest step (s) that may be interpolated in a recording whose frames are ``usual`` seconds apart.

    Recordings slower than 13 frames a second were never faster than their own step; they bridge no missing frame.
    """
    return max(_BRIDGED_S, 1.5 * usual)


def usual_step(times: Float[np.ndarray, " n"]) -> float:
    """The median step, the lower of two: a few long pauses do not change it. 0 for a single frame."""
    steps = np.sort(np.diff(times))
    return float(steps[(len(steps) - 1) // 2]) if len(steps) else 0.0


def pieces(times: Float[np.ndarray, " n"]) -> list[slice]:
    """The frames between pauses, in order; one piece where the recording never paused.

    times: (n,) seconds, increasing. A pause is a step longer than :func:`longest_step`.
    """
    times = np.asarray(times, np.float64)
    breaks = np.flatnonzero(np.diff(times) > longest_step(usual_step(times))) + 1
    borders = [0, *breaks.tolist(), len(times)]
    return [slice(start, end) for start, end in pairwise(borders)]


def require_seconds(times: Float[np.ndarray, " n"], *, where: str) -> None:
    """Raises RecordingError for times that increase at a rate which no recording in seconds has."""
    step = usual_step(times)
    if len(times) > 1 and not _likely(1 / step):
        raise RecordingError(
            f"{where}: timestamps are {step:.4g} apart, expected seconds of {_RATES[0]:g} to {_RATES[1]:g} frames a "
            f"second. Are they milliseconds, or frame numbers? Divide them."
        )


def to_seconds(
    stamps: np.ndarray, *, where: str, unit: TimeUnit | None = None, rate: float | None = None
) -> Float[np.ndarray, " n"]:
    """Stamps of a recorded clock as float64 seconds after the first one.

    stamps: (n,), or a row or column of n; integers, floats or datetime64.
    unit: of the numbers; None takes the only one that gives a likely rate, or that ``rate`` settles.
    rate: frames a second that the recording claims.

    Raises:
        RecordingError: stamps that stand still, run back, are too coarse, not finite or no list.
        ConfigError: a unit that cannot be told, or a rate that contradicts the stamps.
    """
    values = _checked(stamps, where)
    if np.asarray(stamps).dtype.kind in "mM":
        unit = "ns"
    if len(values) < 2:
        return np.zeros(len(values))
    resolution = _resolution(values, rate, where)
    values = _exact(values)
    _require_steps(values, where)
    step = usual_step(values)
    unit = unit or _unit(float(values[0]), step, rate, where)
    times = (values - values[0]).astype(np.float64) / _PER_SECOND[unit]
    found = _PER_SECOND[unit] / step
    if not _likely(found):
        raise ConfigError(
            f"{where}: steps of {step:.6g} {unit} make {found:.4g} frames a second, which no recording has. Choose "
            f"another --time-unit, or say how fast it was recorded: --fps 30"
        )
    steps = np.diff(times)
    mean = float(steps[steps <= longest_step(1 / found)].mean())
    if mean > _BURST / found:
        raise ConfigError(
            f"{where}: frames come in bursts, usually {1 / found:.2g} s apart and {mean:.2g} s on average: they were "
            f"stamped when they were written, not when they were taken. Say how fast it was recorded: "
            f"--fps {1 / mean:.3g}"
        )
    if rate is not None and abs(found / rate - 1) > _DISAGREE:
        raise ConfigError(
            f"{where}: its timestamps make {found:.4g} frames a second, the recording says {rate:g}. One of them is "
            f"wrong: say which rate is right, --fps {found:.4g} or --fps {rate:g}"
        )
    if rate is not None:
        # Rounded stamps are exact on the grid of the stated rate.
        grid = np.round(times * rate) / rate
        off = np.abs(grid - times).max()
        if off < max(1e-3, resolution / _PER_SECOND[unit]) and (np.diff(grid) > 0).all():
            return grid
    return times


def at_rate(fps: float, count: int, stamps: np.ndarray | None = None) -> Float[np.ndarray, " n"]:
    """Seconds of ``count`` frames at an even rate, whatever unit and speed the recorded ``stamps`` (count,) have.

    A clock that is even but for some pauses is believed about the pauses: they stay as long, in frames.
    """
    steps = np.ones(max(count - 1, 0))
    if stamps is not None and np.asarray(stamps).dtype.kind in "fiumM" and np.size(stamps) == count > 2:
        with np.errstate(invalid="ignore"):  # of a clock that is not finite nothing is taken
            found = np.diff(_exact(np.asarray(stamps).reshape(-1))).astype(np.float64)
        steps_on = found[found > 0]  # a stamp that comes twice is no pause, and takes no other away
        usual = np.sort(steps_on)[(len(steps_on) - 1) // 2] if len(steps_on) else np.nan
        if np.isfinite(found).all() and found.min() >= 0 and (np.abs(found / usual - 1) < 0.5).mean() > 0.8:
            steps = np.where(found / usual > longest_step(1 / fps) * fps, found / usual, 1.0)
    return np.concatenate([np.zeros(min(count, 1)), np.cumsum(steps)]) / fps


def _checked(stamps: np.ndarray, where: str) -> np.ndarray:
    """The stamps as (n,) int64, or floats as they are stored."""
    values = np.asarray(stamps)
    if values.dtype.kind not in "fiumM" or values.size != max(values.shape, default=0):
        raise RecordingError(
            f"{where}: timestamps are {values.dtype} {values.shape}, expected one number a frame. Say how fast it "
            f"was recorded: --fps 30"
        )
    if values.dtype.kind in "mM" and np.isnat(values).any():
        frame = int(np.isnat(values.reshape(-1)).argmax())
        raise RecordingError(
            f"{where}: frame {frame} has no timestamp. Cut the recording there, or say --fps 30"
        )
    return values.reshape(-1) if values.dtype.kind == "f" else _exact(values.reshape(-1))


def _exact(values: np.ndarray) -> np.ndarray:
    """Integers and dates as int64, which holds nanoseconds since 1970; floats as float64."""
    if values.dtype.kind in "mM":
        return values.astype(f"{values.dtype.kind}8[ns]").astype(np.int64)
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)


def _require_steps(values: np.ndarray, where: str) -> None:
    wrong = ~(np.abs(values.astype(np.float64)) < _LATEST)
    if wrong.any():
        raise RecordingError(
            f"{where}: the timestamp of frame {int(wrong.argmax())} is no number of a clock. Cut the recording there."
        )
    steps = np.diff(values)
    if (steps <= 0).any():
        frame = int((steps <= 0).argmax()) + 1
        how = "is the same as" if steps[frame - 1] == 0 else "lies before"
        raise RecordingError(
            f"{where}: the timestamp of frame {frame} {how} that of frame {frame - 1} (they must increase; "
            f"{int((steps <= 0).sum())} such frames). If the frames are even, say how fast: --fps 30. "
            f"Otherwise sort or cut the recording there."
        )


def _resolution(values: np.ndarray, rate: float | None, where: str) -> float:
    """What the stamps resolve, in their unit. float32 holds seconds since 1970 to 128 s, and a cast to float64 does not
    bring them back.

    Raises:
        RecordingError: too little of a step to tell a motion by.
    """
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        return 0.0
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    stored: Any = single if values.dtype.itemsize > 4 and (values == single).all() else values
    resolution = float(np.spacing(np.abs(stored).max()))
    step = (float(values[-1]) - float(values[0])) / (len(values) - 1)
    whole = resolution <= 1 and (values == np.round(values)).all()
    # A hand that turns at 1 rad/s turns 0.1 degrees in a twentieth of 1/30 s; a stated rate makes up for more.
    if resolution > step / (4 if rate else 20) and not whole:
        raise RecordingError(
            f"{where}: timestamps are {stored.dtype} numbers about {stored[0]:.4g}, which resolve {resolution:.3g} and "
            f"hold no clock any more. Say how fast it was recorded, for example --fps 30, or store them as float64."
        )
    return resolution


def _unit(first: float, step: float, rate: float | None, where: str) -> TimeUnit:
    likely = [unit for unit, per in _PER_SECOND.items() if _likely(per / step)]
    agreeing = [unit for unit in likely if rate and abs(_PER_SECOND[unit] / step / rate - 1) <= _DISAGREE]
    wall = [unit for unit in likely if _SINCE_1970[0] <= first / _PER_SECOND[unit] <= _SINCE_1970[1]]
    for units in (agreeing, likely, wall):
        if len(units) == 1:
            return units[0]
    readings = ", ".join(f"{_PER_SECOND[unit] / step:.4g} frames a second in {unit}" for unit in likely)
    raise ConfigError(
        f"{where}: timestamps are {step:.6g} apart, which is {readings or 'no rate of a recording in any unit'}"
        f"{', or counts frames' if step == 1 else ''}. Say what it is: --time-unit {likely[0] if likely else 's'}, or "
        f"how fast it was recorded: --fps 30"
    )


def _likely(rate: float) -> bool:
    return _RATES[0] <= rate <= _RATES[1]
