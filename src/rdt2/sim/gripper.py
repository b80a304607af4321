"""The parallel-jaw gripper with its wrist camera, the same on a hand, a UR5e and a Franka Research 3.

The gripper's body frame sits on the mounting flange: z points out of the flange to the fingertips, y is the
opening axis. Two sites on it have the same axes: `fingertips` between them, and `policy`, the frame whose motion the
models predict (on a handheld device, where its tracker is). The site `tcp` is the frame that what carries the gripper
speaks of: on a hand the fingertips, on every arm another one.
The wrist camera is on the +x side and leans towards +x, so that the fingertips stand at the lower edge of the picture
and the table fills the rest; +x is "up" in the picture.

Names in a compiled cell are prefixed: `right/tcp`, `right/policy`, `right/camera`, `right/finger_a`, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import RobotError
from rdt2.robot.braking import Brake
from rdt2.robot.description import Part
from rdt2.robot.device import BaseDevice, require_widths
from rdt2.robot.grippers.cell import (
    CAMERA_POSITION,
    CAMERA_TILT,
    FINGER_Z,
    PALM,
    POLICY_IN_TCP,
    STROKE,
    TCP_Z,
    finger,
)
from rdt2.robot.protocols import GripperState, Timing
from rdt2.robot.waypoints import WidthTrajectory
from rdt2.robot.world import GripperWorld
from rdt2.sim.noise import gripper_measured

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import Float
    from numpy import ndarray

CAMERA_FOVY = 88.0
STOPPING = (4.0, 200.0)
"""Deceleration (m/s^2) and jerk (m/s^3) of an opening that is stopped."""
GRIP_FORCE = 30.0
"""N, a finger."""


def tcp_rotation(side: str, *, yaw: float = 0.0) -> Float[ndarray, "3 3"]:
    """Rotation of a TCP that points straight down, turned by `yaw` radians about the world's vertical.

    At yaw 0 the camera is on the inner side (towards the other hand) and the jaws open along the world's x,
    so that two hands meet with their narrow sides.
    """
    inward = 1.0 if side == "right" else -1.0
    down = np.array([[0.0, inward, 0.0], [inward, 0.0, 0.0], [0.0, 0.0, -1.0]])
    return Rotation.from_euler("z", yaw).as_matrix() @ down


def gripper_spec(tcp: Float[ndarray, "4 4"] | None = None) -> mujoco.MjSpec:
    """The gripper as a spec with one body, `gripper`, to be attached with a prefix such as `right/`.

    `tcp`: (4, 4) the site of that name, seen from between the fingertips, metres; default there.


    Joints `finger_a` and `finger_b` slide by half the width each; actuators of the same names take metres.
    """
    import mujoco

    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    body = spec.worldbody.add_body(name="gripper")
    for piece in PALM:
        _add(body, piece)

    for name, sign in (("finger_a", 1.0), ("finger_b", -1.0)):
        jaw = body.add_body(name=name, pos=(0, 0, FINGER_Z))
        jaw.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, sign, 0), range=(0, STROKE / 2),
            limited=True, damping=(25.0, 0, 0), armature=0.15, frictionloss=0.2,
        )  # fmt: skip
        *_, pad = (_add(jaw, piece, prefix=f"{name}_") for piece in finger(sign))
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

    tips = np.array((0, 0, TCP_Z))
    tcp = np.eye(4) if tcp is None else tcp
    turned = Rotation.from_matrix(tcp[:3, :3]).as_quat(scalar_first=True)
    for name, position, quat in (
        ("fingertips", tips, (1, 0, 0, 0)),
        ("tcp", tips + tcp[:3, 3], turned),
        ("policy", tips + POLICY_IN_TCP, (1, 0, 0, 0)),
    ):
        body.add_site(name=name, pos=position, quat=quat, size=(0.004, 0.004, 0.004), group=4)
    # a camera looks along its -z; its x is the gripper's y, its y (up) leans from the gripper's +x
    c, s = np.cos(CAMERA_TILT), np.sin(CAMERA_TILT)
    axes = np.array([[0, c, -s], [1, 0, 0], [0, -s, -c]])
    quat = Rotation.from_matrix(axes).as_quat(scalar_first=True)
    body.add_camera(name="camera", pos=CAMERA_POSITION, quat=quat, fovy=CAMERA_FOVY)
    return spec


def _add(owner: Any, piece: Part, *, prefix: str = "") -> Any:
    """A piece as a geom of the body `owner`."""
    import mujoco

    kind = {"box": mujoco.mjtGeom.mjGEOM_BOX, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER}[piece.kind]
    return owner.add_geom(
        name=prefix + piece.name if piece.name else "", type=kind, size=piece.half_size, pos=piece.position,
        quat=(np.cos(piece.tilt / 2), 0, np.sin(piece.tilt / 2), 0), rgba=piece.colour, mass=piece.mass, condim=3,
        contype=int(piece.collides), conaffinity=int(piece.collides), friction=(0.6, 0.005, 0.0001),
    )  # fmt: skip


class GripperController(BaseDevice):
    """The gripper of one side, spoken to through `rdt2.robot.Gripper`; widths in metres, 0 closed.

    The fingers are position servos with a limited force: a width smaller than the held object squeezes it, also
    while the gripper is stopped.
    """

    stroke = STROKE

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        *,
        side: str,
        world: GripperWorld | None = None,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        self._world, self._seed = world or GripperWorld(), seed
        super().__init__(f"{side} gripper", Timing(self._world.latency))
        self._data = data
        self._step = float(model.opt.timestep)
        self._qpos = [int(model.joint(f"{side}/finger_{f}").qposadr[0]) for f in "ab"]
        self._ctrl = [model.actuator(f"{side}/finger_{f}").id for f in "ab"]
        self.trajectory = WidthTrajectory(STROKE)
        self._ramp: Brake | None = None

    def reset(self, width: float) -> None:
        """Open to `width` (metres) at rest and forget waypoints, stops and faults."""
        self._data.qpos[self._qpos] = width / 2
        self._data.ctrl[self._ctrl] = width / 2
        self.trajectory = WidthTrajectory(width, self._data.time)
        self._ramp, self._stopped, self._fault = None, False, ""

    def update(self) -> None:
        """Write this step's command."""
        now = self._data.time
        self.watch(now, until=self.trajectory.end[0])
        if self._ramp is not None:
            width = float(np.clip(self._from + self._speed * self._ramp.way(now), 0.0, STROKE))
            self.trajectory.stay(width, now=now)
        self._data.ctrl[self._ctrl] = self.trajectory.at(now - self._world.latency) / 2

    def state(self) -> GripperState:
        """The opening now, as late and noisy as the world's settings say."""
        now = self._data.time
        state = GripperState(now, round(now / self._step), float(self._data.qpos[self._qpos].sum()))
        return gripper_measured(state, self._world, self._seed)

    def execute(self, times: Float[ndarray, " n"], widths: Float[ndarray, " n"]) -> None:
        """Follow widths in metres, at times of the cell's clock.

        Raises:
            SafetyError: it takes no command, the waypoints are no path, or it has no such width.
        """
        self.require_ready()
        now = self._data.time
        _, ahead = self.trajectory.checked(times, widths, now=now)
        require_widths(self.name, ahead, STROKE)
        self.trajectory.execute(times, widths, now=now - self._world.latency)
        self._heard = now

    def _brake(self) -> None:
        now = self._data.time
        # from the width commanded, not the measured one: what is held stays held
        behind = now - self._world.latency
        self._from = self.trajectory.at(behind)
        self._speed = (self.trajectory.at(behind + self._step) - self._from) / self._step
        self._ramp = Brake.of(now, (abs(self._speed), *STOPPING))

    def _rest(self) -> None:
        if self._ramp is not None and self._data.time < self._ramp.ends:
            raise RobotError(f"the {self.name} is still coming to rest. Recover it when it stands.")
        self._ramp = None
