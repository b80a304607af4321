"""A device's own clock beside the robot's, and how far the two may be taken for each other."""

from __future__ import annotations

import math

DRIFT = 2e-4
"""Seconds that two clocks may part in a second: twice what a poor quartz does."""


class ClockMap:
    """What a device's clock must be added to give the robot's: between `low` and `high`, from all that was seen.

    A clock that can be asked, and answers between two moments of ours, is bounded from both sides. Of one that cannot,
    only pictures tell: none can have been taken after it came, and the quickest bounds best, so that the jitter of a
    busy machine or network falls away. What was known widens as the clocks drift; what cannot be true any more (the
    device was started again) is forgotten.
    """

    def __init__(self) -> None:
        self.low, self.high = -math.inf, math.inf
        self._at = -math.inf

    def arrived(self, moment: float, now: float) -> None:
        """At `now` of the robot's clock came what had happened at `moment` of the device's, seconds."""
        if math.isinf(self.low):
            self._narrow(-math.inf, now - moment, now)

    def asked(self, moment: float, before: float, after: float) -> None:
        """The device's clock said `moment` some time between `before` and `after` of the robot's, seconds."""
        self._narrow(before - moment, after - moment, after)

    def _narrow(self, low: float, high: float, now: float) -> None:
        slack = DRIFT * (now - self._at) if math.isfinite(self._at) else 0.0
        self._at = now
        self.low, self.high = max(low, self.low - slack), min(high, self.high + slack)
        if self.low > self.high:
            self.low, self.high = low, high

    def time(self, moment: float, latency: float) -> float:
        """When, on the robot's clock, the device's said `moment`.

        Args:
            moment: seconds of the device's clock.
            latency: seconds that the quickest arrival took, from a calibration; used where the clock was never asked.
        """
        if math.isinf(self.low):
            return moment + self.high - latency
        return moment + (self.low + self.high) / 2

    @property
    def error(self) -> float:
        """Seconds that `time` may be off; infinite where the clock was never asked: the latency's error then."""
        return (self.high - self.low) / 2
