"""Batches that are being filled, between a stream's workers, which read samples, and the reader of its batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON
from rdt2.data.batch import Batch
from rdt2.data.shards.sample import PICTURE_SHAPE, Sample

_JOBS_AHEAD = 3
"""Pictures that wait to be decoded while a worker reads on, so that others find some."""


class Building:
    """A batch that is being filled, each row by the worker it belongs to."""

    def __init__(self, size: int, pictures: bool) -> None:
        self.pictures = np.empty((size, *PICTURE_SHAPE, 3), np.uint8) if pictures else None
        self.actions = np.empty((size, HORIZON, ACTION_DIM), np.float32)
        self.missing = size
        self.lanes: dict[int, dict[str, Any]] = {}
        self._indices = np.empty(size, np.int64)
        self._tokens: list[np.ndarray | None] = [None] * size
        self._instructions: list[str | None] = [None] * size

    def put(self, row: int, sample: Sample, number: int, worker: int, after: dict[str, Any]) -> None:
        """Take all of a sample but its picture; ``after`` is where its worker's lane stands behind it."""
        self.actions[row], self._indices[row] = sample.action, number
        self._tokens[row], self._instructions[row] = sample.tokens, sample.instruction
        self.lanes[worker] = after

    def finish(self, state: dict[str, Any]) -> Batch:
        """The batch, with the state of the stream behind it."""
        tokens = [row for row in self._tokens if row is not None]
        sentences = [text for text in self._instructions if text is not None]
        return Batch(
            pictures=self.pictures,
            actions=self.actions,
            tokens=np.stack(tokens).astype(np.int64) if len(tokens) == len(self._tokens) else None,
            instructions=sentences,
            indices=self._indices,
            state=state,
            mirrored=np.zeros(len(self._indices), bool),
        )


@dataclass
class Job:
    """A picture to be decoded into its row of a batch, and how that went."""

    out: np.ndarray
    row: int
    sample: Sample
    number: int
    epoch: int
    done: bool = False
    error: Exception | None = None


class Ring:
    """The batches between the workers, which fill them, and the reader, which takes them in order.

    Pictures to decode are offered to all: workers and, while it waits, the reader.
    """

    def __init__(
        self, first: int, ahead: int, make: Callable[[], Building], decode: Callable[[Job], None]
    ) -> None:
        self.first = first
        self._taken, self._ahead, self._make, self._decode = first, ahead, make, decode
        self._buildings: dict[int, Building] = {}
        self._jobs: deque[Job] = deque()
        self._failed: tuple[int, BaseException] | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def building(self, number: int) -> Building | None:
        """The batch of that number, as soon as it may be begun; None when reading has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or number < self._taken + self._ahead)
            if self._stopped:
                return None
            if number not in self._buildings:
                self._buildings[number] = self._make()
            return self._buildings[number]

    def offer(self, job: Job) -> None:
        """Let anybody decode a picture; decode one, too, when several wait already."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
            ahead = self._jobs.popleft() if len(self._jobs) > _JOBS_AHEAD else None
        if ahead is not None:
            self._run(ahead)

    def finish(self, jobs: Sequence[Job]) -> None:
        """Decode what waits, until all of these are done."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or all(job.done for job in jobs))
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            self._decode(job)
        except Exception as error:  # handed to the worker whose job it is
            job.error = error
        finally:  # also where Ctrl-C comes in between: the worker must not wait for ever
            with self._changed:
                job.done = True
                self._changed.notify_all()

    def filled(self, number: int, rows: int) -> None:
        """So many more rows of the batch are there."""
        with self._changed:
            self._buildings[number].missing -= rows
            self._changed.notify_all()

    def fail(self, number: int, error: BaseException) -> None:
        """A row of the batch will never come."""
        with self._changed:
            if self._failed is None or number < self._failed[0]:
                self._failed = (number, error)
            self._changed.notify_all()

    def take(self, number: int) -> Building:
        """The next batch, once it is whole. Raises what a worker raised over it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._ready(number))
                if self._ready(number):
                    if self._failed is not None and self._failed[0] <= number:
                        raise self._failed[1]
                    self._taken = number + 1
                    self._changed.notify_all()
                    return self._buildings.pop(number)
                job = self._jobs.popleft()
            self._run(job)

    def _ready(self, number: int) -> bool:
        """Whether the batch is whole, or never will be."""
        if self._failed is not None and self._failed[0] <= number:
            return True
        return number in self._buildings and not self._buildings[number].missing

    def stop(self) -> None:
        """Let workers that wait for a batch end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
