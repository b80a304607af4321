"""What a recording does not say about itself, and how its numbers become poses, widths and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rdt2 import pose
from rdt2.action import MODEL_WIDTH_MAX
from rdt2.data.clock import TimeUnit
from rdt2.errors import ConfigError, PoseError, RecordingError

if TYPE_CHECKING:
    from jaxtyping import Float

Rotation = Literal["columns", "rows", "xyzw", "wxyz", "rotvec"]
ArmOrder = Literal["right-left", "left-right", "right", "left"]
GripperUnit = Literal["m", "mm", "range"]

ROTATION_SIZE: dict[str, int] = {"columns": 6, "rows": 6, "xyzw": 4, "wxyz": 4, "rotvec": 3}


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read a recording. None where the source should guess; a guess is shown, never silent."""

    arms: ArmOrder | None = None
    """Which arm robot 0 is, then robot 1; one name for one-armed data. UMI: right-left; FastUMI: left-right."""
    rotation: Rotation | None = None
    """Storage of rotations: first two columns or rows of the matrix, quaternion order, rotation vector (rad)."""
    fps: float | None = None
    """Frames a second of the recording. It is needed where there are no timestamps; where there are, it takes their
    place, and of a clock that is even otherwise only the pauses are kept."""
    time_unit: TimeUnit | None = None
    """Unit of recorded timestamps. Seconds, ms, us and ns are told apart by the frame rate they give; say it where
    two units give a likely one, such as 1 and 1000 frames a second."""
    gripper_unit: GripperUnit | None = None
    """Unit of the gripper numbers; range: linear between the two numbers of --gripper-range."""
    gripper_range: tuple[float, float] | None = None
    """The recorded number when closed and when open."""
    gripper_open: float = MODEL_WIDTH_MAX
    """With --gripper-unit range: width of the open gripper (m)."""
    cameras: tuple[str, str] | None = None
    """Names of the right and the left wrist camera; of one arm alone, its name twice."""
    color: Literal["rgb", "bgr"] | None = None
    """Channel order of stored pictures."""
    crop: int | None = None
    """Side (pixels) of the centred square that is resized to 384; none takes the largest square."""
    missing_arm: Literal["refuse", "still"] = "refuse"
    """One-armed data: still adds an arm that does not move, with a grey picture."""
    pose_key: str | None = None
    """Where the poses are: a dataset in the HDF5 files, a LeRobot feature, or topics like /{arm}/pose."""
    gripper_key: str | None = None
    """MCAP: where the gripper openings are, topics like /{arm}/gripper."""
    message_clock: Literal["header", "recorder"] = "header"
    """MCAP: messages are timed by their headers, or, where machines with different clocks stamped them, by the
    recorder, which does not know how long each message was on its way."""
    missing_chunks: Literal["refuse", "fill"] = "refuse"
    """UMI's zarr: a chunk that is not stored was lost, or left out because it holds the fill value only, as a black
    picture does. refuse: name the episode; fill: take the fill value."""
    instruction: str | None = None
    """Sentence for episodes and frames whose own is missing or blank."""

    def __post_init__(self) -> None:
        if self.fps is not None and not 1 <= self.fps <= 1000:
            raise ConfigError(f"fps is {self.fps}, expected 1 to 1000 frames a second.")
        if self.gripper_unit == "range" and self.gripper_range is None:
            raise ConfigError(
                "gripper_unit is 'range': say which recorded numbers mean closed and open (--gripper-range 0 1)."
            )
        if self.gripper_range is not None and self.gripper_range[0] == self.gripper_range[1]:
            raise ConfigError(f"gripper_range is {self.gripper_range}: closed and open must differ.")
        if self.crop is not None and self.crop < 16:
            raise ConfigError(f"crop is {self.crop} pixels, expected 16 or more.")


@dataclass(frozen=True)
class Guess:
    """Something the recording does not say, what was taken for it, and why."""

    option: str
    value: str
    reason: str

    @property
    def flag(self) -> str:
        """The command-line flag that confirms it."""
        return f"--{self.option.replace('_', '-')} {self.value}"


