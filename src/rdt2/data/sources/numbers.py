"""Recorded numbers as poses in metres and widths in metres, and which units they are likely in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rdt2 import pose
from rdt2.action import MODEL_WIDTH_MAX
from rdt2.data.sources.options import METRES, GripperUnit, Rotation, SourceOptions
from rdt2.errors import ConfigError, PoseError, RecordingError

if TYPE_CHECKING:
    from jaxtyping import Float

ROTATION_SIZE: dict[str, int] = {
    **{"columns": 6, "rows": 6, "xyzw": 4, "wxyz": 4, "rotvec": 3},
    **{"euler-xyz": 3, "euler-zyx": 3, "euler-xyz-intrinsic": 3, "euler-zyx-intrinsic": 3},
}
_TOLERANCE = 1e-2
"""Of lengths and dot products: stored float16 is within, values of another kind are not."""
_FARTHEST_M, _LONGEST_M = 10.0, 3.0
"""No arm works further from its origin, nor moves further in one episode, in metres."""
ARM_LENGTH_MIN = 0.01
"""Recordings in which no arm goes so far from its origin, in metres, are in another unit."""


@dataclass(frozen=True)
class Extent:
    """How far the numbers of one arm go in one episode: largest distance from 0, and between two frames on an
    axis; lowest and highest gripper number (None: none is recorded); largest angle (None: no angles)."""

    farthest: float
    longest: float
    gripper: tuple[float, float] | None
    angle: float | None


def extent(
    position: Float[np.ndarray, "n 3"],
    rotation: Float[np.ndarray, "n r"],
    gripper: Float[np.ndarray, " n"] | None,
    kind: Rotation,
) -> Extent:
    """See Extent. What is not finite does not count: it is named when its episode is read."""
    position = position[np.isfinite(position).all(-1)]
    angles = np.abs(rotation) if kind.startswith("euler") else np.linalg.norm(rotation, axis=-1)
    angles = angles[np.isfinite(angles)]
    grip = None if gripper is None else gripper[np.isfinite(gripper)]
    return Extent(
        farthest=float(np.abs(position).max(initial=0.0)),
        longest=float(np.ptp(position, axis=0).max()) if len(position) else 0.0,
        gripper=None if grip is None or not len(grip) else (float(grip.min()), float(grip.max())),
        angle=float(angles.max(initial=0.0)) if ROTATION_SIZE[kind] == 3 else None,
    )


# ---------------------------------------------------------------------------------------------------- poses


def is_quaternion(values: Float[np.ndarray, "n 4"]) -> bool:
    """Most rows have length 1."""
    norm = np.linalg.norm(values, axis=-1)
    return len(values) > 0 and float((np.abs(norm - 1) < _TOLERANCE).mean()) > 0.5


def is_6d(values: Float[np.ndarray, "n 6"]) -> bool:
    """Most rows are two orthonormal vectors."""
    return len(values) > 0 and float((_off_6d(values) < _TOLERANCE).mean()) > 0.5


def _off_6d(values: np.ndarray) -> np.ndarray:
    first, second = values[:, :3], values[:, 3:]
    return np.abs(np.stack([(first**2).sum(-1) - 1, (second**2).sum(-1) - 1, (first * second).sum(-1)])).max(
        0
    )


def check_positions(extents: Mapping[str, Extent], unit: str | None, *, where: str) -> None:
    """Judge the unit of positions by how far they go; ``unit``: what the user or the names say.

    Raises:
        ConfigError: not metres and nothing says so, or metres although another unit is said.
    """
    for name, far in extents.items():
        if unit is None and (far.farthest > _FARTHEST_M or far.longest > _LONGEST_M):
            likely = "mm" if max(far.farthest, far.longest) > 200 else "cm or mm"
            raise ConfigError(
                f"{where}: positions of {name} go {far.farthest:.4g} from 0 and move by {far.longest:.4g}: no arm "
                f"does that in metres, they look like {likely}. Say the unit: --position-unit mm (or cm, or m)"
            )
    farthest = max((far.farthest for far in extents.values()), default=0.0)
    if unit in ("cm", "mm") and 0 < farthest * METRES[unit] < ARM_LENGTH_MIN:
        raise ConfigError(
            f"{where}: positions go {farthest:.4g} from 0 at most, which is {1e3 * farthest * METRES[unit]:.2g} mm "
            f"in {unit}: they look like metres. Leave --position-unit out, or say --position-unit m"
        )


def guess_angle_unit(extents: Mapping[str, Extent]) -> tuple[Literal["rad", "deg"], str]:
    """rad or deg, and why."""
    highest = max((far.angle or 0.0 for far in extents.values()), default=0.0)
    if highest > 2 * np.pi + 0.01:
        return "deg", f"the angles go to {highest:.4g}, beyond 2 pi"
    return "rad", f"the angles go to {highest:.3g}; degrees of small motions would look the same"


def to_matrices(
    position: Float[np.ndarray, "n 3"], rotation: Float[np.ndarray, "n r"], kind: Rotation, *, where: str
) -> Float[np.ndarray, "n 4 4"]:
    """Positions (m) and rotations of any storage (angles in rad) as homogeneous matrices, float64.

    Raises:
        PoseError: NaN, a wrong number of columns, or values that are no rotation of that kind.
    """
    from scipy.spatial.transform import Rotation as Scipy

    position, rotation = np.asarray(position, np.float64), np.asarray(rotation, np.float64)
    size = ROTATION_SIZE[kind]
    if position.shape != (len(position), 3) or rotation.shape != (len(position), size):
        raise PoseError(
            f"{where}: positions {position.shape} and rotations {rotation.shape}, expected (n, 3) and "
            f"(n, {size}) for {kind!r}. Choose another --rotation."
        )
    require_finite(position, rotation, where=where)
    if size == 6:
        off = _off_6d(rotation)
        _require_rotations(
            off > _TOLERANCE, off, "6D rotation", "is off two orthonormal vectors by {:.3g}", where
        )
        matrices = pose.rot6d_to_matrix(pose.rot6d_from_rows(rotation) if kind == "rows" else rotation)
    elif size == 4:
        norm = np.linalg.norm(rotation, axis=-1)
        bad = np.abs(norm - 1) > _TOLERANCE
        _require_rotations(bad, norm, "quaternion", "has length {:.3g}, expected 1", where)
        matrices = Scipy.from_quat(rotation if kind == "xyzw" else rotation[:, [1, 2, 3, 0]]).as_matrix()
    elif kind == "rotvec":
        matrices = Scipy.from_rotvec(rotation).as_matrix()
    else:
        _, order, *intrinsic = kind.split("-")
        matrices = Scipy.from_euler(order.upper() if intrinsic else order, rotation).as_matrix()
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = matrices, position
    return poses


def require_finite(
    position: Float[np.ndarray, "n 3"], rotation: Float[np.ndarray, "n r"], *, where: str
) -> None:
    """Raises PoseError for poses with NaN, naming the first frame."""
    bad = ~(np.isfinite(position).all(-1) & np.isfinite(rotation).all(-1))
    if bad.any():
        raise PoseError(
            f"{where}: the pose of frame {int(bad.argmax())} holds NaN or infinity ({int(bad.sum())} such "
            f"frames). Tracking was lost: cut the recording there."
        )


def _require_rotations(bad: np.ndarray, values: np.ndarray, what: str, how: str, where: str) -> None:
    """Tell a recording that is bad in some frames from one that stores rotations otherwise."""
    if not bad.any():
        return
    frame = int(bad.argmax())
    found = f"{where}: the {what} of frame {frame} {how.format(values[frame])}"
    if bad.mean() > 0.5:
        raise PoseError(f"{found} ({int(bad.sum())} of {len(bad)} frames are so). Choose another --rotation.")
    raise PoseError(
        f"{found}; {len(bad) - int(bad.sum())} of {len(bad)} frames are right: tracking was lost there. Cut the "
        f"recording there, or leave the episode out (rdt2 data convert --skip-damaged)."
    )


# --------------------------------------------------------------------------------------------------- widths


def guess_gripper(extents: Mapping[str, tuple[float, float]], *, where: str) -> tuple[GripperUnit, str]:
    """The likely unit of gripper numbers, and why. extents: lowest and highest number of each episode.

    Raises:
        ConfigError: the numbers look like no unit that can be guessed, or two episodes like different ones.
    """
    low, high = min(pair[0] for pair in extents.values()), max(pair[1] for pair in extents.values())
    reason = f"the recorded numbers run from {low:.4g} to {high:.4g}"
    if low >= -0.005 and high <= 0.15:
        return "m", reason
    widest = max(extents, key=lambda name: extents[name][1])
    small = next((name for name, pair in extents.items() if _too_small_for_mm(pair)), None)
    if low >= -5 and 20 < high <= 150 and small is None:
        return "mm", f"{reason}; percent would look the same (--gripper-unit range --gripper-range 0 100)"
    among = f" (to {extents[small][1]:.4g} in {small}, to {high:.4g} in {widest})" if small else ""
    share = (
        "0 1"
        if low > -0.05 and high < 1.05
        else "0 100"
        if low > -5 and high < 105
        else f"{low:.4g} {high:.4g}"
    )
    raise ConfigError(
        f"{where}: gripper: {reason}{among}, which is neither metres nor millimetres of one gripper. Say what they "
        f"mean: --gripper-unit range --gripper-range {share} (the numbers of a closed and of an open gripper, in that "
        f"order), or --gripper-unit mm, cm or m"
    )


def contradicts_unit(values: tuple[float, float], unit: GripperUnit) -> bool:
    """Whether the lowest and highest number of an episode speak against a unit that was guessed."""
    low, high = values
    return (unit == "m" and high > 0.15) or (unit == "mm" and _too_small_for_mm(values)) or low < -5


def _too_small_for_mm(values: tuple[float, float]) -> bool:
    """Numbers of metres, or of a share of the opening; what moves by less than 0.1 may be a gripper that is closed."""
    low, high = values
    return 0.01 < high <= 0.15 or (high <= 1.05 and high - low > 0.1)


def to_widths(
    values: Float[np.ndarray, " n"], unit: GripperUnit, options: SourceOptions, *, where: str
) -> Float[np.ndarray, " n"]:
    """Recorded gripper numbers as widths in metres, float64.

    Raises:
        RecordingError: NaN, or widths that no handheld gripper has (outside -5 mm .. 0.2 m).
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise RecordingError(
            f"{where}: the gripper of frame {int((~np.isfinite(values)).argmax())} is NaN or infinite. "
            f"Cut the recording there."
        )
    if unit == "range":
        assert options.gripper_range is not None
        closed, opened = options.gripper_range
        widest = MODEL_WIDTH_MAX if options.gripper_open is None else options.gripper_open
        widths = (values - closed) / (opened - closed) * widest
    else:
        widths = values * METRES[unit]
    if widths.min(initial=0.0) < -0.005 or widths.max(initial=0.0) > 0.2:
        raise RecordingError(
            f"{where}: gripper widths run from {widths.min():.4g} to {widths.max():.4g} m with unit "
            f"{unit!r}; expected 0 to 0.2 m. Choose another --gripper-unit."
        )
    return widths
