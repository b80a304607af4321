"""Open-loop errors of action chunks, always computed in float64.

A chunk is (24, 20): per arm position 3 (metres), 6D rotation (columns), gripper width (metres), right arm
first. The four published metrics are the mean squared errors over all numbers, over the positions and over
the widths, and the geodesic angle between the rotations. Metres squared say little, so the mean position and
width errors in millimetres stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ACTION_DIM, POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS
from rdt2.errors import ActionError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

    from rdt2.action import ActionChunk

_POSITION, _ROTATION, _WIDTH = list(POSITION_DIMS), list(ROTATION_DIMS), list(WIDTH_DIMS)


@dataclass(frozen=True)
class ActionErrors:
    """Mean errors over a set of chunks."""

    action_mse: float
    """Mean squared error over all 24 x 20 numbers."""
    position_mse: float
    """Mean squared error over the position coordinates, square metres."""
    position_mm: float
    """Mean distance between predicted and true position, millimetres."""
    rotation_deg: float
    """Mean geodesic angle between predicted and true rotation, degrees."""
    width_mse: float
    """Mean squared error of the gripper widths, square metres; samples without a gripper reading left out."""
    width_mm: float
    """Mean absolute error of the gripper widths, millimetres."""
    samples: int
    """Over how many chunks the means are."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def action_errors(
    predicted: Float[ndarray, "b 24 20"],
    truth: Float[ndarray, "b 24 20"],
    *,
    width_valid: Bool[ndarray, " b"] | None = None,
) -> ActionErrors:
    """Mean errors of predicted chunks against true ones.

    Args:
        predicted: de-normalised chunks (metres), any float type.
        truth: the recorded chunks, same shape.
        width_valid: which samples have a gripper reading; the others do not count in the width errors.

    Returns:
        The means. No sample at all, or no valid width, gives NaN there: not measured is not zero.

    Raises:
        ActionError: shapes that differ or are not (b, T, 20), or values that are not finite.
    """
    errors = per_sample_errors(predicted, truth)
    count = len(errors["action_mse"])
    valid = np.ones(count, bool) if width_valid is None else np.asarray(width_valid).astype(bool)
    if valid.shape != (count,):
        raise ActionError(f"width_valid is {valid.shape}, expected ({count},): one flag for each chunk.")
    means = {name: _mean(e[valid] if name.startswith("width") else e) for name, e in errors.items()}
    return ActionErrors(**means, samples=count)


def per_sample_errors(
    predicted: Float[ndarray, "b 24 20"], truth: Float[ndarray, "b 24 20"]
) -> dict[str, Float[ndarray, " b"]]:
    """The errors of each chunk, by the field names of `ActionErrors`, float64.

    Raises:
        ActionError: shapes that differ or are not (b, T, 20), or values that are not finite.
    """
    p, t = _checked(predicted, "predicted"), _checked(truth, "truth")
    if p.shape != t.shape:
        raise ActionError(f"predicted chunks are {p.shape} and true ones {t.shape}: expected the same shape.")
    squared = (p - t) ** 2
    steps = (*p.shape[:2], 2)
    distance = np.linalg.norm((p - t)[..., _POSITION].reshape(*steps, 3), axis=-1)
    angle = rotation_error(p[..., _ROTATION].reshape(*steps, 6), t[..., _ROTATION].reshape(*steps, 6))
    return {
        "action_mse": squared.mean(axis=(1, 2)),
        "position_mse": squared[..., _POSITION].mean(axis=(1, 2)),
        "position_mm": 1000 * distance.mean(axis=(1, 2)),
        "rotation_deg": np.degrees(angle).mean(axis=(1, 2)),
        "width_mse": squared[..., _WIDTH].mean(axis=(1, 2)),
        "width_mm": 1000 * np.abs(p - t)[..., _WIDTH].mean(axis=(1, 2)),
    }


def rotation_error(predicted: Float[ndarray, "... 6"], truth: Float[ndarray, "... 6"]) -> Float[ndarray, ...]:
    """Geodesic angle in radians between 6D rotations (columns; decoded by Gram-Schmidt)."""
    from rdt2 import pose

    return pose.geodesic_angle(pose.rot6d_to_matrix(predicted), pose.rot6d_to_matrix(truth))


def valid_rate(chunks: Sequence[ActionChunk]) -> float:
    """Share of chunks whose token string was valid, 0..1 (NaN for no chunks).

    A VQ policy can write a string that decodes to nothing; such a chunk is never executed and counts here as
    a miss.
    """
    return _mean(np.array([chunk.valid for chunk in chunks], dtype=np.float64))


def _mean(values: ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _checked(chunks: ndarray, name: str) -> ndarray:
    array = np.asarray(chunks, dtype=np.float64)
    if array.ndim != 3 or array.shape[-1] != ACTION_DIM:
        raise ActionError(
            f"{name} chunks are {array.shape}, expected (samples, 24, 20). Add a batch axis to one chunk."
        )
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ActionError(f"{name} chunks: sample {bad[0]}, step {bad[1]}, dimension {bad[2]} is not finite.")
    return array
