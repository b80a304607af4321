"""Ctrl-C, SIGTERM and SIGHUP while arms move: noted, so that the loop stops the arms and nothing comes between."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Asked:
    """Within the block, signals that ask the process to end are noted in `name`, however many come.

    Only the main thread may listen to signals; elsewhere they keep their meaning.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """Of the first signal that came; "" for none."""
        return signal.Signals(self.number).name if self.number else ""

    def __enter__(self) -> Asked:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                # nohup ignores SIGHUP, and that is meant.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
