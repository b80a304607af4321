"""What the guard held back, as a person wants to read it: which kind of reason, when, and for how long.

The guard says at every tick what it holds back, with the numbers of this tick: "left arm slows: 31 mm from the right
arm". Here that is one matter for as long as it goes on: "left arm slows: ... mm from the right arm", from 2.1 s on, for
0.4 s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOGETHER = 0.5
"""Seconds that a reason may be away before it counts as another time."""
_OF_THIS_TICK = re.compile(r"-?\d+(\.\d+)?(?= (mm|degrees)\b)")
_ASIDE = re.compile(r" \([^()]*\d[^()]*\)")


@dataclass
class Held:
    """One reason, as long as it went on."""

    time: float
    """When it began, seconds."""
    seconds: float
    """For how long it held."""
    what: str
    """Which arm and why, without the numbers that change from tick to tick."""


def kind_of(reason: str) -> str:
    """What the guard says, without the numbers that change from tick to tick; the number of a joint stays."""
    return _OF_THIS_TICK.sub("...", _ASIDE.sub("", reason))


class HeldBack:
    """Collects what the guard says, tick by tick.

    Args:
        period: seconds between two ticks.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: dict[str, tuple[Held, float]] = {}
        self.found: list[Held] = []

    def note(self, now: float, slowed: str) -> None:
        """Take in what the guard held back in the tick at `now`: reasons with "; " between them, or nothing."""
        for reason in slowed.split("; ") if slowed else ():
            kind = kind_of(reason)
            held, ended = self._last.get(kind, (None, -float("inf")))
            if held is None or now - ended > TOGETHER:
                held = Held(now, 0.0, kind)
                self.found.append(held)
            held.seconds += self._period
            self._last[kind] = held, now
