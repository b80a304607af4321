"""Franka Research 3: Craig's Denavit-Hartenberg parameters and limits as the manufacturer publishes them."""

from __future__ import annotations

from math import pi

from rdt2.robot.description import ArmModel, Link, Shape

D1, D3, A4, A5, D5, A7, FLANGE = 0.333, 0.316, 0.0825, -0.0825, 0.384, 0.088, 0.107

WHITE = (0.93, 0.93, 0.92, 1.0)
SEAM = (0.36, 0.38, 0.40, 1.0)
STEEL = (0.62, 0.64, 0.66, 1.0)


def _shell(start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> Shape:
    return Shape(start, end, radius, WHITE, "capsule")


def _ring(z: float, radius: float) -> Shape:
    """The dark gap between two shells that turn against each other."""
    return Shape((0, 0, z - 0.004), (0, 0, z + 0.004), radius, SEAM)


ARM = ArmModel(
    name="fr3",
    base_shapes=(
        Shape((-0.13, 0, 0.05), (-0.02, 0, 0.05), 0.05, WHITE, "capsule"),
        Shape((0, 0, 0), (0, 0, 0.02), 0.092, SEAM),
        Shape((0, 0, 0.02), (0, 0, 0.135), 0.072, WHITE),
    ),
    links=(
        Link("link1", (0, 0, D1), 0.0, (-2.7437, 2.7437), 2.62, 87.0, 4.1, (0, -0.03, -0.07), (
            Shape((0, 0, -0.198), (0, 0, -0.19), 0.066, SEAM),
            _shell((0, 0, -0.135), (0, 0, -0.03), 0.060),
        )),
        Link("link2", (0, 0, 0), -pi / 2, (-1.7837, 1.7837), 2.62, 87.0, 3.1, (0, -0.06, 0.03), (
            _shell((0, 0, -0.07), (0, 0, 0.07), 0.061),
            _ring(-0.066, 0.0625), _ring(0.066, 0.0625),
            _shell((0, 0, 0), (0, -0.118, 0), 0.060),
            Shape((0, -0.178, 0), (0, -0.17, 0), 0.058, SEAM),
        )),
        Link("link3", (0, -D3, 0), pi / 2, (-2.9007, 2.9007), 2.62, 87.0, 3.2, (0.03, 0.03, -0.07), (
            _shell((0, 0, -0.10), (0, 0, -0.07), 0.058),
            _shell((0.01, 0, -0.055), (A4, 0, 0), 0.055),
        )),
        Link("link4", (A4, 0, 0), pi / 2, (-3.0421, -0.1518), 2.62, 87.0, 3.6, (-0.05, 0.08, 0.02), (
            _shell((0, 0, -0.065), (0, 0, 0.065), 0.056),
            _ring(-0.062, 0.0575), _ring(0.062, 0.0575),
            _shell((0, 0, 0), (A5, 0.085, 0), 0.055),
            Shape((A5, 0.13, 0), (A5, 0.138, 0), 0.054, SEAM),
        )),
        Link("link5", (A5, D5, 0), -pi / 2, (-2.8065, 2.8065), 5.26, 12.0, 3.0, (0, 0.03, -0.12), (
            _shell((0, 0, -0.205), (0, 0, -0.19), 0.054),
            _shell((0, 0.028, -0.20), (0, 0.062, -0.06), 0.044),
            _shell((0, 0.06, -0.06), (0, 0.03, 0.0), 0.036),
        )),
        Link("link6", (0, 0, 0), pi / 2, (0.5445, 4.5169), 4.18, 12.0, 1.5, (0.05, 0, 0.01), (
            _shell((0, 0, -0.045), (0, 0, 0.02), 0.047),
            _ring(-0.043, 0.048),
            _shell((0, 0, 0), (0.06, 0, 0), 0.045),
        )),
        Link("link7", (A7, 0, 0), pi / 2, (-3.0159, 3.0159), 5.26, 12.0, 0.74, (0, 0, 0.06), (
            _shell((0, 0, -0.03), (0, 0, 0.045), 0.046),
            Shape((0, 0, 0.06), (0, 0, 0.094), 0.040, WHITE),
            Shape((0, 0, 0.094), (0, 0, FLANGE), 0.034, STEEL),
        )),
    ),
    flange=FLANGE,
    mount_yaw=1.9,
    base=(-0.46, 0.17, 0.15),
    home={
        "right": (-0.31, -0.09, -0.03, -2.45, 0.27, 2.28, -0.18),
        "left": (0.31, -0.09, 0.03, -2.45, -0.27, 2.28, 0.18),
    },
    tcp={
        "right": ((0.020, 0.035, -0.080), (15.0, 30.0, -60.0)),
        "left": ((-0.040, -0.015, -0.065), (-20.0, -25.0, 40.0)),
    },
    together=((5, 7),),
    stiffness=(9000.0, 9000.0, 7000.0, 7000.0, 2500.0, 2500.0, 2500.0),
)  # fmt: skip
