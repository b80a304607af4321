"""How far apart two cameras expose: free-running ones by up to half a period, and drifting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdt2.errors import RobotError
from rdt2.robot.protocols import Camera, Clock

POLL = 0.002
"""Seconds between two looks at the cameras."""


@dataclass(frozen=True)
class Skew:
    """Seconds between the exposures of pictures that belong together."""

    median: float
    """Positive where the second camera exposes later."""
    worst: float
    """Largest of all, without its sign."""
    error: float
    """By which each may be off: what the two cameras' stamps are trusted for."""
    pairs: int


def skew(first: Camera, second: Camera, clock: Clock, seconds: float) -> Skew:
    """Watch two connected cameras: each picture of the first belongs to the nearest one of the second.

    Args:
        first: connected.
        second: connected.
        clock: the robot's, which both stamp by.
        seconds: for so long.

    Raises:
        RobotError: one of them gives no pictures, or no new ones.
    """
    stamps: tuple[dict[int, float], dict[int, float]] = ({}, {})
    until = clock.now() + seconds
    while clock.now() < until:
        for seen, camera in zip(stamps, (first, second), strict=True):
            frame = camera.read()
            seen[frame.sequence] = frame.timestamp
        clock.sleep_until(clock.now() + POLL)
    one, other = (np.array(list(seen.values())) for seen in stamps)
    inside = one[(one >= other[0]) & (one <= other[-1])]
    if len(inside) < 2 or len(other) < 2:
        raise RobotError(
            f"within {seconds:g} s came {len(one)} and {len(other)} pictures of the two cameras, expected more."
        )
    nearest = other[np.abs(other[None] - inside[:, None]).argmin(axis=1)]
    apart = nearest - inside
    error = first.timing.clock_error + second.timing.clock_error
    return Skew(float(np.median(apart)), float(np.abs(apart).max()), error, len(apart))
