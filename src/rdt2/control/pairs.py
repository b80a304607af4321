"""Parts that may meet, of two arms, of one, or of an arm and what stands around it: how near, and whether too near."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.control import gaps
from rdt2.control.bodies import solids
from rdt2.control.obstacles import Obstacles
from rdt2.control.shadow import Shadow, Sweep

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
        self._solids = solids(
            one.body.radius,
            np.zeros(len(other)) if isinstance(other, Obstacles) else other.body.radius,
            other.boxes if isinstance(other, Obstacles) else None,
        )

    def start(self) -> None:
        """Take what is, as what may not get less where it is too little."""
        self._segments = self._one.segments, self._other.segments
        self.gaps = gaps.distances(*self._segments, self._solids, self.pairs)[0]
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
        self.move(self.clearance)
        self._floors = np.minimum(np.minimum(self._floors, self.gaps), self.clearance)

    def move(self, horizon: float) -> tuple[Int[ndarray, " n"], Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Take in the present postures; returns the pairs nearer than `horizon`, their gaps, and how much they closed.

        Of the other pairs it is enough to know how near they can be at most: they are not computed anew.
        """
        now = self._one.segments, self._other.segments
        found = gaps.move(
            *self._segments, *now, self._solids, self.pairs, self.gaps, self._floors, self.clearance, horizon
        )
        self._segments = now
        return found

    def meet(self, first: Sweep, second: Sweep) -> int | None:
        """The pair that comes nearer in a sweep than it may, or one of them."""
        pair = gaps.meet(
            first[:3], second[:3], self._solids, self.pairs, self.gaps, self._floors, self.clearance, EXACT,
            self._between,
        )  # fmt: skip
        return None if pair < 0 else pair
