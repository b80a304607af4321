"""SE(3) poses: homogeneous matrices, rotation vectors, column-6D rotations; relative, absolute and delta.

A pose ``T`` is a homogeneous matrix ``(..., 4, 4)`` in metres that maps points of the child frame into the
parent frame. Every function keeps the floating-point type of its input (float32 or float64; everything else
becomes float64) and raises :class:`~rdt2.errors.PoseError` for a wrong shape, for values that are not finite
and for matrices that are no rigid transform.

6D rotations are the first two COLUMNS of the rotation matrix, one after the other; the identity is
``[1, 0, 0, 0, 1, 0]``. Data that stores the first two rows (UMI and others do) must go through
:func:`rot6d_from_rows` first: read as columns it would give the transposed rotation, silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import PoseError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

RIGID_TOLERANCE = 1e-3
"""Largest departure of ``R @ R.T`` from the identity: far above float32 noise, far below a real fault."""


# --------------------------------------------------------------------------------------------------- checks


def _floating(values: ArrayLike, name: str, tail: tuple[int, ...]) -> np.ndarray:
    """Returns ``values`` as float32 or float64 with the trailing shape ``tail``, all finite."""
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.shape[array.ndim - len(tail) :] != tail:
        expected = ", ".join(["...", *map(str, tail)])
        raise PoseError(f"{name} has shape {array.shape}, expected ({expected}).")
    if not np.isfinite(array).all():
        raise PoseError(f"{name} holds NaN or infinite values; a pose must be finite. Check its source.")
    return array


def _rotation(values: ArrayLike, name: str) -> np.ndarray:
    matrix = _floating(values, name, (3, 3))
    error = np.abs(matrix @ np.swapaxes(matrix, -1, -2) - np.eye(3)).max(initial=0.0)
    if error > RIGID_TOLERANCE or (np.linalg.det(matrix) < 0).any():
        raise PoseError(
            f"{name} is not a rotation: R @ R.T differs from the identity by {error:.3g}, or it mirrors. "
            "Pass right-handed orthonormal matrices."
        )
    return matrix


def _transform(values: ArrayLike, name: str) -> np.ndarray:
    matrix = _floating(values, name, (4, 4))
    if np.abs(matrix[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(initial=0.0) > 1e-6:
        raise PoseError(f"{name} has a last row other than [0, 0, 0, 1]; expected homogeneous matrices.")
    _rotation(matrix[..., :3, :3], f"the rotation of {name}")
    return matrix


def _assemble(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    dtype = np.result_type(rotation, position)
    matrix = np.zeros((*rotation.shape[:-2], 4, 4), dtype)
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = position
    matrix[..., 3, 3] = 1
    return matrix


def _scipy_rotation() -> Any:
    # Imported on use: models and training need only the 6D functions, which are plain numpy.
    from scipy.spatial.transform import Rotation

    return Rotation


# ---------------------------------------------------------------------------------------------- 6D rotations


def rot6d_to_matrix(rot6d: Float[ndarray, "*b 6"]) -> Float[ndarray, "*b 3 3"]:
    """Column-6D rotations to matrices by Gram-Schmidt (Zhou et al., 2019); input need not be normalised.

    Raises:
        PoseError: if the two columns are zero or parallel, so that they name no rotation.
    """
    values = _floating(rot6d, "6D rotation", (6,))
    first, second = values[..., :3], values[..., 3:]
    first_norm = np.linalg.norm(first, axis=-1, keepdims=True)
    if (first_norm < 1e-6).any():
        raise PoseError("6D rotation has a first column of length zero; the identity is [1, 0, 0, 0, 1, 0].")
    x = first / first_norm
    y = second - (x * second).sum(axis=-1, keepdims=True) * x
    y_norm = np.linalg.norm(y, axis=-1, keepdims=True)
    if (y_norm < 1e-6).any():
        raise PoseError("6D rotation has parallel or zero columns; the identity is [1, 0, 0, 0, 1, 0].")
    y = y / y_norm
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def matrix_to_rot6d(rotation: Float[ndarray, "*b 3 3"]) -> Float[ndarray, "*b 6"]:
    """The first two columns of rotation matrices, one after the other."""
    matrix = _rotation(rotation, "rotation")
    return np.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


def rot6d_from_rows(rows: Float[ndarray, "*b 6"]) -> Float[ndarray, "*b 6"]:
    """Converts 6D rotations stored as the first two ROWS of R into this package's columns."""
    # Read as columns, rows give R transposed: decode that way and transpose back.
    return matrix_to_rot6d(np.swapaxes(rot6d_to_matrix(rows), -1, -2))


