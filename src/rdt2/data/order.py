"""Which sample stands where in the endless stream that training sees: a function of the seed and the position alone.

So any number of processes and workers may each compute its own part of it, and a run goes on exactly where it
stopped, with as many processes as are there then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

_DRAWS = 1 << 16
"""Which data set a position belongs to is drawn for so many positions at a time."""


class Order:
    """Samples of one data set, epoch after epoch, each a permutation; or of several, drawn by weight."""

    def __init__(
        self,
        parts: Sequence[Int[np.ndarray, " n"]],
        *,
        weights: Sequence[float] = (1.0,),
        seed: int = 0,
        shuffle: bool = True,
        window: int = 0,
    ) -> None:
        """
        parts: the sample numbers of each data set, in stored order; none is empty.
        weights: shares of the stream, relative to each other.
        window: a sample comes at most about so many samples before or after its stored place, for disks that
            read forwards; 0 shuffles all.
        """
        self._parts = parts
        self._cumulative = np.cumsum(np.asarray(weights, np.float64) / np.sum(weights))
        self._seed, self._shuffle, self._window = seed, shuffle, window
        self._shuffled: dict[int, tuple[int, np.ndarray]] = {}
        self._counts = np.zeros((1, len(parts)), np.int64)
        """(blocks + 1, parts): how many of a part's samples come before each block of draws."""

    def __call__(self, first: int, count: int) -> tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]]:
        """Sample numbers at the positions ``first``, ``first + 1``, ..., and the epoch each is seen in."""
        if len(self._parts) == 1:
            return self._of_part(0, np.arange(first, first + count))
        which, places = self._placed(first, count)
        numbers, epochs = np.empty(count, np.int64), np.empty(count, np.int64)
        for part in range(len(self._parts)):
            mine = which == part
            if mine.any():
                numbers[mine], epochs[mine] = self._of_part(part, places[mine])
        return numbers, epochs

    def _placed(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of each position, and how many of that part came before it."""
        which, places = [], []
        while count:
            block, offset = divmod(first, _DRAWS)
            while len(self._counts) <= block + 1:
                drawn = np.bincount(self._draws(len(self._counts) - 1), minlength=len(self._parts))
                self._counts = np.concatenate([self._counts, self._counts[-1:] + drawn])
            drawn, taken = self._draws(block), min(count, _DRAWS - offset)
            before = np.empty(len(drawn), np.int64)
            for part in range(len(self._parts)):
                mine = drawn == part
                before[mine] = self._counts[block, part] + np.arange(mine.sum())
            which.append(drawn[offset : offset + taken])
            places.append(before[offset : offset + taken])
            first, count = first + taken, count - taken
        return np.concatenate(which), np.concatenate(places)

    def _draws(self, block: int) -> np.ndarray:
        drawn = np.random.default_rng([self._seed, 1, block]).random(_DRAWS)
        return np.minimum(np.searchsorted(self._cumulative, drawn, "right"), len(self._parts) - 1)

    def _of_part(self, part: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, rows = np.divmod(places, len(self._parts[part]))
        numbers = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            numbers[mine] = self._epoch(part, int(epoch))[rows[mine]]
        return numbers, epochs

    def _epoch(self, part: int, epoch: int) -> np.ndarray:
        """A part's samples in the order of an epoch; the last one asked for is kept."""
        if not self._shuffle:
            return self._parts[part]
        if part not in self._shuffled or self._shuffled[part][0] != epoch:
            random = np.random.default_rng([self._seed, epoch, part])
            numbers = self._parts[part]
            if self._window:
                places = np.arange(len(numbers)) + self._window * random.random(len(numbers))
                numbers = numbers[np.argsort(places)]
            else:
                numbers = random.permutation(numbers)
            self._shuffled[part] = (epoch, numbers)
        return self._shuffled[part][1]
