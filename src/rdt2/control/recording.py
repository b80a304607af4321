"""Recorders look on; a slow or broken one changes nothing about the motion."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.observation import Observation

WAITING = 256
"""So many calls may wait for a recorder; more are dropped, and counted."""


class Recorder(Protocol):
    """What looks on: a report, a recording."""

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """A chunk was predicted for an observation taken at `time` (seconds of the robot's clock)."""
        ...

    def on_frame(self, time: float) -> None:
        """Called 30 times a second of the robot's clock."""
        ...


class BehindAQueue:
    """A recorder in a thread of its own.

    Attributes:
        dropped: calls that found the queue full.
        broken: what the recorder raised; it is not called any more.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self.dropped, self.broken, self._given_up = 0, "", False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """As the recorder's, and at once."""
        self._put(lambda: self._recorder.on_cycle(observation, chunk, time))

    def on_frame(self, time: float) -> None:
        """As the recorder's, and at once."""
        self._put(lambda: self._recorder.on_frame(time))

    def close(self, seconds: float) -> None:
        """Let the recorder finish what waits, for so long at most; one that hangs is not called any more."""
        until = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._calls.put(None, timeout=seconds)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._given_up = True
            self.broken = self.broken or "it hangs"

    def _put(self, call: Callable[[], None]) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._given_up:
                return
            if self.broken:
                continue
            try:
                call()
            except Exception as error:  # a full disk, a broken encoder: told at the end of the episode
                self.broken = f"{type(error).__name__}: {error}"
