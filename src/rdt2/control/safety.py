"""What must hold before a waypoint reaches a robot: its workspace, its speed, the table, the other arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import SafetyError
from rdt2.pose import geodesic_angle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from numpy import ndarray

FINGER_THICKNESS = 0.0255
"""Metres across a finger, at right angles to the opening axis."""


@dataclass(frozen=True)
class SafetyLimits:
    """Bounds of what a policy may ask. Lengths in metres in the cell frame, angles in radians."""

    low: tuple[float, float, float] = (-0.45, -0.60, -0.10)
    """Corner of the workspace of the TCPs."""
    high: tuple[float, float, float] = (0.45, 0.60, 0.70)
    """The opposite corner."""
    max_translation: float = 0.06
    """Between two waypoints, 1/30 s apart: below what the arms themselves refuse (2 m/s), so that a plan ends there
    instead of being refused whole."""
    max_rotation: float = 0.25
    """The same for turning (8 rad/s)."""
    table_height: float = -0.035
    """No fingertip goes lower: waypoints are lifted, and not driven if that takes more than `max_lift`."""
    max_lift: float = 0.10
    sphere_center: tuple[float, float, float] = (0.0, 0.0, -0.12)
    """Middle of the ball around each gripper, in the TCP's frame."""
    sphere_radius: float = 0.05
    """Balls that touch are refused; 0 switches the check off."""


def table_lift(
    pose: Float[ndarray, "4 4"],
    width: float,
    height: float,
    *,
    thickness: float = FINGER_THICKNESS,
    opening_axis: int = 1,
) -> float:
    """How far a pose must be raised so that no fingertip is below a table.

    The fingertips span the opening along one axis of the TCP and the finger's thickness along the other.

    Args:
        pose: (4, 4) TCP, metres, z of the parent frame up.
        width: opening between the fingers, metres.
        height: of the table, metres.
        thickness: of a finger, metres.
        opening_axis: axis of the TCP (0 or 1) along which the jaws open.

    Returns:
        Metres to add to z; 0 if the pose is clear.
    """
    half = np.array([thickness, thickness]) / 2
    half[opening_axis] = width / 2
    # The lowest of four corners at +-half along both axes.
    lowest = pose[2, 3] - float(np.abs(pose[2, :2]) @ half)
    return max(0.0, height - lowest)


@dataclass(frozen=True)
class Plan:
    """Waypoints of all arms, 1/30 s apart, and how far they may be driven."""

    poses: dict[str, Float[ndarray, "n 4 4"]]
    """TCPs in the cell frame, metres, lifted clear of the table where little was missing."""
    steps: int
    """So many leading waypoints may be driven: what follows depends on one that must not be."""
    reason: str
    """Which waypoint ends the plan, why, and by how much; empty where all may be driven."""


def check_plan(
    start: Mapping[str, Float[ndarray, "4 4"]],
    poses: Mapping[str, Float[ndarray, "n 4 4"]],
    widths: Mapping[str, Float[ndarray, " n"]],
    limits: SafetyLimits,
) -> Plan:
    """Lift waypoints clear of the table where little is missing, and find the first that must not be driven.

    Args:
        start: (4, 4) TCP of each arm one period before the first waypoint, cell frame, metres.
        poses: (n, 4, 4) waypoints of each arm, 1/30 s apart.
        widths: (n,) openings, metres.
        limits: what is allowed.

    Raises:
        SafetyError: a waypoint anywhere is not finite: nothing of such a plan is to be trusted.
    """
    lifted = {}
    # (waypoint, what is wrong with it), the first of each kind
    wrong: list[tuple[int, str]] = []
    for side, path in poses.items():
        where = f"{side} arm, waypoint"
        if not (np.isfinite(path).all() and np.isfinite(widths[side]).all()):
            raise SafetyError(f"{where}s hold NaN or infinite values.")
        path = path.copy()
        chain = np.concatenate([start[side][None], path])
        moved = np.linalg.norm(np.diff(chain[:, :3, 3], axis=0), axis=1)
        turned = geodesic_angle(chain[:-1, :3, :3], chain[1:, :3, :3])
        for what, steps, most, unit, scale in (
            ("moves", moved, limits.max_translation, "mm", 1e3),
            ("turns", turned, limits.max_rotation, "degrees", 180 / np.pi),
        ):
            for i in np.flatnonzero(steps > most)[:1].tolist():
                limit = f"the limit is {scale * most:.0f}"
                wrong.append((i, f"{where} {i} {what} {scale * steps[i]:.0f} {unit} in one step, {limit}."))
        lifts = np.array(
            [
                table_lift(pose, float(w), limits.table_height)
                for pose, w in zip(path, widths[side], strict=True)
            ]
        )
        for i in np.flatnonzero(lifts > limits.max_lift)[:1].tolist():
            wrong.append((i, f"{where} {i} is {1e3 * lifts[i]:.0f} mm below the table."))
        path[:, 2, 3] += lifts
        outside = (path[:, :3, 3] < limits.low) | (path[:, :3, 3] > limits.high)
        for i in np.flatnonzero(outside.any(axis=1))[:1].tolist():
            place = ", ".join(f"{v:.2f}" for v in path[i, :3, 3])
            wrong.append(
                (i, f"{where} {i} at ({place}) m leaves the workspace {limits.low} to {limits.high}.")
            )
        lifted[side] = path
    if limits.sphere_radius > 0 and {"right", "left"} <= set(lifted):
        center = np.asarray(limits.sphere_center)
        middle = {side: path[:, :3, 3] + path[:, :3, :3] @ center for side, path in lifted.items()}
        gap = np.linalg.norm(middle["right"] - middle["left"], axis=1)
        for i in np.flatnonzero(gap < 2 * limits.sphere_radius)[:1].tolist():
            near = f"the grippers come within {1e3 * gap[i]:.0f} mm of each other"
            wrong.append((i, f"both arms, waypoint {i}: {near}."))
    whole = min(len(path) for path in lifted.values())
    return Plan(lifted, *min(wrong, default=(whole, "")))
