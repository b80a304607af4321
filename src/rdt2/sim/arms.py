"""Two UR5e or two Franka Research 3 in a MuJoCo cell: building them, and following waypoints with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import SafetyError, TaskError
from rdt2.robot.protocols import ArmState, PoseTrajectory
from rdt2.sim.arm_model import ArmModel, Shape
from rdt2.sim.fr3 import FR3
from rdt2.sim.ik import ArmKinematics, rotation_vector
from rdt2.sim.ur5e import UR5E

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

ARM_MODELS: dict[str, ArmModel] = {"ur5e": UR5E, "fr3": FR3}

MIRROR = {"right": -1.0, "left": 1.0}
"""Sign of y and of turns about z: the cell is symmetric about its x-z plane."""
ARMATURE = 0.1
"""Inertia of a joint's motor seen through its gear, kg m^2: what makes real geared arms calm."""
DAMPING_RATIO = 1.0
"""Of every joint servo, for the motor's own inertia and the mean inertia of the arm behind it."""
PEDESTAL = (0.55, 0.56, 0.58, 1.0)


TICK = 0.008
"""Seconds between two steps of inverse kinematics; in between, the joint angles are interpolated."""
WAYPOINT_PERIOD = 1 / 30
"""Seconds: a shorter gap between two waypoints counts as this much when their speed is judged."""


@dataclass(frozen=True)
class ArmLimits:
    """What a commanded path may ask before the arm refuses it."""

    linear: float = 2.0
    """m/s of the TCP."""
    angular: float = 8.0
    """rad/s of the TCP."""
    behind: float = 0.10
    """Metres the arm may stay behind its path, being at its joint limits or top speed, before it stops."""


def arm_model(name: str) -> ArmModel:
    """The description of an arm.

    Raises:
        TaskError: an arm that is not known.
    """
    if name not in ARM_MODELS:
        raise TaskError(f"unknown arm {name!r}, expected one of {sorted(ARM_MODELS)}.")
    return ARM_MODELS[name]


def base_pose(model: str, side: str) -> Float[ndarray, "4 4"]:
    """Where the arm of `side` ("right" or "left") stands in the cell frame, metres, facing along x."""
    x, y, z = arm_model(model).base
    pose = np.eye(4)
    pose[:3, 3] = x, MIRROR[side] * y, z
    return pose


def add_arm(
    spec: Any, model: str, side: str, pose: Float[ndarray, "4 4"] | None = None, *, floor: float = -0.75
) -> Any:
    """Add the arm of one side with its joint servos to a MjSpec and return the site where its gripper mounts.

    Everything is named `{side}/...`: joints `{side}/{link}`, actuators the same, the mount `{side}/mount`
    (its z axis is the approach direction). Links do not collide; their own weight is compensated, and that of
    what is attached by `compensate_gravity`.

    Args:
        spec: an MjSpec in radians.
        model: "ur5e" or "fr3".
        side: "right" or "left".
        pose: (4, 4) base in the cell frame; default `base_pose(model, side)`.
        floor: height in the cell frame on which the pedestal stands.

    Raises:
        TaskError: an arm that is not known.
    """
    import mujoco

    arm = arm_model(model)
    pose = base_pose(model, side) if pose is None else np.asarray(pose, dtype=np.float64)
    spec.compiler.degree = False
    body = spec.worldbody.add_body(name=f"{side}/base", pos=pose[:3, 3], quat=_quaternion(pose[:3, :3]))
    _draw(body, Shape((0, 0, floor - pose[2, 3]), (0, 0, 0), 0.09, PEDESTAL))
    for shape in arm.base_shapes:
        _draw(body, shape)
    for i, link in enumerate(arm.links):
        name = f"{side}/{link.name}"
        half = link.tilt / 2
        body = body.add_body(
            name=name, pos=link.position, quat=[np.cos(half), np.sin(half), 0, 0], gravcomp=1.0
        )
        body.explicitinertial = True
        body.mass, body.ipos, body.inertia = link.mass, link.centre, _inertia(link.mass)
        body.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=link.limits,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE, armature=ARMATURE,
        )  # fmt: skip
        for shape in link.shapes:
            _draw(body, shape)
        servo = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_position(kp=arm.stiffness[i], kv=_damping(arm, i))
        servo.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        servo.forcerange = [-link.torque, link.torque]
        servo.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    half = MIRROR[side] * arm.mount_yaw / 2
    return body.add_site(
        name=f"{side}/mount",
        pos=[0, 0, arm.flange],
        quat=[np.cos(half), 0, 0, np.sin(half)],
        group=5,
        size=[0.005] * 3,
    )


