"""What a recording does not say about itself, and what is taken for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rdt2.data.clock import TimeUnit
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

Rotation = Literal[
    "columns",
    "rows",
    "xyzw",
    "wxyz",
    "rotvec",
    "euler-xyz",
    "euler-zyx",
    "euler-xyz-intrinsic",
    "euler-zyx-intrinsic",
]
ArmOrder = Literal["right-left", "left-right", "right", "left"]
Direction = Literal["right", "left", "down", "up", "forward", "back"]
LengthUnit = Literal["m", "cm", "mm"]
GripperUnit = Literal["m", "cm", "mm", "range"]

METRES: dict[str, float] = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read a recording. What is left out the source guesses; a guess is shown, never silent."""

    arms: ArmOrder | None = None
    """Which arm robot 0 is, then robot 1; one name for one-armed data. UMI: right-left; FastUMI: left-right."""
    rotation: Rotation | None = None
    """Storage of rotations: first two columns or rows of the matrix, quaternion order, rotation vector, or Euler
    angles. euler-xyz: roll, pitch, yaw about the FIXED axes x, y, z, as most robots have them (R = Rz Ry Rx);
    euler-zyx: about fixed z, then y, then x; -intrinsic: about the axes that turn along. Columns without names are read
    in the order of the letters: those of euler-zyx as yaw, pitch, roll."""
    angle_unit: Literal["rad", "deg"] | None = None
    """Unit of Euler angles and of the length of rotation vectors."""
    position_unit: LengthUnit | None = None
    """Unit of positions."""
    pose_names: tuple[str, ...] | None = None
    """What the columns of the poses are, in their order, where the recording does not name them or is wrong:
    left_x left_y left_z left_qw left_qx left_qy left_qz left_gripper ...; roll pitch yaw, rotvec_0.., rot6d_0..,
    r00 r10 ..; without left and right: the arms side by side alike. Any other name leaves a column out."""
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
    gripper_open: float | None = None
    """With --gripper-unit range: width of the open gripper (m); 0.088, the widest of the released models, unless the
    recordings are known to have another."""
    tool_axes: tuple[Direction, Direction, Direction] | None = None
    """Where x, y and z of the recorded tool frame point, seen from behind the gripper: left up forward. The released
    models' frame is right down forward (z along the fingers), and motion is learnt in that frame: poses are turned
    into it. Without this they stay as they are recorded."""
    cameras: tuple[str, str] | None = None
    """Names of the right and the left wrist camera; of one arm alone, its name twice."""
    color: Literal["rgb", "bgr"] | None = None
    """Channel order of stored pictures."""
    crop: int | None = None
    """Side (pixels) of the centred square that is resized to 384; none takes the largest square."""
    missing_arm: Literal["refuse", "still"] = "refuse"
    """One-armed data: still adds an arm that does not move, with a grey picture."""
    pose_key: str | None = None
    """Where the poses are: a dataset in the HDF5 files (or one an arm: arms/{arm}/tcp_pose, where {arm} stands for
    right and left), a LeRobot feature, or topics like /{arm}/pose."""
    gripper_key: str | None = None
    """Where the gripper openings are, if not beside the poses: an HDF5 dataset or LeRobot feature with a number
    for each arm (or one an arm: observations/{arm}/gripper), an array of the zarr, topics like /{arm}/gripper."""
    gripper_fixed: float | None = None
    """Width (m) of a gripper that never moves or was not recorded, instead of numbers from the recording."""
    message_clock: Literal["header", "recorder"] = "header"
    """MCAP: messages are timed by their headers, or, where machines with different clocks stamped them, by the
    recorder, which does not know how long each message was on its way."""
    missing_chunks: Literal["refuse", "fill"] = "refuse"
    """UMI's zarr: a chunk that is not stored was lost, or left out because it holds the fill value only, as a black
    picture does. refuse: name the episode; fill: take the fill value."""
    marks: Literal["success", "all", "corrections"] = "success"
    """Recordings of the loop: take those marked as a success, all of them, or only what a person drove who took over,
    of those not marked as a failure. The meta of every sample says mark, driver and correction."""
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
        if self.gripper_range is not None and self.gripper_unit not in (None, "range"):
            raise ConfigError(
                f"gripper_range is {self.gripper_range} with gripper_unit {self.gripper_unit!r}: a range needs "
                f"--gripper-unit range."
            )
        if self.gripper_open is not None and not 0 < self.gripper_open <= 0.2:
            raise ConfigError(f"gripper_open is {self.gripper_open}, expected 0 to 0.2 m.")
        if self.gripper_fixed is not None and not 0 <= self.gripper_fixed <= 0.2:
            raise ConfigError(f"gripper_fixed is {self.gripper_fixed}, expected a width of 0 to 0.2 m.")
        if self.gripper_fixed is not None and self.gripper_key is not None:
            raise ConfigError("gripper_fixed and gripper_key: a width is declared or read, not both.")
        if self.tool_axes is not None and not np.isclose(np.linalg.det(tool_rotation(self.tool_axes)), 1):
            raise ConfigError(
                f"tool_axes are {' '.join(self.tool_axes)}: no right-handed frame. Expected three directions at right "
                f"angles, such as right down forward, left up forward, or forward left up."
            )
        if self.crop is not None and self.crop < 16:
            raise ConfigError(f"crop is {self.crop} pixels, expected 16 or more.")


_DIRECTIONS: dict[str, tuple[int, int, int]] = {
    **{"right": (1, 0, 0), "down": (0, 1, 0), "forward": (0, 0, 1)},
    **{"left": (-1, 0, 0), "up": (0, -1, 0), "back": (0, 0, -1)},
}


def tool_rotation(axes: tuple[Direction, Direction, Direction]) -> Float[np.ndarray, "3 3"]:
    """The released models' tool frame (x right, y down, z forward) in a recorded one with these axes: with a recorded
    rotation R, R @ this is that of the models' frame at the same moment."""
    return np.array([_DIRECTIONS[axis] for axis in axes], np.float64)


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
