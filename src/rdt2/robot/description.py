"""What arms and grippers are made of: links, joints, shapes. The cell builds them from it, safety keeps clear of it."""

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
    together: tuple[tuple[int, int], ...] = ()
    """Links, the first is 1, that cannot meet within their joints' limits, though shapes as simple as these would."""


@dataclass(frozen=True)
class Part:
    """A solid piece in the frame of the gripper or of one finger, metres and kg."""

    kind: str
    """"box", or "cylinder" with its axis along z."""
    half_size: Vector
    """Of a box along x, y, z; of a cylinder its radius, half its length, and nothing."""
    position: Vector
    colour: Colour
    mass: float
    tilt: float = 0.0
    """Turn about y, radians."""
    collides: bool = True
    name: str = ""

    @property
    def half_box(self) -> Vector:
        """Half extents of the box that holds it."""
        if self.kind == "box":
            return self.half_size
        radius, half, _ = self.half_size
        return radius, radius, half


@dataclass(frozen=True)
class GripperModel:
    """A parallel-jaw gripper. Its frame sits where it mounts: z points to the fingertips, y is the opening axis, and
    the wrist camera is on the +x side."""

    palm: tuple[Part, ...]
    """What moves with the flange, the camera included."""
    fingers: tuple[tuple[Part, ...], tuple[Part, ...]]
    """Towards +y and -y, each in a frame that is at `finger_z` when the jaws are closed and slides along y by half the
    opening."""
    finger_z: float
    """Height of the fingers' frames above the gripper's, metres."""
