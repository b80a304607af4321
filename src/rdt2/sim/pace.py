"""Simulated time that does not run ahead of the wall's, for people who look on."""

from __future__ import annotations

import time as wall
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdt2.robot import Clock

BEHIND = 0.1
"""Seconds by which simulated time may be late and catch up; what is later goes on from where it is."""


class Paced:
    """A clock of a simulation, slowed down to real time where the machine is faster.

    Nothing that happens changes, only when: a simulated clock stands still meanwhile.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = clock.now() - wall.monotonic()

    def now(self) -> float:
        """Simulated seconds."""
        return self._clock.now()

    def sleep_until(self, time: float) -> None:
        """Simulate until then (seconds of simulated time), and wait where that went faster than real time."""
        self._clock.sleep_until(time)
        early = self._clock.now() - wall.monotonic() - self._ahead
        if early > 0:
            wall.sleep(early)
        elif early < -BEHIND:
            self._ahead += early
