"""Free-floating grippers, carried through the air as a person carries handheld recording devices.

`HandheldArm` is also the pattern for everything that moves a gripper in the cell (see `Mover`): the cell
calls `reset` once, then `update` before every physics step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import RobotError
from rdt2.robot.braking import SETTLING, Brake
from rdt2.robot.device import BaseDevice
from rdt2.robot.protocols import Arm, ArmState, Timing
from rdt2.robot.waypoints import PoseTrajectory
from rdt2.robot.world import ArmWorld
from rdt2.sim.noise import arm_measured

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.description import ArmModel

FORCE_LIMIT = 60.0
"""N: what a hand pushes with before it gives way."""
TORQUE_LIMIT = 6.0
"""N m."""
BRAKING = 0.2
"""Share of these limits that a hand coming back to its path counts on."""
STOPPING = (12.0, 400.0)
"""Deceleration (m/s^2) and jerk (m/s^3) of a hand that is stopped."""
STOPPING_TURN = (50.0, 1500.0)
"""The same of its turning, in radians."""
STANDING = 0.02
"""m/s: a hand that is slower stands."""
EXTENT = 0.1
"""Radius of gyration of a gripper, metres, about."""
_PARTS = slice(0, 3), slice(3, 6)


class Mover(Arm, Protocol):
    """What carries a gripper in the cell: an `rdt2.robot.Arm` that the cell steps.

    The constructor is called as `Mover(model, data, side=..., tcp_site="right/tcp", world=..., seed=...)` after the
    model is compiled.
    """

    def reset(self, pose: Float[ndarray, "4 4"]) -> None:
        """Put the TCP at `pose` (cell frame, metres) at rest without a step; forget waypoints, stops and faults."""
        ...

    def update(self) -> None:
        """Write this step's commands (`data.ctrl`, `data.qfrc_applied`, ...). Called before every physics
        step.
        """
        ...


def site_pose(data: mujoco.MjData, site: int) -> Float[ndarray, "4 4"]:
    """World pose of a site."""
    pose = np.eye(4)
    pose[:3, :3] = data.site_xmat[site].reshape(3, 3)
    pose[:3, 3] = data.site_xpos[site]
    return pose


def site_velocity(model: mujoco.MjModel, data: mujoco.MjData, site: int) -> Float[ndarray, " 6"]:
    """Velocity of a site along the world's axes: m/s, then rad/s."""
    import mujoco

    turning_first = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, site, turning_first, 0)
    return np.concatenate([turning_first[3:], turning_first[:3]])


