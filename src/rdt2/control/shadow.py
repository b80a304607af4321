"""What one arm will do when it follows commanded poses: its joints, its shapes, and what is left of its margins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rdt2.control import geometry
from rdt2.control.bodies import ArmBody, self_pairs
from rdt2.control.gaps import motions
from rdt2.control.geometry import SINGULAR
from rdt2.errors import SafetyError
from rdt2.robot.grippers import GRIPPERS
from rdt2.robot.kinematics import DRIFTING, LIMIT_MARGIN, NULLSPACE_GAIN, ArmKinematics, rotation_vector
from rdt2.robot.models import arm_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.control.limiter import Stop
    from rdt2.robot.settings import ArmSettings, SafetySettings

DISAGREE_POSITION, DISAGREE_ANGLE = 0.03, float(np.deg2rad(8.0))
"""How far a measured pose may be from what the measured joints say: sag and noise, but no wrong calibration."""
SEEN = 1e-3
"""Metres by which a measured opening differs from the last before it counts: less is noise."""
JOINT_SPEED = 0.95
"""Of a joint's top speed, from which the arm slows."""
SLOWEST = 0.05
"""Share of the limits that singularities and joint margins leave: an arm must be able to get out of them."""
SPACING, TURN_REACH, MOST_SAMPLES = 0.015, 0.2, 10
"""A sweep has a sample every so many metres of a TCP's way, a radian counting as 0.2 m, and not more than ten."""
TOLERANCES = {
    "gripper": 2e-4,
    "links": 2e-4,
    "box": 1e-6,
    "lag": 0.02,
    "speed": 0.05,
    "singular": 1e-4,
    "joint": 1e-4,
}
"""What a margin may lose to rounding before it counts as less than before."""
REASONS = {
    "gripper": "it is at the table",
    "links": "one of its links is at the table",
    "box": "it is at the end of its workspace",
    "lag": "its joints cannot follow",
    "speed": "a joint would be too fast",
    "singular": "its posture would be singular",
    "joint": "a joint is at its limit",
}
"""What a person is told when a margin is used up."""


class Course(NamedTuple):
    """What an arm may do: a path from its tick `first` on, with an opening of `width` metres."""

    path: Stop
    first: int
    width: float


class Sweep(NamedTuple):
    """One arm at some moments of a path; the first is now."""

    segments: Float[ndarray, "2 s c 3"]
    motion: Float[ndarray, "t c"]
    """How far each capsule moves from one moment to the next, metres."""
    reach: Float[ndarray, " c"]
    """How far it gets from where it is now, metres."""
    margins: Float[ndarray, " k"]
    """The least of each margin after now, see `Shadow.names`."""


