"""A robot in a yaml file: where its arms stand, what they may do, how its devices are calibrated and timed.

    settings = RobotSettings.read("cell_ur5e")          # one of configs/robots, or a path
    settings.arms["right"].bounds.speed                 # 1.5
    slower = settings.changed({"arms.right.bounds.speed": 0.5, "arms.left.bounds.speed": 0.5})

Nothing about a robot has a default here: what a file does not say is asked for, all of it at once, with what each value
means. The layout of the published robot files (cameras, robots, grippers, tx_left_right, tx_tracker_to_tcp) is read,
too; see `rdt2.robot.published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from rdt2.action import FPS, HORIZON
from rdt2.errors import ConfigError
from rdt2.registry import Registry, did_you_mean
from rdt2.robot.braking import MEAN
from rdt2.robot.grippers import GRIPPERS
from rdt2.robot.kinematics import LIMIT_MARGIN
from rdt2.robot.models import ARM_MODELS
from rdt2.robot.sense import RESETS, require_apart, require_reached, require_sense
from rdt2.robot.world import CellSettings

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.kinematics import ArmKinematics

LONGEST_STOP = 2.0
"""Seconds in which an arm must be able to come to rest."""
NEAREST_SINGULAR = 0.005
"""Metres: nearer to a singular posture a joint turns by more than a radian for 5 mm, and its speed stops the arm long
before."""
THIN = 0.01
"""Metres: a workspace that is thinner lets an arm move nowhere."""


# ------------------------------------------------------------------------------------------------- kinds of values


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _pose(value: Any) -> np.ndarray:
    try:
        pose = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError("expected a 4x4 matrix: four rows of four finite numbers")
    if np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-9:
        raise ValueError("expected the last row 0, 0, 0, 1: positions stand in the last column")
    u, _, vt = np.linalg.svd(pose[:3, :3])
    nearest = u @ vt
    if np.linalg.det(nearest) < 0 or np.abs(nearest - pose[:3, :3]).max() > 1e-3:
        raise ValueError(
            "its upper left 3x3 is not a rotation: rows and columns of length 1 at right angles, right-handed"
        )
    if np.abs(pose[:3, 3]).max() > 10:
        raise ValueError("its position is more than 10 m away: expected metres")
    pose[:3, :3] = nearest
    pose.setflags(write=False)
    return pose


def _model(value: Any) -> Any:
    return None if value is None else _named(ARM_MODELS, value)


def _named(kinds: Registry[Any], value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"expected the name of a description, one of {', '.join(kinds)}")
    kinds[value]  # says which there are, and the nearest
    return value


def _gripper(value: Any) -> Any:
    return _named(GRIPPERS, value)


def _side(value: Any) -> Any:
    if value not in ("right", "left"):
        raise ValueError("expected right or left")
    return value


def _positive(most: float, text: str) -> Any:
    """A limit: more than 0, which forbids everything, and at most what any arm does, or it limits nothing."""
    return Field(gt=0, le=most, allow_inf_nan=False, description=text)


def _seconds(text: str) -> Any:
    return Field(ge=0, le=0.8, allow_inf_nan=False, description=text)


Number = Annotated[float, BeforeValidator(_number)]
Finite = Annotated[Number, Field(allow_inf_nan=False)]
Point = tuple[Finite, Finite, Finite]
Pose = Annotated[np.ndarray, BeforeValidator(_pose), PlainSerializer(lambda pose: pose.tolist())]
Plain = str | int | float | bool | list[float] | list[list[float]]
Side = Annotated[str, BeforeValidator(_side)]


class _Settings(BaseModel):
    """Frozen, and without room for a key that nobody reads."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()
    )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


# --------------------------------------------------------------------------------------------------------- sections


