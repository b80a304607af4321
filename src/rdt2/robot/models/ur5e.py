"""Universal Robots UR5e: Denavit-Hartenberg parameters, limits and masses as the manufacturer gives them."""

from __future__ import annotations

from math import pi

from rdt2.robot.description import ArmModel, Link, Shape, Vector

D1, A2, A3, D4, D5, D6 = 0.1625, -0.425, -0.3922, 0.1333, 0.0997, 0.0996
SHOULDER, ELBOW = 0.138, 0.007  # how far beside the joint axes' plane the two long tubes run

GREY = (0.74, 0.76, 0.78, 1.0)
BLUE = (0.25, 0.52, 0.72, 1.0)
DARK = (0.17, 0.18, 0.20, 1.0)


def _joint(start: Vector, end: Vector, radius: float, *, cap: Vector) -> tuple[Shape, ...]:
    """A joint housing with the blue lid UR arms are known by, closing it towards `cap`."""
    x, y, z = (e + 0.25 * (c - e) for e, c in zip(end, cap, strict=True))
    inner = (x, y, z)
    return (
        Shape(start, end, radius, GREY),
        Shape(end, inner, radius * 0.97, DARK),
        Shape(inner, cap, radius, BLUE),
    )


ARM = ArmModel(
    name="ur5e",
    base_shapes=(
        Shape((0, 0, 0), (0, 0, 0.018), 0.088, DARK),
        Shape((0, 0, 0.018), (0, 0, 0.095), 0.075, GREY),
    ),
    links=(
        Link("shoulder", (0, 0, D1), 0.0, (-2 * pi, 2 * pi), pi, 150.0, 3.761, (0, -0.026, 0.002), (
            Shape((0, 0, -0.066), (0, 0, 0), 0.066, GREY),
            *_joint((0, -0.072, 0), (0, 0.06, 0), 0.064, cap=(0, 0.08, 0)),
        )),
        Link("upper_arm", (0, 0, 0), pi / 2, (-2 * pi, 2 * pi), pi, 150.0, 8.058, (A2 / 2, 0, 0.113), (
            *_joint((0, 0, 0.074), (0, 0, 0.19), 0.064, cap=(0, 0, 0.21)),
            Shape((0, 0, SHOULDER), (A2, 0, SHOULDER), 0.049, GREY),
            *_joint((A2, 0, 0.066), (A2, 0, 0.19), 0.056, cap=(A2, 0, 0.208)),
        )),
        Link("forearm", (A2, 0, 0), 0.0, (-pi, pi), pi, 150.0, 2.846, (A3 / 2, 0, 0.02), (
            *_joint((0, 0, 0.064), (0, 0, -0.046), 0.056, cap=(0, 0, -0.064)),
            Shape((0, 0, ELBOW), (A3, 0, ELBOW), 0.040, GREY),
            *_joint((A3, 0, 0.07), (A3, 0, -0.036), 0.044, cap=(A3, 0, -0.05)),
        )),
        Link("wrist_1", (A3, 0, D4), 0.0, (-2 * pi, 2 * pi), pi, 28.0, 1.37, (0, -0.03, 0.01), (
            *_joint((0, 0, -0.062), (0, 0, 0.042), 0.043, cap=(0, 0, 0.056)),
            Shape((0, 0, 0), (0, -0.054, 0), 0.043, GREY),
        )),
        Link("wrist_2", (0, -D5, 0), pi / 2, (-2 * pi, 2 * pi), pi, 28.0, 1.3, (0, 0.03, 0.01), (
            *_joint((0, 0, -0.044), (0, 0, 0.042), 0.043, cap=(0, 0, 0.056)),
            Shape((0, 0, 0), (0, 0.06, 0), 0.043, GREY),
        )),
        Link("wrist_3", (0, D6, 0), -pi / 2, (-2 * pi, 2 * pi), pi, 28.0, 0.365, (0, 0, -0.018), (
            Shape((0, 0, -0.038), (0, 0, -0.012), 0.043, GREY),
            Shape((0, 0, -0.012), (0, 0, 0), 0.036, DARK),
        )),
    ),
    flange=0.0,
    mount_yaw=0.0,
    base=(-0.46, 0.32, 0.20),
    home={
        "right": (2.76, -1.52, 2.13, -2.11, -1.39, 2.76),
        "left": (0.38, -1.62, -2.13, -1.03, 1.39, 0.39),
    },
    tcp={
        "right": ((0.030, -0.020, -0.050), (20.0, -15.0, 50.0)),
        "left": ((-0.025, 0.030, -0.040), (-25.0, 20.0, -35.0)),
    },
    stiffness=(12000.0, 12000.0, 8000.0, 3000.0, 3000.0, 3000.0),
)  # fmt: skip
