"""Tests that are promised something in time, on a machine that does much else."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from rdt2.threads import prefer


class Lateness(threading.Thread):
    """Within a `with` statement wakes every 5 ms; `most` is the longest that it overslept, seconds."""

    def __init__(self) -> None:
        super().__init__(name="lateness", daemon=True)
        self.over, self.most = threading.Event(), 0.0

    def __enter__(self) -> Lateness:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        before = time.monotonic()
        while not self.over.wait(0.005):
            now = time.monotonic()
            self.most, before = max(self.most, now - before - 0.005), now


@contextlib.contextmanager
def on_time():
    """Within the block this thread, and those that it starts, get more than what else the machine does, where that is
    permitted: who drives arms must not lose its turn for 100 ms, or they stop."""
    preferred = prefer()
    try:
        yield
    finally:
        if preferred:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 0)
