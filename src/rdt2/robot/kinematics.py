"""Kinematics of one arm; the inverse by damped least squares on MuJoCo's Jacobian, inside the joint limits.

A bare model of the arm alone (no shapes, nothing else in the world) gives poses and Jacobians in
microseconds, so that following a path costs one iteration a control tick and never touches the state of the
simulated cell.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import SafetyError
from rdt2.robot.models import MIRROR, arm_model, base_pose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray

LIMIT_MARGIN = 0.02
"""Radians kept from every joint limit."""
PAST = 2e-3
"""Radians by which commanded joints may be past where they are allowed: what was measured has noise."""
ROTATION_WEIGHT = 0.25
"""Metres that one radian of error weighs: the two are minimised together."""
NULLSPACE_GAIN = 2.0
"""How fast (1/s) a redundant arm drifts to its home posture while its TCP moves as told."""
DRIFTING = 0.05
"""m/s of the TCP (a radian counts `ROTATION_WEIGHT` metres) from which it drifts so fast: an arm whose TCP stands still
stands still."""
SINGULAR = 0.04
"""Smallest singular value of the weighted Jacobian below which damping sets in."""


def add_chain(
    spec: Any, model: str, side: str, base: Float[ndarray, "4 4"] | None = None
) -> tuple[list[Any], Any]:
    """Add the bare bodies and joints of one arm to a MjSpec in radians, named `{side}/base`, `{side}/{link}`.

    Args:
        spec: an MjSpec.
        model: "ur5e" or "fr3".
        side: "right" or "left".
        base: (4, 4) base in the cell frame; default `base_pose(model, side)`.

    Returns:
        Its bodies from the base to the last link, and the site `{side}/mount` where the gripper is attached: its z
        axis is the approach direction.

    Raises:
        TaskError: an arm that is not known.
    """
    import mujoco

    arm = arm_model(model)
    pose = base_pose(model, side) if base is None else np.asarray(base, dtype=np.float64)
    spec.compiler.degree = False
    quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat(scalar_first=True)
    bodies = [spec.worldbody.add_body(name=f"{side}/base", pos=pose[:3, 3], quat=quaternion)]
    for link in arm.links:
        half = link.tilt / 2
        body = bodies[-1].add_body(
            name=f"{side}/{link.name}", pos=link.position, quat=[np.cos(half), np.sin(half), 0, 0]
        )
        body.explicitinertial = True
        # links' own turning matters little beside the motors' inertia: that of a solid ball of 6 cm radius
        body.mass, body.ipos, body.inertia = link.mass, link.centre, [0.4 * link.mass * 0.06**2] * 3
        body.add_joint(
            name=f"{side}/{link.name}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=link.limits,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        )  # fmt: skip
        bodies.append(body)
    half = MIRROR[side] * arm.mount_yaw / 2
    mount = bodies[-1].add_site(
        name=f"{side}/mount",
        pos=[0, 0, arm.flange],
        quat=[np.cos(half), 0, 0, np.sin(half)],
        group=5,
        size=[0.005] * 3,
    )
    return bodies, mount


def arm_kinematics(
    model: str,
    side: str,
    *,
    base: Float[ndarray, "4 4"] | None = None,
    tool: Float[ndarray, "4 4"] | None = None,
    home: Float[ndarray, " n"] | None = None,
) -> ArmKinematics:
    """Kinematics of one arm. What is compiled of its description is kept: the second one costs nothing.

    Args:
        model: "ur5e" or "fr3".
        side: "right" or "left".
        base: (4, 4) base in the cell frame; default `base_pose(model, side)`.
        tool: (4, 4) TCP in the frame of the mount; default identity.
        home: joint angles a redundant arm is drawn to, radians; default those in which it waits in the cell.

    Raises:
        TaskError: an arm that is not known.
    """
    arm = arm_model(model)
    stands = base_pose(model, side) if base is None else np.asarray(base, dtype=np.float64)
    return ArmKinematics(
        _compiled(model, side, stands.tobytes()),
        joints=[f"{side}/{link.name}" for link in arm.links],
        flange=f"{side}/mount",
        tool=np.eye(4) if tool is None else tool,
        speeds=[link.speed for link in arm.links],
        home=arm.home[side] if home is None else home.tolist(),
    )


@lru_cache(maxsize=16)
def _compiled(model: str, side: str, base: bytes) -> Any:
    """The bare chain of an arm, which nobody changes."""
    import mujoco

    spec = mujoco.MjSpec()
    add_chain(spec, model, side, np.frombuffer(base).reshape(4, 4))
    return spec.compile()


class ArmKinematics:
    """Forward and inverse kinematics of one arm with its tool, in the cell frame.

    Args:
        mujoco_model: a compiled model that holds the arm's chain and nothing else.
        joints: names of its joints from the base to the flange.
        flange: name of the site at the flange.
        tool: (4, 4) pose of the TCP in the flange's frame, metres.
        speeds: largest joint speeds, rad/s.
        home: joint angles a redundant arm is drawn to, radians.

    Raises:
        SafetyError: the model holds other joints.
    """

    def __init__(
        self,
        mujoco_model: Any,
        *,
        joints: Sequence[str],
        flange: str,
        tool: Float[ndarray, "4 4"],
        speeds: Sequence[float],
        home: Sequence[float],
    ) -> None:
        import mujoco

        self._mujoco = mujoco
        self.model = mujoco_model
        self.data = mujoco.MjData(mujoco_model)
        ids = [self.model.joint(name).id for name in joints]
        if [self.model.jnt_dofadr[i] for i in ids] != list(range(self.model.nv)):
            raise SafetyError(
                f"the model of the arm must hold its {len(joints)} joints in order and nothing else."
            )
        self._site = self.model.site(flange).id
        self._body = int(self.model.site_bodyid[self._site])
        self.tool = np.asarray(tool, dtype=np.float64)
        self.lower = self.model.jnt_range[ids, 0] + LIMIT_MARGIN
        self.upper = self.model.jnt_range[ids, 1] - LIMIT_MARGIN
        self.speeds = np.asarray(speeds, dtype=np.float64)
        self.home = np.asarray(home, dtype=np.float64)
        self._linear = np.zeros((3, self.model.nv))
        self._angular = np.zeros((3, self.model.nv))

    def limits(self, joints: Float[ndarray, " n"]) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Least and largest angles (radians) for an arm whose joints are at `joints`: one that stands past its limit,
        as a person or a pendant may have left it, stays or comes back, and is not pulled in.
        """
        return np.minimum(self.lower, joints), np.maximum(self.upper, joints)

    def require_within(self, joints: Float[ndarray, " n"], there: Float[ndarray, " n"], name: str) -> None:
        """Raises SafetyError where the arm `name` may not go from `joints` to `there`, radians."""
        low, high = self.limits(joints)
        beyond = np.flatnonzero((there < low - PAST) | (there > high + PAST))
        if beyond.size:
            i = int(beyond[0])
            raise SafetyError(
                f"the {name} refuses joint angles beyond its limits: joint {i + 1} at {np.degrees(there[i]):.1f} "
                f"degrees, expected {np.degrees(low[i]):.1f} to {np.degrees(high[i]):.1f}."
            )

    def forward(self, joints: Float[ndarray, " n"]) -> Float[ndarray, "4 4"]:
        """TCP pose in the cell frame for joint angles in radians."""
        self.data.qpos[:] = joints
        self._mujoco.mj_kinematics(self.model, self.data)
        pose = np.eye(4)
        rotation = self.data.site_xmat[self._site].reshape(3, 3)
        pose[:3, :3] = rotation @ self.tool[:3, :3]
        pose[:3, 3] = self.data.site_xpos[self._site] + rotation @ self.tool[:3, 3]
        return pose

    def jacobian(self, joints: Float[ndarray, " n"]) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "6 n"]]:
        """TCP pose, and its velocity (m/s, then rad/s, along the cell's axes) for joint speeds of 1 rad/s."""
        pose = self.forward(joints)
        self._mujoco.mj_comPos(self.model, self.data)
        self._mujoco.mj_jac(self.model, self.data, self._linear, self._angular, pose[:3, 3], self._body)
        return pose, np.concatenate([self._linear, self._angular])

    def step(
        self,
        joints: Float[ndarray, " n"],
        target: Float[ndarray, "4 4"],
        *,
        dt: float,
        speed_scale: float = 1.0,
    ) -> tuple[Float[ndarray, " n"], float, float]:
        """One damped least-squares step towards `target` within the joint limits and, over `dt`, joint
        speeds.

        Joints that the step would push beyond a limit are locked and the others solve for the rest.

        Returns:
            New joint angles (radians), and the error before the step: metres and radians.
        """
        pose, jacobian = self.jacobian(joints)
        error = np.empty(6)
        error[:3] = target[:3, 3] - pose[:3, 3]
        error[3:] = rotation_vector(target[:3, :3] @ pose[:3, :3].T)
        distance, angle = float(np.sqrt(error[:3] @ error[:3])), float(np.sqrt(error[3:] @ error[3:]))
        error[3:] *= ROTATION_WEIGHT
        jacobian[3:] *= ROTATION_WEIGHT

        lower, upper = self.limits(joints)
        moving = min(1.0, float(np.sqrt(error @ error)) / (DRIFTING * dt))
        drift = moving * NULLSPACE_GAIN * dt * (self.home - joints)
        most = self.speeds * (speed_scale * dt)
        free = np.ones(len(joints), dtype=bool)
        for _ in range(3):
            if free.all():
                move = _damped(jacobian, error, drift)
            else:
                move = np.zeros(len(joints))
                move[free] = _damped(jacobian[:, free], error, drift[free])
            # A uniform slow-down keeps the direction of the motion of the TCP.
            move *= min(1.0, float(np.min(most / np.maximum(np.abs(move), 1e-12))))
            beyond = free & ((joints + move > upper) | (joints + move < lower))
            if not beyond.any():
                break
            free &= ~beyond
        return np.clip(joints + move, lower, upper), distance, angle

    def solve(
        self,
        target: Float[ndarray, "4 4"],
        start: Float[ndarray, " n"] | None = None,
        *,
        iterations: int = 200,
        position_tolerance: float = 1e-4,
        rotation_tolerance: float = 1e-3,
    ) -> Float[ndarray, " n"]:
        """Joint angles (radians) that put the TCP at `target`, found from `start` (default: home).

        Raises:
            SafetyError: no solution within the tolerances (metres, radians), which says how near it came.
        """
        joints = np.clip(
            self.home if start is None else np.asarray(start, dtype=np.float64),
            self.lower - LIMIT_MARGIN,
            self.upper + LIMIT_MARGIN,
        )
        for _ in range(iterations):
            # Steps of 0.1 s at full speed: large enough to converge soon, small enough for the linear model.
            moved, distance, angle = self.step(joints, target, dt=0.1)
            if distance < position_tolerance and angle < rotation_tolerance:
                return joints
            joints = moved
        raise SafetyError(
            f"the arm cannot reach {np.round(target[:3, 3], 3).tolist()} m: the nearest posture found is "
            f"{1000 * distance:.1f} mm and {np.degrees(angle):.1f} degrees off. "
            "Ask for a pose nearer to its base."
        )


