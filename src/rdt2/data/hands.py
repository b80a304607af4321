"""What a hand with a gripper can do: motions that are faster, or rougher, were not made but measured wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

FAST_M, FAST_RAD = 0.10, 0.7
"""3 m/s and 21 rad/s, over 1/30 s: faster is seldom meant."""
FASTEST_M, FASTEST_RAD = 1 / 3, 1.5
"""10 m/s and 45 rad/s, over 1/30 s: twice what hands reach with a racket."""
_HARDEST_M = 0.22
"""200 m/s2, twenty times gravity: how much two steps of 1/30 s may differ. A hand that stops dead from 6 m/s does."""
_ROUGHEST, _ROUGH_M = 1.4, 0.02
"""Mean square of the steps over the variance of the places: 2 for places in any order, 1.4 for shaking 6 times a
second, 0.4 for a stroke of a third of a second. Below 2 cm a step, noise may be so, too."""


class Motion(NamedTuple):
    """Of one arm in one chunk: largest step (m) and turn (rad) within 1/30 s, which step that was (1 is the first), and
    what to say of it: "impossible motion", "jump" or ""."""

    step: float
    turn: float
    where: int
    finding: str


def judge_motion(part: Float[np.ndarray, "24 10"]) -> Motion:
    """Judge the position (m) and 6D rotation of an arm's chunk, which begins where the arm was at the picture."""
    places = np.concatenate([np.zeros((1, 3)), part[:, :3]])
    moves = np.diff(places, axis=0)
    step, change = np.linalg.norm(moves, axis=-1), np.linalg.norm(np.diff(moves, axis=0), axis=-1)
    identity = np.array([[1, 0, 0, 0, 1, 0]], part.dtype)
    # Between near rotations the angle is the columns' distance up to the third order.
    turn = np.linalg.norm(np.diff(part[:, 3:9], axis=0, prepend=identity), axis=-1) / np.sqrt(2)
    square = float((step**2).mean())
    rough = square > _ROUGH_M**2 and square > _ROUGHEST * places.var(axis=0).sum()
    impossible = step.max() > FASTEST_M or turn.max() > FASTEST_RAD or change.max() > _HARDEST_M or rough
    finding = "jump" if step.max() > FAST_M or turn.max() > FAST_RAD else ""
    return Motion(
        float(step.max()),
        float(turn.max()),
        int(step.argmax()) + 1,
        "impossible motion" if impossible else finding,
    )