def compensate_gravity(spec: Any, side: str) -> None:
    """Carry the weight of everything attached to one arm, as a robot does that was told its payload."""
    bodies = [spec.body(f"{side}/base")]
    while bodies:
        body = bodies.pop()
        body.gravcomp = 1.0
        bodies.extend(body.bodies)


def arm_kinematics(
    model: str,
    side: str,
    *,
    base: Float[ndarray, "4 4"] | None = None,
    tool: Float[ndarray, "4 4"] | None = None,
) -> ArmKinematics:
    """Kinematics of one arm of the cell.

    Args:
        model: "ur5e" or "fr3".
        side: "right" or "left".
        base: (4, 4) base in the cell frame; default `base_pose(model, side)`.
        tool: (4, 4) TCP in the frame of the mount; default identity.
    """
    import mujoco

    arm = arm_model(model)
    spec = mujoco.MjSpec()
    add_arm(spec, model, side, base)
    for geom in list(spec.geoms):
        spec.delete(geom)
    return ArmKinematics(
        spec.compile(),
        joints=[f"{side}/{link.name}" for link in arm.links],
        flange=f"{side}/mount",
        tool=np.eye(4) if tool is None else tool,
        speeds=[link.speed for link in arm.links],
        home=arm.home[side],
    )


class ArmController:
    """An arm of the simulated cell behind the `Arm` protocol, moved by the cell through `reset` and `update`.

    Every `TICK` the commanded path is evaluated and one step of inverse kinematics follows it; the joint
    servos get the angles and the speed they must not lag behind.

    A pose that is out of reach, or a path faster than `limits`, is refused or stops the arm: `fault` says
    why, the arm keeps its posture, and `schedule` raises until `hold` has been called.

    Args:
        model: the compiled cell.
        data: its state.
        side: "right" or "left".
        tcp_site: name of the site at the TCP.
        base: (4, 4) base in the cell frame; default where `add_arm` puts it.
        limits: what a path may ask.

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
    ) -> None:
        arm = _arm_in(model, side)
        self.side, self.limits, self._data = side, limits, data
        names = [f"{side}/{link.name}" for link in arm.links]
        self._qpos = np.array([model.joint(name).qposadr[0] for name in names])
        self._qvel = np.array([model.joint(name).dofadr[0] for name in names])
        self._ctrl = np.array([model.actuator(name).id for name in names])
        self._lag = -model.actuator_biasprm[self._ctrl, 2] / model.actuator_gainprm[self._ctrl, 0]
        self._tcp = model.site(tcp_site).id
        tool = _relative_site(model, model.site(f"{side}/mount").id, self._tcp)
        self.kinematics = arm_kinematics(arm.name, side, base=base, tool=tool)
        self._place(self.kinematics.home)

    def _place(self, joints: Float[ndarray, " n"]) -> None:
        """Start afresh, at rest, with these joint angles."""
        self._joints = self._previous = np.array(joints)
        self._ticked = float(self._data.time)
        self.trajectory = PoseTrajectory(self.kinematics.forward(joints), self._ticked)
        self.fault = ""

    def reset(self, pose: Float[ndarray, "4 4"]) -> None:
        """Put the TCP at `pose` (cell frame), at rest, and forget all waypoints; nothing is stepped.

        Raises:
            SafetyError: the arm cannot reach `pose`.
        """
        self._place(self.kinematics.solve(pose))
        self._data.qpos[self._qpos] = self._data.ctrl[self._ctrl] = self._joints
        self._data.qvel[self._qvel] = 0.0

    def state(self) -> ArmState:
        """Measured TCP pose (cell frame) and joint angles (radians)."""
        pose = np.eye(4)
        pose[:3, :3] = self._data.site_xmat[self._tcp].reshape(3, 3)
        pose[:3, 3] = self._data.site_xpos[self._tcp]
        return ArmState(float(self._data.time), pose, self._data.qpos[self._qpos].copy())

    def schedule(self, pose: Float[ndarray, "4 4"], time: float) -> bool:
        """Ask for the TCP to be at `pose` (cell frame, metres) at `time`. False: that is past, nothing
        changed.

        Raises:
            SafetyError: not a finite pose, a path faster than the limits, or an arm stopped by a fault. The
            arm
                then holds.
        """
        now = float(self._data.time)
        if self.fault:
            raise SafetyError(
                f"the {self.side} arm is stopped: {self.fault} Call hold() to go on from where it is."
            )
        pose = np.asarray(pose, dtype=np.float64)
        reason = self._refusal(pose, time, now)
        if reason:
            self._stop(reason)
            raise SafetyError(f"the {self.side} arm refused a waypoint and holds: {reason}")
        return self.trajectory.schedule(pose, time, now=now)

    def hold(self) -> None:
        """Forget all pending waypoints, clear a fault, and stay where the arm is.

        Where it is, not where it was sent: an arm that something holds back does not go on pushing.
        """
        self._joints = self._previous = self._data.qpos[self._qpos].copy()
        self.trajectory = PoseTrajectory(self.kinematics.forward(self._joints), float(self._data.time))
        self.fault = ""

    def update(self) -> None:
        """Write this step's joint commands; called before every physics step."""
        now = float(self._data.time)
        if now - self._ticked > TICK - 1e-9:
            self._ticked = now
            self._previous = self._joints
            self._follow(self.trajectory.at(now + TICK))
        speed = (self._joints - self._previous) / TICK
        # A servo with damping lags by kv/kp seconds: it is asked for the angle that far ahead.
        self._data.ctrl[self._ctrl] = self._previous + speed * (now - self._ticked + self._lag)

    def _follow(self, target: Float[ndarray, "4 4"]) -> None:
        if self.fault:
            return
        joints, distance, _ = self.kinematics.step(self._joints, target, dt=TICK)
        if distance <= self.limits.behind:
            self._joints = joints
            return
        place = ", ".join(f"{v:.2f}" for v in target[:3, 3])
        self._stop(
            f"it is {1000 * distance:.0f} mm behind its path near ({place}), out of reach or too fast for it."
        )

    def _stop(self, reason: str) -> None:
        self.hold()
        self.fault = reason

    def _refusal(self, pose: Float[ndarray, "4 4"], time: float, now: float) -> str:
        """Why a waypoint must not be followed; empty when it may."""
        if pose.shape != (4, 4) or not np.isfinite(pose).all() or not np.isfinite(time):
            return "it is not a finite (4, 4) pose at a finite time."
        if time <= now:
            return ""
        start, origin = self.trajectory.before(time, now=now)
        duration = max(time - start, WAYPOINT_PERIOD)
        speed = float(np.linalg.norm(pose[:3, 3] - origin[:3, 3])) / duration
        turning = float(np.linalg.norm(rotation_vector(pose[:3, :3] @ origin[:3, :3].T))) / duration
        if speed > self.limits.linear:
            return f"it asks for {speed:.2f} m/s, the limit is {self.limits.linear:.2f} m/s."
        if turning > self.limits.angular:
            return f"it asks for {turning:.2f} rad/s, the limit is {self.limits.angular:.2f} rad/s."
        return ""


