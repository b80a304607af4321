"""An arm of the simulated cell behind the `Arm` protocol: following waypoints, refusing, coming to rest."""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import RobotError, SafetyError, TaskError
from rdt2.robot.braking import SETTLING, Brake
from rdt2.robot.description import ArmModel
from rdt2.robot.device import BaseDevice
from rdt2.robot.kinematics import arm_kinematics, rotation_vector
from rdt2.robot.models import ARM_MODELS, arm_model, base_pose
from rdt2.robot.protocols import ArmState, Timing
from rdt2.robot.waypoints import JointTrajectory, PoseTrajectory
from rdt2.robot.world import ArmWorld
from rdt2.sim.handheld import site_pose, site_velocity
from rdt2.sim.noise import arm_measured

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

TICK = 0.008
"""Seconds between two steps of inverse kinematics; in between, the joint angles are interpolated."""
LATE = 0.02
"""Seconds over which a path of joints may at least be spread from where it is to its first new waypoint."""
WINDOW = 4 * TICK
"""Seconds over which the speed of a commanded path is judged, whether its waypoints lie 8 or 33 ms apart."""


STANDING = 0.05
"""rad/s: an arm whose joints are slower stands."""
YIELDING = 0.5
"""How much of what something holds it back a settling arm gives way to in each tick."""


@dataclass(frozen=True)
class ArmLimits:
    """What a commanded path may ask before the arm refuses it, and how it comes to rest."""

    linear: float = 2.0
    """m/s of the TCP."""
    angular: float = 8.0
    """rad/s of the TCP."""
    off: float = 0.005
    """Metres between the path and the nearest posture, at the joint limits or top speed, that stop the arm."""
    turned: float = np.deg2rad(2.0)
    """The same in radians."""
    braking: tuple[float, float] = (12.0, 400.0)
    """Deceleration (m/s^2) and jerk (m/s^3) of the TCP when it stops."""
    turn_braking: tuple[float, float] = (50.0, 1500.0)
    """The same of its turning, in radians."""
    joint_braking: tuple[float, float] = (120.0, 6000.0)
    """The same of every joint, in radians: so much that the TCP decides, whose way to rest is checked beforehand."""


