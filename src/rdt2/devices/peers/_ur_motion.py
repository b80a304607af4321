"""How the arm of a UR peer moves: by itself, each joint as a servo follows its target, within the speeds and
accelerations of a real one; or as an arm of the simulated cell, which then picks up what stands there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import LateError, RobotError, SafetyError
from rdt2.robot.kinematics import arm_kinematics
from rdt2.robot.models import arm_model, mount_in_flange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.kinematics import ArmKinematics
    from rdt2.robot.protocols import Clock
    from rdt2.sim.realtime import RealtimeArm

ACCELERATION = 40.0
"""rad/s^2 that a joint's motor manages."""
STOPPING = 15.0
"""rad/s^2 with which a program that ends, and a protective stop, bring the joints to rest."""
LEAD = 0.012
"""Seconds in which the cell's arm is sent to each target: longer than from one to the next."""
UNDER_WAY = 0.005
"""Seconds until the cell's arm hears of it."""
MOVING = 0.02
"""m/s and rad/s from which an arm that is let go has to be braked."""
ITERATIONS = 4
"""Of the inverse kinematics for each target: targets lie close together."""


PUSHED = np.array([0.15, 0.0, 0.0, 0.0, 0.0, 0.2])
"""rad/s with which a hand moves the joints of an arm in freedrive."""
PUSH_SECONDS = 1.0


def posture(
    kinematics: ArmKinematics, joints: Float[ndarray, " 6"], pose: Float[ndarray, "4 4"]
) -> Float[ndarray, " 6"]:
    """Joints (radians) that put the TCP at a pose of the base's frame, near those given.

    Raises:
        SafetyError: there are none nearby.
    """
    for _ in range(ITERATIONS):
        joints, distance, angle = kinematics.step(joints, pose, dt=0.05)
        if distance < 1e-5 and angle < 1e-4:
            break
    if distance > 0.02 or angle > 0.1:
        raise SafetyError(f"no posture: {1e3 * distance:.0f} mm off")
    return joints


class Hand:
    """Of a person, which moves an arm in freedrive, and no other."""

    guided, _pushes = False, 0.0

    def guide(self, on: bool) -> None:
        """Begin freedrive, or end it."""
        self.guided, self._pushes = on, 0.0

    def push(self) -> None:
        """Move it for `PUSH_SECONDS`."""
        self._pushes = PUSH_SECONDS if self.guided else 0.0

    def pushed(self, seconds: float) -> Float[ndarray, " 6"]:
        """rad/s of the joints, as time passes."""
        self._pushes = max(0.0, self._pushes - seconds)
        return PUSHED if self._pushes else np.zeros(6)


class Motion(Hand):
    """Six joints.

    Args:
        joints: where they stand, radians.
    """

    def __init__(self, joints: Sequence[float]) -> None:
        self._at_flange = np.linalg.inv(mount_in_flange("ur5e", "left"))
        self.kinematics = arm_kinematics("ur5e", "left", base=np.eye(4))
        self._begins = np.array(joints, dtype=np.float64)
        self.go_home()
        self.fastest = np.array([link.speed for link in arm_model("ur5e").links])
        self.set_tcp(np.eye(4))
        self._lag = 0.1

    def go_home(self) -> None:
        """Stand where it was switched on, at once."""
        self.joints, self.speeds = self._begins.copy(), np.zeros(6)
        self._target: ndarray | None = None

    def set_tcp(self, tcp: Float[ndarray, "4 4"]) -> None:
        """The TCP in the frame of the flange, metres."""
        self.tcp = tcp
        self.kinematics.tool = self._at_flange @ tcp

    def pose(self) -> Float[ndarray, "4 4"]:
        """Of the TCP in the frame of the base."""
        return self.kinematics.forward(self.joints)

    def velocity(self) -> Float[ndarray, " 6"]:
        """Of the TCP along the axes of the base, m/s and rad/s."""
        return self.kinematics.jacobian(self.joints)[1] @ self.speeds

    def wrench(self) -> Float[ndarray, " 6"]:
        """What the TCP meets along the axes of the base, N and N m."""
        return np.zeros(6)  # there is nothing around it

    def servo_joints(self, joints: Float[ndarray, " 6"], lookahead: float) -> None:
        """Go there, and stay."""
        self._target, self._lag = joints, lookahead

    def servo(self, pose: Float[ndarray, "4 4"], lookahead: float) -> None:
        """Put the TCP there, and stay.

        Raises:
            SafetyError: there is no posture for it nearby.
        """
        joints = self.joints if self._target is None else self._target
        self.servo_joints(posture(self.kinematics, joints, pose), lookahead)

    def let_go(self) -> None:
        """Come to rest."""
        self._target = None

    def advance(self, seconds: float) -> None:
        """As time passes."""
        if self._target is None:
            wanted, most = self.pushed(seconds), STOPPING * seconds
        else:
            # a servo that looks ahead lags about half of that behind
            wanted = (self._target - self.joints) / max(0.5 * self._lag, seconds)
            wanted = np.clip(wanted, -self.fastest, self.fastest)
            most = ACCELERATION * seconds
        if self._target is None and not self.guided and (fastest := np.abs(self.speeds).max()) > most:
            change = -self.speeds * (
                most / fastest
            )  # all joints together, so that the TCP keeps its direction
        else:
            change = np.clip(wanted - self.speeds, -most, most)
        self.speeds = self.speeds + change
        self.joints = self.joints + self.speeds * seconds


