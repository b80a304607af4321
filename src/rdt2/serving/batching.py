"""Who is computed when: requests of many robots in one bounded line, taken in batches as soon as the policy is free.

A connection has one request in the line at a time, and the line is taken in the order of arrival: nobody is served
twice before all who waited are served once. No batch waits to become larger, so a request waits for the batch being
computed, for what stands before it where the line is longer than a batch, and for its own. What cannot be answered
before its deadline is refused at once: a late chunk is worth nothing, and computing it would make others late. Only
where nobody else waits is it computed all the same: it may be that the policy is no longer as slow as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rdt2.action import ActionChunk
from rdt2.errors import ServingError
from rdt2.serving.engine import Engine, left_of
from rdt2.serving.requests import Request

MAX_QUEUE = 64
_RECENT = 15
"""Batches that say how long the next one takes."""


class Pace:
    """How long batches take, by their size: as measured at the start, and as the last ones took.

    Medians, so that one that took long for once does not count. What is no longer computed because it took too long is
    forgotten after `_RECENT` others.
    """

    def __init__(self, measured: dict[int, float] | None = None) -> None:
        self._measured = dict(measured or {})
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._seconds = dict(self._measured)

    def learn(self, size: int, seconds: float) -> None:
        """A batch has been computed."""
        self._recent.append((size, seconds))
        found = {each: [took] for each, took in self._measured.items()}
        for each, took in self._recent:
            found.setdefault(each, []).append(took)
        often = {each: statistics.median_low(took) for each, took in found.items() if len(took) > 1}
        self._seconds = self._measured | often

    def expected(self, size: int) -> float:
        """Seconds of a batch: between sizes that were measured along a line, beyond them in proportion."""
        if size <= 0 or not self._seconds:
            return 0.0
        if size in self._seconds:
            return self._seconds[size]
        below = max((each for each in self._seconds if each < size), default=None)
        above = min((each for each in self._seconds if each > size), default=None)
        if below is None:
            return self._seconds[above]  # type: ignore[index]
        if above is None:
            return self._seconds[below] * size / below
        share = (size - below) / (above - below)
        return (1 - share) * self._seconds[below] + share * self._seconds[above]


@dataclass(eq=False)
class Answer:
    """A chunk, and how it came about. Seconds."""

    chunk: ActionChunk
    seed: int
    batch: int
    queued: float
    computed: float


@dataclass(eq=False)
class _Waiting:
    request: Request
    seed: int
    arrived: float
    due: float
    """When the answer is worth nothing any more."""
    alone: bool
    """Nobody waited and a policy was free when it came: it is tried, however long it is expected to take."""
    answer: asyncio.Future[Answer] = field(repr=False)


class Queue:
    """The line in front of an engine.

    Args:
        engine: what computes, started.
        max_batch: requests that are computed together.
        max_queue: requests that wait; more are refused.
        on_batch: told the size and the seconds of each batch.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int,
        max_queue: int = MAX_QUEUE,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.engine, self.max_batch, self.max_queue = engine, max_batch, max_queue
        self.pace = Pace(engine.measured)
        self._on_batch = on_batch
        self._line: deque[_Waiting] = deque()
        self._running: dict[int, tuple[float, int]] = {}
        """Slot -> when its batch began, and its size."""
        self._arrived = asyncio.Event()
        self._workers = [asyncio.create_task(self._work(slot)) for slot in range(engine.slots)]

    @property
    def length(self) -> int:
        """Requests that wait."""
        return len(self._line)

    def wait_seconds(self) -> float:
        """For how long a request that comes now would wait until it is computed."""
        now, slots, longest = time.monotonic(), self.engine.slots, self.engine.hang_seconds
        free = [
            max(0.0, min(left_of(self.pace.expected(size), now - began), began + longest - now))
            for began, size in self._running.values()
        ]
        first = min(free) if len(free) >= slots else 0.0
        rounds = len(self._line) // (self.max_batch * slots)
        return self.engine.ready_in + first + rounds * self.pace.expected(self.max_batch)

    async def ask(self, request: Request, arrived: float, gone: asyncio.Future | None = None) -> Answer:
        """Wait in the line, and for the chunk. Cancelled, or when `gone` is done, the request is forgotten.

        Raises:
            ServingError: the line is full, the deadline cannot be kept, or who asked has gone. What the policy raises.
        """
        wait = self.wait_seconds()
        if len(self._line) >= self.max_queue:
            raise ServingError(
                f"{len(self._line)} requests wait already, for about {wait:.3f} s. Ask again later, or less often.",
                reason="busy",
                queue_seconds=wait,
            )
        due = float("inf") if request.deadline is None else arrived + request.deadline
        own = self.pace.expected(len(self._line) % self.max_batch + 1)
        alone = not self._line and not wait and len(self._running) < self.engine.slots
        if time.monotonic() + wait + (0.0 if alone else own) > due:
            raise self._late(request, wait, own)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        waiting = _Waiting(request, seed, arrived, due, alone, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._arrived.set()
        try:
            left = None if request.deadline is None else due - time.monotonic()
            awaited = [waiting.answer] if gone is None else [waiting.answer, gone]
            await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.answer.done():
                if gone is not None and gone.done():
                    raise ServingError("the client has gone.", reason="gone")
                raise self._late(request, time.monotonic() - arrived, own)
            return waiting.answer.result()
        finally:
            waiting.answer.cancel()
            with contextlib.suppress(ValueError):  # in the line still only if it was cancelled
                self._line.remove(waiting)

    async def close(self) -> None:
        """Refuse who waits, and take no more batches."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for waiting in self._line:
            _fail(waiting, ServingError("the server stops.", reason="stopping"))

    # ----------------------------------------------------------------------------------------------- batches

    async def _work(self, slot: int) -> None:
        while True:
            while not (batch := self._next_batch()):
                self._arrived.clear()
                await self._arrived.wait()
            began = time.monotonic()
            self._running[slot] = began, len(batch)
            try:
                outcomes = await self.engine.compute(
                    [each.request for each in batch], [each.seed for each in batch]
                )
            except asyncio.CancelledError:
                for waiting in batch:
                    _fail(waiting, ServingError("the server stops.", reason="stopping"))
                raise
            except Exception as error:  # an engine that breaks its word: whoever asked must hear of it
                outcomes = [error] * len(batch)
            finally:
                del self._running[slot]
            ended = time.monotonic()
            # Beside one that is refused the others were computed again, one by one: that says nothing of their number.
            if all(isinstance(outcome, ActionChunk) for outcome in outcomes):
                self.pace.learn(len(batch), ended - began)
                if self._on_batch is not None:
                    self._on_batch(len(batch), ended - began)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    _fail(waiting, outcome)
                elif not waiting.answer.done():
                    queued = began - waiting.arrived
                    waiting.answer.set_result(
                        Answer(outcome, waiting.seed, len(batch), queued, ended - began)
                    )

    def _next_batch(self) -> list[_Waiting]:
        """Who is computed now: the longest waiting, as many as neither a batch nor a deadline forbids."""
        batch: list[_Waiting] = []
        now = time.monotonic()
        soonest = float("inf")
        while self._line and len(batch) < self.max_batch:
            waiting = self._line[0]
            if waiting.answer.done():  # nobody waits for it any more
                self._line.popleft()
                continue
            own = self.pace.expected(1)
            if now + (0.0 if waiting.alone else own) > waiting.due:
                self._line.popleft()
                _fail(waiting, self._late(waiting.request, now - waiting.arrived, own))
                continue
            soonest = min(soonest, waiting.due)
            if batch and now + self.pace.expected(len(batch) + 1) > soonest:
                break
            batch.append(self._line.popleft())
        return batch

    def _late(self, request: Request, wait: float, own: float) -> ServingError:
        return ServingError(
            f"no answer in time: the deadline is {request.deadline:g} s, waiting takes about {wait:.3f} s and "
            f"computing {own:.3f} s ({len(self._line)} requests wait). Ask again with a new picture, or "
            "allow more time.",
            reason="late",
            queue_seconds=self.wait_seconds(),
        )


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
