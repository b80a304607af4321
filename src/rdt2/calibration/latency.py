"""How late one signal is behind another, with an interval: arms and grippers behind commands, pictures behind arms.

    delay = lag(command_times, commands, measured_times, measured)
    delay.seconds, delay.interval          # 0.052, (0.049, 0.055)

The lag is where the two signals correlate best, found on a grid and then between its points. The interval comes from
the signal itself: the recording is cut into pieces, pieces are drawn again and again with replacement, and each draw
has its own best lag (block bootstrap, Künsch 1989).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import CalibrationError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray

STEP = 0.002
"""Seconds between the lags that are tried."""
SAMPLE = 0.004
"""Seconds between the moments that are compared."""
EARLIEST = 0.1
"""Seconds that an effect may seem to come before its cause, by stamps that are wrong; that is told."""
PIECES, DRAWS = 12, 300
LEAST_CORRELATION = 0.5
LEAST_CORNERS, SAME = 12, 0.5
"""Corners of a picture that are followed at least; pixels by which one may miss itself there and back."""


@dataclass(frozen=True)
class Lag:
    """A measured delay."""

    seconds: float
    interval: tuple[float, float]
    """In which it lies with 95 %, seconds."""
    correlation: float
    """Of the two signals at that lag, at most 1."""

    def as_dict(self) -> dict[str, object]:
        """For JSON: seconds, their interval, the correlation."""
        return {"seconds": self.seconds, "interval": list(self.interval), "correlation": self.correlation}


def lag(
    times: Float[ndarray, " n"],
    values: Float[ndarray, "n d"],
    later_times: Float[ndarray, " m"],
    later: Float[ndarray, "m d"],
    *,
    most: float = 0.6,
    what: str = "the signal",
) -> Lag:
    """How many seconds `later` is behind `values`.

    Args:
        times, values: the cause, in seconds of one clock; d numbers a moment (or one), of any unit.
        later_times, later: the effect.
        most: seconds that it may be late at most.
        what: what is measured, for messages.

    Raises:
        CalibrationError: hardly any motion, too short, signals that have nothing to do with each other, or an effect
            that comes before its cause.
    """
    cause, effect = (
        np.asarray(v, dtype=np.float64).reshape(len(t), -1)
        for t, v in ((times, values), (later_times, later))
    )
    begin, end = max(times[0], later_times[0] + EARLIEST), min(times[-1], later_times[-1] - most)
    if end - begin < 4 * most:
        raise CalibrationError(
            f"{what} was recorded for {max(end - begin, 0.0):.1f} s beside what causes it, expected {4 * most:.1f} s "
            "or more."
        )
    moments = np.arange(begin, end, SAMPLE)
    lags = np.arange(-EARLIEST, most + STEP / 2, STEP)
    told = _centred(_at(moments, times, cause))
    if not (np.square(told).sum(axis=0) > 0).any():
        raise CalibrationError(f"{what}: nothing moved. Move it to and fro, several times and not evenly.")
    pieces = np.array_split(np.arange(len(moments)), PIECES)
    products = np.empty((PIECES, len(lags)))
    energy = np.empty((PIECES, len(lags)))
    own = np.array([np.square(told[piece]).sum() for piece in pieces])
    for j, late in enumerate(lags):
        seen = _centred(_at(moments + late, later_times, effect))
        for i, piece in enumerate(pieces):
            products[i, j], energy[i, j] = (told[piece] * seen[piece]).sum(), np.square(seen[piece]).sum()

    def best(some: ndarray) -> tuple[float, float]:
        fits = products[some].sum(axis=0) / np.sqrt(
            own[some].sum() * np.maximum(energy[some].sum(axis=0), 1e-30)
        )
        j = int(np.argmax(fits))
        if 0 < j < len(lags) - 1:  # between grid points: the top of the parabola through three
            low, mid, high = fits[j - 1 : j + 2]
            curve = low - 2 * mid + high
            return float(lags[j] + (STEP * (low - high) / (2 * curve) if curve < 0 else 0.0)), float(fits[j])
        return float(lags[j]), float(fits[j])

    found, fit = best(np.arange(PIECES))
    if fit < LEAST_CORRELATION:
        raise CalibrationError(
            f"{what} does not follow: at best the two correlate by {fit:.2f}, expected {LEAST_CORRELATION} or more. "
            "Look whether it moved at all, and whether it is the right device."
        )
    if found > most - 2 * STEP:
        raise CalibrationError(
            f"{what} is later than {most:g} s, more than was looked for. Look at its driver."
        )
    random = np.random.default_rng(0)
    drawn = [best(random.integers(PIECES, size=PIECES))[0] for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    if max(high, found) < -STEP:
        raise CalibrationError(
            f"{what} seems to come {-1e3 * found:.0f} ms before what causes it: its stamps, or the others', are early. "
            "Look at the clocks (rdt2 device test)."
        )
    found, low, high = (max(float(each), 0.0) for each in (found, min(low, found), max(high, found)))
    return Lag(found, (low, high), fit)


def _at(moments: ndarray, times: ndarray, values: ndarray) -> Float[ndarray, "k d"]:
    return np.stack([np.interp(moments, times, column) for column in values.T], axis=1)


def _centred(values: ndarray) -> ndarray:
    centred: ndarray = values - values.mean(axis=0)
    return centred


def picture_motions(pictures: Sequence[UInt8[ndarray, "h w 3"]]) -> Float[ndarray, "n 4"]:
    """How each picture (uint8 RGB, all of one size) moved against the one before; NaN where too little was to be seen.

    Corners are followed (Lucas and Kanade 1981) there and back, and one similarity is fitted to most of them
    (RANSAC): what goes along with the camera, as its gripper does, is left out where more of the picture moves.

    Returns:
        Shift of the middle along x and y, turn, and growth, all in pixels (the last two at half the width from the
        middle); NaN for the first.
    """
    import cv2

    grey: list[Any] = [
        cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY) for picture in pictures
    ]
    height, width = grey[0].shape
    middle = np.array([width / 2, height / 2])
    found = np.full((len(grey), 4), np.nan)
    follow: Any = cv2.calcOpticalFlowPyrLK  # its types know no None for the points to be found
    for number, (before, after) in enumerate(itertools.pairwise(grey), start=1):
        corners = cv2.goodFeaturesToTrack(before, 200, 0.01, 8)
        if corners is None or len(corners) < LEAST_CORNERS:
            continue
        seen, there, _ = follow(before, after, corners, None)
        back, again, _ = follow(after, before, seen, None)
        same = (there.ravel() & again.ravel() & (np.linalg.norm((back - corners)[:, 0], axis=1) < SAME)) == 1
        if same.sum() < LEAST_CORNERS:
            continue
        change, _ = cv2.estimateAffinePartial2D(corners[same], seen[same], ransacReprojThreshold=1.0)
        if change is not None:
            shift = change[:, :2] @ middle + change[:, 2] - middle
            found[number] = *shift, width / 2 * change[1, 0], width / 2 * (change[0, 0] - 1)
    return found
