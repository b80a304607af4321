"""Parts that may meet, of two arms, of one, or of an arm and what stands around it: how near, and whether too near."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.control.bodies import distances
from rdt2.control.obstacles import Obstacles
from rdt2.control.shadow import Shadow, Sweep, far

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

EXACT, BETWEEN = 1e-4, 2e-3
"""Metres by which a clearance may be missed: at a sample of a sweep, by rounding; between two, where it is a bound."""


class Pairs:
    """Capsules of two arms, or of one arm, that may meet, and how far they are from each other now."""

    def __init__(
        self, one: Shadow, other: Shadow | Obstacles, pairs: Int[ndarray, "2 p"], clearance: float
    ) -> None:
        self.pairs, self.clearance = pairs, clearance
        self._one, self._other = one, other
        self._between = min(BETWEEN, clearance / 4)

    def start(self) -> None:
        """Take what is, as what may not get less where it is too little."""
        self._segments = self._one.segments, self._other.segments
        self.gaps = self._distances(*self._segments, self.pairs)[0]
        self._floors = np.minimum(self.clearance, self.gaps)

    def told(self, pair: int) -> dict[str, str]:
        """Of a pair, by the side that moves: what it is near to."""
        one, other = self._one, self._other
        if isinstance(other, Obstacles):
            return {one.side: f"the {other.names[self.pairs[1, pair]]}"}
        if one is other:
            return {one.side: "itself"}
        return {one.side: f"the {other.side} arm", other.side: f"the {one.side} arm"}

    def see(self) -> None:
        """Fingers are elsewhere than was thought: what that brings too near may stay there."""
        floors = self._floors
        self.move(self.clearance)
        self._floors = np.minimum(np.minimum(floors, self.gaps), self.clearance)

    def move(self, horizon: float) -> tuple[Int[ndarray, " n"], Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Take in the present postures; returns the pairs nearer than `horizon`, their gaps, and how much they closed.

        Of the other pairs it is enough to know how near they can be at most: they are not computed anew.
        """
        before = self.gaps
        now = self._one.segments, self._other.segments
        one, other = (far(new - old)[0] for new, old in zip(now, self._segments, strict=True))
        self.gaps = before - one[self.pairs[0]] - other[self.pairs[1]]
        near = np.flatnonzero(self.gaps < horizon)
        self.gaps[near] = self._distances(*now, self.pairs[:, near])[0]
        self._segments = now
        self._floors[near] = np.minimum(np.maximum(self._floors[near], self.gaps[near]), self.clearance)
        near = near[self.gaps[near] < horizon]
        return near, self.gaps[near], before[near] - self.gaps[near]

    def meet(self, first: Sweep, second: Sweep) -> Int[ndarray, " n"]:
        """The pairs that come nearer in a sweep than they may."""
        a, b = self.pairs
        near = np.flatnonzero(self.gaps - first.reach[a] - second.reach[b] < self.clearance)
        if not near.size:
            return near
        pairs, floors = self.pairs[:, near], self._floors[near]
        gaps = self._distances(first.segments, second.segments, pairs)
        wrong = (gaps[1:] < floors - EXACT).any(axis=0)
        if wrong.any():
            return near[wrong]
        # Between two samples a gap is no less than its mean there less half of what the two can move to each other.
        moved = np.diff(
            second.segments[None][:, :, :, pairs[1]] - first.segments[:, None][:, :, :, pairs[0]], axis=2
        )
        motion = np.sqrt(np.einsum("...i,...i->...", moved, moved)).max(axis=(0, 1))
        return near[(0.5 * (gaps[:-1] + gaps[1:] - motion) < floors - self._between).any(axis=0)]

    def _distances(self, first: ndarray, second: ndarray, pairs: ndarray) -> ndarray:
        one, other = self._one, self._other
        if isinstance(other, Obstacles):
            a, b = pairs
            return other.gaps(first[0][:, a], first[1][:, a], b) - one.body.radius[a]
        return distances(first, second, one.body, other.body, pairs)
