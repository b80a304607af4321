"""The cell's gripper with its wrist camera: the cell draws it from this, and safety measures it.

Two frames on it have the axes of its own: `tcp` between the fingertips, and `policy`, the frame whose motion the models
predict (on a handheld device, where its tracker is).
"""

from __future__ import annotations

from math import radians

from rdt2.robot.description import GripperModel, Part

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


GRIPPER = GripperModel(palm=PALM, fingers=(finger(1.0), finger(-1.0)), finger_z=FINGER_Z)
