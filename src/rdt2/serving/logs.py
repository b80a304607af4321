"""Logs that programs read: one JSON object a line, on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from typing import Any

WAITING = 10_000
"""Lines that may wait for a stderr that takes none (Ctrl-S, a pipe that nobody reads); more are dropped."""
ENDING = 1.0
"""Seconds that the end of the program waits for those that still do."""
_USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JSONLines(logging.Formatter):
    """Time, level, event, and whatever was handed over as `extra`; a traceback as one string."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON, in UTC."""
        milliseconds = f"{record.msecs:03.0f}"
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{milliseconds}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Lines(QueueHandler):
    """Writes to stderr from a thread of its own: no device and no request waits for whoever reads it."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Any] = queue.Queue(WAITING)
        super().__init__(self._waiting)
        self.setFormatter(JSONLines())
        _Writer(self._waiting).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """See `QueueHandler`; a line that finds no place is dropped."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(record)

    def flush(self) -> None:
        """Return when what was logged is written, or after `ENDING`. The end of the program calls it."""
        written = threading.Event()
        with contextlib.suppress(queue.Full):
            self._waiting.put(written, timeout=ENDING)
            written.wait(ENDING)


class _Writer(QueueListener):
    """Writes what waits."""

    def handle(self, record: Any) -> None:
        """A line that is formatted, or somebody who waits until it is its turn."""
        if isinstance(record, threading.Event):
            record.set()
            return
        with contextlib.suppress(OSError, ValueError):  # closed, broken, or its disk is full
            sys.stderr.write(record.getMessage() + "\n")
            sys.stderr.flush()


def log_to_stderr(level: str = "info", name: str = "rdt2.serving") -> None:
    """Let the logger of a server write JSON lines; others stay as they are."""
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [Lines()], False
    logger.setLevel(level.upper())