def _damped(
    jacobian: Float[ndarray, "6 n"], error: Float[ndarray, " 6"], drift: Float[ndarray, " n"]
) -> Float[ndarray, " n"]:
    """Joint motion for a TCP motion, with `drift` where it does not move the TCP; damped near singularities
    only."""
    u, s, vt = np.linalg.svd(jacobian, full_matrices=False)
    short = max(0.0, 1.0 - float(s[-1]) / SINGULAR)
    inverse = s / (s * s + (SINGULAR * short) ** 2 + 1e-12)
    return vt.T @ (inverse * (u.T @ error) - vt @ drift) + drift


def nearest_rotation(rotation: Float[ndarray, "3 3"]) -> Float[ndarray, "3 3"]:
    """The same without rounding, of a matrix that is nearly a rotation (two steps of Newton's iteration)."""
    for _ in range(2):
        rotation = 1.5 * rotation - 0.5 * rotation @ (rotation.T @ rotation)
    return rotation


def rotation_vector(rotation: Float[ndarray, "3 3"]) -> Float[ndarray, " 3"]:
    """Axis times angle (radians) of a rotation matrix."""
    # thousands of times a second: plain floats take a third of the time that arrays of three do
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    x, y, z = 0.5 * (zy - yz), 0.5 * (xz - zx), 0.5 * (yx - xy)
    sine = math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(sine, 0.5 * (xx + yy + zz - 1.0))
    if sine > 1e-6:
        share = angle / sine
        return np.array([x * share, y * share, z * share])
    if angle < 1.0:
        return np.array([x, y, z])
    # Half a turn: the axis is the eigenvector of eigenvalue 1.
    column = int(np.argmax(np.diag(rotation)))
    direction = (rotation + np.eye(3))[:, column]
    return direction * (angle / np.linalg.norm(direction))
