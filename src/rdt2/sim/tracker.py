"""A tracker that is not there: what stations would measure of a tool that moves, with what goes wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.pose import TRACKER_TO_POLICY
from rdt2.robot.device import BaseDevice
from rdt2.robot.protocols import Timing, TrackerState

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.random import Generator

    from rdt2.sim.cell import Cell


STATIONS = np.array(
    [[0.6, -0.8, 0.0, 1.4], [0.0, 0.0, 1.0, 0.3], [-0.8, -0.6, 0.0, 1.1], [0.0, 0.0, 0.0, 1.0]]
)
"""Where the cell's frame is in that of its tracking stations, whose y points up, metres."""
RATE = 60.0


@dataclass(frozen=True)
class TrackerWorld:
    """Where a tracker really sits, and how well it measures."""

    offset: Float[ndarray, "4 4"]
    """The TCP in the tracker's frame, metres."""
    base: Float[ndarray, "4 4"]
    """The arm's base in the stations' frame, metres."""
    delay: float = 0.0
    """Seconds by which its stamps are late."""
    noise_m: float = 5e-4
    """Scatter of a position along each axis, metres."""
    noise_deg: float = 0.1
    """Scatter of a turn about each axis, degrees."""
    jumps: float = 0.0
    """Share of poses that are wrong by decimetres and tens of degrees, as behind a reflection."""

    @classmethod
    def on_tool(
        cls, policy_to_tcp: Float[ndarray, "4 4"], *, delay: float = 0.0, jumps: float = 0.0
    ) -> TrackerWorld:
        """In a cell, on a tool whose calibration this is, screwed on where recordings with the handheld gripper had
        theirs: so that `tx_tracker_to_policy` is the published constant."""
        offset = TRACKER_TO_POLICY @ np.linalg.inv(policy_to_tcp)
        return cls(offset, STATIONS, delay=delay, jumps=jumps)

    def measured(self, tcp: Float[ndarray, "n 4 4"], random: Generator) -> Float[ndarray, "n 4 4"]:
        """The tracker's poses (stations' frame) while the TCP (arm's base frame) was at `tcp`; metres."""
        poses: ndarray = self.base @ tcp @ np.linalg.inv(self.offset)
        jumps = random.random(len(tcp)) < self.jumps
        far = np.where(jumps, 0.1, 0.0)[:, None]
        turned = np.where(jumps, 0.3, 0.0)[:, None]
        shift = random.normal(0, 1, (len(tcp), 3)) * np.hypot(self.noise_m, far)
        turns = random.normal(0, 1, (len(tcp), 3)) * np.hypot(np.radians(self.noise_deg), turned)
        poses[:, :3, 3] += shift
        poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(turns).as_matrix()
        return poses


class CellTracker(BaseDevice):
    """A tracker on the tool of one arm of the cell.

    Args:
        cell: in whose simulated time it measures.
        side: of the arm.
        delay: seconds that its stamps are late.
        jumps: share of poses that are wrong, as behind a reflection.
    """

    def __init__(self, cell: Cell, side: str, *, delay: float = 0.02, jumps: float = 0.02) -> None:
        super().__init__(f"{side} tracker", Timing(0.0, delay))
        self._cell, self._side = cell, side
        self.world = TrackerWorld.on_tool(cell.policy_to_tcp(side), delay=delay, jumps=jumps)
        self._random = np.random.default_rng([cell.scene.seed, 30, ("right", "left").index(side)])
        self._latest: TrackerState | None = None

    def state(self) -> TrackerState:
        """The latest of 60 measurements a second, in the handheld gripper's axes."""
        number = int(self._cell.time * RATE + 1e-6)
        if self._latest is None or self._latest.sequence != number:
            tcp = self._cell.site_pose(self._cell.names.tcp[self._side])
            pose = self.world.measured(tcp[None], self._random)[0]
            self._latest = TrackerState(self._cell.time + self.world.delay, number, pose, True)
        return self._latest
