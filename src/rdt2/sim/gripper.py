"""The parallel-jaw gripper with its wrist camera, the same on a hand, a UR5e and a Franka Research 3.

The gripper's body frame sits on the mounting flange: z points out of the flange to the fingertips, y is the
opening axis. Two sites on it have the same axes: `tcp` between the fingertips, and `policy`, the frame whose
motion the models predict (on a handheld device, where its tracker is). The wrist camera is on the +x side and
leans towards +x, so that the fingertips stand at the lower edge of the picture and the table fills the rest;
+x is "up" in the picture.

Names in a compiled cell are prefixed: `right/tcp`, `right/policy`, `right/camera`, `right/finger_a`, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.robot.protocols import GripperState, WidthTrajectory

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import Float
    from numpy import ndarray

TCP_Z = 0.20
"""Distance from the flange to the point between the fingertips, metres."""
POLICY_IN_TCP = (0.055, 0.0, -0.14)
"""Origin of the policy's frame in the TCP frame, metres; the axes are the same."""
STROKE = 0.092
"""Largest opening in metres: the 0.088 m of the recordings and a little margin."""
MASS = 0.82
"""kg, all parts together."""
CAMERA_POSITION = (0.060, 0.0, TCP_Z - 0.135)
CAMERA_TILT = np.deg2rad(8.0)
CAMERA_FOVY = 88.0
GRIP_FORCE = 30.0
"""N, a finger."""

_BODY = (0.15, 0.16, 0.18, 1.0)
_METAL = (0.62, 0.64, 0.67, 1.0)
_PAD = (0.45, 0.80, 0.82, 1.0)


def tcp_rotation(side: str, *, yaw: float = 0.0) -> Float[ndarray, "3 3"]:
    """Rotation of a TCP that points straight down, turned by `yaw` radians about the world's vertical.

    At yaw 0 the camera is on the inner side (towards the other hand) and the jaws open along the world's x,
    so that two hands meet with their narrow sides.
    """
    inward = 1.0 if side == "right" else -1.0
    down = np.array([[0.0, inward, 0.0], [inward, 0.0, 0.0], [0.0, 0.0, -1.0]])
    return Rotation.from_euler("z", yaw).as_matrix() @ down


