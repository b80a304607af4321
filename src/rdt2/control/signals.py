"""Ctrl-C, SIGTERM and SIGHUP while arms move: noted, so that the loop stops the arms and nothing comes between."""

from __future__ import annotations

import signal
from types import FrameType

from rdt2.signals import Listening


class Asked(Listening):
    """Notes the first signal that asked the process to end: its `number`, 0 for none."""

    def __init__(self) -> None:
        super().__init__("SIGINT", "SIGTERM", "SIGHUP")
        self.number = 0

    @property
    def name(self) -> str:
        """Of the first signal that came; "" for none."""
        return signal.Signals(self.number).name if self.number else ""

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
