"""A tracker on the tool of an arm of a cell that another process runs: the last of the devices that the peer `cell`
stands in for. The peer's first line says how it is reached:

    rdt2 calibrate handeye --robot peers.yaml --tracker type=cell robot=ur5e memory=psm_0123abcd
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Driver, Opening, Options
from rdt2.devices.tracker_drivers._believing import UNSEEN, BelievingTracker
from rdt2.errors import RobotError
from rdt2.robot.protocols import Health, Timing, TrackerState
from rdt2.robot.settings import RobotSettings

if TYPE_CHECKING:
    from rdt2.sim.board import Board

DELAY = 0.02
"""Seconds that its stamps are late."""


class WatchedTrackerOptions(Options):
    """Which cell."""

    memory: str = Field(description="what the cell's process calls its memory")
    robot: Literal["ur5e", "fr3"] = Field(description="the cell's arms: ur5e or fr3")


class WatchedTracker(BelievingTracker):
    """The driver: 60 poses a second, with a tracker's noise, of where that cell says its arm is.

    It sits where recordings with the handheld gripper had theirs, on a tool that is where `cell_ur5e` or `cell_fr3`
    says: the robot's own yaml may be wrong.
    """

    def __init__(self, opening: Opening[WatchedTrackerOptions]) -> None:
        super().__init__(opening.name, opening.clock, Timing(0.0, DELAY))
        self._options, self._side, self._random = opening.options, opening.side, np.random.default_rng()
        self._board: Board | None = None

    def connect(self) -> None:
        """Open the cell's memory.

        Raises:
            RobotError: no cell on this machine has such a memory, or it shows nothing.
        """
        from rdt2.sim.board import Board
        from rdt2.sim.tracker import TrackerWorld

        with self._lock:
            if self._connected:
                return
            true = RobotSettings.read(f"cell_{self._options.robot}").arms[self._side].policy_to_tcp
            self._world, self._last = TrackerWorld.on_tool(true, delay=DELAY), float("-inf")
            try:
                self._board = Board.watched(self._options.memory)
            except FileNotFoundError as error:
                raise RobotError(
                    f"the {self.name} finds no cell with the memory {self._options.memory!r}. Start "
                    "'rdt2 device peer cell': its first line names it."
                ) from error
            if self._board.device(f"{self._side} arm") is None:
                self.close()
                raise RobotError(f"the {self.name} finds no arm in the memory {self._options.memory!r}.")
            super().connect()
            self._look()

    def _look(self) -> None:
        """Take what the cell shows, no more than 60 times a second."""
        from rdt2.sim.tracker import RATE

        if self._board is None:
            return
        cell, arm = self._board.cell(), self._board.device(f"{self._side} arm")
        measured = float(arm["timestamp"])
        age = time.monotonic() - float(cell["began"]) - measured
        if measured >= self._last + 1 / RATE:
            self._last = measured
            pose = self._world.measured(arm["pose"][None], self._random)[0]
            self._take(self._clock.now() - age + DELAY, pose)
        elif age > UNSEEN:
            self._miss(self._clock.now(), f"its cell has shown nothing new for {age:.1f} s")

    def state(self) -> TrackerState:
        """The latest measurement, in the handheld gripper's axes."""
        with self._lock:
            self._look()
            return super().state()

    def health(self) -> Health:
        """Whether it may be used, and why not, as of now."""
        with self._lock:
            self._look()
            return super().health()

    def close(self) -> None:
        """Let go of the cell's memory."""
        with self._lock:
            if self._board is not None:
                self._board.close()
            self._board = None
            super().close()


DRIVER = Driver(open=WatchedTracker, options=WatchedTrackerOptions, extra="sim")
