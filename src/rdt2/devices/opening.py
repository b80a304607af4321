"""From a robot's settings to its devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdt2.devices.clock import WallClock
from rdt2.devices.drivers import (
    ARM_DRIVERS,
    CAMERA_DRIVERS,
    GRIPPER_DRIVERS,
    TRACKER_DRIVERS,
    Opening,
    checked_options,
)
from rdt2.errors import ConfigError
from rdt2.robot.protocols import Clock, Tracker
from rdt2.robot.robot import Robot
from rdt2.robot.sense import RESETS
from rdt2.robot.settings import RobotSettings

DEFAULTS = {"ur5e": "ur_rtde", "fr3": "franky"}
"""The driver of an arm whose `device:` names no type, by the robot's kind."""
DEFAULT_CAMERA, DEFAULT_GRIPPER, DEFAULT_TRACKER = "aravis", "zhixing", "openvr"
_DRIVERS = {"arm": ARM_DRIVERS, "gripper": GRIPPER_DRIVERS, "camera": CAMERA_DRIVERS}


def open_robot(settings: RobotSettings, clock: Clock | None = None, *, blind: bool = False) -> Robot:
    """All devices of a robot, not yet connected.

    Args:
        settings: the robot.
        clock: the robot's; None: this machine's.
        blind: leave the cameras out.

    Raises:
        ConfigError: a driver that is not there, options that it does not take, or a simulated robot, which
            `rdt2.sim.RealtimeCell` makes.
    """
    if settings.kind == "cell":
        raise ConfigError(
            f"robot {settings.name!r} is simulated (kind: cell): it has no devices to connect to. Open it with "
            "rdt2.sim.RealtimeCell.of."
        )
    clock = clock or WallClock()
    parts: dict[str, dict[str, Any]] = {
        part: {side: open_device(settings, side, part, clock) for side in settings.sides}
        for part in ("arm", "gripper", *(() if blind else ("camera",)))
    }
    return Robot(
        arms=parts["arm"],
        grippers=parts["gripper"],
        cameras=parts.get("camera", {}),
        clock=clock,
        policy_to_tcp={side: settings.arms[side].policy_to_tcp for side in settings.sides},
        name=settings.name,
    )


def open_device(settings: RobotSettings, side: str, part: str, clock: Clock | None = None) -> Any:
    """One device of a robot, not yet connected.

    Args:
        settings: the robot.
        side: right or left.
        part: arm, gripper or camera.
        clock: the robot's; None: this machine's.

    Raises:
        ConfigError: a driver that is not there, or options that it does not take.
    """
    arm = settings.arms[side]
    values = _device(settings, side, part)
    driver = _DRIVERS[part][driver_name(settings, side, part)]
    others = {"type", *RESETS} - set(driver.options.model_fields)
    given = {key: value for key, value in values.items() if key not in others}
    key = f"arms.{side}.device" if part == "arm" else f"arms.{side}.{part}.device"
    name = f"{side} {part}"
    options = checked_options(
        driver.options, given, f"robot {settings.name!r}: its {name} cannot be opened", key=f"{key}."
    )
    return driver.open(Opening(name, side, options, clock or WallClock(), arm, settings))


def open_tracker(
    device: Mapping[str, Any], settings: RobotSettings, side: str, clock: Clock | None = None
) -> Tracker:
    """A tracker on one side's gripper, not yet connected.

    Args:
        device: its driver and what that needs: {"type": "openvr", "serial": "LHR-0123ABCD"}.
        settings: the robot.
        side: right or left.
        clock: the robot's; None: this machine's.

    Raises:
        ConfigError: a driver that is not there, or options that it does not take.
    """
    driver = TRACKER_DRIVERS[str(device.get("type", DEFAULT_TRACKER))]
    given = {key: value for key, value in device.items() if key != "type"}
    name = f"{side} tracker"
    options = checked_options(driver.options, given, f"the {name} cannot be opened")
    return driver.open(Opening(name, side, options, clock or WallClock(), settings.arms[side], settings))


def device_number(settings: RobotSettings, side: str, part: str, key: str) -> float | None:
    """A number that the yaml tells a device's driver, or the driver's own where it says nothing; None without one.

    Args:
        settings: the robot.
        side: right or left.
        part: arm, gripper or camera.
        key: of the driver's options.

    Raises:
        ConfigError: a driver that is not there.
    """
    device = _device(settings, side, part)
    if key in device or settings.kind == "cell":
        value: Any = device.get(key)
    else:
        known = _DRIVERS[part][driver_name(settings, side, part)].options.model_fields
        value = known[key].default if key in known else None
    return float(value) if isinstance(value, int | float) else None


def driver_name(settings: RobotSettings, side: str, part: str) -> str:
    """Which driver opens a device: what its yaml says, else that of the robot's kind."""
    default = {"arm": DEFAULTS.get(settings.kind, ""), "gripper": DEFAULT_GRIPPER, "camera": DEFAULT_CAMERA}[
        part
    ]
    return str(_device(settings, side, part).get("type", default))


def _device(settings: RobotSettings, side: str, part: str) -> Mapping[str, Any]:
    arm = settings.arms[side]
    return {"arm": arm.device, "gripper": arm.gripper.device, "camera": arm.camera.device}[part]
