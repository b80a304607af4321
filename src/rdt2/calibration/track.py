"""Poses over time, from a tracker or an arm, and the clean part of two that moved together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from rdt2.errors import CalibrationError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

SHORTEST = 30
"""Samples below which nothing is calibrated."""


@dataclass(frozen=True)
class Track:
    """Where something was.

    Raises:
        CalibrationError: shapes that do not fit, stamps that do not increase, poses that are not finite or too few.
    """

    times: Float[ndarray, " n"]
    """Seconds of one clock, increasing."""
    poses: Float[ndarray, "n 4 4"]
    """In a frame of its own that stands still, metres."""
    name: str = "track"
    """For messages: "tracker", "left arm"."""

    def __post_init__(self) -> None:
        n = len(self.times)
        if self.times.shape != (n,) or self.poses.shape != (n, 4, 4):
            raise CalibrationError(
                f"the {self.name} has times {self.times.shape} and poses {self.poses.shape}, expected (n,) and "
                "(n, 4, 4)."
            )
        if n < SHORTEST:
            raise CalibrationError(
                f"the {self.name} has {n} poses, expected {SHORTEST} or more. Record for longer, and look whether it "
                "was seen all the time."
            )
        if not (np.isfinite(self.times).all() and np.isfinite(self.poses).all()):
            bad = int(np.argmin(np.isfinite(self.poses).all(axis=(1, 2)) & np.isfinite(self.times)))
            raise CalibrationError(
                f"the {self.name}'s pose {bad} of {n} is not finite. Drop such poses first."
            )
        turns = self.poses[:, :3, :3]
        off = np.abs(np.swapaxes(turns, 1, 2) @ turns - np.eye(3)).max(axis=(1, 2))
        if (off > 0.01).any() or (np.linalg.det(turns) < 0).any():
            bad = int(np.argmax(np.where(np.linalg.det(turns) < 0, np.inf, off)))
            raise CalibrationError(
                f"the {self.name}'s pose {bad} of {n} is no turn: its 3x3 is no rotation matrix."
            )
        if (np.diff(self.times) <= 0).any():
            bad = int(np.argmax(np.diff(self.times) <= 0))
            raise CalibrationError(
                f"the {self.name}'s stamps {bad} and {bad + 1} are {self.times[bad]:g} and {self.times[bad + 1]:g} s: "
                "expected seconds that increase. Drop poses that came twice."
            )

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def rotations(self) -> Rotation:
        """The orientations of its poses, n of them."""
        return Rotation.from_matrix(self.poses[:, :3, :3])

    @cached_property
    def _slerp(self) -> Slerp:
        return Slerp(self.times, self.rotations)

    def at(self, times: Float[ndarray, " m"]) -> tuple[Float[ndarray, "m 3"], Rotation]:
        """Positions (m) and rotations at other times (seconds): linear and slerp, outside those of the nearest."""
        times = np.clip(times, self.times[0], self.times[-1])
        position = np.stack([np.interp(times, self.times, self.poses[:, i, 3]) for i in range(3)], axis=1)
        return position, self._slerp(times)

    def cut(self, keep: ndarray) -> Track:
        """Those samples that `keep` names: a mask (n,), or numbers (m,)."""
        return Track(self.times[keep], self.poses[keep], self.name)

    def smoothed(self, span: float = 0.12) -> Track:
        """The same with less noise, from a local cubic over `span` seconds: for what moves slowly and is sampled often.

        A delay against a track that scatters is found where interpolation averages best, not where it is.
        """
        from scipy.signal import savgol_filter

        step = float(np.median(np.diff(self.times)))
        window = 2 * int(0.5 * span / step) + 1
        grid = np.arange(self.times[0], self.times[-1], step)
        if window < 7 or len(grid) < max(window, SHORTEST):
            return self
        position, rotation = self.at(grid)
        middle = rotation.mean()
        turns = savgol_filter((middle.inv() * rotation).as_rotvec(), window, 3, axis=0)
        poses = np.tile(np.eye(4), (len(grid), 1, 1))
        poses[:, :3, 3] = savgol_filter(position, window, 3, axis=0)
        poses[:, :3, :3] = (middle * Rotation.from_rotvec(turns)).as_matrix()
        return Track(grid, poses, self.name)

    def turn_rates(self, times: Float[ndarray, " m"], *, span: float) -> Float[ndarray, " m"]:
        """rad/s at some times, each over `span` seconds: the same in every frame, and hardly noisy."""
        (_, before), (_, after) = self.at(times - span / 2), self.at(times + span / 2)
        return (before.inv() * after).magnitude() / span


def congruent(one: Track, other: Track, *, turned: float = 0.03, moved: float = 0.02) -> ndarray:
    """Which samples of two tracks of one rigid body agree, whatever the frames they are told in.

    Between two moments both turned by the same angle and moved as far along the axis of that turn (the invariants of a
    screw); a sample that disagrees with most others is a jump of one of the two.

    Args:
        one: n samples.
        other: at the same moments.
        turned: radians that angles may differ by.
        moved: metres that ways along the axis may differ by.

    Returns:
        (n,) bool.
    """
    n = len(one)
    good = np.zeros(n, int)
    steps = np.unique(np.geomspace(1, max(2, n // 2), 15).astype(int))
    tried = 0
    for step in steps:
        screws = []
        for track in (one, other):
            rotations, after = track.rotations, np.roll(np.arange(n), -step)
            turns = (rotations.inv() * rotations[after]).as_rotvec()
            ways = rotations.inv().apply(track.poses[after, :3, 3] - track.poses[:, :3, 3])
            angles = np.linalg.norm(turns, axis=1)
            screws.append((angles, np.einsum("ni,ni->n", turns, ways) / np.maximum(angles, 1e-9)))
        (angle, along), (angle2, along2) = screws
        # the axis of a small turn is noise
        same = (np.abs(angle - angle2) < turned) & (
            (np.minimum(angle, angle2) < 0.2) | (np.abs(along - along2) < moved)
        )
        good += same
        good[np.roll(np.arange(n), -step)] += same
        tried += 2
    return good > 0.6 * tried
