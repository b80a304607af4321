"""The wrist cameras of the cell: when they expose, what their lens and sensor make of it, when it can be read.

Nothing is drawn before it is read: at each exposure the cell's state is kept, and a picture costs its time only where
somebody looks at it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ARMS
from rdt2.errors import RobotError
from rdt2.robot.device import BaseDevice
from rdt2.robot.protocols import Frame, Timing
from rdt2.sim.optics import Optics

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray

    from rdt2.robot.world import CameraWorld
    from rdt2.sim.cell import Cell


class CellCamera(BaseDevice):
    """A wrist camera of the cell.

    Args:
        cell: whose `update` calls `expose` after every step.
        side: "right" or "left".
        world: what is true of it.
    """

    def __init__(self, cell: Cell, side: str, world: CameraWorld) -> None:
        super().__init__(f"{side} camera", Timing(world.delay, world.stamp_error))
        self._cell, self._side, self._world = cell, side, world
        self._late = world.skew if side == "left" else 0.0
        self._rng_key = [cell.scene.seed, ARMS.index(side)]
        self._clock_error = world.stamp_error * float(np.random.default_rng(self._rng_key).uniform(-1, 1))
        self._optics = Optics(world, seed=self._rng_key)
        self.reset()

    def reset(self) -> None:
        """Forget all exposures: the cell stands at its start, as it did before."""
        kept = int((self._world.delay + self._late) * self._world.rate) + 3
        self._exposed: deque[tuple[int, Float[ndarray, " q"]]] = deque(maxlen=kept)
        self._exposed.append((0, self._cell.data.qpos.copy()))
        self._latest: Frame | None = None

    def expose(self) -> None:
        """Keep the state of the cell when it is time for a picture."""
        number = self._exposed[-1][0] + 1
        if self._world.rate and self._cell.time >= self._moment(number) - 1e-9:
            self._exposed.append((number, self._cell.data.qpos.copy()))

    def _moment(self, number: int) -> float:
        return number / self._world.rate + self._late

    def read(self) -> Frame:
        """The newest picture that has arrived, stamped by the camera's own clock. Raises RobotError: not connected."""
        if not self.health().connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        number, stamp, state = self.exposure()
        if state is None or self._latest is None or self._latest.sequence != number:
            self._latest = Frame(stamp, number, self.see(number, state))
        return self._latest

    def exposure(self) -> tuple[int, float, Float[ndarray, " q"] | None]:
        """Number and stamp of the newest picture that has arrived, and the cell's state then; None: as it is now."""
        now, world = self._cell.time, self._world
        if not world.rate:
            return self._cell.steps, now + self._clock_error, None
        number = int(np.floor((now - world.delay - self._late) * world.rate + 1e-6))
        state = next((state for k, state in reversed(self._exposed) if k <= max(number, 0)))
        return number, self._moment(number) + self._clock_error, state

    def stop(self) -> None:
        """Nothing moves."""

    def see(self, number: int, state: Float[ndarray, " q"] | None) -> UInt8[ndarray, "384 384 3"]:
        """What the lens and the sensor make of a state of the cell."""
        return self._optics(self._cell.render(self._side, state=state), number)