class CellMotion(Hand):
    """An arm of the real-time cell, connected and enabled, in place of `Motion`.

    Args:
        arm: which.
        clock: the cell's.
        tool: the TCP of the cell's arm in the frame of its flange, metres.
    """

    def __init__(self, arm: RealtimeArm, clock: Clock, tool: Float[ndarray, "4 4"]) -> None:
        self._arm, self._clock, self._tool = arm, clock, tool
        self._at_flange = np.linalg.inv(mount_in_flange("ur5e", "left"))
        self.kinematics = arm_kinematics("ur5e", "left", base=np.eye(4))
        self._let_go = False
        self._sent: tuple[float, ndarray] | None = None
        self.set_tcp(np.eye(4))
        self.advance(0.0)

    def set_tcp(self, tcp: Float[ndarray, "4 4"]) -> None:
        self.tcp = tcp
        self.kinematics.tool = self._at_flange @ tcp

    def pose(self) -> Float[ndarray, "4 4"]:
        return self.kinematics.forward(self.joints)

    def velocity(self) -> Float[ndarray, " 6"]:
        return self.kinematics.jacobian(self.joints)[1] @ self.speeds

    def wrench(self) -> Float[ndarray, " 6"]:
        return self._wrench

    def servo_joints(self, joints: Float[ndarray, " 6"], lookahead: float) -> None:
        if self._may_move():
            # A servo makes up for a target that came late, and no faster than its joints can.
            now, (ends, last) = self._clock.now(), self._sent or (-np.inf, self.joints)
            needs = float((np.abs(joints - last) / self.kinematics.speeds).max())
            due = max(now + LEAD, max(ends, now + UNDER_WAY) + 1.01 * needs)
            with contextlib.suppress(LateError):  # a busy machine: the next word is for a later moment
                self._arm.execute_joints(np.array([due]), joints[None])
                self._sent = due, joints

    def servo(self, pose: Float[ndarray, "4 4"], lookahead: float) -> None:
        if self._may_move():
            joints = self.joints if self._sent is None else self._sent[1]
            self.servo_joints(posture(self.kinematics, joints, pose), lookahead)

    def _may_move(self) -> bool:
        """Raises SafetyError: the cell's arm has stopped by itself, because it cannot go where it was sent."""
        health = self._arm.health()
        if health.fault and not self._let_go:
            self._let_go = True
            raise SafetyError(health.fault)
        if health.stopped:
            try:
                self._arm.recover()
            except RobotError:
                return False  # it still brakes
        self._let_go = False
        return True

    def let_go(self) -> None:
        self._let_go, self._sent = True, None
        if np.abs(self._arm.state().velocity).max() > MOVING:
            self._arm.stop()

    def advance(self, seconds: float) -> None:
        state = self._arm.state()
        self.joints = state.joints
        if self.guided and (push := self.pushed(seconds)).any():
            self.servo_joints(self.joints + LEAD * push, 0.0)
        turn = self._arm.base[:3, :3].T
        tool, self.kinematics.tool = self.kinematics.tool, self._at_flange @ self._tool
        jacobian = self.kinematics.jacobian(state.joints)[1]
        self.kinematics.tool = tool
        velocity = np.concatenate([turn @ state.velocity[:3], turn @ state.velocity[3:]])
        self.speeds = np.linalg.lstsq(jacobian, velocity, rcond=1e-2)[0]
        assert state.wrench is not None, "the cell's UR measure it"
        self._wrench = np.concatenate([turn @ state.wrench[:3], turn @ state.wrench[3:]])
