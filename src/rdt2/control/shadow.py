"""What one arm will do when it follows commanded poses: its joints, its shapes, and what is left of its margins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rdt2.control.bodies import WEIGHT, ArmBody, self_pairs
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

LAG_POSITION, LAG_ANGLE = 0.005, float(np.deg2rad(2.0))
"""How far the joints may stay behind a commanded pose."""
DISAGREE_POSITION, DISAGREE_ANGLE = 0.03, float(np.deg2rad(8.0))
"""How far a measured pose may be from what the measured joints say: sag and noise, but no wrong calibration."""
SEEN = 1e-3
"""Metres by which a measured opening differs from the last before it counts: less is noise."""
DAMPING = 1e-6 * np.eye(6)
REFINED = 1e-3
"""Metres and (weighted) radians: joints of a path are improved until they are so near, at most `REFINEMENTS` times."""
REFINEMENTS = 3
JOINT_SPEED = 0.95
"""Of a joint's top speed, from which the arm slows."""
SLOWEST = 0.05
"""Share of the limits that singularities and joint margins leave: an arm must be able to get out of them."""
SPACING, TURN_REACH, MOST_SAMPLES = 0.015, 0.2, 10
"""A sweep has a sample every so many metres of a TCP's way, a radian counting as 0.2 m, and not more than ten."""
BOX, LAG, SPEED, SINGULAR, JOINTS = slice(2, 8), 8, 9, 10, 11
"""Where these margins are among all."""
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


@dataclass(frozen=True)
class Sweep:
    """One arm at some moments of a path; the first is now."""

    joints: Float[ndarray, "s n"]
    segments: Float[ndarray, "2 s c 3"]
    margins: Float[ndarray, " k"]
    """The least of each margin after now, see `Shadow.names`."""

    @cached_property
    def reach(self) -> Float[ndarray, " c"]:
        """How far each capsule gets from where it is now, metres."""
        return far(self.segments - self.segments[:, :1]).max(axis=0)

    @cached_property
    def motion(self) -> Float[ndarray, "t c"]:
        """How far each capsule moves from one moment to the next, metres."""
        return far(np.diff(self.segments, axis=1))


