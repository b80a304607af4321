"""What a device does when it is tried alone: how often it says something new and how old that is, how long a command
takes, and how much later it moves."""

from __future__ import annotations

import contextlib
import time as wall
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.control.guard import Guard
from rdt2.control.servo import TICK
from rdt2.errors import LateError, RDT2Error, RobotError, SafetyError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.protocols import Arm, Clock, Gripper
    from rdt2.robot.settings import RobotSettings

POLL = 5e-4
"""Seconds between two looks at a device."""
UP = 0.02
"""Metres that an arm is lifted, or a gripper's opening is changed by half of."""
MOTION = 2.0
"""Seconds for the way there and back."""
SETTLE = 0.5
"""Seconds that are watched after a motion: what is late is not missed."""
MOST_LATENCY = 0.5
LEAD = 0.1
"""Seconds that a motion is told ahead: a busy machine is late with none of it."""


@dataclass(frozen=True)
class News:
    """What a device said while it was watched."""

    rate: float
    """New measurements a second."""
    age: tuple[float, float]
    """Median and 99th percentile of their age when they could be read, seconds."""
    longest: float
    """Seconds between two of them, at most."""


@dataclass(frozen=True)
class Orders:
    """What became of commands that ask a device to stay where it is."""

    rate: float
    """Commands a second that were sent."""
    takes: tuple[float, float]
    """Median and 99th percentile of the seconds until the call came back."""
    late: int
    """Commands that came too late."""


def watched(read: Callable[[], Any], clock: Clock, seconds: float) -> News:
    """Look at a device for a while.

    Args:
        read: its newest state or picture, with `timestamp` and `sequence`.
        clock: the robot's.
        seconds: for so long.

    Raises:
        RobotError: it said nothing new; and what reading raises.
    """
    ages, stamps = list[float](), list[float]()
    last, until = read().sequence, wall.monotonic() + seconds
    while wall.monotonic() < until:
        state = read()
        if state.sequence != last:
            last = state.sequence
            ages.append(clock.now() - state.timestamp)
            stamps.append(state.timestamp)
        wall.sleep(POLL)
    if len(stamps) < 2:
        raise RobotError(f"it said nothing new within {seconds:g} s.")
    rate = (len(stamps) - 1) / max(stamps[-1] - stamps[0], 1e-9)
    return News(rate, _spread(ages), float(np.diff(stamps).max()))


def held(device: Arm | Gripper, value: Any, clock: Clock, seconds: float, *, rate: float) -> Orders:
    """Ask a device again and again to stay where it is.

    Args:
        device: enabled, at rest.
        value: where it is: the pose of an arm's TCP, or the opening of a gripper.
        clock: the robot's.
        seconds: for so long.
        rate: commands a second.

    Raises:
        SafetyError: what it refuses.
    """
    takes, late = list[float](), 0
    began, due = clock.now(), clock.now()
    while (now := clock.now()) < began + seconds:
        start = wall.perf_counter()
        try:
            device.execute(np.array([now + 2 / rate]), np.asarray(value, dtype=np.float64)[None])
        except LateError:
            late += 1
        takes.append(wall.perf_counter() - start)
        due = max(due + 1 / rate, now)
        clock.sleep_until(due)
    return Orders(len(takes) / (clock.now() - began), _spread(takes), late)


def lifted(arm: Arm, width: float, settings: RobotSettings, side: str, clock: Clock) -> float:
    """Lift an enabled arm by 2 cm and lower it again, through the guard; returns the seconds from command to motion.

    Args:
        arm: enabled, at rest.
        width: opening of its gripper, metres.
        settings: of the robot; the other arm, of which nothing is known here, is left out.
        side: of the arm.
        clock: the robot's.

    Raises:
        SafetyError: the guard would not let it, or a device refuses. RobotError: it did not move.
    """
    alone = settings.model_copy(update={"arms": {side: settings.arms[side]}})
    guard = Guard(alone, alone.kinematics(), period=TICK)
    state = arm.state()
    start = np.array(state.pose, dtype=np.float64)
    guard.start({side: start}, {side: state.joints}, {side: width})
    poses = []
    for share in _there_and_back(TICK):
        wish = start.copy()
        wish[2, 3] += UP * share
        step = guard.step({side: wish}, {side: width})
        if step.slowed:
            raise SafetyError(f"it was not moved: the {step.slowed}. Try it from another place.")
        poses.append(step.poses[side])
    ways = [float(pose[2, 3] - start[2, 3]) for pose in poses]
    return _moved(
        arm, np.stack(poses), ways, lambda: float(arm.state().pose[2, 3] - start[2, 3]), clock, TICK
    )


def opened_and_closed(gripper: Gripper, clock: Clock, *, rate: float) -> float:
    """Change an enabled gripper's opening by 1 cm and back; returns the seconds from command to motion.

    Raises:
        SafetyError: it refuses. RobotError: it did not move.
    """
    width = min(max(gripper.state().width, 0.0), gripper.stroke)
    way = 0.5 * UP if width + 0.5 * UP <= gripper.stroke else -0.5 * UP
    ways = way * _there_and_back(1 / rate)
    return _moved(gripper, width + ways, list(ways), lambda: gripper.state().width - width, clock, 1 / rate)


def _there_and_back(period: float) -> Float[ndarray, " n"]:
    """From 0 to 1 and back within `MOTION`, then at rest for `SETTLE`; one value a period, the first after one."""
    times = period * np.arange(1, round((MOTION + SETTLE) / period) + 1)
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.minimum(times / MOTION, 1.0))


def _moved(
    device: Arm | Gripper,
    values: ndarray,
    ways: list[float],
    where: Callable[[], float],
    clock: Clock,
    period: float,
) -> float:
    """Send values, one a period, and look at what comes of them."""
    asked, seen = list[tuple[float, float]](), list[tuple[float, float]]()
    began, sent = clock.now() + LEAD, 0
    try:
        while sent < len(values):
            until = min(max(sent + 1, int((clock.now() + LEAD - began) / period)), len(values))
            times = began + period * np.arange(sent + 1, until + 1)
            with contextlib.suppress(LateError):
                device.execute(times, values[sent:until])
                asked += zip(times.tolist(), ways[sent:until], strict=True)
            seen.append((device.state().timestamp, where()))
            sent = until
            clock.sleep_until(began + period * (sent + 1) - LEAD)
    except RDT2Error:
        device.stop()
        raise
    if not asked:
        raise RobotError(f"every command came more than {LEAD:g} s too late: is this machine busy?")
    return latency(np.array(asked), np.array(seen))


def latency(asked: Float[ndarray, "n 2"], seen: Float[ndarray, "m 2"]) -> float:
    """Seconds by which what was seen follows what was asked for, both as (time, way).

    Raises:
        RobotError: it did not move.
    """
    if np.ptp(seen[:, 1]) < 0.2 * np.ptp(asked[:, 1]):
        way, done = 1e3 * np.ptp(asked[:, 1]), 1e3 * np.ptp(seen[:, 1])
        raise RobotError(f"it was asked to move by {way:.0f} mm and moved by {done:.0f} mm.")
    lags = np.arange(0.0, MOST_LATENCY, 1e-3)
    errors = [
        float(np.square(np.interp(seen[:, 0] - lag, asked[:, 0], asked[:, 1]) - seen[:, 1]).mean())
        for lag in lags
    ]
    return float(lags[int(np.argmin(errors))])


def _spread(values: list[float]) -> tuple[float, float]:
    median, high = np.percentile(values, [50, 99])
    return float(median), float(high)
