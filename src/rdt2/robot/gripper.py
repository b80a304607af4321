"""What the parallel-jaw gripper with its wrist camera is made of, from which the cell draws it and safety measures it.

The gripper's frame sits on the mounting flange: z points out of the flange to the fingertips, y is the opening axis,
and the wrist camera is on the +x side. Two frames on it have the same axes: `tcp` between the fingertips, and `policy`,
the frame whose motion the models predict (on a handheld device, where its tracker is).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import radians

Vector = tuple[float, float, float]
Colour = tuple[float, float, float, float]

TCP_Z = 0.20
"""Distance from the flange to the point between the fingertips, metres."""
POLICY_IN_TCP = (0.055, 0.0, -0.14)
"""Origin of the policy's frame in the TCP frame, metres; the axes are the same."""
STROKE = 0.092
"""Largest opening in metres: the 0.088 m of the recordings and a little margin."""
FINGER_Z = 0.107
"""Height of the fingers' frame above the flange, metres."""
CAMERA_POSITION = (0.060, 0.0, TCP_Z - 0.135)
CAMERA_TILT = radians(8.0)

_BODY = (0.15, 0.16, 0.18, 1.0)
_METAL = (0.62, 0.64, 0.67, 1.0)
_PAD = (0.45, 0.80, 0.82, 1.0)


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


PALM = (
    # flange plate, neck, palm with a lighter band, rail of the jaws
    Part("cylinder", (0.034, 0.008, 0), (0, 0, 0.008), _METAL, 0.08),
    Part("box", (0.026, 0.034, 0.034), (0, 0, 0.048), _BODY, 0.30),
    Part("box", (0.0265, 0.0345, 0.004), (0, 0, 0.060), _METAL, 0.02, collides=False),
    Part("box", (0.020, 0.062, 0.012), (0, 0, 0.094), _BODY, 0.14),
    Part("box", (0.008, 0.060, 0.003), (0, 0, 0.107), _METAL, 0.02, collides=False),
    # bracket and housing of the camera, behind the lens
    Part("box", (0.022, 0.010, 0.008), (0.040, 0, CAMERA_POSITION[2] - 0.030), _METAL, 0.02),
    Part("box", (0.014, 0.018, 0.014), (0.058, 0, CAMERA_POSITION[2] - 0.020), _BODY, 0.06, tilt=CAMERA_TILT),
)
"""What moves with the flange."""


def finger(sign: float) -> tuple[Part, ...]:
    """The finger towards +y (`sign` 1) or -y (-1), in a frame that is at `FINGER_Z` when the jaws are closed and
    slides along y by half the opening: a slider on the rail, a slim blade, and a rubber pad at the tip whose face is
    at half the opening.
    """
    return (
        Part("box", (0.014, 0.010, 0.009), (0, sign * 0.013, 0.008), _METAL, 0.03),
        Part("box", (0.009, 0.004, 0.036), (0, sign * 0.0105, 0.050), _BODY, 0.03),
        Part("box", (0.009, 0.0032, 0.016), (0, sign * 0.0032, 0.087), _PAD, 0.02, name="pad"),
    )
