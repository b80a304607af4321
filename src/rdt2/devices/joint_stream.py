"""The way of an arm whose joints are told hundreds of times a second: waypoints of its TCP or its joints in, joint
angles of now out, braked within its bounds.

A driver's thread calls `step` at its beat; whoever moves the arm calls the others. One lock holds for all of them.
"""

from __future__ import annotations

import threading
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import SafetyError
from rdt2.robot.braking import SETTLING, Brake
from rdt2.robot.kinematics import rotation_vector
from rdt2.robot.waypoints import JointTrajectory, PoseTrajectory

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.kinematics import ArmKinematics
    from rdt2.robot.settings import Bounds

LATE = 0.02
"""Seconds over which a path may at least be spread from where it is to its first new waypoint."""
LONGEST = 0.02
"""Seconds that one step covers at most: after a pause the arm goes on, and does not jump."""
UNREACHED = 0.03
"""Metres that the joints may be off the commanded path before it counts as one that the arm cannot follow."""
FASTER = 1.2
"""A path may be so much faster than the arm's bounds between two waypoints: rounding, and stamps that jitter."""


class JointStream:
    """Where the joints are to be.

    Args:
        name: for messages.
        kinematics: of the arm with its tool, in the cell frame; used by this object alone.
        bounds: of its TCP: what a path may ask for, and how it brakes.
        joints: where it stands, radians.
        now: seconds of the robot's clock.
    """

    def __init__(
        self, name: str, kinematics: ArmKinematics, bounds: Bounds, joints: Float[ndarray, " n"], now: float
    ) -> None:
        self.name, self.kinematics, self.bounds = name, kinematics, bounds
        self.lock = threading.RLock()
        self.rest(joints, now)

    def rest(self, joints: Float[ndarray, " n"], now: float) -> None:
        """Forget everything; stay at these joints."""
        with self.lock:
            self.joints = np.array(joints, dtype=np.float64)
            self.speeds = np.zeros_like(self.joints)
            self.path = PoseTrajectory(self.kinematics.forward(self.joints), now)
            self._led: JointTrajectory | None = None
            self._ramp: tuple[Brake, ndarray, ndarray] | None = None
            self._stepped = now

    @property
    def until(self) -> float:
        """When the last commanded motion ends."""
        with self.lock:
            return (self.path if self._led is None else self._led).end[0]

    def braked(self, now: float) -> bool:
        """Whether the way to rest has ended, or there is none and nothing moves."""
        with self.lock:
            return not self.speeds.any() if self._ramp is None else now > self._ramp[0].ends

    def settled(self, now: float) -> bool:
        """Whether it has braked, and given way to what it pressed on."""
        with self.lock:
            return self._ramp is not None and now > self._ramp[0].ends + SETTLING

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"], now: float) -> None:
        """See `rdt2.robot.protocols.Arm.execute`."""
        with self.lock:
            path = copy(self.path)
            if self._led is not None:
                path.stay(self.kinematics.forward(self.joints), now=now)
            ahead, checked = path.checked(times, poses, now=now)
            # a command that comes late leaves less time to its first waypoint than was meant; `step` is bounded anyway
            before, earlier = path.at(now), min(now, ahead[0] - LATE)
            for time, there in zip(ahead, checked, strict=True):
                self._require_slow(before, there, time - earlier)
                before, earlier = there, time
            path.execute(times, poses, now=now)
            self.path, self._led = path, None

    def _require_slow(self, before: ndarray, there: ndarray, seconds: float) -> None:
        """Raises SafetyError: between two poses the TCP would be faster than its bounds."""
        way = float(np.linalg.norm(there[:3, 3] - before[:3, 3]))
        turn = float(np.linalg.norm(rotation_vector(before[:3, :3].T @ there[:3, :3])))
        most, bounds = FASTER * seconds, self.bounds
        if way > bounds.speed * most + 1e-3 or turn > bounds.turn_rate * most + 3e-3:
            raise SafetyError(
                f"the {self.name} refuses a path of {way / seconds:.2f} m/s and {turn / seconds:.2f} rad/s, expected "
                f"at most {bounds.speed:g} m/s and {bounds.turn_rate:g} rad/s (arms.{self.name.split()[0]}.bounds)."
            )

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"], now: float) -> None:
        """See `rdt2.robot.protocols.JointArm.execute_joints`."""
        with self.lock:
            led = copy(self._led) if self._led is not None else JointTrajectory(self.joints, now)
            ahead, checked = led.checked(times, joints, now=now)
            before, earlier = led.at(now), now
            pose, since = self.kinematics.forward(before), min(now, ahead[0] - LATE)  # as in `execute`
            for time, there in zip(ahead, checked, strict=True):
                self.kinematics.require_within(self.joints, there, self.name)
                if (np.abs(there - before) > self.kinematics.speeds * (time - earlier) + 1e-6).any():
                    raise SafetyError(f"the {self.name} refuses a path that is too fast for its joints.")
                self._require_slow(pose, pose := self.kinematics.forward(there), time - since)
                before, earlier, since = there, time, time
            led.execute(times, joints, now=now)
            self._led = led

    def brake(self, now: float) -> None:
        """Come to rest along the way that it is on, and forget what is pending."""
        with self.lock:
            bounds, twist = self.bounds, self.kinematics.jacobian(self.joints)[1] @ self.speeds
            brake = Brake.of(
                now,
                (float(np.linalg.norm(twist[:3])), bounds.acceleration, bounds.jerk),
                (float(np.linalg.norm(twist[3:])), bounds.turn_acceleration, bounds.turn_jerk),
            )
            self._ramp = brake, self.joints.copy(), self.speeds.copy()

    def step(self, now: float) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Joint angles (radians) and speeds (rad/s) of now.

        Raises:
            SafetyError: the arm cannot follow the path.
        """
        with self.lock:
            before, self._stepped = self._stepped, now
            seconds = min(now - before, LONGEST)
            if seconds <= 0:
                return self.joints, self.speeds
            off = 0.0
            if self._ramp is not None:
                brake, start, speeds = self._ramp
                # nobody may have been led along it for a while, such as while a connection hung
                missed = max(now - max(before, brake.began) - LONGEST, 0.0)
                brake = replace(brake, began=brake.began + missed)
                self._ramp = brake, start, speeds
                joints = np.clip(start + speeds * brake.way(now), *self.kinematics.limits(start))
            elif self._led is not None:
                most = self.kinematics.speeds * seconds
                move = np.clip(self._led.at(now) - self.joints, -most, most)
                joints = self.joints + self._bounded(move, seconds)
            else:
                joints, off, _ = self.kinematics.step(self.joints, self.path.at(now), dt=seconds)
                joints = self.joints + self._bounded(joints - self.joints, seconds)
                off -= self.bounds.speed * seconds  # what the path itself went on by
            self.speeds, self.joints = (joints - self.joints) / seconds, joints
            if off > UNREACHED:
                raise SafetyError(
                    f"cannot follow the path: it is {1e3 * off:.0f} mm behind. The path leads out of the arm's reach, "
                    "past a joint's limit or through a singular posture, or this machine is too busy to follow it"
                )
            return self.joints, self.speeds

    def _bounded(self, move: Float[ndarray, " n"], seconds: float) -> Float[ndarray, " n"]:
        """A move of the joints, shortened where it would take the TCP beyond its bounds."""
        twist = self.kinematics.jacobian(self.joints)[1] @ move
        most = FASTER * seconds
        return move * min(
            1.0,
            self.bounds.speed * most / max(float(np.linalg.norm(twist[:3])), 1e-9),
            self.bounds.turn_rate * most / max(float(np.linalg.norm(twist[3:])), 1e-9),
        )
