"""What is left of a wish where all of it is too much.

An arm whose fingers stand on something does not follow. A command that goes on without it would press harder and
harder until the arms are stopped; so long before that the arm is put on a leash, and commands stay near where it is: it
presses no harder, slides slowly along what it met, or turns off it. Fingers meet things first, so distances are
measured between the fingertips.

Where a wish would lead into the table, the other arm or a posture that is not allowed, `parts` of it may still be
possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.control.geometry import turned
from rdt2.robot.kinematics import rotation_vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from numpy import ndarray

LENGTH = 0.25
"""Of the tracking errors at which arms are stopped: so far from an arm on a leash its command may be."""
TAUT = 0.5
"""Of this length: an arm that is so far from what it should have followed by now is put on a leash."""
LOOSE = 0.3
"""Seconds without that after which it is let off again: what an arm does about a command shows after its latency."""
OFF = 0.5
"""Metres that an arm goes off from the other for every metre past it: which of their parts are next to each other
changes on the way."""
HELD = 10.0
"""Seconds for which an arm may press against what holds it."""
STUCK, MOVED = 4.0, 0.2
"""Seconds for which it may do so without moving by this part of the leash's length."""
DEAD = 0.2
"""Seconds for which it may not move although it should, before it has moved at all: nothing holds it then."""


class Leash:
    """Between one arm and its commands.

    Args:
        tip: (3,) where the fingers meet things, in the TCP's frame, metres.
        error: metres and radians between arm and command at which the arm is stopped.
        period: seconds between two commands.
    """

    def __init__(self, tip: Float[ndarray, " 3"], *, error: tuple[float, float], period: float) -> None:
        self._tip = tip
        self._lengths, self._period = (LENGTH * error[0], LENGTH * error[1]), period
        self.start(np.eye(4))

    def start(self, pose: Float[ndarray, "4 4"]) -> None:
        """The arm stands at `pose`, and is to be there."""
        self._arm, self._left = pose, 0.0
        self._stood, self._alive = pose, False
        self._seconds = self._still = 0.0

    def measure(self, pose: Float[ndarray, "4 4"], meant: Float[ndarray, "n 4 4"]) -> None:
        """Take in where the TCP is, and where it should be, which is one of the poses that are `meant`."""
        off = min(self._stretch(_difference(c, pose, self._tip)) for c in meant)
        self._arm, self._left = pose, LOOSE if off > TAUT else max(self._left - self._period, 0.0)
        self._seconds = self._seconds + self._period if self._left > 0 else 0.0
        if self._stretch(_difference(pose, self._stood, self._tip)) > MOVED:
            self._stood, self._alive, self._still = pose, True, 0.0
        # A wish that goes to and fro comes by the arm time and again.
        self._still = max(self._still + (self._period if off > TAUT else -0.5 * self._period), 0.0)

    @property
    def wrong(self) -> str:
        """What nobody should wait for any longer, in words; empty where nothing is."""
        if not self._alive and self._still > DEAD:
            return "has not moved at all since it was first commanded to; its commands go on without it"
        if self._still > STUCK:
            return f"has stood still for {STUCK:.0f} s and not followed its commands"
        if self._seconds > HELD:
            return f"has not followed its commands for {HELD:.0f} s"
        return ""

    def _stretch(self, off: tuple[ndarray, ndarray]) -> float:
        """Of the leash's length."""
        return max(_length(part) / most for part, most in zip(off, self._lengths, strict=True))

    def hold(self, wish: Float[ndarray, "4 4"]) -> Float[ndarray, "4 4"]:
        """The wish, no further from an arm on a leash than it is long; poses of the TCP."""
        if self._left == 0.0:
            return wish
        ahead = _difference(wish, self._arm, self._tip)
        if self._stretch(ahead) <= 1.0:
            return wish
        moved, turn = (
            part * min(most / max(_length(part), 1e-12), 1.0)
            for part, most in zip(ahead, self._lengths, strict=True)
        )
        return _moved(self._arm, moved, turn, self._tip)


def parts(
    wish: Float[ndarray, "4 4"],
    command: Float[ndarray, "4 4"],
    tip: Float[ndarray, " 3"],
    other: Float[ndarray, " 3"] | None,
) -> Iterator[Float[ndarray, "4 4"]]:
    """Wishes that ask for less: to move without turning; to turn without moving; to move not down, and past the other
    arm.

    Args:
        wish, command: poses of the TCP.
        tip: what moves or stays, in the TCP's frame, metres.
        other: the other arm's tip in the cell frame, where there is one.
    """
    moved, turn = _difference(wish, command, tip)
    still = np.zeros(3)
    yield _moved(command, moved, still, tip)
    yield _moved(command, still, turn, tip)
    flat = moved * (1.0, 1.0, moved[2] > 0)
    if other is not None:
        way = other - command[:3, 3] - command[:3, :3] @ tip
        way /= max(_length(way), 1e-9)
        flat = flat - max(float(flat @ way), 0.0) * way
        flat = flat - OFF * _length(flat) * way
    yield _moved(command, flat, still, tip)


def _moved(pose: ndarray, moved: ndarray, turn: ndarray, tip: ndarray) -> ndarray:
    """A pose after a motion of its tip and a turn about it."""
    result = np.eye(4)
    result[:3, :3] = turned(pose[:3, :3], turn[None])[1]
    result[:3, 3] = pose[:3, 3] + moved + (pose[:3, :3] - result[:3, :3]) @ tip
    return result


def _difference(to: ndarray, of: ndarray, tip: ndarray) -> tuple[ndarray, ndarray]:
    """From one pose to another: metres at a point of the frame, and a rotation vector."""
    return (to[:3, 3] - of[:3, 3]) + (to[:3, :3] - of[:3, :3]) @ tip, rotation_vector(
        to[:3, :3] @ of[:3, :3].T
    )


def _length(vector: ndarray) -> float:
    return float(np.sqrt(vector @ vector))
