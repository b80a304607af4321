"""Zhixing CTAG2F120 with the published wrist camera.

Nothing of it was measured here. What was published: fingertips 0.295 m from the flange, fingers 23 mm thick, a stroke
of 0.12 m, and a ball of 0.1 m radius around camera and tracker. The boxes hold most of that ball, and rather too much
of the rest: whoever has one at hand measures it.
"""

from __future__ import annotations

from rdt2.robot.description import GripperModel, Part

_DARK = (0.15, 0.16, 0.18, 1.0)


def _finger(sign: float) -> tuple[Part, ...]:
    return (Part("box", (0.0125, 0.012, 0.072), (0, sign * 0.012, 0.070), _DARK, 0.06),)


GRIPPER = GripperModel(
    palm=(
        Part("box", (0.040, 0.070, 0.080), (0, 0, 0.080), _DARK, 0.70),
        Part("box", (0.055, 0.060, 0.065), (0.095, 0, 0.115), _DARK, 0.20),
    ),
    fingers=(_finger(1.0), _finger(-1.0)),
    finger_z=0.160,
)
