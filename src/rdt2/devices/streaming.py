"""A camera that sends pictures by itself: the newest is kept, and what is wrong with the stream is said.

A driver says how its device is opened and how the next picture is waited for, a `Source`; the rest is here:

    DRIVER = Driver(open=lambda opening: StreamingCamera(opening, lambda: MySource(opening)), options=..., extra="")
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rdt2.devices.drivers import Opening
from rdt2.devices.stamps import ClockMap
from rdt2.errors import RobotError
from rdt2.robot.device import BaseDevice
from rdt2.robot.protocols import Check, Clock, Frame, Health, Timing
from rdt2.threads import preferring_what_starts

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

PATIENCE = 0.5
"""Seconds (or five periods, if that is longer) without a picture after which a camera has a fault."""
START_SECONDS = 5.0
"""A camera that is opened must have given a picture by then."""
ASK_SECONDS = 1.0
"""Between questions for the device's clock."""
END_SECONDS = 0.3
"""A source that has not closed by then is left to close by itself: a device that is gone is waited for in vain."""
EXIT_SECONDS = 2.0
"""At the end of the program, for all sources together: a thread that is cut off in a C++ library aborts the program."""
WRAP = 65535
"""Pictures are numbered 1 to 65535 by devices that count in 16 bits."""
COUNTED = 90
"""So many of the last pictures tell rate and losses."""
JUDGED, JUDGED_SECONDS = 30, 2.0
"""A check waits for so many pictures, or so long."""
MOST_LOST = 0.01


@dataclass(frozen=True)
class Grabbed:
    """A picture as it came."""

    image: UInt8[ndarray, "384 384 3"]
    """RGB, cut and resized as the models see it."""
    number: int
    """The device's."""
    moment: float | None
    """The middle of its exposure in seconds of the device's own clock; None where it has none."""


class Source(Protocol):
    """A device that is open and sends pictures. One thread calls `grab` and `ask`."""

    rate: float
    """Pictures a second that it was asked for."""

    def grab(self) -> Grabbed | None:
        """The next picture; None when none came within about 0.1 s.

        Raises:
            RobotError: there will be none any more; says why.
        """
        ...

    def ask(self) -> float | None:
        """What the device's clock says now, seconds; None where it cannot be asked."""
        ...

    def remarks(self) -> str:
        """What it knows of pictures that do not come, to be said after that: "; 12 were damaged on the way"."""
        ...

    def checks(self) -> list[Check]:
        """What the device says of its settings."""
        ...

    def close(self) -> None:
        """Let go of the device, from any thread."""
        ...


class StreamingCamera(BaseDevice):
    """A wrist camera whose pictures a thread takes as they come.

    Args:
        opening: from the robot's settings.
        source: opens the device.
    """

    def __init__(self, opening: Opening[Any], source: Callable[[], Source]) -> None:
        super().__init__(opening.name, Timing(opening.camera.latency, opening.camera.clock_error))
        self._clock, self._source = opening.clock, source
        self._stream: _Stream | None = None
        self._shown = 0

    def connect(self) -> None:
        """Open it, and wait for the first picture.

        Raises:
            RobotError: it cannot be opened, or gives no picture.
        """
        if not self._connected:
            self._start()
            self._connected = True

    def _start(self) -> None:
        with preferring_what_starts():  # what a camera sends is lost where nobody takes it in time
            stream = _Stream(self._source(), self._clock, self.timing.latency, self._shown)
        try:
            stream.wait(START_SECONDS)
        except BaseException:
            stream.end(time.monotonic() + END_SECONDS)
            raise
        self._stream = stream

    def _end(self) -> None:
        if self._stream is not None:
            if self._stream.newest is not None:
                self._shown = self._stream.newest.sequence
            self._stream.end(time.monotonic() + END_SECONDS)
            self._stream = None

    def read(self) -> Frame:
        """The newest picture, with the time of its own exposure.

        Raises:
            RobotError: not connected; or pictures have stopped coming, or come late, and why as far as is known.
        """
        fault, stream = self.health().fault, self._stream
        if stream is None or stream.newest is None:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        if fault:
            raise RobotError(f"the {self.name} {fault}. See to it, then recover() the camera.")
        return stream.newest

    def health(self) -> Health:
        """Whether it gives pictures: one that gives none any more has a fault."""
        stream = self._stream
        if stream is not None and not self._fault:
            self._fault = stream.trouble(self._clock.now())
        return super().health()

    def stop(self) -> None:
        """Nothing moves: it goes on looking."""

    def recover(self) -> None:
        """Open it anew after a fault, and wait for a picture.

        Raises:
            RobotError: it still gives none.
        """
        if self.health().fault:
            self._end()
            try:
                self._start()
            except RobotError as error:
                raise RobotError(f"the {self.name} still gives no pictures: {error}") from error
            self._fault = ""

    def checks(self) -> list[Check]:
        """What the device says of its settings, and how its pictures come. Raises RobotError: it is not connected."""
        stream = self._stream
        if stream is None:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        until = self._clock.now() + JUDGED_SECONDS
        while stream.counted < JUDGED and self._clock.now() < until:
            self._clock.sleep_until(self._clock.now() + 0.02)
        return stream.source.checks() + stream.checks(self.timing)

    def close(self) -> None:
        """End the thread, and let go of the device."""
        self._end()
        super().close()