# ------------------------------------------------------------------------------------- vectors and matrices


def pose_to_matrix(pose: Float[ndarray, "*b 6"]) -> Float[ndarray, "*b 4 4"]:
    """Position (m) and rotation vector (rad), six numbers, to homogeneous matrices."""
    values = _floating(pose, "pose", (6,))
    rotation = _scipy_rotation().from_rotvec(values[..., 3:].reshape(-1, 3).astype(np.float64)).as_matrix()
    return _assemble(rotation.reshape(*values.shape[:-1], 3, 3).astype(values.dtype), values[..., :3])


def matrix_to_pose(matrix: Float[ndarray, "*b 4 4"]) -> Float[ndarray, "*b 6"]:
    """Homogeneous matrices to position (m) and rotation vector (rad, of length at most pi)."""
    values = _transform(matrix, "pose matrix")
    rotation = _scipy_rotation().from_matrix(values[..., :3, :3].reshape(-1, 3, 3).astype(np.float64))
    rotvec = rotation.as_rotvec().reshape(*values.shape[:-2], 3).astype(values.dtype)
    return np.concatenate([values[..., :3, 3], rotvec], axis=-1)


def pose9_to_matrix(pose9: Float[ndarray, "*b 9"]) -> Float[ndarray, "*b 4 4"]:
    """Position (m) and column-6D rotation, nine numbers, to homogeneous matrices."""
    values = _floating(pose9, "9-number pose", (9,))
    return _assemble(rot6d_to_matrix(values[..., 3:]), values[..., :3])


def matrix_to_pose9(matrix: Float[ndarray, "*b 4 4"]) -> Float[ndarray, "*b 9"]:
    """Homogeneous matrices to position (m) and column-6D rotation."""
    values = _transform(matrix, "pose matrix")
    return np.concatenate([values[..., :3, 3], values[..., :3, 0], values[..., :3, 1]], axis=-1)


# ------------------------------------------------------------------------- relative, absolute, delta, frames


def invert(matrix: Float[ndarray, "*b 4 4"]) -> Float[ndarray, "*b 4 4"]:
    """The inverse transform, by transposing the rotation."""
    values = _transform(matrix, "transform")
    rotation = np.swapaxes(values[..., :3, :3], -1, -2)
    return _assemble(rotation, -(rotation @ values[..., :3, 3:])[..., 0])


def relative(observed: Float[ndarray, "*b 4 4"], poses: Float[ndarray, "*b 4 4"]) -> Float[ndarray, "*b 4 4"]:
    """``inv(T_obs) @ T``: poses seen from the pose at the observation, both in one parent frame."""
    return invert(observed) @ _transform(poses, "poses")


def absolute(
    observed: Float[ndarray, "*b 4 4"], relative_poses: Float[ndarray, "*b 4 4"]
) -> Float[ndarray, "*b 4 4"]:
    """``T_obs @ T_rel``: the inverse of :func:`relative`."""
    return _transform(observed, "observed pose") @ _transform(relative_poses, "relative poses")


def to_delta(base: Float[ndarray, "4 4"], poses: Float[ndarray, "n 4 4"]) -> Float[ndarray, "n 4 4"]:
    """Step-to-step motion: position differences and ``R[i] @ R[i-1].T``, both in the PARENT frame.

    Row 0 is the step from ``base`` to ``poses[0]``. This is the "delta" representation of UMI.
    """
    base, poses = _transform(base, "base pose"), _transform(poses, "poses")
    before = np.concatenate([base[None], poses[:-1]])
    rotation = poses[:, :3, :3] @ np.swapaxes(before[:, :3, :3], -1, -2)
    return _assemble(rotation, poses[:, :3, 3] - before[:, :3, 3])


def from_delta(base: Float[ndarray, "4 4"], deltas: Float[ndarray, "n 4 4"]) -> Float[ndarray, "n 4 4"]:
    """Adds up step-to-step motion from ``base``: the inverse of :func:`to_delta`."""
    base, deltas = _transform(base, "base pose"), _transform(deltas, "deltas")
    poses = np.empty_like(deltas, dtype=np.result_type(base, deltas))
    previous = base
    for index, delta in enumerate(deltas):
        previous = _assemble(delta[:3, :3] @ previous[:3, :3], previous[:3, 3] + delta[:3, 3])
        poses[index] = previous
    return poses


