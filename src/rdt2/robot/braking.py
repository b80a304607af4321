"""How something that moves comes to rest: a smooth ramp of its velocity, bounded in acceleration and jerk."""

from __future__ import annotations

import math
from dataclasses import dataclass

SETTLING = 0.3
"""Seconds after the ramp in which a stopped arm gives way to what it presses on, before it keeps its place."""


@dataclass(frozen=True)
class Brake:
    """The velocity of `began` falls to zero within `seconds` along half a wave of a cosine, its direction kept."""

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
            # peaks of the cosine: pi / 2 * speed / T, and pi^2 / 2 * speed / T^2
            seconds = max(
                seconds,
                math.pi / 2 * speed / acceleration,
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
