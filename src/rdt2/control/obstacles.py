"""Boxes that stand around the arms: how far capsules are from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.control.shadow import Sweep

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.robot.settings import Obstacle

HALVINGS = 11
"""Of a capsule's axis, until its nearest point is known: a tenth of a millimetre on half a metre."""


class Obstacles:
    """Boxes that stand still, each an end of `Pairs`."""

    def __init__(self, boxes: Mapping[str, Obstacle]) -> None:
        self.names = tuple(boxes)
        self._centres = np.array([box.centre for box in boxes.values()]).reshape(-1, 3)
        self._halves = 0.5 * np.array([box.size for box in boxes.values()]).reshape(-1, 3)
        turns = np.array([box.turn for box in boxes.values()]).reshape(-1, 1)
        self._turns = Rotation.from_euler("z", turns, degrees=True).as_matrix()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def segments(self) -> Float[ndarray, "2 1 b 3"]:
        """They do not move: all that counts of them is where they are not."""
        return np.zeros((2, 1, len(self), 3))

    def sweep(self, moments: int) -> Sweep:
        """What they do meanwhile: nothing."""
        return Sweep(np.zeros((0, 0)), np.zeros((2, moments, len(self), 3)), np.zeros(0))

    def gaps(
        self, starts: Float[ndarray, "s p 3"], ends: Float[ndarray, "s p 3"], boxes: Int[ndarray, " p"]
    ) -> Float[ndarray, "s p"]:
        """Metres from segments to boxes, negative inside, where it counts from the nearest face."""
        turns, centres = self._turns[boxes], self._centres[boxes]
        start, end = (np.einsum("pji,spj->spi", turns, points - centres) for points in (starts, ends))
        return _box_distance(start, end, self._halves[boxes])


def _box_distance(
    start: Float[ndarray, "*n 3"], end: Float[ndarray, "*n 3"], half: Float[ndarray, "*n 3"]
) -> Float[ndarray, " *n"]:
    """From segments to boxes at the origin. Along a segment the distance from a box falls, then rises: its slope is
    halved towards zero."""
    way = end - start
    low, high = np.zeros(start.shape[:-1]), np.ones(start.shape[:-1])
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        point = start + middle[..., None] * way
        over = np.abs(point) - half
        deepest = over.max(axis=-1, keepdims=True)
        pushed = np.where(deepest > 0, np.maximum(over, 0.0), over == deepest)
        rises = np.einsum("...i,...i->...", pushed * np.sign(point), way) > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    over = np.abs(start + (0.5 * (low + high))[..., None] * way) - half
    outside = np.maximum(over, 0.0)
    return np.sqrt(np.einsum("...i,...i->...", outside, outside)) + np.minimum(over.max(axis=-1), 0.0)
