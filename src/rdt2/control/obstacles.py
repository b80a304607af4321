"""Boxes that stand around the arms: how far capsules are from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.control import gaps
from rdt2.control.bodies import solids
from rdt2.control.shadow import Sweep

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.robot.settings import Obstacle


class Obstacles:
    """Boxes that stand still, each an end of `Pairs`."""

    def __init__(self, boxes: Mapping[str, Obstacle]) -> None:
        self.names = tuple(boxes)
        centres = np.array([box.centre for box in boxes.values()]).reshape(-1, 3)
        halves = 0.5 * np.array([box.size for box in boxes.values()]).reshape(-1, 3)
        turns = np.array([box.turn for box in boxes.values()]).reshape(-1, 1)
        self.boxes = centres, halves, Rotation.from_euler("z", turns, degrees=True).as_matrix()
        """Centres and halves in metres, (b, 3), and how they are turned, (b, 3, 3)."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def segments(self) -> Float[ndarray, "2 1 b 3"]:
        """They do not move: all that counts of them is where they are not."""
        return np.zeros((2, 1, len(self), 3))

    def sweep(self, moments: int) -> Sweep:
        """What they do meanwhile: nothing."""
        still = np.zeros((moments - 1, len(self)))
        return Sweep(np.zeros((2, moments, len(self), 3)), still, np.zeros(len(self)), np.zeros(0))

    def gaps(
        self, segments: Float[ndarray, "2 s c 3"], radius: Float[ndarray, " c"], pairs: Int[ndarray, "2 p"]
    ) -> Float[ndarray, "s p"]:
        """Metres from capsules to boxes, by pairs, negative inside, where it counts from the nearest face."""
        return gaps.distances(segments, self.segments, solids(radius, np.zeros(len(self)), self.boxes), pairs)