def _arm_in(model: Any, side: str) -> ArmModel:
    """The arm that was built into a compiled cell."""
    joints = {model.joint(i).name for i in range(model.njnt)}
    for arm in ARM_MODELS.values():
        if {f"{side}/{link.name}" for link in arm.links} <= joints:
            return arm
    raise TaskError(
        f"the cell has no {side} arm of {sorted(ARM_MODELS)}. Build it with add_arm before compiling."
    )


def _draw(body: Any, shape: Shape) -> None:
    import mujoco

    kind = {"cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER, "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE}[shape.kind]
    body.add_geom(
        type=kind, fromto=[*shape.start, *shape.end], size=[shape.radius, 0, 0], rgba=shape.colour,
        contype=0, conaffinity=0, mass=0.0, group=1,
    )  # fmt: skip


def _inertia(mass: float) -> list[float]:
    """Of a solid ball of 6 cm radius: the links' own turning matters little beside the motors' inertia."""
    return [0.4 * mass * 0.06**2] * 3


def _damping(arm: ArmModel, index: int) -> float:
    """Velocity gain that damps a joint with all the links behind it stretched out half way."""
    inertia = ARMATURE
    reach = 0.0
    for link in arm.links[index + 1 :]:
        reach += float(np.linalg.norm(link.position))
        inertia += link.mass * (0.5 * reach) ** 2
    return 2.0 * DAMPING_RATIO * float(np.sqrt(arm.stiffness[index] * inertia))


def _quaternion(rotation: Float[ndarray, "3 3"]) -> Float[ndarray, " 4"]:
    import mujoco

    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).reshape(-1))
    return quaternion


def _relative_site(model: Any, frame: int, site: int) -> Float[ndarray, "4 4"]:
    """Pose of `site` in the frame of the site `frame`, both rigidly joined."""
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)

    def pose(index: int) -> Float[ndarray, "4 4"]:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = data.site_xmat[index].reshape(3, 3), data.site_xpos[index]
        return matrix

    return np.linalg.inv(pose(frame)) @ pose(site)
