"""What an arm is made of: links, joints and shapes. The cell builds arms from it, safety keeps clear of it."""

from __future__ import annotations

from dataclasses import dataclass

Vector = tuple[float, float, float]
Colour = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shape:
    """A visible solid of revolution from `start` to `end` in its link's frame, metres."""

    start: Vector
    end: Vector
    radius: float
    colour: Colour
    kind: str = "cylinder"
    """"cylinder" has flat ends, "capsule" adds a half sphere of `radius` at both."""


@dataclass(frozen=True)
class Link:
    """A rigid body that turns about the z axis of its own frame."""

    name: str
    position: Vector
    """Origin in the parent link's frame, metres."""
    tilt: float
    """Turn about the parent's x axis in radians: the alpha of the Denavit-Hartenberg tables."""
    limits: tuple[float, float]
    """Joint range, radians."""
    speed: float
    """Largest joint speed, rad/s."""
    torque: float
    """Largest joint torque, N m."""
    mass: float
    centre: Vector
    """Centre of mass in the link's frame, metres."""
    shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class ArmModel:
    """Kinematics, limits and looks of one type of arm, and where two of it stand in the cell."""

    name: str
    links: tuple[Link, ...]
    flange: float
    """From the last link's origin to the flange along its z axis, metres."""
    mount_yaw: float
    """Turn of the LEFT gripper on its flange about the approach axis, radians; mirrored on the right."""
    base: tuple[float, float, float]
    """x, |y|, z of the base in the cell frame, metres: the right arm stands at -|y|."""
    home: dict[str, tuple[float, ...]]
    """Joint angles (rad) by side: gripper down above the waiting place, elbow up. Solving starts here."""
    tcp: dict[str, tuple[Vector, Vector]]
    """By side: the TCP that the cell's controller is set to, seen from between the fingertips: metres, and a rotation
    vector in degrees. Another one on each arm, as on robots that people set up: a calibration that is left out, or is
    another arm's, shows at once."""
    stiffness: tuple[float, ...]
    """Position gain of each joint servo, N m/rad."""
    base_shapes: tuple[Shape, ...]
