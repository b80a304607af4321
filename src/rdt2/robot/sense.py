"""Whether a robot's settings make sense together, each of which alone would do.

Raised are ValueErrors, which `rdt2.robot.reading` turns into messages about a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.robot.models import arm_model, flange_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.settings import ArmSettings, RobotSettings

SAME_PLACE = 0.1
"""Metres: two arms whose bases are nearer than this stand in each other."""
SIDEWAYS = 0.1
"""Metres: so far the right arm may stand to the left of the left one; so far before them must workspaces be to tell."""
FAR = 2.0
"""Metres from every workspace beyond which an obstacle is out of reach."""
SPARE = 1.0
"""Metres beyond its reach at which a bound of an arm's workspace is none."""
RESETS = "reset_degrees", "reset_radians"
"""Under `arms.SIDE.device`: joints that the arm begins from and that `rdt2 reset` brings it to, whatever its driver."""
SUNK = 0.02
"""Metres that a base may stand in an obstacle."""


def require_sense(robot: RobotSettings, side: str) -> None:
    """One arm: its workspace over the table and within its reach, as the table is, the pose it begins from, the age of
    its pictures."""
    arm, safety, where = robot.arms[side], robot.safety, f"arms.{side}"
    floor = safety.table_height + safety.table_clearance
    if arm.bounds.high[2] <= floor:
        raise ValueError(
            f"{where}.bounds.high ends at z = {arm.bounds.high[2]:g}, below the table with its clearance "
            f"({floor:g}): the arm could move nowhere"
        )
    if (age := arm.camera.latency + arm.camera.clock_error) >= safety.max_age:
        raise ValueError(
            f"safety.max_age is {safety.max_age:g} and pictures of {where}.camera are {age:g} s old when they can be "
            "read: none would be acted upon; expected more than that"
        )
    if arm.model is None or arm.tool is None:
        return
    reach = _reach(arm)
    low, high, stands = np.array(arm.bounds.low), np.array(arm.bounds.high), arm.base[:3, 3]
    if floor < (deepest := float(stands[2]) - reach):
        raise ValueError(
            f"safety.table_height is {safety.table_height:g}: with its clearance that is {deepest - floor:.2f} m below "
            f"the lowest that {where} reaches (z = {deepest:.2f}), and a table there keeps nothing from anything; "
            "expected the height of the table's top, in metres, in the cell frame, where z points up"
        )
    if (away := float(np.linalg.norm(np.clip(stands, low, high) - stands))) > reach:
        raise ValueError(
            f"{where}.bounds is {away:.2f} m from {where}.base, and the arm reaches {reach:.2f} m with its tool: "
            "expected a workspace that it reaches, in metres, in the cell frame and not in that of the base"
        )
    spare = np.append(stands - low, high - stands) - reach
    if (most := float(spare.max())) > SPARE:
        face = ("low x", "low y", "low z", "high x", "high y", "high z")[int(spare.argmax())]
        raise ValueError(
            f"{where}.bounds: {face} is {most:.1f} m beyond what the arm reaches ({reach:.2f} m from its base with its "
            "tool) and bounds nothing; expected a workspace that ends where the TCP is to stop, in metres, in the cell "
            "frame"
        )
    tcp = _resets(arm, where)
    if tcp is not None and (outside := float(np.max(np.maximum(low - tcp, tcp - high)))) > 0:
        raise ValueError(
            f"{where}.bounds excludes the pose that the arm begins from ({where}.device.reset_...): its TCP is then at "
            f"{np.round(tcp, 3).tolist()} m, {1e3 * outside:.0f} mm outside; expected a workspace that holds it"
        )


