"""From points that were touched: the plane of a table, and where one arm stands in the frame of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import CalibrationError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

LEAST_SPREAD = 0.05
"""Metres that touched points have to lie apart, across the line through them."""
TOUCHED = 1.5e-3
"""Metres along each axis by which two arms miss each other where both touched the same point, one sigma at least."""
FARTHEST = 3.0
"""Metres from its base beyond which no arm touches anything."""
STEEPEST = 30.0
"""Degrees that a table may be tilted by."""


@dataclass(frozen=True)
class Plane:
    """A table top."""

    middle: Float[ndarray, " 3"]
    """Of the touched points, metres."""
    normal: Float[ndarray, " 3"]
    """Upwards."""
    error: float
    """Largest distance of a touched point from the plane, metres."""
    highest: float
    """The plane's height at the highest of the touched points, metres: what `safety.table_height` has to be."""

    def at(self, x: float, y: float) -> float:
        """Its height there, metres."""
        away = np.array([x, y]) - self.middle[:2]
        return float(self.middle[2] - away @ self.normal[:2] / self.normal[2])

    @property
    def tilt(self) -> float:
        """Degrees from the horizontal."""
        return float(np.degrees(np.arccos(np.clip(self.normal[2], -1.0, 1.0))))


def plane(points: Float[ndarray, "n 3"]) -> Plane:
    """The plane through touched points (cell frame, metres), three or more that do not lie on a line.

    Raises:
        CalibrationError: too few, too close together, or no table: steeper than 30 degrees.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 3 or not np.isfinite(points).all():
        raise CalibrationError(
            f"the touched points are {points.shape}, expected three or more finite (x, y, z)."
        )
    middle = points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(points - middle, full_matrices=False)
    if sizes[1] / np.sqrt(len(points)) < LEAST_SPREAD / 2:
        raise CalibrationError(
            "the touched points lie on a line, or too close together: touch the table at its corners, "
            f"{100 * LEAST_SPREAD:.0f} cm apart or more."
        )
    normal = axes[2] * np.sign(axes[2][2] or 1.0)
    if normal[2] < np.cos(np.radians(STEEPEST)):
        raise CalibrationError(
            f"the plane through the touched points is tilted by more than {STEEPEST:.0f} degrees: that is no table. "
            "Touch its top only."
        )
    away = points - middle
    return Plane(
        middle=middle,
        normal=normal,
        error=float(np.abs(away @ normal).max()),
        highest=float(middle[2] - (away[:, :2] @ normal[:2]).min() / normal[2]),
    )


@dataclass(frozen=True)
class Placement:
    """Where one arm stands in the frame of another."""

    transform: Float[ndarray, "4 4"]
    """The right arm's base in the left arm's base frame (`tx_left_right`), metres."""
    error: float
    """Root mean square distance of the touched points after it, metres; from a tracker one standard deviation."""
    distances: Float[ndarray, " n"]
    """Of each touched point, metres; none where it was not made from points."""
    points: Float[ndarray, "n 3"]
    """The same points in the left arm's base frame, metres."""

    def unsure(self, place: Float[ndarray, " 3"]) -> tuple[float, float]:
        """How well touched points tell where the right arm, or what it carries, is.

        Args:
            place: of it, in the left arm's base frame, metres.

        Returns:
            One standard deviation: metres there, and degrees of its turn.
        """
        away = self.points - place
        turns = np.cross(np.eye(3), away[:, None]).transpose(0, 2, 1)
        slopes = np.concatenate([np.tile(np.eye(3), (len(away), 1, 1)), turns], axis=2).reshape(-1, 6)
        # six numbers were fitted to three of each point
        left = float(np.sqrt(np.square(self.distances).sum() / (3 * len(away) - 6)))
        covariance = max(TOUCHED, left) ** 2 * np.linalg.inv(slopes.T @ slopes)
        metres, radians = (
            float(np.sqrt(np.trace(part))) for part in (covariance[:3, :3], covariance[3:, 3:])
        )
        return metres, float(np.degrees(radians))


def placement(left: Float[ndarray, "n 3"], right: Float[ndarray, "n 3"]) -> Placement:
    """From the same points touched by both arms, each in its own base frame (metres): three or more.

    Least squares without scale (Kabsch 1976).

    Raises:
        CalibrationError: other numbers of points, on a line, out of reach, or distances that differ between the arms.
    """
    left, right = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    finite = np.isfinite(left).all() and np.isfinite(right).all()
    if left.shape != right.shape or left.ndim != 2 or left.shape[1:] != (3,) or len(left) < 3 or not finite:
        raise CalibrationError(
            f"the left arm touched {left.shape} and the right arm {right.shape}, expected the same three points or "
            "more by both, (n, 3), all finite."
        )
    if (reach := float(np.linalg.norm([left, right], axis=2).max())) > FARTHEST:
        raise CalibrationError(
            f"a touched point lies {reach:.1f} m from the base of the arm that touched it, expected {FARTHEST:g} m or "
            "less: were these metres, in the cell frame?"
        )
    a, b = left - left.mean(axis=0), right - right.mean(axis=0)
    if np.linalg.svd(a, compute_uv=False)[1] / np.sqrt(len(a)) < LEAST_SPREAD / 2:
        raise CalibrationError("the touched points lie on a line: one more, away from it, is needed.")
    rotation, _ = Rotation.align_vectors(a, b)
    transform = np.eye(4)
    transform[:3, :3] = rotation.as_matrix()
    transform[:3, 3] = left.mean(axis=0) - rotation.apply(right.mean(axis=0))
    distances = np.linalg.norm(a - rotation.apply(b), axis=1)
    error = float(np.sqrt(np.mean(distances**2)))
    if error > 0.02:
        raise CalibrationError(
            f"the two arms' points do not fit onto each other: {1e3 * error:.0f} mm are left. Were they touched in the "
            "same order, with tools that are set in both controllers?"
        )
    return Placement(transform, error, distances, left)


def placement_by_tracker(
    left_base: Float[ndarray, "4 4"], right_base: Float[ndarray, "4 4"], *, error: float
) -> Placement:
    """From two hand-eye calibrations under the same stations: their `base`, and a standard deviation in metres."""
    return Placement(np.linalg.inv(left_base) @ right_base, error, np.zeros(0), np.zeros((0, 3)))