class HandheldArm(BaseDevice):
    """A gripper on a free joint, moved by the force that brings it onto its path.

    The force is computed from the mass matrix (so tracking is exact in free air, and the fingers' friction
    sees true velocities) and limited (so that a hand which meets the table gives way). A hand that is off its path,
    because the path jumped or something was in the way, comes back no faster than it can brake. Stopped, it gives way
    to what it presses on, and stays there.
    """

    base = np.eye(4)
    model: ArmModel | None = None

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        *,
        side: str,
        tcp_site: str,
        world: ArmWorld | None = None,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        import mujoco

        self._world, self._seed = world or ArmWorld(), seed
        super().__init__(f"{side} hand", Timing(self._world.latency))
        self._model, self._data = model, data
        self._site = model.site(tcp_site).id
        joint = model.joint(f"{side}/free")
        self._qpos = int(joint.qposadr[0])
        self._dofs = slice(int(joint.dofadr[0]), int(joint.dofadr[0]) + 6)
        # the frame of the free joint's body in the TCP's: constant, measured at the model's own rest
        mujoco.mj_kinematics(model, data)
        body = np.eye(4)
        body[:3, :3] = data.xmat[joint.bodyid[0]].reshape(3, 3)
        body[:3, 3] = data.xpos[joint.bodyid[0]]
        self._body_in_tcp = np.linalg.inv(site_pose(data, self._site)) @ body
        self._step = float(model.opt.timestep)
        mass = float(model.body_subtreemass[joint.bodyid[0]])
        self._braking = (BRAKING * FORCE_LIMIT / mass, BRAKING * TORQUE_LIMIT / (mass * EXTENT**2))
        self._tcp: ndarray | None = None
        self._target, self._velocity = np.zeros(7), np.zeros(6)
        self._before, self._back = np.zeros(7), np.zeros(6)
        self._impulse = np.zeros(model.nv)
        self._result = np.zeros(model.nv)
        self.trajectory = PoseTrajectory(np.eye(4))
        self._ramp: Brake | None = None

    def reset(self, pose: Float[ndarray, "4 4"]) -> None:
        """Put the TCP at `pose` (cell frame, metres), at rest."""
        body = pose @ self._body_in_tcp
        self._data.qpos[self._qpos : self._qpos + 3] = body[:3, 3]
        quat = Rotation.from_matrix(body[:3, :3]).as_quat(scalar_first=True)
        self._data.qpos[self._qpos + 3 : self._qpos + 7] = quat
        self._data.qvel[self._dofs] = 0
        self._tcp = None
        self._target[:] = self._data.qpos[self._qpos : self._qpos + 7]
        self.trajectory = PoseTrajectory(pose, self._data.time)
        self._ramp, self._stopped, self._fault = None, False, ""

    def update(self) -> None:
        """Before a physics step: the force that brings it onto its path."""
        import mujoco

        model, data, step = self._model, self._data, self._step
        self.watch(data.time, until=self.trajectory.end[0])
        tcp = self._commanded(data.time + step)
        self._before[:] = self._target
        if tcp is not self._tcp:
            self._tcp, body = tcp, tcp @ self._body_in_tcp
            self._target[:3] = body[:3, 3]
            mujoco.mju_mat2Quat(self._target[3:], body[:3, :3].ravel())
        q = data.qpos[self._qpos : self._qpos + 7]
        velocity, back = self._velocity, self._back
        velocity[:3] = self._target[:3] - self._before[:3]
        mujoco.mju_subQuat(velocity[3:], self._target[3:], self._before[3:])
        back[:3] = self._before[:3] - q[:3]
        mujoco.mju_subQuat(back[3:], self._before[3:], q[3:])
        for part, braking in zip(_PARTS, self._braking, strict=True):
            way = math.sqrt(float(back[part] @ back[part]))
            fastest = math.sqrt(2 * braking * way)
            if way > fastest * step:
                back[part] *= fastest * step / way
        velocity += back
        velocity /= step
        # M (v* - v) / dt brings the body to v* in one step; qfrc_bias carries gravity and Coriolis terms
        self._impulse[self._dofs] = (velocity - data.qvel[self._dofs]) / step
        mujoco.mj_mulM(model, data, self._result, self._impulse)
        force = self._result[self._dofs] + data.qfrc_bias[self._dofs]
        for part, limit in zip(_PARTS, (FORCE_LIMIT, TORQUE_LIMIT), strict=True):
            size = math.sqrt(float(force[part] @ force[part]))
            if size > limit:
                force[part] *= limit / size
        data.qfrc_applied[self._dofs] = force

    def _commanded(self, time: float) -> Float[ndarray, "4 4"]:
        ramp = self._ramp
        if ramp is None:
            return self.trajectory.at(time - self._world.latency)
        if time <= ramp.ends:
            way = self._speeds * ramp.way(time)
            pose = self._from.copy()
            pose[:3, 3] += way[:3]
            pose[:3, :3] = Rotation.from_rotvec(way[3:]).as_matrix() @ self._from[:3, :3]
            self.trajectory.stay(pose, now=time)
        elif time <= ramp.ends + SETTLING:
            self._stay_here()
        return self.trajectory.at(time)

    def _stay_here(self) -> None:
        """Make the measured pose the commanded one."""
        q = self._data.qpos[self._qpos : self._qpos + 7]
        body = np.eye(4)
        body[:3, 3] = q[:3]
        body[:3, :3] = Rotation.from_quat(q[3:], scalar_first=True).as_matrix()
        self._target[:] = q
        self.trajectory.stay(body @ np.linalg.inv(self._body_in_tcp), now=self._data.time)

    def _brake(self) -> None:
        self._stay_here()
        self._from = self.trajectory.end[1]
        self._speeds = site_velocity(self._model, self._data, self._site)
        speed, turning = (float(np.linalg.norm(self._speeds[part])) for part in _PARTS)
        self._ramp = Brake.of(self._data.time, (speed, *STOPPING), (turning, *STOPPING_TURN))

    def _rest(self) -> None:
        if np.linalg.norm(site_velocity(self._model, self._data, self._site)[:3]) > STANDING:
            raise RobotError(f"the {self.name} is still coming to rest. Recover it when it stands.")
        self._ramp = None
        self._stay_here()

    def state(self) -> ArmState:
        """Where it is now, as late and noisy as the world's settings say."""
        state = ArmState(
            timestamp=self._data.time,
            sequence=round(self._data.time / self._step),
            pose=site_pose(self._data, self._site),
            velocity=site_velocity(self._model, self._data, self._site),
            joints=np.zeros(0),
        )
        return arm_measured(state, self._world, self._seed)

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Follow poses of the TCP, cell frame, metres, at times of the cell's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        self.require_ready()
        now = self._data.time
        self.trajectory.checked(times, poses, now=now)
        # what was commanded so long ago is still on its way to the joints: nothing said now changes it
        self.trajectory.execute(times, poses, now=now - self._world.latency)
        self._heard = now
