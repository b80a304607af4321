"""One device of a robot alone: `rdt2 device test`."""

from __future__ import annotations

import dataclasses
import time as wall
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from rdt2.devices.clock import WallClock
from rdt2.devices.drivers import TRACKER_DRIVERS
from rdt2.devices.opening import driver_name, open_device, open_tracker
from rdt2.devices.skew import skew
from rdt2.devices.trial import Orders, held, lifted, opened_and_closed, watched
from rdt2.errors import ConfigError, RobotError
from rdt2.operation.opening import opened_cell
from rdt2.operation.session import confirmed
from rdt2.registry import did_you_mean
from rdt2.robot.protocols import Checked

if TYPE_CHECKING:
    from rdt2.robot.protocols import Camera, Clock
    from rdt2.robot.settings import RobotSettings

RATES = {"arm": 125.0, "gripper": 30.0}
"""Commands a second."""


def part_named(settings: RobotSettings, side: str, name: str) -> str:
    """arm, gripper, camera or tracker, from that word or from the name of a driver: that of the robot's yaml, or any of
    a tracker.

    Raises:
        ConfigError: the robot has no such side, or nothing on it is of that name.
    """
    if side not in settings.arms:
        raise ConfigError(f"robot {settings.name!r} has no {side} arm.")
    parts = ("arm", "gripper", "camera")
    if name in parts:
        return name
    if name in TRACKER_DRIVERS:
        return "tracker"
    drivers = {} if settings.kind == "cell" else {driver_name(settings, side, part): part for part in parts}
    if name in drivers:
        return drivers[name]
    has = (
        ", ".join(f"{driver} ({part})" for driver, part in drivers.items()) or "the simulated cell's devices"
    )
    raise ConfigError(
        f"nothing on the {side} side of robot {settings.name!r} is called {name!r}: it has {has}."
        f"{did_you_mean(name, (*parts, *drivers, *TRACKER_DRIVERS))} Say arm, gripper or "
        f"camera, change type under device: in the yaml, or name a tracker's driver: {', '.join(TRACKER_DRIVERS)}."
    )


@contextmanager
def _opened(
    settings: RobotSettings, side: str, parts: tuple[str, ...], tracker: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Clock]]:
    """Some devices of one side, not connected, by part, and with a camera the one of the other side as `other`; closed
    at the end."""
    clock = WallClock()
    places = {part: (side, part) for part in parts}
    if parts == ("camera",) and len(settings.sides) == 2:
        places["other"] = next(each for each in settings.sides if each != side), "camera"
    if parts == ("tracker",):
        device = open_tracker(tracker, settings, side, clock)
        with closing(device):
            yield {"tracker": device}, clock
        return
    if settings.kind == "cell":
        from rdt2.sim.drawing import make_scene

        with opened_cell(settings, make_scene("pick", 0)) as opened:
            robot = opened.robot
            every: dict[str, Mapping[str, Any]] = {
                "arm": robot.arms, "gripper": robot.grippers, "camera": robot.cameras
            }  # fmt: skip
            yield {name: every[part][of] for name, (of, part) in places.items()}, robot.clock
        return
    with ExitStack() as stack:
        found = {}
        for name, (of, part) in places.items():
            found[name] = open_device(settings, of, part, clock)
            stack.callback(found[name].close)
        yield found, clock


