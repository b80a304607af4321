"""Two UR5e or two Franka Research 3 in a MuJoCo cell: building them from their descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.robot.description import ArmModel, Shape
from rdt2.robot.grippers.cell import PALM
from rdt2.robot.kinematics import add_chain
from rdt2.robot.models import arm_model, base_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

ARMATURE = 0.1
"""Inertia of a joint's motor seen through its gear, kg m^2: what makes real geared arms calm."""
DAMPING_RATIO = 1.0
"""Of every joint servo, for the motor's own inertia and the mean inertia of the arm behind it."""
PEDESTAL = (0.55, 0.56, 0.58, 1.0)


def add_arm(
    spec: Any, model: str, side: str, pose: Float[ndarray, "4 4"] | None = None, *, floor: float = -0.75
) -> Any:
    """Add the arm of one side with its joint servos to a MjSpec and return the site where its gripper mounts.

    Everything is named `{side}/...`: joints `{side}/{link}`, actuators the same, the mount `{side}/mount`
    (its z axis is the approach direction). Links touch whatever they meet but their neighbours; their own weight is
    compensated, and that of what is attached by `compensate_gravity`.

    Args:
        spec: an MjSpec in radians.
        model: "ur5e", "fr3", or another name of `rdt2.robot.models.ARM_MODELS`.
        side: "right" or "left".
        pose: (4, 4) base in the cell frame; default `base_pose(model, side)`.
        floor: height in the cell frame on which the pedestal stands.

    Raises:
        TaskError: an arm that is not known.
    """
    import mujoco

    arm = arm_model(model)
    pose = base_pose(model, side) if pose is None else np.asarray(pose, dtype=np.float64)
    bodies, mount = add_chain(spec, model, side, pose)
    spec.add_text(name=f"{side}/arm", data=model)  # for the controller
    _draw(bodies[0], Shape((0, 0, floor - pose[2, 3]), (0, 0, 0), 0.09, PEDESTAL))
    # MuJoCo lets a body touch its parent where that stands fast
    spec.add_exclude(bodyname1=bodies[0].name, bodyname2=bodies[1].name)
    for shape in arm.base_shapes:
        _draw(bodies[0], shape)
    for i, (link, body) in enumerate(zip(arm.links, bodies[1:], strict=True)):
        body.gravcomp = 1.0
        body.joints[0].armature = ARMATURE
        for shape in link.shapes:
            _draw(body, shape)
        servo = spec.add_actuator(
            name=f"{side}/{link.name}", target=f"{side}/{link.name}", trntype=mujoco.mjtTrn.mjTRN_JOINT
        )
        servo.set_to_position(kp=arm.stiffness[i], kv=_damping(arm, i))
        servo.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        servo.forcerange = [-link.torque, link.torque]
        servo.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    return mount


def compensate_gravity(spec: Any, side: str, *, error: float = 0.0) -> None:
    """Carry the weight of everything attached to one arm, as a robot does that was told its payload.

    `error`: kg that the gripper weighs more than it was told.
    """
    bodies = [spec.body(f"{side}/base")]
    while bodies:
        body = bodies.pop()
        body.gravcomp = 1.0
        bodies.extend(body.bodies)
    # what the palm weighs more is not carried
    spec.body(f"{side}/gripper").gravcomp -= error / sum(piece.mass for piece in PALM)


def _draw(body: Any, shape: Shape) -> None:
    import mujoco

    kind = {"cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER, "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE}[shape.kind]
    body.add_geom(
        type=kind, fromto=[*shape.start, *shape.end], size=[shape.radius, 0, 0], rgba=shape.colour,
        condim=1, mass=0.0, group=1,
    )  # fmt: skip


def _damping(arm: ArmModel, index: int) -> float:
    """Velocity gain that damps a joint with all the links behind it stretched out half way."""
    inertia = ARMATURE
    reach = 0.0
    for link in arm.links[index + 1 :]:
        reach += float(np.linalg.norm(link.position))
        inertia += link.mass * (0.5 * reach) ** 2
    return 2.0 * DAMPING_RATIO * float(np.sqrt(arm.stiffness[index] * inertia))