def gripper_spec() -> mujoco.MjSpec:
    """The gripper as a spec with one body, `gripper`, to be attached with a prefix such as `right/`.

    Joints `finger_a` and `finger_b` slide by half the width each; actuators of the same names take metres.
    """
    import mujoco

    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    body = spec.worldbody.add_body(name="gripper")
    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER

    def part(owner, kind, size, pos, rgba, mass, *, collide=True, quat=(1, 0, 0, 0), name=""):  # type: ignore
        return owner.add_geom(
            name=name, type=kind, size=size, pos=pos, quat=quat, rgba=rgba, mass=mass, condim=3,
            contype=int(collide), conaffinity=int(collide), friction=(0.6, 0.005, 0.0001),
        )  # fmt: skip

    # flange plate, neck, palm with a lighter band, rail of the jaws
    part(body, cylinder, (0.034, 0.008, 0), (0, 0, 0.008), _METAL, 0.08)
    part(body, box, (0.026, 0.034, 0.034), (0, 0, 0.048), _BODY, 0.30)
    part(body, box, (0.0265, 0.0345, 0.004), (0, 0, 0.060), _METAL, 0.02, collide=False)
    part(body, box, (0.020, 0.062, 0.012), (0, 0, 0.094), _BODY, 0.14)
    part(body, box, (0.008, 0.060, 0.003), (0, 0, 0.107), _METAL, 0.02, collide=False)
    # bracket and housing of the camera, behind the lens
    part(body, box, (0.022, 0.010, 0.008), (0.040, 0, CAMERA_POSITION[2] - 0.030), _METAL, 0.02)
    tilt = Rotation.from_euler("y", CAMERA_TILT).as_quat(scalar_first=True)
    part(body, box, (0.014, 0.018, 0.014), (0.058, 0, CAMERA_POSITION[2] - 0.020), _BODY, 0.06, quat=tilt)

    for name, sign in (("finger_a", 1.0), ("finger_b", -1.0)):
        finger = body.add_body(name=name, pos=(0, 0, 0.107))
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, sign, 0), range=(0, STROKE / 2),
            limited=True, damping=(25.0, 0, 0), armature=0.15, frictionloss=0.2,
        )  # fmt: skip
        # the finger: a slider on the rail, a slim blade, and at the tip a rubber pad whose face is at half
        # the width
        part(finger, box, (0.014, 0.010, 0.009), (0, sign * 0.013, 0.008), _METAL, 0.03)
        part(finger, box, (0.009, 0.004, 0.036), (0, sign * 0.0105, 0.050), _BODY, 0.03)
        pad = part(
            finger, box, (0.009, 0.0032, 0.016), (0, sign * 0.0032, 0.087), _PAD, 0.02, name=f"{name}_pad"
        )
        pad.condim = 4
        pad.friction = (1.6, 0.05, 0.0002)
        pad.priority = 1
        pad.solref = (0.006, 1.0)
        pad.solimp = (0.95, 0.99, 0.001, 0.5, 2)
        actuator = spec.add_actuator(
            name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True, ctrlrange=(-0.01, STROKE / 2),
            forcelimited=True, forcerange=(-GRIP_FORCE, GRIP_FORCE),
        )  # fmt: skip
        actuator.set_to_position(kp=2500.0)

    couple = spec.add_equality(name="jaws", type=mujoco.mjtEq.mjEQ_JOINT, name1="finger_a", name2="finger_b")
    couple.objtype = mujoco.mjtObj.mjOBJ_JOINT
    couple.data[:5] = (0, 1, 0, 0, 0)
    couple.solref = (0.004, 1.0)

    body.add_site(name="tcp", pos=(0, 0, TCP_Z), size=(0.004, 0.004, 0.004), group=4)
    policy = np.add((0, 0, TCP_Z), POLICY_IN_TCP)
    body.add_site(name="policy", pos=policy, size=(0.004, 0.004, 0.004), group=4)
    # a camera looks along its -z; its x is the gripper's y, its y (up) leans from the gripper's +x
    c, s = np.cos(CAMERA_TILT), np.sin(CAMERA_TILT)
    axes = np.array([[0, c, -s], [1, 0, 0], [0, -s, -c]])
    quat = Rotation.from_matrix(axes).as_quat(scalar_first=True)
    body.add_camera(name="camera", pos=CAMERA_POSITION, quat=quat, fovy=CAMERA_FOVY)
    return spec


class GripperController:
    """The gripper of one side, spoken to through `rdt2.robot.Gripper`; widths in metres, 0 closed.

    The fingers are position servos with a limited force: a width smaller than the held object squeezes it.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, *, side: str) -> None:
        self._data = data
        self._qpos = [int(model.joint(f"{side}/finger_{f}").qposadr[0]) for f in "ab"]
        self._ctrl = [model.actuator(f"{side}/finger_{f}").id for f in "ab"]
        self.trajectory = WidthTrajectory(STROKE)

    def reset(self, width: float) -> None:
        """Open to `width` at rest and forget all waypoints."""
        self._data.qpos[self._qpos] = width / 2
        self._data.ctrl[self._ctrl] = width / 2
        self.trajectory = WidthTrajectory(width, self._data.time)

    def update(self) -> None:
        """Write this step's command."""
        self._data.ctrl[self._ctrl] = self.trajectory.at(self._data.time) / 2

    def state(self) -> GripperState:
        return GripperState(self._data.time, float(self._data.qpos[self._qpos].sum()))

    def schedule(self, width: float, time: float) -> bool:
        return self.trajectory.schedule(width, time, now=self._data.time)

    def hold(self) -> None:
        self.trajectory.hold(now=self._data.time)
