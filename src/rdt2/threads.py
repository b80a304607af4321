"""How threads of this process stand to all others of the machine, and a child process to its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading

PREFERRED = -10
"""Niceness of who gets more than others."""


def hurry() -> None:
    """Have this thread, and those that it starts, run before all others that want to, where the system permits it
    (root, or a limit `rtprio`)."""
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(1))


def prefer() -> bool:
    """Have this thread, and those that it starts, get the larger share of what there is, where the system permits it.
    Returns whether it does. For what takes much of a core: unlike `hurry` it leaves everybody a turn."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PREFERRED)
        return True
    return False


def end_with_parent() -> None:
    """Have this process, which multiprocessing started, end when its parent is gone, however that ended: kill -9 too,
    and in the middle of a computation that never ends."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