# ---------------------------------------------------------------------------------------------------- poses


def to_matrices(
    position: Float[np.ndarray, "n 3"], rotation: Float[np.ndarray, "n r"], kind: Rotation, *, where: str
) -> Float[np.ndarray, "n 4 4"]:
    """Positions (m) and rotations of any storage as homogeneous matrices, float64.

    Raises:
        PoseError: NaN, a wrong number of columns, or values that are no rotation of that kind.
    """
    from scipy.spatial.transform import Rotation as Scipy

    position, rotation = np.asarray(position, np.float64), np.asarray(rotation, np.float64)
    if (
        position.ndim != 2
        or position.shape[1] != 3
        or rotation.shape
        != (
            len(position),
            ROTATION_SIZE[kind],
        )
    ):
        raise PoseError(
            f"{where}: positions {position.shape} and rotations {rotation.shape}, expected (n, 3) and "
            f"(n, {ROTATION_SIZE[kind]}) for {kind!r}. Choose another --rotation."
        )
    bad = ~(np.isfinite(position).all(-1) & np.isfinite(rotation).all(-1))
    if bad.any():
        raise PoseError(
            f"{where}: the pose of frame {int(bad.argmax())} holds NaN or infinity ({int(bad.sum())} such "
            f"frames). Tracking was lost: cut the recording there."
        )
    if kind in ("columns", "rows"):
        first, second = rotation[:, :3], rotation[:, 3:]
        error = np.abs(
            np.stack([(first**2).sum(-1) - 1, (second**2).sum(-1) - 1, (first * second).sum(-1)])
        ).max(initial=0.0)
        if error > 1e-2:
            raise PoseError(
                f"{where}: the 6D rotations are not two orthonormal vectors (off by {error:.3g}). "
                f"Choose another --rotation."
            )
        columns = pose.rot6d_from_rows(rotation) if kind == "rows" else rotation
        matrices = pose.rot6d_to_matrix(columns)
    elif kind == "rotvec":
        matrices = Scipy.from_rotvec(rotation).as_matrix()
    else:
        norm = np.linalg.norm(rotation, axis=-1)
        if np.abs(norm - 1).max(initial=0.0) > 1e-2:
            frame = int(np.abs(norm - 1).argmax())
            raise PoseError(
                f"{where}: the quaternion of frame {frame} has length {norm[frame]:.3g}, expected 1. "
                f"Choose another --rotation."
            )
        matrices = Scipy.from_quat(rotation if kind == "xyzw" else rotation[:, [1, 2, 3, 0]]).as_matrix()
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = matrices, position
    return poses


# --------------------------------------------------------------------------------------------------- widths


def guess_gripper(values: Float[np.ndarray, " n"], *, where: str) -> tuple[GripperUnit, str]:
    """The likely unit of recorded gripper numbers, and why.

    Raises:
        ConfigError: the numbers look like no unit that can be guessed.
    """
    low, high = float(np.min(values)), float(np.max(values))
    reason = f"the recorded numbers run from {low:.4g} to {high:.4g}"
    if low >= -0.005 and high <= 0.15:
        return "m", reason
    if low >= -5 and 5 < high <= 150:
        return "mm", reason
    raise ConfigError(
        f"{where}: {reason}, which is neither metres nor millimetres of a gripper. Say what they mean, for "
        f"example --gripper-unit range --gripper-range {low:.4g} {high:.4g} (closed, open)."
    )


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
        widths = (values - closed) / (opened - closed) * options.gripper_open
    else:
        widths = values if unit == "m" else values * 1e-3
    if widths.min(initial=0.0) < -0.005 or widths.max(initial=0.0) > 0.2:
        raise RecordingError(
            f"{where}: gripper widths run from {widths.min():.4g} to {widths.max():.4g} m with unit "
            f"{unit!r}; expected 0 to 0.2 m. Choose another --gripper-unit."
        )
    return widths