class Shadow:
    """One arm as commanded.

    Args:
        side: "right" or "left".
        arm: its settings.
        safety: those of all arms.
        kinematics: of the arm with its tool; None where they are not known.
        period: seconds between two commands.
    """

    def __init__(
        self,
        side: str,
        arm: ArmSettings,
        safety: SafetySettings,
        kinematics: ArmKinematics | None,
        *,
        period: float,
    ) -> None:
        self.side, self.kinematics, self._safety, self._period = side, kinematics, safety, period
        model = arm_model(arm.model) if kinematics is not None and arm.model is not None else None
        gripper, mount = GRIPPERS[arm.gripper.model], np.asarray(arm.gripper.mount)
        tool = np.linalg.inv(mount) @ (np.linalg.inv(arm.policy_to_tcp) if arm.tool is None else arm.tool)
        self.body = ArmBody(model, base=np.asarray(arm.base), gripper=gripper, mount=mount, tool=tool)
        self.pairs = self_pairs(self.body, model.home[side] if model else None)
        self.low, self.high = np.asarray(arm.bounds.low, float), np.asarray(arm.bounds.high, float)
        self.ground = safety.table_height + safety.table_clearance
        self._bounds = arm.bounds
        self.names = ["gripper", "links"] + ["box"] * 6
        self._lower = self._upper = speeds = np.zeros(0)
        if kinematics is not None:
            margin = max(safety.joint_margin - LIMIT_MARGIN, 0.0)  # the kinematics keep that of their own
            self._lower, self._upper = kinematics.lower + margin, kinematics.upper - margin
            speeds = kinematics.speeds
            self.names += ["lag", "speed", "singular"] + ["joint"] * (2 * self.body.links)
        self._limits = self.low, self.high, self._lower, self._upper, speeds, float(self.ground)
        self._tolerance = np.array([TOLERANCES[name] for name in self.names])

    def start(self, rest: Stop, joints: Float[ndarray, " n"], width: float) -> None:
        """At rest at a measured pose, with an opening of `width` metres.

        Raises:
            SafetyError: the joints do not belong to the pose, or cannot reach it.
        """
        self.path, self.tick, self.width, self.measured = rest, 0, width, width
        self.motion = rest.at(0)
        pose = self.motion.pose
        self.joints = self._rates = np.zeros(self.body.links)
        if self.kinematics is not None:
            measured = self.kinematics.forward(joints)
            distance = float(np.linalg.norm(measured[:3, 3] - pose[:3, 3]))
            angle = float(np.linalg.norm(rotation_vector(measured[:3, :3] @ pose[:3, :3].T)))
            if distance > DISAGREE_POSITION or angle > DISAGREE_ANGLE:
                raise SafetyError(
                    f"the {self.side} arm's joints put its TCP {1e3 * distance:.0f} mm and "
                    f"{np.degrees(angle):.1f} degrees from the pose that it reports. Check its model, base and tool "
                    "(the TCP's place on the flange) in the robot's settings."
                )
            self.joints = self.kinematics.solve(pose, joints)
        self._look()
        self.floor = np.minimum(self.margins, 0.0)

    def see(self, width: float) -> bool:
        """Take in a measured opening (metres); whether it is another one. What it brings too near may stay there."""
        if abs(width - self.measured) < SEEN:
            return False
        self.measured = width
        self._look()
        self.floor = np.minimum(self.floor, self.margins)
        return True

    def openings(self, width: float) -> Float[ndarray, "1 o"]:
        """Where the fingers are, commanded to such an opening."""
        return np.array([[width, self.measured]])

    def commit(self, path: Stop, tick: int, width: float) -> None:
        """Be at a tick of a path."""
        self.path, self.tick, self.width = path, tick, width
        self.motion = path.at(tick)
        if self.kinematics is not None:
            before = self.joints
            self.joints, *_ = self.kinematics.step(before, self.motion.pose, dt=self._period)
            self._rates = (self.joints - before) / self._period
        singular = self._singular
        self._look()
        self._narrows = self._singular < singular
        # A margin that was lost may be lost no further, and what is won stays won.
        self.floor = np.minimum(np.maximum(self.floor, self.margins), 0.0)

    def sweep(self, path: Stop, first: int, ticks: Int[ndarray, " s"], width: float) -> Sweep:
        """The arm now, and at `ticks` (0 and up) of a path after its tick `first`, with an opening of `width` then."""
        body = self.body
        segments, margins, jacobian = geometry.sweep(
            body.arrays, body.shapes, self._limits, (DRIFTING, NULLSPACE_GAIN), self._now, path.arrays, first, ticks,
            self.openings(width),
        )  # fmt: skip
        self._require_finite(segments)
        if body.links:
            margins[SINGULAR] = _singular(jacobian) - self._safety.singularity_stop
        motion, reach = motions(segments)
        return Sweep(segments, motion, reach, margins)

    def broken(self, sweep: Sweep) -> str:
        """What a sweep would violate, or more than now; empty where nothing."""
        wrong = sweep.margins < self.floor - self._tolerance
        return "" if not wrong.any() else REASONS[self.names[int(np.argmax(wrong))]]

    def slowing(self) -> tuple[float, str]:
        """How many times faster than now joints and singularities allow the arm to be, and which of them."""
        if self.kinematics is None:
            return np.inf, ""
        kinematics, safety, rates = self.kinematics, self._safety, self._rates
        left = np.where(rates > 0, self._upper - self.joints, self.joints - self._lower)
        shares = np.clip(left / safety.joint_margin, SLOWEST, 1.0)
        ratios = JOINT_SPEED * shares * kinematics.speeds / np.maximum(np.abs(rates), 1e-6)
        joint = int(np.argmin(ratios))
        why = (
            f"{np.degrees(left[joint]):.0f} degrees from where it stops"
            if shares[joint] < 1
            else "at its top speed"
        )
        slowest = float(ratios[joint]), f"joint {joint + 1} is {why}"
        now, slow, least = self._singular, safety.singularity_slow, safety.singularity_stop
        if now < slow and self._narrows:
            share = max((now - least) / (slow - least), SLOWEST)
            why = f"its posture is nearly singular ({now:.3f}, it stops at {least:.3f})"
            slowest = min(slowest, (share / max(self.load, 1e-6), why))
        return slowest

    @property
    def load(self) -> float:
        """Present speed as a share of the limits."""
        v, bounds = self.motion.velocity, self._bounds
        return max(
            float(np.sqrt(v[:3] @ v[:3])) / bounds.speed, float(np.sqrt(v[3:] @ v[3:])) / bounds.turn_rate
        )

    def _look(self) -> None:
        """Take in the present posture."""
        body = self.body
        tcp, self._segments, jacobians, margins = geometry.look(
            body.arrays,
            body.shapes,
            self._limits,
            self.joints,
            self.motion.pose[None],
            self.openings(self.width),
        )
        self._require_finite(self._segments)
        inverse, drift, self._singular = np.zeros((0, 6)), np.zeros(0), np.inf
        """Smallest singular value of the Jacobian (metres; a radian weighs `WEIGHT`)."""
        if self.kinematics is not None:
            self._singular = _singular(jacobians)
            margins[SINGULAR] = self._singular - self._safety.singularity_stop
            inverse = geometry.inverse(jacobians[0])
            away = self.kinematics.home - self.joints
            drift = away - inverse @ (jacobians[0] @ away)
        self._now = self.joints, tcp, self._segments, inverse, drift
        self.margins = margins
        """Of the present posture."""

    def _require_finite(self, segments: Float[ndarray, "2 s c 3"]) -> None:
        """Raises SafetyError: compiled comparisons take what is not a number for plenty of room."""
        if not np.isfinite(segments).all():
            raise SafetyError(
                f"no posture of the {self.side} arm was found for where it is to go. The arms must brake."
            )

    @property
    def segments(self) -> Float[ndarray, "2 1 c 3"]:
        """Of all capsules now."""
        return self._segments


def _singular(jacobians: Float[ndarray, "1 6 n"]) -> float:
    """Smallest singular value."""
    return float(np.sqrt(max(np.linalg.eigvalsh(jacobians @ jacobians.transpose(0, 2, 1))[0, 0], 0.0)))


def watched_ticks(courses: Sequence[Course]) -> Int[ndarray, " s"]:
    """Ticks at which paths are looked at: the first, the last of all, and some between, equally far along the way."""
    last = max(course.path.ticks - course.first for course in courses)
    if last <= 0:
        return np.zeros(1, dtype=int)
    ways = np.zeros(last + 1)
    for path, first, _ in courses:
        speeds = path.speeds(TURN_REACH)[first:]
        ways[: len(speeds)] = np.maximum(ways[: len(speeds)], speeds)
    ways = np.cumsum(ways)
    count = min(MOST_SAMPLES, 2 + int(ways[-1] * courses[0].path.period / SPACING))
    ticks = np.searchsorted(ways, np.linspace(ways[0], ways[-1], count))
    ticks[-1] = last
    return np.unique(ticks)
