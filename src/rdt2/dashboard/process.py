"""The process that shows things: takes what the robot's process tells, and hands it to the page and to rerun."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from rdt2.errors import RDT2Error

if TYPE_CHECKING:
    from rdt2.dashboard.options import Looking

DRAWN_EVERY = 1 / 15
"""Seconds between two pictures of the page."""


class Sink(Protocol):
    """What shows messages."""

    def take(self, message: Any) -> None:
        """One of `rdt2.dashboard.messages`."""
        ...

    def draw(self) -> None:
        """Show what was taken since the last time."""
        ...

    def close(self) -> None:
        """There will be no more."""
        ...


def serve(pipe: Connection, looking: Looking) -> None:
    """Until the pipe ends. Says first where the page is ("" without one), or which RDT2Error there was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that drives arms
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - viser tells its address there, and the desk does so in words
    sinks: list[Sink] = []
    url = ""
    try:
        if looking.rerun is not None:
            from rdt2.dashboard.rerun import Rerun

            sinks.append(Rerun(looking.rerun))
        if looking.dashboard:
            from rdt2.dashboard.page import Page

            page = Page(looking.dashboard_host, looking.dashboard_port, looking.dashboard_key_file, pipe.send)
            sinks.append(page)
            url = page.url
    except RDT2Error as error:
        pipe.send(error)
        return
    pipe.send(url)
    with contextlib.suppress(EOFError, OSError):
        due = 0.0
        while True:
            while pipe.poll(max(0.0, due - time.monotonic())):
                message = pipe.recv()
                for sink in sinks:
                    sink.take(message)
                if time.monotonic() >= due:
                    break
            due = time.monotonic() + DRAWN_EVERY
            for sink in sinks:
                sink.draw()
    for sink in sinks:
        sink.close()