class Bounds(_Settings):
    """What one arm's TCP may do. Nothing leaves these bounds, whatever the policy asks."""

    low: Point = Field(description="Corner of the TCP's workspace in the cell frame, metres: least x, y, z.")
    high: Point = Field(description="The opposite corner, metres: largest x, y, z.")
    speed: Number = _positive(5, "Largest speed of the TCP, m/s.")
    acceleration: Number = _positive(50, "Largest acceleration of the TCP, m/s^2.")
    jerk: Number = _positive(5000, "Largest jerk of the TCP, m/s^3.")
    turn_rate: Number = _positive(20, "Largest turn rate of the TCP, rad/s.")
    turn_acceleration: Number = _positive(500, "Largest angular acceleration of the TCP, rad/s^2.")
    turn_jerk: Number = _positive(20000, "Largest angular jerk of the TCP, rad/s^3.")

    @model_validator(mode="after")
    def _box(self) -> Bounds:
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            if not low < high:
                raise ValueError(f"low {axis} is {low:g} and high {axis} is {high:g}: expected low < high")
            if high - low < THIN:
                raise ValueError(
                    f"the box is {1e3 * (high - low):g} mm wide along {axis}: the TCP could move nowhere; "
                    "expected metres"
                )
            if max(-low, high) > 5:
                raise ValueError(
                    f"low {axis} is {low:g} and high {axis} is {high:g}: a bound beyond 5 m bounds nothing; "
                    "expected metres in the cell frame"
                )
        for names in (("speed", "acceleration", "jerk"), ("turn_rate", "turn_acceleration", "turn_jerk")):
            speed, acceleration, jerk = (getattr(self, name) for name in names)
            braking = MEAN * acceleration
            if (seconds := speed / braking + braking / jerk) > LONGEST_STOP:
                said = ", ".join(f"{name} {getattr(self, name):g}" for name in names)
                raise ValueError(
                    f"with {said} an arm at full speed needs {seconds:.3g} s to come to rest: expected "
                    f"{LONGEST_STOP:g} s at most (metres or radians, and seconds)"
                )
        return self


class GripperSettings(_Settings):
    """One gripper."""

    model: Annotated[str, BeforeValidator(_gripper)] = Field(
        description="Which gripper, by the name of its description (ctag2f120, cell): the shape that is kept clear."
    )
    mount: Pose = Field(
        description="4x4, the gripper's own frame (z out to the fingertips, y the way they open, the camera on the +x "
        "side) in the arm's flange, metres; of a hand without joints, in the policy's frame."
    )
    scale: Number = Field(
        gt=0, le=10, allow_inf_nan=False,
        description="Real opening for each metre of the models' opening; 0.1 / 0.088 for the Zhixing gripper.",
    )  # fmt: skip
    stroke: Number = Field(
        gt=0, le=0.5, allow_inf_nan=False, description="Largest real opening between the fingers, metres."
    )
    latency: Number = _seconds(
        "Seconds that the fingers are behind what they are commanded: until they begin, and what their servo trails by."
    )
    clock_error: Number = _seconds("Bound of what its stamps may be off the robot's clock, seconds.")
    device: dict[str, Plain] = Field(
        default={}, description="What its driver needs to find and set it up: serial number, port, force."
    )


class CameraSettings(_Settings):
    """One wrist camera."""

    latency: Number = _seconds("Seconds from the middle of the exposure until the picture can be read.")
    clock_error: Number = _seconds("Bound of what its stamps may be off the robot's clock, seconds.")
    device: dict[str, Plain] = Field(
        default={}, description="What its driver needs to find and set it up: serial number, rate, exposure."
    )


