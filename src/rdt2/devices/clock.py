"""The time of a robot of real devices, and that of a host of some of them."""

from __future__ import annotations

import time
from collections import deque

from rdt2.errors import RobotError

DRIFT = 1e-4
"""Seconds a second that the clocks of two machines may part."""


class WallClock:
    """Seconds of this machine's monotonic clock: it never jumps, and all processes of the machine share it."""

    def now(self) -> float:
        """Seconds since some moment before."""
        return time.monotonic()

    def sleep_until(self, time_: float) -> None:
        """Return when `now()` has reached so many seconds; at once if that is past."""
        if (rest := time_ - time.monotonic()) > 0:
            time.sleep(rest)


class HostClock:
    """The host's clock seen from here, by messages that came back: the quickest tells most."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float, float]] = deque(
            maxlen=100
        )  # when, offset, half of the way: 2 s

    def heard(self, sent: float, there: float, said: float, now: float) -> None:
        """A sign of life left here at `sent`, was there at `there`, and what was `said` then is here `now`."""
        half = max(0.0, ((now - sent) - (said - there)) / 2)
        self._seen.append((now, ((there - sent) + (said - now)) / 2, half))

    def best(self, now: float) -> tuple[float, float]:
        """Seconds that the host's clock is ahead of this one, and by how much that may be wrong.

        Raises:
            RobotError: nothing has come back yet.
        """
        if not self._seen:
            raise RobotError("the host's clock is not known yet.")
        when, offset, half = min(list(self._seen), key=lambda seen: seen[2] + DRIFT * (now - seen[0]))
        return offset, half + DRIFT * (now - when)
