"""Whether this machine keeps time: what is judged by the clock says nothing while its cores are taken away.

A process of its own wakes every 10 ms, before all others where that is permitted, and notes when it was woken late:
then nobody on the machine had a core, as happens to a virtual one whose host is busy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TURN = 0.01
LATE = 0.005
"""Seconds that a wake-up may be late on a machine that does nothing else."""


class Watch:
    """Watches from now on, until it is closed or this process is gone."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="late-")
        os.close(handle)
        self._notes = Path(name)
        self._process = subprocess.Popen([sys.executable, "-S", __file__, name, str(os.getpid())])

    def lost(self, since: float) -> float:
        """Milliseconds that the machine stood still at the longest after `since` of the monotonic clock."""
        notes = [line.split() for line in self._notes.read_text().splitlines()]
        return max((1e3 * float(late) for at, late in notes if float(at) >= since), default=0.0)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._notes.unlink()


def watch(name: str, parent: int) -> None:
    """What the process does."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    with open(name, "a", buffering=1) as notes:
        while os.getppid() == parent:
            due = time.monotonic() + TURN
            time.sleep(TURN)
            late = time.monotonic() - due
            if late > LATE:
                notes.write(f"{due} {late}\n")


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
