"""The time of a robot of real devices."""

from __future__ import annotations

import time


class WallClock:
    """Seconds of this machine's monotonic clock: it never jumps, and all processes of the machine share it."""

    def now(self) -> float:
        """Seconds since some moment before."""
        return time.monotonic()

    def sleep_until(self, time_: float) -> None:
        """Return when `now()` has reached so many seconds; at once if that is past."""
        if (rest := time_ - time.monotonic()) > 0:
            time.sleep(rest)