class ArmSettings(_Settings):
    """One arm with its gripper and its wrist camera."""

    model: Annotated[str | None, BeforeValidator(_model)] = Field(
        description="Which arm, by the name of its description (ur5e, fr3); null for a hand without joints."
    )
    base: Pose = Field(
        description="4x4, where the arm's base stands in the cell frame (z up, x forward, y left), metres."
    )
    tool: Pose | None = Field(
        default=None,
        description="4x4, the TCP of the arm's controller in its flange's frame, metres; only for arms with joints.",
    )
    policy_to_tcp: Pose = Field(
        description="4x4, the policy's frame in the TCP's: inv(tx_tracker_to_tcp) @ tx_tracker_to_policy, which may "
        "stand here instead, both of them."
    )
    bounds: Bounds = Field(description="What this arm's TCP may do.")
    latency: Number = _seconds("Seconds from a command to the arm's motion.")
    clock_error: Number = _seconds("Bound of what the arm's stamps may be off the robot's clock, seconds.")
    gripper: GripperSettings = Field(description="Its gripper.")
    camera: CameraSettings = Field(description="Its wrist camera.")
    device: dict[str, Plain] = Field(
        default={},
        description="What its driver needs to find and set it up: address, payload, joints to begin from.",
    )

    @model_validator(mode="before")
    @classmethod
    def _calibration(cls, values: Any) -> Any:
        """policy_to_tcp from the two transforms that a calibration with a tracker gives."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        both = ("tx_tracker_to_tcp", "tx_tracker_to_policy")
        pair = {key: values.pop(key) for key in both if key in values}
        if not pair:
            return values
        if len(pair) == 1:
            (missing,) = set(both) - set(pair)
            meant = [key for key in values if key not in cls.model_fields and did_you_mean(key, [missing])]
            near = f". Did you mean it by {meant[0]}?" if meant else ""
            raise ValueError(f"{next(iter(pair))} stands alone: expected {missing} beside it{near}")
        if "policy_to_tcp" in values:
            raise ValueError("policy_to_tcp and the two transforms it is made of: expected one or the other")
        poses = {}
        for key, value in pair.items():
            try:
                poses[key] = _pose(value)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        change = np.linalg.inv(poses["tx_tracker_to_tcp"]) @ poses["tx_tracker_to_policy"]
        return {**values, "policy_to_tcp": change}

    @property
    def begins(self) -> Float[ndarray, " n"] | None:
        """The joints that it begins from, radians; None where its device does not say."""
        name = next((name for name in RESETS if name in self.device), None)
        if name is None:
            return None
        joints = np.array(self.device[name], dtype=np.float64)
        return np.radians(joints) if name == "reset_degrees" else joints

    @model_validator(mode="after")
    def _jointed(self) -> ArmSettings:
        if (self.model is None) != (self.tool is None):
            raise ValueError(
                "tool is missing: expected the 4x4 of the TCP in the frame of the flange"
                if self.tool is None
                else "tool is given for a hand without joints (model is null): expected none"
            )
        return self


class Obstacle(_Settings):
    """A box that stands around the arms: a wall, a shelf, a post."""

    centre: Point = Field(description="Its middle in the cell frame, metres.")
    size: Point = Field(description="Its edges along its own x, y and z, metres.")
    turn: Finite = Field(
        default=0.0, ge=-360, le=360, description="Degrees that it is turned about the vertical."
    )

    @model_validator(mode="after")
    def _solid(self) -> Obstacle:
        if min(self.size) <= 0 or max(self.size) > 20:
            raise ValueError(
                f"size is {list(self.size)}: expected three edges of more than 0 and up to 20 metres"
            )
        return self


class SafetySettings(_Settings):
    """What keeps people, arms and the table whole, whatever the policy asks."""

    table_height: Finite = Field(
        ge=-2, le=2, description="Height of the table top in the cell frame, metres."
    )
    table_clearance: Number = Field(
        ge=0,
        le=0.2,
        allow_inf_nan=False,
        description="Least distance of every part of an arm to the table, metres.",
    )
    obstacles: dict[str, Obstacle] = Field(
        default={},
        description="What else stands within reach, by name: boxes (a wall is a thick one) that no moving part of an "
        "arm may touch. The table is said by table_height alone; what an arm stands on may touch its base.",
    )
    arm_clearance: Number = _positive(
        0.5,
        "Least distance between the two arms, and from an arm to an obstacle, metres; parts of one arm keep 5 mm, or "
        "this if it is less.",
    )
    slow_within: Number = _positive(
        1,
        "Distance of parts that come nearer to each other, or to an obstacle, at which they begin to slow down, "
        "metres. Over the table nothing slows: wishes are lifted, and an arm stops in time.",
    )
    joint_margin: Number = Field(
        gt=LIMIT_MARGIN,
        le=1,
        allow_inf_nan=False,
        description=f"Radians before a joint's limit at which the arm stops; inverse kinematics keep {LIMIT_MARGIN:g}.",
    )
    singularity_slow: Number = _positive(
        1,
        "Smallest singular value of the arm's weighted Jacobian (a radian counts 0.25 m) where it begins to slow down.",
    )
    singularity_stop: Number = Field(
        ge=NEAREST_SINGULAR,
        le=1,
        allow_inf_nan=False,
        description="That smallest singular value where the arm stops, less than singularity_slow.",
    )
    tracking_error_m: Number = _positive(
        0.2, "Metres that an arm may be off its command, its latency considered."
    )
    tracking_error_rad: Number = _positive(
        1, "Radians that an arm may be off its command, its latency considered."
    )
    max_age: Number = _positive(1, "Seconds: older pictures and states are not acted upon.")
    max_skew: Number = _positive(
        0.5,
        "Seconds that the exposures of the two cameras may lie apart.",
    )
    command_timeout: Number = _positive(
        HORIZON / FPS,
        "Seconds without a new chunk after which the arms come to rest, however much of the last is left: at least as "
        "long as the steps that are driven of one. A chunk is 0.8 s long, and driven to its end with as much.",
    )
    faults_per_minute: Annotated[int, BeforeValidator(_number)] = Field(
        ge=1, le=600, description="More faults than these within a minute end the episode."
    )
    fault_seconds: Number = _positive(60, "A fault that lasts so many seconds ends the episode.")

    @model_validator(mode="after")
    def _order(self) -> SafetySettings:
        for less, more in (("singularity_stop", "singularity_slow"), ("arm_clearance", "slow_within")):
            if not getattr(self, less) < getattr(self, more):
                raise ValueError(
                    f"{less} is {getattr(self, less):g} and {more} is {getattr(self, more):g}: expected {less} < "
                    f"{more}, or an arm stops before it slows down"
                )
        return self


class RobotSettings(_Settings):
    """A robot."""

    name: str = Field(min_length=1, description="What the robot is called, in messages and recordings.")
    kind: Literal["cell", "ur5e", "fr3"] = Field(
        description="cell: simulated; ur5e, fr3: real arms of that kind and their drivers."
    )
    arms: dict[Side, ArmSettings] = Field(description="The arms by side: right, left, or one of them.")
    safety: SafetySettings = Field(description="What holds for the robot as a whole.")
    cell: CellSettings | None = Field(
        default=None, description="Only for kind cell: what its world really is (delays, noise, errors)."
    )

    @model_validator(mode="after")
    def _whole(self) -> RobotSettings:
        if not self.arms:
            raise ValueError("arms is empty: expected right, left, or one of them")
        if self.cell is not None and self.kind != "cell":
            raise ValueError(f"cell is given for a robot of kind {self.kind}: expected none")
        for side in self.sides:
            require_sense(self, side)
        if len(self.arms) == 2:
            require_apart(self)
        require_reached(self)
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that exist, right first."""
        return tuple(side for side in ("right", "left") if side in self.arms)

    @classmethod
    def read(cls, source: str | Path) -> RobotSettings:
        """A robot's file: a path, or the name of one of those that come with the package ("cell_ur5e").

        Raises:
            ConfigError: no such file; no yaml; or everything that is wrong or missing in it, by key, with what was
                expected.
        """
        from rdt2.robot.reading import read_mapping, validated

        path, values, layout = read_mapping(source)
        return validated(cls, values, where=str(path), layout=layout)

    def changed(self, changes: Mapping[str, Any]) -> RobotSettings:
        """The same robot with other values, by dotted key: {"safety.table_height": 0.01}. All is checked again.

        Raises:
            ConfigError: as `read`, or a key that does not exist.
        """
        from rdt2.robot.reading import validated

        values = self.model_dump()
        for key, value in changes.items():
            *parents, last = key.split(".")
            section = values
            for parent in parents:
                if not isinstance(section.get(parent), dict):
                    raise ConfigError(
                        f"robot {self.name!r} has no setting {key!r}: {parent} is no section of it."
                    )
                section = section[parent]
            section[last] = value
        return validated(type(self), values, where=f"robot {self.name!r}, changed")

    def kinematics(self) -> dict[str, ArmKinematics | None]:
        """Of every arm with joints; None for a hand without."""
        from rdt2.robot.kinematics import arm_kinematics
        from rdt2.robot.models import mount_in_flange

        return {
            side: None
            if arm.model is None or arm.tool is None
            else arm_kinematics(
                arm.model,
                side,
                base=arm.base,
                tool=np.linalg.inv(mount_in_flange(arm.model, side)) @ arm.tool,
                home=arm.begins,
            )
            for side, arm in self.arms.items()
        }