class _Stream:
    """One opening of a device: a thread that takes its pictures until it is closed."""

    def __init__(self, source: Source, clock: Clock, latency: float, shown: int) -> None:
        self.source, self._clock, self._latency = source, clock, latency
        self.newest: Frame | None = None
        self._sequence, self._number, self._moment = shown, 0, float("-inf")
        self._map, self._asked = ClockMap(), float("-inf")
        self._arrived, self._late = clock.now(), 0.0
        self._news: deque[tuple[float, int]] = deque(maxlen=COUNTED)
        self._first, self._ended = threading.Event(), threading.Event()
        self._broken = ""
        self._thread = threading.Thread(target=self._take, name="camera", daemon=True)
        _running.add(self)
        self._thread.start()

    def _take(self) -> None:
        try:
            while not self._ended.is_set():
                self._ask()
                grabbed = self.source.grab()
                if grabbed is not None:
                    self._accept(grabbed, self._clock.now())
        except Exception as error:
            words = str(error).rstrip(".")
            self._broken = (
                words if isinstance(error, RobotError) else f"failed: {type(error).__name__}: {words}"
            )
        finally:
            self._first.set()
            self.source.close()

    def _ask(self) -> None:
        before = self._clock.now()
        if before < self._asked + ASK_SECONDS:
            return
        self._asked = before
        if (moment := self.source.ask()) is not None:
            self._map.asked(moment, before, self._clock.now())

    def _accept(self, grabbed: Grabbed, now: float) -> None:
        step = grabbed.number - self._number
        if step <= 0 and WRAP * 0.9 < self._number <= WRAP and grabbed.number < WRAP * 0.1:
            step += WRAP
        if step <= 0 and self.newest is not None:
            return  # seen before
        self._number = grabbed.number
        if grabbed.moment is None:
            stamp = now - self._latency
        elif grabbed.moment <= self._moment:
            return  # taken before, or its clock went back: nothing is shown as newer than it is
        else:
            self._moment = grabbed.moment
            self._map.arrived(grabbed.moment, now)
            stamp = min(self._map.time(grabbed.moment, self._latency), now)
        if self.newest is not None and stamp <= self.newest.timestamp:
            return
        self._sequence += step if self.newest is not None else 1
        self._news.append((now, self._sequence))
        self._arrived, self._late = now, now - stamp
        self.newest = Frame(stamp, self._sequence, grabbed.image)
        self._first.set()

    def wait(self, seconds: float) -> None:
        """Until the first picture.

        Raises:
            RobotError: it did not come.
        """
        self._first.wait(seconds)
        if self.newest is None:
            silent = f"has given no picture within {seconds:g} s{self.source.remarks()}"
            raise RobotError(f"it {self._broken or silent}.")

    @property
    def counted(self) -> int:
        """Pictures that came, of the last `COUNTED`."""
        return len(self._news)

    def trouble(self, now: float) -> str:
        """What is wrong with the stream, empty when nothing is."""
        if self._broken:
            return self._broken
        patience = max(PATIENCE, 5 / self.source.rate)
        if now - self._arrived > patience:
            return f"has given no picture for {now - self._arrived:.1f} s{self.source.remarks()}"
        if self._late > patience + self._latency:
            return f"gives pictures only {self._late:.1f} s after they were taken{self.source.remarks()}"
        return ""

    def checks(self, timing: Timing) -> list[Check]:
        """How many pictures come, how many were lost, and how well their times are known."""
        found, news = [], list(self._news)
        if len(news) > 2:
            seconds, numbers = news[-1][0] - news[0][0], news[-1][1] - news[0][1]
            rate, lost = (len(news) - 1) / max(seconds, 1e-9), 1 - (len(news) - 1) / max(numbers, 1)
            wanted = self.source.rate
            found.append(
                Check("pictures a second", f"{wanted:g}", f"{rate:.1f}", abs(rate - wanted) < 0.1 * wanted)
            )
            found.append(Check("pictures lost", f"{MOST_LOST:.0%} at most", f"{lost:.1%}", lost <= MOST_LOST))
        if self._map.error < float("inf"):
            error, claimed = 1e3 * self._map.error, 1e3 * timing.clock_error
            found.append(
                Check("clock", f"known to {claimed:g} ms", f"known to {error:.2f} ms", error <= claimed)
            )
        return found

    def end(self, until: float) -> None:
        """Let go of the device, and wait for that until so many seconds of the monotonic clock."""
        self._ended.set()
        self._thread.join(max(0.0, until - time.monotonic()))


_running: weakref.WeakSet[_Stream] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    until = time.monotonic() + EXIT_SECONDS
    for stream in list(_running):
        stream.end(until)
