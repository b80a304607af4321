"""What a driver brings, and where drivers are found.

A driver is one file of `rdt2.devices.arm_drivers`, `gripper_drivers`, `camera_drivers` or `tracker_drivers`, or of an
installed package (see `rdt2.registry`). It says

    DRIVER = Driver(open=MyArm, options=MyOptions, extra="ur", find=look_for_arms)

and a robot's yaml names the file and gives the options: `device: {type: my_arm, address: 192.168.0.2}`. What needs a
library imports it when it connects, so that a list of drivers costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rdt2.errors import ConfigError
from rdt2.registry import Registry, did_you_mean
from rdt2.robot.protocols import Clock
from rdt2.robot.settings import ArmSettings, CameraSettings, GripperSettings, RobotSettings

OptionsT = TypeVar("OptionsT", bound="Options")


class Options(BaseModel):
    """What stands under `device:` beside `type`. Every field has a description, and no room for a key nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def checked_options(kind: type[OptionsT], values: Mapping[str, Any], what: str, *, key: str = "") -> OptionsT:
    """The options that `values` say.

    Args:
        kind: of a driver or a peer.
        values: by name.
        what: cannot be done without them, for the message: "robot 'x': its left arm cannot be opened".
        key: before each name, for the message: "arms.left.device.".

    Raises:
        ConfigError: what is wrong or missing, by key, and what there is.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = "\n".join(f"  {key}{_what_is_wrong(kind, problem)}" for problem in error.errors())
    known = ", ".join(f"{name} ({field.description})" for name, field in kind.model_fields.items())
    raise ConfigError(f"{what}:\n{lines}\nIt takes: {known or 'no options'}.")


def _what_is_wrong(kind: type[Options], problem: Mapping[str, Any]) -> str:
    """A line of what pydantic found; of what is missing it says what is to be written there."""
    name = ".".join(map(str, problem["loc"]))  # empty where options do not go together
    field = kind.model_fields.get(name)
    if problem["type"] == "missing" and field is not None:
        return f"{name}: is missing. {field.description}"
    if problem["type"] == "extra_forbidden":
        return f"{name}: is no option.{did_you_mean(problem['loc'][-1], kind.model_fields)}"
    return f"{name}: {problem['msg']}"


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """Options as they are typed: each key=value, a value as in yaml.

    Raises:
        ConfigError: a word of another form.
    """
    options = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"{word!r}: expected key=value, such as port=5000.")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{word!r}: the value is no yaml: {error}.") from error
    return options


@dataclass(frozen=True)
class Opening(Generic[OptionsT]):
    """All that a device is made from. Nothing has been connected yet."""

    name: str
    """For messages: "left arm"."""
    side: str
    """right or left."""
    options: OptionsT
    clock: Clock
    """The robot's: what the device stamps is in its seconds."""
    arm: ArmSettings
    """The settings of its side: arm, gripper and camera."""
    robot: RobotSettings

    @property
    def gripper(self) -> GripperSettings:
        """What the robot's yaml says of the gripper on this arm."""
        return self.arm.gripper

    @property
    def camera(self) -> CameraSettings:
        """What the robot's yaml says of the camera on this arm."""
        return self.arm.camera


@dataclass(frozen=True)
class Found:
    """A device that was looked for and answered."""

    device: dict[str, Any]
    """What to write under `device:` for it, without `type`."""
    note: str = ""
    """What it said of itself: model, version."""


@dataclass(frozen=True)
class Driver:
    """One kind of device."""

    open: Callable[[Opening[Any]], Any]
    """The device (`Arm`, `Gripper`, `Camera`, `Tracker`), not yet connected."""
    options: type[Options]
    extra: str
    """What `pip install 'rdt2[...]'` brings its library; empty where the core is enough."""
    find: Callable[[], Sequence[Found]] | None = None
    """Looks for such devices on this machine; None where they cannot be looked for."""


@dataclass(frozen=True)
class Peer:
    """A program that speaks a device's real protocol on this machine, for trials without the device.

    A peer is one file of `rdt2.devices.peers` that says `PEER`; see there.
    """

    serve: Callable[[Any, Callable[[Mapping[str, Any]], None]], None]
    """Called with its options and `ready`: answers until it is interrupted or killed. Calls `ready` once, when one can
    connect to it, with what a robot's yaml says under `device:` to reach it: {"address": "127.0.0.1"}."""
    options: type[Options]
    what: str
    """What it stands for, in a few words: "a UR controller"."""


ARM_DRIVERS = Registry("arm driver", "rdt2.devices.arm_drivers", variable="DRIVER", kind=Driver)
GRIPPER_DRIVERS = Registry("gripper driver", "rdt2.devices.gripper_drivers", variable="DRIVER", kind=Driver)
CAMERA_DRIVERS = Registry("camera driver", "rdt2.devices.camera_drivers", variable="DRIVER", kind=Driver)
TRACKER_DRIVERS = Registry("tracker driver", "rdt2.devices.tracker_drivers", variable="DRIVER", kind=Driver)
PEERS = Registry("peer", "rdt2.devices.peers", variable="PEER", kind=Peer)
