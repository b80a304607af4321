"""Recorders look on; a slow or broken one changes nothing about the motion."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.control.result import Cycle
    from rdt2.control.servo import Tick, Told
    from rdt2.observation import Observation
    from rdt2.robot import ArmState, Frame

WAITING, WITH_PICTURES = 256, 64
"""So many calls may wait for a recorder, and so many with pictures; what is more is dropped, and counted."""

Driver = Literal["policy", "person", "nobody"]
"""Who moves the arms: nobody while they pause, are handed over, or were stopped."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What the loop knows at one moment. Nobody changes what it refers to; no device is asked."""

    time: float
    """Seconds of the robot's clock."""
    since: float
    """Seconds since the episode began."""
    states: Mapping[str, ArmState]
    """Of the arms, as measured last."""
    widths: Mapping[str, float]
    """Measured openings, metres."""
    told: Told | None
    """What the plan wished, what the guard made of it, and what was sent; None before the first command."""
    cycle: Cycle | None
    """What the newest chunk asks for."""
    inference: float | None
    """Seconds the newest prediction took."""
    period: float | None
    """The longest time between two ticks of the servo since the last moment; None on a simulated clock."""
    fault: str
    """Why the arms pause, or why they were stopped; empty while all is well."""
    driver: Driver = "policy"
    """Who moves the arms."""
    ticks: Sequence[Tick] = ()
    """What was measured and told since the last moment, 125 times a second."""
    frames: Mapping[str, Sequence[Frame]] = field(default_factory=dict)
    """Pictures of the wrist cameras since the last moment, each once, for recorders that want them."""


class Recorder(Protocol):
    """What looks on: a report, a recording."""

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """A chunk was predicted for an observation taken at `time` (seconds of the robot's clock)."""
        ...

    def on_frame(self, moment: Moment) -> None:
        """Called 30 times a second of the robot's clock."""
        ...


def wants_pictures(recorder: Recorder | None) -> bool:
    """Whether a recorder is to see every picture, 30 a second: it says so in an attribute `wants_pictures`."""
    return bool(getattr(recorder, "wants_pictures", False))


class Together:
    """Several recorders as one; each is told everything, in their order."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self.recorders = tuple(recorders)
        self.wants_pictures = any(map(wants_pictures, recorders))

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """As each recorder's; `time` in seconds."""
        for recorder in self.recorders:
            recorder.on_cycle(observation, chunk, time)

    def on_frame(self, moment: Moment) -> None:
        """As each recorder's."""
        for recorder in self.recorders:
            recorder.on_frame(moment)


class BehindAQueue:
    """A recorder in a thread of its own. Where it does not keep up, pictures are dropped first.

    Attributes:
        dropped: calls that found the queue full.
        pictures_dropped: moments that went there without their pictures.
        broken: what the recorder raised; it is not called any more.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self.dropped, self.pictures_dropped, self.broken, self._given_up = 0, 0, "", False
        self.wants_pictures = wants_pictures(recorder)
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """As the recorder's, and at once; `time` in seconds."""
        self._put(lambda: self._recorder.on_cycle(observation, chunk, time))

    def on_frame(self, moment: Moment) -> None:
        """As the recorder's, and at once."""
        if moment.frames and self._calls.qsize() >= WITH_PICTURES:
            self.pictures_dropped += 1
            moment = replace(moment, frames={})
        self._put(lambda: self._recorder.on_frame(moment))

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


def behind_queues(recorder: Recorder | None) -> Recorder | None:
    """A recorder in a thread of its own; of several each, so that none waits for another."""
    if isinstance(recorder, Together):
        return Together([BehindAQueue(each) for each in recorder.recorders])
    return None if recorder is None else BehindAQueue(recorder)


def missed(recorder: Recorder | None, *, seconds: float) -> str:
    """Let what `behind_queues` made finish, for so long at most each; what it missed and why, or nothing."""
    if isinstance(recorder, Together):
        return " ".join(filter(None, (missed(each, seconds=seconds) for each in recorder.recorders)))
    if not isinstance(recorder, BehindAQueue):
        return ""
    recorder.close(seconds)
    told = []
    if recorder.pictures_dropped:
        told.append(f"pictures of {recorder.pictures_dropped} moments dropped.")
    if recorder.dropped or recorder.broken:
        told.append(f"{recorder.dropped} calls dropped. {recorder.broken}".strip())
    return " ".join(told)