TRACKER_TO_POLICY = np.array(
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.078], [0.0, 0.0, 1.0, -0.026705], [0.0, 0.0, 0.0, 1.0]]
)
"""Where the frame whose motion the released models predict sits on the handheld gripper's tracker (m)."""
TRACKER_TO_POLICY.setflags(write=False)


def policy_to_tcp_transform(
    tracker_to_tcp: Float[ndarray, "4 4"], tracker_to_policy: Float[ndarray, "4 4"] = TRACKER_TO_POLICY
) -> Float[ndarray, "4 4"]:
    """``C = inv(T_tracker_to_tcp) @ T_tracker_to_policy``, the argument of :func:`conjugate`.

    ``tracker_to_tcp`` is the calibration of the robot at hand (``tx_tracker_to_tcp`` in robot files). It has
    no default on purpose: another robot's value moves the tool by decimetres.
    """
    return invert(tracker_to_tcp) @ _transform(tracker_to_policy, "tracker_to_policy")


def conjugate(
    relative_poses: Float[ndarray, "*b 4 4"], frame_change: Float[ndarray, "4 4"]
) -> Float[ndarray, "*b 4 4"]:
    """``C @ T_rel @ inv(C)``: the same motion of a rigid body, expressed in another of its frames.

    With ``C`` from :func:`policy_to_tcp_transform`, motion of the policy frame becomes motion of the TCP;
    with ``invert(C)``, the other way.
    """
    frame_change = _transform(frame_change, "frame change")
    return frame_change @ _transform(relative_poses, "relative poses") @ invert(frame_change)


# ------------------------------------------------------------------------------- interpolation and distance


def interpolate(
    times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"], query: Float[ndarray, " m"]
) -> Float[ndarray, "m 4 4"]:
    """Poses at ``query`` times (s): linear in position, spherical-linear in rotation, held at both ends.

    Raises:
        PoseError: if ``times`` do not increase strictly or do not match ``poses``.
    """
    times, query = np.asarray(times, np.float64), np.atleast_1d(np.asarray(query, np.float64))
    poses = _transform(poses, "poses")
    if times.ndim != 1 or poses.ndim != 3 or len(times) != len(poses) or len(times) == 0:
        raise PoseError(f"interpolate needs one time a pose, got {times.shape} for poses {poses.shape}.")
    if not (np.isfinite(times).all() and np.isfinite(query).all() and (np.diff(times) > 0).all()):
        raise PoseError("interpolate needs finite times that increase strictly.")
    if len(times) == 1:
        return np.repeat(poses, len(query), axis=0)
    after = np.clip(np.searchsorted(times, query, side="right"), 1, len(times) - 1)
    start, end = poses[after - 1], poses[after]
    fraction = np.clip((query - times[after - 1]) / (times[after] - times[after - 1]), 0.0, 1.0)[:, None]
    rotation = _scipy_rotation()
    turn = rotation.from_matrix(np.swapaxes(start[:, :3, :3], -1, -2) @ end[:, :3, :3]).as_rotvec()
    turned = start[:, :3, :3] @ rotation.from_rotvec(turn * fraction).as_matrix()
    position = start[:, :3, 3] + fraction * (end[:, :3, 3] - start[:, :3, 3])
    return _assemble(turned, position).astype(poses.dtype)


def geodesic_angle(first: Float[ndarray, "*b 3 3"], second: Float[ndarray, "*b 3 3"]) -> Float[ndarray, "*b"]:
    """Angle (rad, 0..pi) of the rotation between two rotation matrices.

    From both sine and cosine, so that equal rotations give zero; an arc cosine alone, clamped against
    rounding, gives 0.03 degrees for them in float32.
    """
    between = np.swapaxes(_rotation(first, "rotation"), -1, -2) @ _rotation(second, "rotation")
    skew = np.stack(
        [
            between[..., 2, 1] - between[..., 1, 2],
            between[..., 0, 2] - between[..., 2, 0],
            between[..., 1, 0] - between[..., 0, 1],
        ],
        axis=-1,
    )
    return np.arctan2(np.linalg.norm(skew, axis=-1), np.trace(between, axis1=-2, axis2=-1) - 1)
