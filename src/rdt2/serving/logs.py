"""Logs that programs read: one JSON object a line, on stderr."""

from __future__ import annotations

import json
import logging
import time

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


def log_to_stderr(level: str = "info", name: str = "rdt2.serving") -> None:
    """Let the logger of a server write JSON lines; others stay as they are."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level.upper())