def require_apart(robot: RobotSettings) -> None:
    """Two arms: in different places, and the right one on the right, as seen towards their workspaces."""
    right, left = robot.arms["right"], robot.arms["left"]
    between = right.base[:3, 3] - left.base[:3, 3]
    apart = float(np.linalg.norm(between))
    if right.model is None or left.model is None:
        return
    if apart < SAME_PLACE:
        raise ValueError(
            f"arms.right.base and arms.left.base are {1e3 * apart:.0f} mm apart: two arms cannot stand in the "
            "same place; expected where each stands in the cell frame"
        )
    middle = np.mean([arm.bounds.low + np.array(arm.bounds.high) for arm in (right, left)], axis=0) / 2
    forward = (middle - (right.base[:3, 3] + left.base[:3, 3]) / 2)[:2]
    ahead = float(np.linalg.norm(forward))
    wrong = float(forward[0] * between[1] - forward[1] * between[0]) / max(ahead, 1e-9)
    if ahead > SIDEWAYS < wrong:
        raise ValueError(
            f"arms.right.base is {wrong:.2f} m to the LEFT of arms.left.base, as seen from the bases towards the "
            "workspaces: the arms would be kept apart where they are not. Sides are swapped, or tx_left_right (the "
            "right base in the left one's frame) is that of a frame which is turned by half a turn, as that of two "
            "published UR5e is: measure it, and give arms.right.base and arms.left.base in the cell frame"
        )


def require_reached(robot: RobotSettings) -> None:
    """Obstacles within reach, and none around a base."""
    for name, box in robot.safety.obstacles.items():
        where, centre, size = f"safety.obstacles.{name}", np.array(box.centre), np.array(box.size)
        near = [np.clip(centre, arm.bounds.low, arm.bounds.high) for arm in robot.arms.values()]
        away = min(float(np.linalg.norm(point - centre)) for point in near) - float(np.linalg.norm(size)) / 2
        if away > FAR:
            raise ValueError(
                f"{where} is {away:.1f} m from every workspace: it keeps nothing from anything; expected metres in the "
                "cell frame"
            )
        turn = np.radians(box.turn)
        for side, arm in robot.arms.items():
            x, y, z = arm.base[:3, 3] - centre
            inside = size / 2 - np.abs(
                [np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x, z]
            )
            if arm.model is not None and inside.min() > SUNK:
                raise ValueError(
                    f"arms.{side}.base is inside {where}, {1e3 * inside.min():.0f} mm deep: the arm could not move; "
                    "what it stands on ends where its base begins"
                )


def _reach(arm: ArmSettings) -> float:
    """Metres from its base that its TCP can be at most."""
    model = arm_model(str(arm.model))
    links = np.array([link.position for link in model.links])
    return float(
        np.linalg.norm(links, axis=1).sum() + model.flange + np.linalg.norm(np.asarray(arm.tool)[:3, 3])
    )


def _resets(arm: ArmSettings, where: str) -> Float[ndarray, " 3"] | None:
    """Where the TCP is in the joints that the arm begins from; None where they are not said."""
    names = [name for name in RESETS if name in arm.device]
    if not names:
        return None
    name, links = f"{where}.device.{names[0]}", arm_model(str(arm.model)).links
    try:
        joints = np.array(arm.device[names[0]], dtype=np.float64)
    except (TypeError, ValueError):
        joints = np.zeros(0)
    if joints.shape != (len(links),) or not np.isfinite(joints).all():
        raise ValueError(
            f"{name} is {arm.device[names[0]]!r}: expected {len(links)} finite numbers, one a joint"
        )
    joints = np.radians(joints) if names[0] == "reset_degrees" else joints
    for i, (joint, link) in enumerate(zip(joints, links, strict=True)):
        if not link.limits[0] <= joint <= link.limits[1]:
            raise ValueError(
                f"{name} puts joint {i + 1} at {np.degrees(joint):.0f} degrees: expected "
                f"{np.degrees(link.limits[0]):.0f} to {np.degrees(link.limits[1]):.0f}"
            )
    return (arm.base @ flange_pose(str(arm.model), joints) @ arm.tool)[:3, 3]
