"""Recordings of a tracker and an arm whose truth is known."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.calibration.motion import Excitation
from rdt2.calibration.track import Track
from rdt2.sim.tracker import TrackerWorld

RATE = 40.0


def pose(x: float, y: float, z: float, *turn: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    matrix[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    return matrix


START = pose(0.4, -0.1, 0.5, 170, 20, -30)
WORLD = TrackerWorld(
    offset=pose(0.004, 0.071, 0.262, 3, -5, 8),
    base=pose(1.2, -0.7, 0.3, 10, -70, 120),
    delay=0.02,
    jumps=0.05,
)


def recorded(
    motion, world: TrackerWorld = WORLD, *, seconds: float = 15.0, seed: int = 0
) -> tuple[Track, Track]:
    """Of a motion: seconds -> poses."""
    arm_times = np.arange(0, seconds, 0.008)
    times = np.arange(0.1, seconds - 0.1, 1 / RATE)
    seen = world.measured(motion(times), np.random.default_rng(seed))
    return Track(times + world.delay, seen, "tracker"), Track(arm_times, motion(arm_times), "right arm")


def planned(times: np.ndarray) -> np.ndarray:
    return Excitation(seconds=15.0).poses(START, times)
