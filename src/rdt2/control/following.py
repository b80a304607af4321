"""What an arm was commanded, to compare with what it does: at the moment that its state speaks of, not at another."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.settings import ArmSettings

UNEVEN = 0.02
"""Seconds by which an arm may do what it is commanded earlier or later than its latency says."""


class Commands:
    """The commands of one arm that it may be following.

    Args:
        arm: its latency, and the error of its clock.
        max_age: seconds; no state that anybody looks at is older.
    """

    def __init__(self, arm: ArmSettings, *, max_age: float) -> None:
        self._latency, self._bound = arm.latency, arm.clock_error + UNEVEN
        self._kept = arm.latency + 2 * self._bound + max_age
        self._said: deque[tuple[float, ndarray]] = deque()

    def start(self, pose: Float[ndarray, "4 4"]) -> None:
        """It stands at `pose` of the cell frame, metres."""
        self._said.clear()
        self._said.append((-np.inf, pose))

    def note(self, due: float, pose: Float[ndarray, "4 4"]) -> None:
        """It was commanded to be at `pose` at `due`, seconds of the robot's clock; it is there its latency later."""
        self._said.append((due, pose))
        while len(self._said) > 1 and self._said[1][0] < due - self._kept:
            self._said.popleft()

    def meant(self, stamp: float) -> Float[ndarray, "n 4 4"]:
        """Where the TCP may have been at `stamp`, if it follows: the commands for that moment, as far as the moment
        is known; one at least."""
        middle = stamp - self._latency
        first, last = middle - self._bound, middle + self._bound
        within = [pose for due, pose in self._said if first <= due <= last]
        return np.stack(
            within or [next((p for due, p in reversed(self._said) if due < first), self._said[0][1])]
        )
