"""What trackers have in common: a measurement is believed only where a hand could have brought the tracker."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import RobotError
from rdt2.robot.device import BaseDevice
from rdt2.robot.kinematics import rotation_vector
from rdt2.robot.protocols import Clock, Health, Timing, TrackerState

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

HAND_SPEED, HAND_TURN = 4.0, 25.0
"""m/s and rad/s that a hand with a gripper does not exceed."""
NOISE, TURN_NOISE = 0.01, 0.05
"""Metres and radians that two measurements of a tracker at rest may lie apart."""
AGAIN = 0.5
"""Seconds without another jump after which a tracker that has jumped is believed where it is."""
UNSEEN = 0.1
"""Seconds without a valid pose after which that is a fault."""


@dataclass(frozen=True)
class _Trial:
    """After a jump: it is looked at, and not believed."""

    jump: str
    """In words."""
    since: float
    """Stamp since when nothing has jumped again."""
    stamp: float
    pose: ndarray


class BelievingTracker(BaseDevice):
    """A driver calls `_take` with each new measurement, and `_miss` where there is none. Any thread may ask.

    A jump stays its fault until a person's `recover`; that it is not seen is its fault while it is so. Poses that
    follow are marked one by one all the same.
    """

    def __init__(self, name: str, clock: Clock, timing: Timing) -> None:
        super().__init__(name, timing)
        self._clock, self._lock = clock, threading.RLock()
        self._latest: TrackerState | None = None
        self._believed: tuple[float, ndarray] | None = None
        """Stamp and pose that were valid last."""
        self._trial: _Trial | None = None
        self._missed = ""

    def _take(self, stamp: float, pose: Float[ndarray, "4 4"]) -> None:
        """A new measurement, in the handheld gripper's axes."""
        with self._lock:
            self._missed = ""
            reason = self._doubt(stamp, pose)
            if not reason:
                self._believed, self._trial = (stamp, pose), None
            self._note(stamp, pose, reason)

    def _miss(self, stamp: float, reason: str) -> None:
        """No measurement, and why."""
        with self._lock:
            self._missed = reason
            if self._latest is not None:
                self._note(stamp, self._latest.pose, reason)

    def _note(self, stamp: float, pose: ndarray, reason: str) -> None:
        number = 0 if self._latest is None else self._latest.sequence + 1
        self._latest = TrackerState(stamp, number, pose, not reason, reason)

    def _doubt(self, stamp: float, pose: ndarray) -> str:
        """Why this measurement cannot follow those before; empty where it can."""
        if not np.isfinite(pose).all():
            return "its pose is not finite"
        if self._believed is None:
            return ""
        jump = _jump(*self._believed, stamp, pose)
        if self._trial is None:
            if jump:
                self._trial = _Trial(jump, stamp, stamp, pose)
                self.fail(
                    f"{jump}: more than a hand does. Look for what mirrors or hides the stations, then recover() it"
                )
            return jump
        trial = self._trial
        again = bool(_jump(trial.stamp, trial.pose, stamp, pose))
        if (again and not jump) or (not again and stamp - trial.since >= AGAIN):
            return ""  # back where it was, or where it is for good
        self._trial = _Trial(trial.jump, stamp if again else trial.since, stamp, pose)
        return f"{trial.jump}; it is not believed again before it has moved as a hand does for {AGAIN:g} s"

    def state(self) -> TrackerState:
        with self._lock:
            if not self._connected or self._latest is None:
                raise RobotError(f"the {self.name} is not connected. Call connect() first.")
            return self._latest

    def health(self) -> Health:
        with self._lock:
            told = super().health()
            if told.connected and not told.fault and self._missed and self._age() > UNSEEN:
                return Health(told.connected, told.enabled, told.stopped, self._missed)
            return told

    def _age(self) -> float:
        """Seconds since a pose was believed."""
        return self._clock.now() - (float("-inf") if self._believed is None else self._believed[0])

    def enable(self) -> None:
        with self._lock:
            super().enable()

    def stop(self) -> None:
        with self._lock:
            super().stop()

    def recover(self) -> None:
        with self._lock:
            if self._stopped and self._missed:
                raise RobotError(f"the {self.name} is still not to be used: {self._missed}.")
            if self._stopped and self._trial is not None:
                # a person has looked: where it is now is where it is
                self._believed, self._trial = (self._trial.stamp, self._trial.pose), None
            super().recover()

    def close(self) -> None:
        with self._lock:
            super().close()
            self._latest = self._believed = self._trial = None
            self._missed = ""


def _jump(before: float, one: ndarray, after: float, other: ndarray) -> str:
    """In words, where a hand cannot bring a tracker from one pose to the other in that time; empty where it can."""
    seconds = max(after - before, 0.0)
    way = float(np.linalg.norm(other[:3, 3] - one[:3, 3]))
    turn = float(np.linalg.norm(rotation_vector(one[:3, :3].T @ other[:3, :3])))
    if way <= HAND_SPEED * seconds + NOISE and turn <= HAND_TURN * seconds + TURN_NOISE:
        return ""
    return f"it jumped by {1e3 * way:.0f} mm and {np.degrees(turn):.0f} degrees within {1e3 * seconds:.0f} ms"
