"""How a device that stops by itself comes to rest: a smooth ramp of its velocity, from whatever that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEAN = 2 / math.pi
"""Of the largest deceleration of a ramp, the mean: a device that moves at v needs pi / 4 * v^2 / a to stop where `a` is
its largest. Ways to rest that are planned brake with this share of the limit, so that a device's own stop is no longer
than what is left of one."""
SETTLING = 0.3
"""Seconds after the ramp in which a stopped arm gives way to what it presses on, before it keeps its place."""


@dataclass(frozen=True)
class Brake:
    """The velocity of `began` falls to zero within `seconds` along half a wave of a cosine, its direction kept.

    On the ramp deceleration and jerk stay within limits. Where it begins they do not: deceleration begins at zero, so
    that what gains or loses speed then changes its acceleration in one step; and joints that keep their directions bend
    the way of their TCP, whose acceleration has another part for that.
    """

    began: float
    seconds: float

    @classmethod
    def of(cls, now: float, *motions: tuple[float, float, float]) -> Brake:
        """The shortest ramp within the limits of every motion.

        Args:
            now: when it begins, seconds.
            motions: (speed now, largest deceleration, largest jerk), all in the units of that motion.
        """
        seconds = 0.0
        for speed, acceleration, jerk in motions:
            # peaks of the cosine: speed / (MEAN * T), and pi^2 / 2 * speed / T^2
            seconds = max(
                seconds,
                speed / (MEAN * acceleration),
                math.pi * math.sqrt(speed / (2 * jerk)),
            )
        return cls(now, seconds)

    @property
    def ends(self) -> float:
        """When it is at rest."""
        return self.began + self.seconds

    def way(self, time: float) -> float:
        """The way driven since `began`, as seconds of the velocity it began with."""
        if time <= self.began or self.seconds == 0.0:
            return 0.0
        t = min(time - self.began, self.seconds)
        return 0.5 * (t + self.seconds / math.pi * math.sin(math.pi * t / self.seconds))