@dataclass(frozen=True)
class _Now:
    """What is known of the present posture."""

    frames: Float[ndarray, "1 f 4 4"]
    segments: Float[ndarray, "2 1 c 3"]
    inverse: Float[ndarray, "n 6"]
    """Joint motion for a motion of the TCP (m, weighted rad)."""
    drift: Float[ndarray, " n"]
    """Where a redundant arm goes by itself."""
    singular: float
    """Smallest singular value of the Jacobian (metres; a radian weighs `WEIGHT`)."""


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
        if kinematics is not None:
            margin = max(safety.joint_margin - LIMIT_MARGIN, 0.0)  # the kinematics keep that of their own
            self._lower, self._upper = kinematics.lower + margin, kinematics.upper - margin
            self.names += ["lag", "speed", "singular"] + ["joint"] * (2 * self.body.links)
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
        singular = self._now.singular
        self._look()
        self._narrows = self._now.singular < singular
        # A margin that was lost may be lost no further, and what is won stays won.
        self.floor = np.minimum(np.maximum(self.floor, self.margins), 0.0)

    def sweep(self, path: Stop, first: int, ticks: Int[ndarray, " s"], width: float) -> Sweep:
        """The arm now, and at `ticks` (0 and up) of a path after its tick `first`, with an opening of `width` then."""
        poses, widths = path.poses(first + ticks), self.openings(width)
        joints, frames = self._follow(poses, self._drifting(path, first, ticks), widths)
        segments = self.body.segments(frames)
        margins = self._margins(frames, segments, joints, poses).min(axis=0)
        rest = path.positions[min(first, path.ticks) :]
        # Of every tick, not of samples: millimetres count here.
        heights = rest[:, 2] - self.body.hang(path.rotations[min(first, path.ticks) :], widths[0])
        margins[0] = min(margins[0], heights.min() - self.ground)
        margins[BOX] = np.concatenate([rest.min(axis=0) - self.low, self.high - rest.max(axis=0)])
        if self.kinematics is not None:
            joints = np.concatenate([self.joints[None], joints])
            seconds = np.diff(ticks, prepend=-1)[:, None] * self._period
            margins[SPEED] = (
                1.0 - np.abs(np.diff(joints, axis=0)) / (seconds * self.kinematics.speeds)
            ).min()
            margins[SINGULAR] = _singular(self.body.jacobian(frames[-1:]))[0] - self._safety.singularity_stop
        return Sweep(
            joints,
            np.concatenate([self._now.segments, segments], axis=1),
            margins,
        )

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
        now, slow, least = self._now.singular, safety.singularity_slow, safety.singularity_stop
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
        pose = self.motion.pose[None]
        frames = self.body.frames(self.joints[None], pose, self.openings(self.width))
        segments = self.body.segments(frames)
        inverse, drift, singular = np.zeros((0, 6)), np.zeros(0), np.inf
        if self.kinematics is not None:
            jacobian = self.body.jacobian(frames)[0]
            square = jacobian @ jacobian.T + DAMPING
            inverse = np.linalg.solve(square, jacobian).T
            away = self.kinematics.home - self.joints
            drift = away - inverse @ (jacobian @ away)
            singular = float(_singular(jacobian[None])[0])
        self._now = _Now(frames, segments, inverse, drift, singular)
        margins = self._margins(frames, segments, self.joints[None], pose)[0]
        margins[BOX] = np.concatenate([self.motion.position - self.low, self.high - self.motion.position])
        if self.body.links:
            margins[SINGULAR] = singular - self._safety.singularity_stop
        self.margins = margins
        """Of the present posture."""

    @property
    def segments(self) -> Float[ndarray, "2 1 c 3"]:
        """Of all capsules now."""
        return self._now.segments

    def _margins(
        self,
        frames: Float[ndarray, "s f 4 4"],
        segments: Float[ndarray, "2 s c 3"],
        joints: Float[ndarray, "s n"],
        poses: Float[ndarray, "s 4 4"],
    ) -> Float[ndarray, "s k"]:
        """All margins but those of the box, joint speed and singularity, which are left at infinity."""
        margins = np.full((len(frames), len(self.names)), np.inf)
        margins[:, :2] = self.body.lowest(frames, segments) - self.ground
        if self.body.links:
            margins[:, LAG] = 1.0 - _lags(self.body.tcp(frames), poses)
            count = self.body.links
            margins[:, JOINTS : JOINTS + count] = joints - self._lower
            margins[:, JOINTS + count :] = self._upper - joints
        return margins

    def _drifting(self, path: Stop, first: int, ticks: Int[ndarray, " s"]) -> Float[ndarray, " s"]:
        """Seconds until each tick for which a redundant arm drifts to its home posture: while its TCP moves."""
        shares = np.minimum(path.speeds(WEIGHT)[first:] / DRIFTING, 1.0)
        sums = np.cumsum(np.append(shares, 0.0)) * self._period
        return sums[np.minimum(ticks, len(sums) - 1)]

    def _follow(
        self, poses: Float[ndarray, "s 4 4"], seconds: Float[ndarray, " s"], widths: Float[ndarray, "1 o"]
    ) -> tuple[Float[ndarray, "s n"], Float[ndarray, "s f 4 4"]]:
        """Joints that put the TCP at poses on its way, from the present ones by Newton's method, and the frames."""
        body = self.body
        joints = np.zeros((len(poses), body.links))
        if not body.links:
            return joints, body.frames(joints, poses, widths)
        error = _errors(body.tcp(self._now.frames), poses)
        drift = (1 - np.exp(-NULLSPACE_GAIN * seconds))[:, None] * self._now.drift
        joints = self.joints + error @ self._now.inverse.T + drift
        frames = body.frames(joints, poses, widths)
        for _ in range(REFINEMENTS):
            error = _errors(body.tcp(frames), poses)
            if np.abs(error).max() < REFINED:
                break
            jacobian = body.jacobian(frames)
            turned = jacobian.transpose(0, 2, 1)
            step = np.linalg.solve(jacobian @ turned + DAMPING, error[..., None])
            joints = joints + (turned @ step)[..., 0]
            frames = body.frames(joints, poses, widths)
        return joints, frames


def _errors(poses: Float[ndarray, "s 4 4"], wanted: Float[ndarray, "s 4 4"]) -> Float[ndarray, "s 6"]:
    """From poses to others: metres, and weighted rotation vectors (their sine: Newton's steps make up for it)."""
    turn = wanted[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)
    error = np.empty((len(turn), 6))
    error[:, :3] = wanted[:, :3, 3] - poses[:, :3, 3]
    error[:, 3] = turn[:, 2, 1] - turn[:, 1, 2]
    error[:, 4] = turn[:, 0, 2] - turn[:, 2, 0]
    error[:, 5] = turn[:, 1, 0] - turn[:, 0, 1]
    error[:, 3:] *= 0.5 * WEIGHT
    return error


def _lags(poses: Float[ndarray, "s 4 4"], wanted: Float[ndarray, "s 4 4"]) -> Float[ndarray, " s"]:
    """Distance or angle between poses, whichever is the larger share of what is allowed."""
    traces = np.einsum("sij,sij->s", wanted[:, :3, :3], poses[:, :3, :3])
    # 2 sin(angle / 2), which grows up to half a turn
    angles = np.sqrt(np.maximum(3.0 - traces, 0.0))
    return np.maximum(_norm(wanted[:, :3, 3] - poses[:, :3, 3]) / LAG_POSITION, angles / LAG_ANGLE)


def _norm(vectors: Float[ndarray, "*s 3"]) -> Float[ndarray, " *s"]:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def far(ends: Float[ndarray, "2 s c 3"]) -> Float[ndarray, "s c"]:
    """The larger of both ends' distances."""
    return _norm(ends).max(axis=0)


def _singular(jacobians: Float[ndarray, "s 6 n"]) -> Float[ndarray, " s"]:
    """Smallest singular values."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(jacobians @ jacobians.transpose(0, 2, 1))[:, 0], 0.0))


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
