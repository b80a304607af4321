"""The servo's own thread, on a clock that goes on by itself, and what keeps others from holding it up."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rdt2.control.servo import TICK, Servo
from rdt2.threads import ahead_together, hurry

if TYPE_CHECKING:
    from rdt2.robot import Clock

HANGS = 0.5
"""Seconds without a tick after which a driver counts as hanging; every device stops by itself sooner."""
TURN = 2e-4
"""Seconds after which a thread that computes gives Python's lock to one that waits; Python's own 5 ms are most of a
tick, and the servo may have to wait several times in one."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block threads of this process take short turns and go ahead of others, and the garbage
    collector sweeps only what is new: a sweep of all that a large library leaves takes tenths of seconds, and nobody
    has a turn meanwhile, drivers of arms that are enabled no more than others: so there is none at first either."""
    turn, frozen = sys.getswitchinterval(), gc.get_freeze_count()
    gc.freeze()
    sys.setswitchinterval(TURN)
    try:
        with ahead_together():
            yield
    finally:
        sys.setswitchinterval(turn)
        if not frozen:
            gc.unfreeze()


class Beat:
    """A servo on a thread of its own, within a `with` statement."""

    def __init__(self, servo: Servo, clock: Clock) -> None:
        self._servo, self._clock = servo, clock
        self._over = threading.Event()
        self._last = clock.now()
        self._thread = threading.Thread(target=self._run, name="servo", daemon=True)
        self.periods: list[float] = []
        """Seconds from each tick to the next."""

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(HANGS)

    def hangs(self, now: float) -> str:
        """Where the servo has been stuck for too long; nothing while it comes round."""
        if now - self._last <= HANGS:
            return ""
        where = "its thread has ended"
        if (frame := sys._current_frames().get(self._thread.ident or 0)) is not None:
            place = traceback.extract_stack(frame)[-1]
            where = f"it hangs in {place.name}, line {place.lineno} of {place.filename}"
        return f"the servo has not come round for {now - self._last:.1f} s: {where}. Look at the device's driver."

    def _run(self) -> None:
        hurry()
        due, first = self._last, True
        while not self._over.is_set():
            now = self._clock.now()
            self._servo.tick(now)
            if not first:
                self.periods.append(now - self._last)
            self._last, first = now, False
            # One that is late does not delay the next; beats that were missed are not made up for.
            due = due + TICK if due + TICK > now else now + TICK
            self._clock.sleep_until(due)