class ArmController(BaseDevice):
    """An arm of the simulated cell, moved by the cell through `reset` and `update`.

    Every `TICK` the commanded path is evaluated and one step of inverse kinematics follows it; the joint
    servos get the angles and the speed they must not lag behind. A pose that is out of reach or a path too fast
    for the joints is a fault that stops the arm. Stopping, the joints' measured speeds fall to zero together.

    Args:
        model: the compiled cell.
        data: its state.
        side: "right" or "left".
        tcp_site: name of the site at the TCP.
        base: (4, 4) base in the cell frame; default where `add_arm` puts it.
        limits: what a path may ask.
        world: what is true of it: its latency, and the noise of what it measures.
        seed: of this noise.

    Raises:
        TaskError: the cell has no arm on this side.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        side: str,
        tcp_site: str,
        base: Float[ndarray, "4 4"] | None = None,
        limits: ArmLimits = ArmLimits(),
        world: ArmWorld | None = None,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        self._world, self._seed = world or ArmWorld(), seed
        super().__init__(f"{side} arm", Timing(self._world.latency))
        name = _arm_in(model, side)
        self.model: ArmModel | None = arm_model(name)
        self.base = base_pose(name, side) if base is None else np.asarray(base, dtype=np.float64)
        self.limits, self._mujoco_model, self._data = limits, model, data
        names = [f"{side}/{link.name}" for link in self.model.links]
        self._qpos = np.array([model.joint(name).qposadr[0] for name in names])
        self._qvel = np.array([model.joint(name).dofadr[0] for name in names])
        self._ctrl = np.array([model.actuator(name).id for name in names])
        self._lag = -model.actuator_biasprm[self._ctrl, 2] / model.actuator_gainprm[self._ctrl, 0]
        self._tcp = model.site(tcp_site).id
        tool = _relative_site(model, model.site(f"{side}/mount").id, self._tcp)
        self.kinematics = arm_kinematics(name, side, base=self.base, tool=tool)
        self._place(self.kinematics.home)

    def _place(self, joints: Float[ndarray, " n"]) -> None:
        """Start afresh, at rest, with these joint angles."""
        self._joints = self._previous = np.array(joints)
        self._ticked = float(self._data.time)
        self.trajectory = PoseTrajectory(np.eye(4))
        self._led: JointTrajectory | None = None
        self._stay(self._ticked)
        self._ramp: Brake | None = None
        self._stopped, self._fault = False, ""

    def reset(self, pose: Float[ndarray, "4 4"]) -> None:
        """Put the TCP at `pose` (cell frame, metres), at rest, and forget all waypoints; nothing is stepped.

        Raises:
            SafetyError: the arm cannot reach `pose`.
        """
        self._place(self.kinematics.solve(pose))
        self._data.qpos[self._qpos] = self._data.ctrl[self._ctrl] = self._joints
        self._data.qvel[self._qvel] = 0.0

    def state(self) -> ArmState:
        """Measured TCP pose (cell frame) and joint angles (radians)."""
        model, data = self._mujoco_model, self._data
        state = ArmState(
            timestamp=float(data.time),
            sequence=round(data.time / model.opt.timestep),
            pose=site_pose(data, self._tcp),
            velocity=site_velocity(model, data, self._tcp),
            joints=data.qpos[self._qpos].copy(),
            wrench=self._wrench(),
        )
        return arm_measured(state, self._world, self._seed)

    def _wrench(self) -> Float[ndarray, " 6"]:
        """What the TCP meets, cell axes, N and N m: as a controller estimates it, from torques that no motor gives."""
        torques = self._data.qfrc_constraint[self._qvel]
        if not torques.any():
            return np.zeros(6)
        _, jacobian = self.kinematics.jacobian(self._data.qpos[self._qpos])
        return np.linalg.lstsq(jacobian.T, torques, rcond=1e-2)[0]

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Have the TCP be at `poses` (cell frame, metres) at `times`.

        Raises:
            SafetyError: as `Arm.execute`. Nothing has changed then.
        """
        self.require_ready()
        now = float(self._data.time)
        ahead, checked = self.trajectory.checked(times, poses, now=now)
        if self._led is not None:
            self._stay(now)
        wanted = copy(self.trajectory)
        # what was commanded so long ago is still on its way to the joints: nothing said now changes it
        behind = now - self._world.latency
        wanted.execute(times, poses, now=behind)
        for number, (time, pose) in enumerate(zip(ahead, checked, strict=True)):
            if number and self._gently(time - ahead[number - 1], checked[number - 1], pose):
                continue
            before = time - WINDOW
            origin = wanted.at(before) if before > behind else self._driven_at(before)
            speed = float(np.linalg.norm(pose[:3, 3] - origin[:3, 3])) / WINDOW
            turning = float(np.linalg.norm(rotation_vector(pose[:3, :3] @ origin[:3, :3].T))) / WINDOW
            for value, limit, unit in (
                (speed, self.limits.linear, "m/s"),
                (turning, self.limits.angular, "rad/s"),
            ):
                if value > limit:
                    raise SafetyError(
                        f"the {self.name} refuses a path that asks for {value:.2f} {unit}, its limit is "
                        f"{limit:.2f} {unit}. Send waypoints that lie closer together."
                    )
        self.trajectory, self._heard = wanted, now

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"]) -> None:
        """Have the joints be at `joints` (radians) at `times`.

        Raises:
            SafetyError: as `JointArm.execute_joints`. Nothing has changed then.
        """
        self.require_ready()
        now, kinematics = float(self._data.time), self.kinematics
        behind = now - self._world.latency
        led = copy(self._led) if self._led is not None else JointTrajectory(self._joints, behind)
        ahead, checked = led.checked(times, joints, now=now)
        # A command that comes late leaves less time than was meant. The joints make up for it as fast as they can, and
        # may be so far behind.
        before, earlier = led.at(now), min(now, ahead[0] - LATE)
        for time, there in zip(ahead, checked, strict=True):
            kinematics.require_within(self._joints, there, self.name)
            whole = np.abs(there - self._joints) > kinematics.speeds * (time - behind + LATE) + 1e-9
            if (whole | (np.abs(there - before) > kinematics.speeds * (time - earlier) + 1e-9)).any():
                raise SafetyError(f"the {self.name} refuses a path that is too fast for its joints.")
            before, earlier = there, time
        led.execute(times, joints, now=behind)
        self._led, self._heard = led, now

    def _gently(self, seconds: float, one: ndarray, other: ndarray) -> bool:
        """Whether the step from one pose to the other is within the limits by itself."""
        way = other[:3, 3] - one[:3, 3]
        # of two rotations an angle apart: the norm of their difference is 2 sqrt(2) sin(angle / 2), nearly the angle's
        # sqrt(2) times, and never more
        apart = (other[:3, :3] - one[:3, :3]).ravel()
        turned = 1.1 * float(np.sqrt(0.5 * (apart @ apart)))
        return float(np.sqrt(way @ way)) <= self.limits.linear * seconds and (
            turned <= min(self.limits.angular * seconds, 1.0)
        )

    def _driven_at(self, time: float) -> Float[ndarray, "4 4"]:
        """The commanded pose a moment ago."""
        return next((pose for t, pose in reversed(self._driven) if t <= time), self._driven[0][1])

    def _stay(self, now: float) -> None:
        """Forget what is pending; the path begins afresh where the joints are."""
        self._led = None
        pose = self.kinematics.forward(self._joints)
        self.trajectory.stay(pose, now=now)
        self._driven = deque([(now, pose)], maxlen=1 + round(WINDOW / TICK))

    def _brake(self) -> None:
        data = self._data
        velocity = site_velocity(self._mujoco_model, data, self._tcp)
        # from where the arm is, not from where it was sent: what holds it back is not pushed on
        self._joints = self._previous = data.qpos[self._qpos].copy()
        self._speeds = data.qvel[self._qvel].copy()
        self._ticked = float(data.time)
        self._ramp = Brake.of(
            self._ticked,
            (float(np.linalg.norm(velocity[:3])), *self.limits.braking),
            (float(np.linalg.norm(velocity[3:])), *self.limits.turn_braking),
            (float(np.abs(self._speeds).max()), *self.limits.joint_braking),
        )
        self._stay(self._ticked)
        self._from = self._joints
        self._joints = self._from + self._speeds * self._ramp.way(self._ticked + TICK)

    def _rest(self) -> None:
        now = float(self._data.time)
        if np.abs(self._data.qvel[self._qvel]).max() > STANDING:
            raise RobotError(f"the {self.name} is still coming to rest. Recover it when it stands.")
        self._joints = self._previous = self._data.qpos[self._qpos].copy()
        self._ticked, self._ramp = now, None
        self._stay(now)

    def update(self) -> None:
        """Write this step's joint commands; called before every physics step."""
        now = float(self._data.time)
        self.watch(now, until=self.trajectory.end[0] if self._led is None else self._led.end[0] + LATE)
        if now - self._ticked > TICK - 1e-9:
            self._ticked = now
            self._previous = self._joints
            if self._ramp is None:
                due = now + TICK - self._world.latency
                if self._led is not None:
                    most = self.kinematics.speeds * TICK
                    self._joints = self._joints + np.clip(self._led.at(due) - self._joints, -most, most)
                target = (
                    self.trajectory.at(due) if self._led is None else self.kinematics.forward(self._joints)
                )
                self._driven.append((due, target))
                if self._led is None:
                    self._follow(target)
            else:
                self._come_to_rest(now, self._ramp)
        speed = (self._joints - self._previous) / TICK
        # A servo with damping lags by kv/kp seconds: it is asked for the angle that far ahead.
        self._data.ctrl[self._ctrl] = self._previous + speed * (now - self._ticked + self._lag)

    def _come_to_rest(self, now: float, ramp: Brake) -> None:
        if now < ramp.ends:
            self._joints = self._from + self._speeds * ramp.way(now + TICK)
        elif now < ramp.ends + SETTLING:
            self._joints = self._joints + YIELDING * (self._data.qpos[self._qpos] - self._joints)

    def _follow(self, target: Float[ndarray, "4 4"]) -> None:
        joints, _, _ = self.kinematics.step(self._joints, target, dt=TICK)
        reached = self.kinematics.forward(joints)
        distance = float(np.linalg.norm(target[:3, 3] - reached[:3, 3]))
        angle = float(np.linalg.norm(rotation_vector(target[:3, :3] @ reached[:3, :3].T)))
        if distance <= self.limits.off and angle <= self.limits.turned:
            self._joints = joints
            return
        place = ", ".join(f"{v:.2f}" for v in target[:3, 3])
        self.fail(
            f"its path near ({place}) m is out of reach or too fast for its joints: the nearest posture is "
            f"{1000 * distance:.0f} mm and {np.degrees(angle):.1f} degrees off"
        )


def _arm_in(model: Any, side: str) -> str:
    """Name of the arm that `add_arm` built into a compiled cell."""
    import mujoco

    text = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TEXT, f"{side}/arm")
    if text < 0:
        raise TaskError(
            f"the cell has no {side} arm of {sorted(ARM_MODELS)}. Build it with add_arm before compiling."
        )
    start = model.text_adr[text]
    return bytes(model.text_data[start : start + model.text_size[text] - 1]).decode()


def _relative_site(model: Any, frame: int, site: int) -> Float[ndarray, "4 4"]:
    """Pose of `site` in the frame of the site `frame`, both rigidly joined."""
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    return np.linalg.inv(site_pose(data, frame)) @ site_pose(data, site)
