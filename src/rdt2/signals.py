"""Signals that ask a process to end, heard instead of obeyed while a block runs."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class Listening:
    """Within the block, `_heard` is called for the signals named, however many come; then they mean what they meant.

    Only the main thread may listen to signals; elsewhere they keep their meaning.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in self._names:
                number = getattr(signal, name, None)
                # nohup ignores SIGHUP, and that is meant.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError
