"""How threads of this process stand to all others of the machine, and a child process to its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

PREFERRED, AHEAD = -10, -15
"""Niceness of who gets more than others, and of who gets more than those."""


def hurry(thread: threading.Thread | None = None) -> None:
    """Have this thread, or another one that runs already, and those that it starts from now on, run before all others
    that want to, where the system permits it (root, or a limit `rtprio`)."""
    if hasattr(os, "sched_setscheduler"):
        number = (thread or threading.current_thread()).native_id or 0  # 0: this one
        with contextlib.suppress(OSError):
            os.sched_setscheduler(number, os.SCHED_FIFO, os.sched_param(1))


def prefer() -> bool:
    """Have this thread, and those that it starts, get the larger share of what there is, where the system permits it.
    Returns whether it does. For what takes much of a core: unlike `hurry` it leaves everybody a turn."""
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(PREFERRED, os.getpriority(os.PRIO_PROCESS, thread)))
        return True
    return False


@contextlib.contextmanager
def ahead_together() -> Iterator[None]:
    """Within the block all threads of this process that run Python get more than whom `prefer` prefers, where the
    system permits it; so do those that they start meanwhile, for as long as they last. One that waits for a core may
    hold Python's lock, and then so long waits whoever has to be in time."""
    before: dict[int, int] = {}
    begun = [thread.native_id for thread in threading.enumerate() if thread.native_id is not None]
    for number in begun:
        with contextlib.suppress(OSError, AttributeError):
            niceness = os.getpriority(os.PRIO_PROCESS, number)
            os.setpriority(os.PRIO_PROCESS, number, min(AHEAD, niceness))
            before[number] = niceness
    try:
        yield
    finally:
        for number, niceness in before.items():
            with contextlib.suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, number, niceness)


@contextlib.contextmanager
def preferring_what_starts() -> Iterator[None]:
    """Within the block threads that this one starts, and those of libraries that it calls, get the larger share, as
    with `prefer`; this one does until the end of the block."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread) if hasattr(os, "getpriority") else 0
    preferred = prefer()
    try:
        yield
    finally:
        if preferred:
            os.setpriority(os.PRIO_PROCESS, thread, before)


def share_cores() -> None:
    """Have the threads that compute for torch give their cores away soon while they wait for one another, in this
    process and its children; torch must not have been imported. It costs nothing where nothing else runs, and on a busy
    machine a step does not take many times as long."""
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def leave_cores(count: int) -> None:
    """Have torch, where it was imported, compute with all cores but so many, at least with one; what OMP_NUM_THREADS
    says stands. Its threads wait for one another without giving their cores away: with as many as there are cores,
    whatever else has to run holds all of them up, and a chunk takes several times as long."""
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() - count))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_terminal_to_parent() -> None:
    """Have this process, which multiprocessing started, pay no heed to Ctrl-C and to a terminal that ends: they are
    meant for the process that must stop the arms."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def end_with_parent() -> None:
    """Have this process, which multiprocessing started, end when its parent is gone, however that ended: kill -9 too,
    and in the middle of a computation that never ends."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
