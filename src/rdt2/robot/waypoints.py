"""Waypoints with a time, and the one rule by which every device follows them.

* waypoints replace all pending ones at the time of the first of them or later;
* between waypoints the motion is linear in position and slerp in rotation, from where the commanded path is now;
* after the last waypoint the device stays there;
* waypoints that are past are dropped; if even the last one is, that is an error: the sender is too late.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from rdt2.errors import LateError, SafetyError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

V = TypeVar("V")


class _Trajectory(Generic[V]):
    """Waypoints in time order behind an anchor: the point of the commanded path where the last change was made."""

    def __init__(self, start: V, time: float) -> None:
        self._times: list[float] = [float(time)]
        self._values: list[V] = [start]

    def _check(self, values: ndarray) -> list[V]:
        raise NotImplementedError

    def _blend(self, a: V, b: V, fraction: float) -> V:
        raise NotImplementedError

    @property
    def end(self) -> tuple[float, V]:
        """Time and value of the last waypoint."""
        return self._times[-1], self._values[-1]

    def at(self, time: float) -> V:
        """The commanded value at `time`: the anchor before it, the last waypoint after it."""
        times, values = self._times, self._values
        if time >= times[-1]:
            return values[-1]
        if time <= times[0]:
            return values[0]
        i = bisect_right(times, time) - 1
        return self._blend(values[i], values[i + 1], (time - times[i]) / (times[i + 1] - times[i]))

    def checked(
        self, times: Float[ndarray, " n"], values: ndarray, *, now: float
    ) -> tuple[list[float], list[V]]:
        """Those waypoints that are still ahead, as `execute` would take them; nothing is changed.

        Raises:
            SafetyError: as `execute`. LateError: also as `execute`.
        """
        times, numbers = _numbers(times), _numbers(values)
        if times.ndim != 1 or times.size == 0 or numbers.shape[:1] != times.shape:
            raise SafetyError(
                f"waypoints have times of shape {times.shape} for values of shape {numbers.shape}, expected one time "
                "for each waypoint, and at least one."
            )
        checked = self._check(numbers)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise SafetyError(
                "the waypoints' times must be finite seconds of the robot's clock that increase from each to the next."
            )
        if times[-1] <= now:
            raise LateError(
                f"the last waypoint is {1e3 * (now - times[-1]):.0f} ms past: the command came too late. Send "
                "waypoints that lie ahead of the robot's clock."
            )
        ahead = int(np.searchsorted(times, now, side="right"))
        return times[ahead:].tolist(), checked[ahead:]

    def execute(self, times: Float[ndarray, " n"], values: ndarray, *, now: float) -> None:
        """Take waypoints at strictly increasing times; pending ones at `times[0]` or later are replaced.

        Raises:
            SafetyError: nothing to follow, values or times that are not finite, times that do not increase.
            LateError: the last waypoint is not after `now`. Nothing has changed in either case.
        """
        ahead, checked = self.checked(times, values, now=now)
        first = float(times[0])
        anchor = self.at(now)
        pending = [(t, v) for t, v in zip(self._times, self._values, strict=True) if now < t < first]
        self._times = [float(now), *(t for t, _ in pending), *ahead]
        self._values = [anchor, *(v for _, v in pending), *checked]

    def stay(self, value: V, *, now: float) -> None:
        """Forget what is pending; stay at `value`."""
        self._times, self._values = [float(now)], [value]


class PoseTrajectory(_Trajectory["np.ndarray"]):
    """Waypoints that are poses (4, 4), metres: linear in position, slerp in rotation."""

    def __init__(self, start: Float[ndarray, "4 4"], time: float = 0.0) -> None:
        self._turn: tuple[ndarray, ndarray, float, ndarray] | None = None
        super().__init__(self._check(_numbers(start)[None])[0], time)

    def _check(self, values: ndarray) -> list[ndarray]:
        poses = values
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not np.isfinite(poses).all():
            raise SafetyError(
                f"waypoints are {poses.shape} (finite: {bool(np.isfinite(poses).all())}), expected finite poses "
                "(n, 4, 4)."
            )
        rotations = poses[:, :3, :3]
        products = rotations @ rotations.transpose(0, 2, 1)
        no_rotation = np.abs(products - np.eye(3)).max(axis=(1, 2)) > 1e-3
        if (no_rotation | (np.linalg.det(rotations) < 0)).any() or np.abs(
            poses[:, 3] - (0, 0, 0, 1)
        ).max() > 0:
            raise SafetyError(
                "a waypoint is no pose: its upper left 3x3 is not a rotation, or its last row is not 0, 0, 0, 1. Build "
                "poses with rdt2.pose.pose9_to_matrix."
            )
        return list(poses)

    def _blend(self, a: ndarray, b: ndarray, fraction: float) -> ndarray:
        if self._turn is None or self._turn[0] is not a or self._turn[1] is not b:
            # the same two waypoints are asked about hundreds of times a second
            from rdt2.robot.kinematics import nearest_rotation, rotation_vector

            vector = rotation_vector(nearest_rotation(a[:3, :3].T @ b[:3, :3]))
            angle = float(np.linalg.norm(vector))
            x, y, z = vector / angle if angle > 1e-12 else vector
            self._turn = (a, b, angle, np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        _, _, angle, axis = self._turn
        # Rodrigues' formula: the part `fraction` of the turn from a to b
        angle *= fraction
        turn = np.eye(3) + np.sin(angle) * axis + (1 - np.cos(angle)) * (axis @ axis)
        pose = np.eye(4)
        pose[:3, 3] = a[:3, 3] + fraction * (b[:3, 3] - a[:3, 3])
        pose[:3, :3] = a[:3, :3] @ turn
        return pose


class JointTrajectory(_Trajectory["np.ndarray"]):
    """Waypoints that are joint angles (j,), radians: linear between them."""

    def __init__(self, start: Float[ndarray, " j"], time: float = 0.0) -> None:
        self._joints = np.shape(start)
        super().__init__(self._check(_numbers(start)[None])[0], time)

    def _check(self, values: ndarray) -> list[ndarray]:
        if values.shape[1:] != self._joints or not np.isfinite(values).all():
            raise SafetyError(
                f"joint angles are {values.shape} (finite: {bool(np.isfinite(values).all())}), expected finite radians "
                f"(n, {self._joints[0]})."
            )
        return list(values)

    def _blend(self, a: ndarray, b: ndarray, fraction: float) -> ndarray:
        return a + fraction * (b - a)


class WidthTrajectory(_Trajectory[float]):
    """Waypoints that are openings of a gripper in metres."""

    def __init__(self, start: float, time: float = 0.0) -> None:
        super().__init__(self._check(_numbers([start]))[0], time)

    def _check(self, values: ndarray) -> list[float]:
        widths = values
        if widths.ndim != 1 or not np.isfinite(widths).all():
            raise SafetyError(f"gripper widths are {widths.tolist()}, expected finite metres (n,).")
        return list(widths.tolist())

    def _blend(self, a: float, b: float, fraction: float) -> float:
        return a + fraction * (b - a)


def _numbers(values: object) -> ndarray:
    """A copy, as float64."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SafetyError(f"waypoints are no numbers: {error}. Send arrays of floats.") from error
