"""A small, slow motion that determines a calibration: turns about all axes, and some way to go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

PERIODS = (5.0, 4.0, 6.5)
"""Seconds of a turn to and fro about x, y and z: no two are multiples, so that all pairs of angles come up."""
WAYS = (7.0, 5.5, 4.5)
"""The same for the ways along x, y and z."""
RAMP = 2.0
"""Seconds in which the motion begins from rest, and comes back to it."""


@dataclass(frozen=True)
class Excitation:
    """How far a calibrating motion turns and goes from where it begins."""

    degrees: float = 25.0
    """Largest turn about each axis of the TCP."""
    metres: float = 0.04
    """Largest way along each axis."""
    seconds: float = 30.0
    pace: float = 1.0
    """Times faster than `PERIODS` and `WAYS` say."""

    def poses(self, start: Float[ndarray, "4 4"], times: Float[ndarray, " n"]) -> Float[ndarray, "n 4 4"]:
        """Poses of the TCP at so many seconds from the beginning, which is `start` at rest; so is the end."""
        ramp = np.clip(np.minimum(times, self.seconds - times) / RAMP, 0.0, 1.0)
        gain = (ramp**3 * (10 - 15 * ramp + 6 * ramp**2))[:, None]
        turns = (
            np.radians(self.degrees)
            * gain
            * np.sin(2 * np.pi * self.pace * times[:, None] / np.array(PERIODS))
        )
        ways = self.metres * gain * np.sin(2 * np.pi * self.pace * times[:, None] / np.array(WAYS))
        offsets = np.tile(np.eye(4), (len(times), 1, 1))
        offsets[:, :3, :3], offsets[:, :3, 3] = Rotation.from_euler("xyz", turns).as_matrix(), ways
        return start @ offsets

    def smaller(self, factor: float) -> Excitation:
        """The same motion, less far."""
        return replace(self, degrees=self.degrees * factor, metres=self.metres * factor)