def tried(
    settings: RobotSettings,
    side: str,
    part: str,
    *,
    seconds: float,
    move: bool,
    yes: bool,
    tracker: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Figures of one device; milliseconds and Hz, and `checks`.

    Args:
        settings: of the robot.
        side: right or left.
        part: arm, gripper, camera or tracker.
        seconds: for so long rates are counted.
        move: an arm or a gripper is moved a little.
        yes: nobody is asked.
        tracker: its driver (`type`) and options, which no robot's yaml says.

    Raises:
        ConfigError: what does not move is to be moved. RobotError: it does not answer, or was not confirmed.
    """
    if move and part not in RATES:
        raise ConfigError(f"a {part} does not move by itself: leave out --move.")
    # an arm that is moved keeps its gripper clear of the table: where its fingers are is measured
    parts = (part, "gripper") if move and part == "arm" else (part,)
    figures: dict[str, Any] = {}
    name = f"{side} {part}"
    with _opened(settings, side, parts, tracker or {}) as (devices, clock):
        device = devices[part]
        began = wall.perf_counter()
        device.connect()
        figures["connect_ms"] = 1e3 * (wall.perf_counter() - began)
        for other in parts[1:]:
            devices[other].connect()
        if part in RATES and not confirmed(f"Enable the {name}? It gets its power; nothing moves.", yes=yes):
            raise RobotError(f"the {name} was not enabled: nobody confirmed it.")
        began = wall.perf_counter()
        device.enable()
        figures["enable_ms"] = 1e3 * (wall.perf_counter() - began)
        read = device.read if part == "camera" else device.state
        _first(read, name)
        try:
            news = watched(read, clock, seconds)
        except RobotError as error:
            if (health := device.health()).ok:
                raise
            raise RobotError(f"the {name}: {health}. While it was watched: {error}") from error
        figures |= (
            {"states_hz": news.rate} | _spread("age", news.age) | {"longest_gap_ms": 1e3 * news.longest}
        )
        if "other" in devices:
            figures |= _apart(device, devices["other"], clock, seconds)
        if part == "arm":
            figures |= _orders(held(device, device.state().pose, clock, seconds, rate=RATES[part]))
        if move:
            what = "lifted by 2 cm and lowered" if part == "arm" else "opened or closed by 1 cm, and back"
            if not confirmed(f"The {name} will be {what}. Is the way free, and a hand at the stop?", yes=yes):
                raise RobotError(f"the {name} was not moved: nobody confirmed it.")
            if part == "arm":
                stroke = settings.arms[side].gripper.stroke
                width = min(max(devices["gripper"].state().width, 0.0), stroke)
                latency = lifted(device, width, settings, side, clock)
            else:  # only now may it be told where it is: fingers that hold something let it go
                here = min(max(device.state().width, 0.0), device.stroke)
                figures |= _orders(held(device, here, clock, seconds, rate=RATES[part]))
                latency = opened_and_closed(device, clock, rate=RATES[part])
            figures["latency_ms"] = 1e3 * latency
            arm = settings.arms[side]
            figures["latency_in_yaml_ms"] = 1e3 * (arm.latency if part == "arm" else arm.gripper.latency)
        figures["health"] = str(device.health())
        checks = list(device.checks()) if isinstance(device, Checked) else []
        figures["checks"] = [dataclasses.asdict(check) for check in checks]
    return figures


def _first(read: Any, name: str) -> None:
    """Wait for the first state or picture."""
    until = wall.monotonic() + 10.0
    while True:
        try:
            read()
        except RobotError as error:
            if wall.monotonic() > until:
                raise RobotError(f"the {name} gave nothing for 10 s: {error}") from error
            wall.sleep(0.02)
        else:
            return


def _apart(camera: Camera, other: Camera, clock: Clock, seconds: float) -> dict[str, Any]:
    """How far apart the two wrist cameras expose, where the other one gives pictures, too."""
    try:
        other.connect()
        _first(other.read, "other camera")
        found = skew(camera, other, clock, seconds)
    except Exception as error:  # of any driver: this is not the camera that is tried
        return {"skew": f"not measured: {error}"}
    return {"skew_median_ms": 1e3 * found.median, "skew_worst_ms": 1e3 * found.worst}


def _orders(orders: Orders) -> dict[str, float]:
    """How a device took the commands to stay where it is."""
    return {"commands_hz": orders.rate} | _spread("command", orders.takes) | {"late": orders.late}


def _spread(what: str, values: tuple[float, float]) -> dict[str, float]:
    return {f"{what}_median_ms": 1e3 * values[0], f"{what}_p99_ms": 1e3 * values[1]}
