"""Arm, Gripper, Camera, Clock: the whole language between a policy's loop and a robot.

Poses are (4, 4) homogeneous matrices of the tool centre point (TCP) in the cell frame, metres. Widths are the
opening between the fingers in metres. Times are seconds of the robot's own `Clock`.

Motion is given as *waypoints with a time*. The rule, the same for every device:

* a waypoint at time t replaces all pending waypoints at t or later;
* between waypoints the motion is linear in position and slerp in rotation, from where the commanded path is
  now;
* after the last waypoint the device stays there;
* a waypoint that is not in the future is dropped, and `schedule` says so by returning False.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import ActionError, PoseError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray

ARMS = ("right", "left")


@dataclass(frozen=True)
class ArmState:
    """Where an arm was measured to be."""

    timestamp: float
    """Seconds of the robot's clock."""
    pose: Float[ndarray, "4 4"]
    """TCP in the cell frame, metres."""
    joints: Float[ndarray, " n"]
    """Joint angles in radians; empty for a device without joints."""


@dataclass(frozen=True)
class GripperState:
    """How far a gripper was measured to be open."""

    timestamp: float
    width: float
    """Opening between the fingers, metres."""


@dataclass(frozen=True)
class Frame:
    """One picture of a wrist camera."""

    timestamp: float
    """When the exposure happened, not when the picture arrived."""
    image: UInt8[ndarray, "384 384 3"]
    """RGB."""


@runtime_checkable
class Clock(Protocol):
    """The robot's time: wall clock on hardware, simulated time in the cell."""

    def now(self) -> float:
        """Seconds; never goes back."""
        ...

    def sleep_until(self, time: float) -> None:
        """Return when `now() >= time`; at once if that is past. In simulation this is what advances the
        world.
        """
        ...


@runtime_checkable
class Arm(Protocol):
    """Six or seven joints that carry a gripper."""

    def state(self) -> ArmState:
        """The latest measured state."""
        ...

    def schedule(self, pose: Float[ndarray, "4 4"], time: float) -> bool:
        """Ask for the TCP to be at `pose` (cell frame) at `time`. False: `time` is past, the waypoint was
        dropped.
        """
        ...

    def hold(self) -> None:
        """Forget all pending waypoints and stay, without pushing on against what holds the arm back."""
        ...


@runtime_checkable
class Gripper(Protocol):
    """A parallel-jaw gripper."""

    def state(self) -> GripperState:
        """The latest measured width."""
        ...

    def schedule(self, width: float, time: float) -> bool:
        """Ask for the opening `width` (metres) at `time`. False: `time` is past, the waypoint was dropped."""
        ...

    def hold(self) -> None:
        """Forget all pending waypoints and keep the width commanded now."""
        ...


@runtime_checkable
class Camera(Protocol):
    """A wrist camera."""

    def read(self) -> Frame:
        """The newest picture."""
        ...


@dataclass(frozen=True)
class Robot:
    """Two arms with grippers and wrist cameras, keyed by "right" and "left", and the clock they share."""

    arms: dict[str, Arm]
    grippers: dict[str, Gripper]
    cameras: dict[str, Camera]
    clock: Clock
    policy_to_tcp: dict[str, Float[ndarray, "4 4"]]
    """C of each arm: a motion T_rel of the policy's frame is the motion C @ T_rel @ inv(C) of the TCP."""
    name: str

    def hold(self) -> None:
        """Stop both arms and grippers where they are."""
        for side in self.arms:
            self.arms[side].hold()
            self.grippers[side].hold()


V = TypeVar("V")


class _Trajectory(Generic[V]):
    """Waypoints in time order behind an anchor: the point of the commanded path where the last change was
    made.
    """

    def __init__(self, start: V, time: float) -> None:
        self._times: list[float] = [float(time)]
        self._values: list[V] = [start]

    def _check(self, value: V) -> V:
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

    def before(self, time: float, *, now: float) -> tuple[float, V]:
        """Time and value of the point a waypoint at `time` would be reached from: a pending one, or the path
        `now`.
        """
        for t, value in zip(reversed(self._times), reversed(self._values), strict=True):
            if now < t < time:
                return t, value
        return float(now), self.at(now)

    def schedule(self, value: V, time: float, *, now: float) -> bool:
        """Add a waypoint, dropping all at `time` or later. False (and no change) when `time` is not after
        `now`.
        """
        value = self._check(value)
        time = float(time)
        if not np.isfinite(time):
            raise ActionError(f"waypoint time is {time}, expected finite seconds of the robot's clock.")
        if time <= now:
            return False
        self._trim(now, before=time)
        self._times.append(time)
        self._values.append(value)
        return True

    def hold(self, *, now: float) -> None:
        """Forget what is pending; stay at the value commanded at `now`."""
        self._values, self._times = [self.at(now)], [float(now)]

    def _trim(self, now: float, *, before: float) -> None:
        """Keep the point of the path at `now` as the anchor, and the waypoints later than it and before
        `before`.
        """
        anchor = self.at(now)
        pending = [(t, v) for t, v in zip(self._times, self._values, strict=True) if now < t < before]
        self._times = [float(now), *(t for t, _ in pending)]
        self._values = [anchor, *(v for _, v in pending)]


class PoseTrajectory(_Trajectory["np.ndarray"]):
    """Scheduled poses (4, 4): linear in position, slerp in rotation.

    Raises:
        PoseError: a pose that is not (4, 4), not finite, or whose rotation part is no rotation (1e-3).
    """

    def __init__(self, start: Float[ndarray, "4 4"], time: float = 0.0) -> None:
        self._turn: tuple[ndarray, ndarray, float, ndarray] | None = None
        super().__init__(self._check(start), time)

    def _check(self, value: ndarray) -> ndarray:
        pose = np.array(value, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise PoseError(
                f"waypoint is {pose.shape} (finite: {bool(np.isfinite(pose).all())}), expected finite (4, 4)."
            )
        rotation = pose[:3, :3]
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            raise PoseError(
                "waypoint's upper left 3x3 is not a rotation. Build poses with rdt2.pose.pose9_to_matrix."
            )
        return pose

    def _blend(self, a: ndarray, b: ndarray, fraction: float) -> ndarray:
        if self._turn is None or self._turn[0] is not a or self._turn[1] is not b:
            # the same two waypoints are asked about hundreds of times a second
            vector = Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).as_rotvec()
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


class WidthTrajectory(_Trajectory[float]):
    """Scheduled gripper widths in metres, linear in between.

    Raises:
        ActionError: a width that is not finite.
    """

    def __init__(self, start: float, time: float = 0.0) -> None:
        super().__init__(self._check(start), time)

    def _check(self, value: float) -> float:
        width = float(value)
        if not np.isfinite(width):
            raise ActionError(f"gripper width is {width}, expected finite metres.")
        return width

    def _blend(self, a: float, b: float, fraction: float) -> float:
        return a + fraction * (b - a)
