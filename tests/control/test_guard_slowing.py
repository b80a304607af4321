"""What slows an arm long before it has to stop, beside what is near it: its joints' ends, and singular postures."""

from __future__ import annotations

import numpy as np
from guarded import CALM, PERIOD, Onlooker, joints_at, kinematics, settings, waiting

from rdt2.control.guard import Guard
from rdt2.robot.kinematics import LIMIT_MARGIN

SIDE = "left"
RATE = 1.0
"""rad/s of the joint that leads the arm."""


def led_by(joint, first, last, **safety):
    """A UR5e that is led by one of its joints alone, from an angle to another.

    Returns what was commanded, how fast the arm turned (rad/s), and an onlooker that saw the start and each command.
    """
    known, start = kinematics("ur5e", SIDE), joints_at("ur5e", SIDE, waiting(SIDE))

    def pose(angle):
        return known.forward(np.where(np.arange(6) == joint, angle, start)).copy()

    wide = CALM.model_copy(update={"low": (-1.5, -1.5, -0.1), "high": (1.5, 1.5, 1.5)})
    robot = settings(sides=(SIDE,), bounds=wide).changed({f"safety.{name}": v for name, v in safety.items()})
    guard = Guard(robot, {SIDE: known}, period=PERIOD)
    start[joint] = first
    guard.start({SIDE: pose(first)}, {SIDE: start}, {SIDE: 0.08})
    onlooker = Onlooker((SIDE,), "ur5e", {SIDE: pose(first)}, {SIDE: start.copy()})
    ticks = np.arange(round(1.6 / PERIOD))
    moved = np.cumsum(RATE * PERIOD * np.minimum(ticks / 25, 1.0))
    commands = []
    for angle in first + np.copysign(np.minimum(moved, abs(last - first)), last - first):
        commands.append(guard.step({SIDE: pose(angle)}, {SIDE: 0.08}))
        onlooker.look(commands[-1])
    return commands, [float(np.linalg.norm(each.velocity[SIDE][3:])) for each in commands], onlooker


def require_slowed(commands, speeds, why):
    """Ticks up to its stop at which it was told why the arm slows: little of its speed was left by then."""
    stops = (f"{SIDE} arm stops", f"{SIDE} arm gives way")
    last = first = next(tick for tick, command in enumerate(commands) if command.slowed.startswith(stops))
    while f"{SIDE} arm slows: {why}" in commands[first - 1].slowed:
        first -= 1
    assert last - first > 10, "it says that it slows, and by what"
    assert commands[first - 1].slowed == "", "until then it was as fast as it was to be"
    assert speeds[last - 1] < 0.3 * RATE < 0.95 * RATE < max(speeds[first - 20 : first])
    return range(first, last)


def test_an_arm_slows_before_its_posture_is_singular_and_says_why():
    """Wrist 2 of a UR5e turns to where two of its other axes fall together."""
    stop, slow = 0.02, 0.12
    commands, speeds, onlooker = led_by(4, 1.0, -0.2, singularity_slow=slow, singularity_stop=stop)
    said = require_slowed(commands, speeds, "its posture is nearly singular")
    *_, singular = onlooker.postures(SIDE)
    assert stop + 0.01 < singular[said[0]] < slow
    assert singular.min() > stop - 1e-3


def test_an_arm_slows_before_a_joint_is_at_its_margin_and_says_why():
    """Wrist 3 of a UR5e turns to its end."""
    margin = 0.3
    stop = kinematics("ur5e", SIDE).upper[5] - (margin - LIMIT_MARGIN)
    commands, speeds, onlooker = led_by(5, stop - 1.0, stop + 0.2, joint_margin=margin)
    said = require_slowed(commands, speeds, "joint 6 is ")
    assert all("degrees from where it stops" in commands[tick].slowed for tick in said)
    turned = np.stack(onlooker.joints[SIDE])[:, 5]
    assert turned[said[0]] < stop - 0.05, "degrees before it would stop"
    assert turned.max() < stop + 1e-3
