"""What the arms are to do and when: a chunk placed in space and time, and the hand-over from one to the next.

A chunk is motion of the policy's frame since a picture. Placed, it is TCP poses in the cell frame at times of the
robot's clock: row k is due k/30 s after the picture, or later where the arms have stood still meanwhile. At the
hand-over the new plan takes over from the old one

* with a promise (real-time chunking, arXiv 2506.07339): the new chunk was predicted around the steps that the arms
  drive while it is computed, so both plans agree there;
* else by blending on SE(3): the wish moves from the old plan to the new, within a tenth of a second where they are
  near each other, and for longer where they are far apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, FPS, HORIZON, ActionChunk, Promise, chunk_from_poses
from rdt2.errors import SafetyError
from rdt2.pose import conjugate, geodesic_angle, interpolate
from rdt2.robot.waypoints import PoseTrajectory, WidthTrajectory

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.settings import Bounds

PERIOD = 1.0 / FPS
CATCH_UP = 0.5
"""Share of an arm's speed limits with which it goes over from one plan to another."""
STEEPEST = 1.5
"""Largest slope of 3u^2 - 2u^3."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Where all arms are to be when."""

    observed: float
    """When the picture was taken that it was predicted from, seconds of the robot's clock."""
    times: Float[ndarray, " n"]
    """Seconds of the robot's clock: when the arms are to be there, not when they are told. The first is where the
    plan begins, the others are rows of the chunk."""
    poses: Mapping[str, Float[ndarray, "n 4 4"]]
    """TCPs in the cell frame, metres."""
    widths: Mapping[str, Float[ndarray, " n"]]
    """Real openings of the grippers, metres."""

    def __post_init__(self) -> None:
        paths, jaws = {}, {}
        for side, poses in self.poses.items():
            if not (np.isfinite(poses).all() and np.isfinite(self.widths[side]).all()):
                raise SafetyError(f"the {side} arm's plan holds NaN or infinite values.")
            start, later = float(self.times[0]), self.times[1:]
            paths[side] = PoseTrajectory(poses[0], start)
            jaws[side] = WidthTrajectory(float(self.widths[side][0]), start)
            if len(later):
                paths[side].execute(later, poses[1:], now=start)
                jaws[side].execute(later, self.widths[side][1:], now=start)
        object.__setattr__(self, "_paths", paths)
        object.__setattr__(self, "_jaws", jaws)

    @property
    def ends(self) -> float:
        """When its last pose is due."""
        return float(self.times[-1])

    def first(self, steps: int) -> Plan:
        """So many leading rows of it; the arms rest at the last."""
        poses = {side: path[: steps + 1] for side, path in self.poses.items()}
        widths = {side: jaw[: steps + 1] for side, jaw in self.widths.items()}
        return Plan(self.observed, self.times[: steps + 1], poses, widths)

    def until(self, moment: float) -> Plan:
        """What of it is due by then (seconds); the arms rest where they are to be at that moment."""
        if moment >= self.ends:
            return self
        times = np.append(self.times[self.times < moment], max(moment, float(self.times[0])))
        poses = {side: self.path(side, times) for side in self.poses}
        widths = {side: self.openings(side, times) for side in self.widths}
        return Plan(self.observed, times, poses, widths)

    def pose(self, side: str, time: float) -> Float[ndarray, "4 4"]:
        """Where a TCP is to be at `time` (seconds): its first pose before the plan begins, its last after it ends."""
        return self._paths[side].at(time)  # type: ignore[attr-defined]

    def path(self, side: str, times: Float[ndarray, " n"]) -> Float[ndarray, "n 4 4"]:
        """As `pose`, at many times."""
        return interpolate(self.times, self.poses[side], times)

    def openings(self, side: str, times: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
        """As `width`, at many times."""
        return np.interp(times, self.times, self.widths[side])

    def width(self, side: str, time: float) -> float:
        """How far a gripper is to be open at `time`, metres."""
        return self._jaws[side].at(time)  # type: ignore[attr-defined]


def place(
    chunk: ActionChunk,
    tcp: Mapping[str, Float[ndarray, "4 4"]],
    policy_to_tcp: Mapping[str, Float[ndarray, "4 4"]],
    *,
    observed: float,
    begins: float,
    gripper_scale: Mapping[str, float],
    width: Mapping[str, float],
) -> Plan:
    """A chunk as a plan of the arms in `tcp`; of an arm that is not there the chunk's actions are ignored.

    Args:
        chunk: valid, relative to the poses at the picture.
        tcp: (4, 4) TCP of each arm when the picture was taken, cell frame, metres.
        policy_to_tcp: C of each arm: motion T of the policy's frame is motion C @ T @ inv(C) of the TCP.
        observed: when the picture was taken.
        begins: when the arms are, or were, where the picture shows them; row k is due k/30 s later.
        gripper_scale: real opening per opening of the models' space.
        width: measured real opening of each gripper, metres.

    Raises:
        ActionError: the chunk is not valid. SafetyError: it is not finite.
    """
    poses, widths = {}, {}
    for side, here in tcp.items():
        motion = conjugate(chunk.relative_poses(side).astype(np.float64), policy_to_tcp[side])
        poses[side] = np.concatenate([here[None], here @ motion])
        asked = np.maximum(chunk.widths(side).astype(np.float64), 0.0) * gripper_scale[side]
        widths[side] = np.concatenate([[width[side]], asked])
    return Plan(observed, begins + PERIOD * np.arange(HORIZON + 1), poses, widths)


def blend(
    old: Plan, new: Plan, *, now: float, seconds: float, catch_up: Mapping[str, tuple[float, float]]
) -> Plan:
    """`new`, reached from `old` after `now`: no jump of the wish where they differ.

    The share of the new plan grows as 3u^2 - 2u^3, which begins and ends without a step in velocity. It takes longer
    than `seconds` where they are so far apart that the way from one to the other would be faster than `catch_up`
    (m/s, rad/s of each arm), at most until the new plan ends.
    """
    if seconds <= 0 or now >= new.ends:
        return new
    meeting = np.array([now, now + seconds])
    for side, (speed, rate) in catch_up.items():
        apart, turned = _apart(old.path(side, meeting), new.path(side, meeting))
        seconds = max(seconds, STEEPEST * apart / speed, STEEPEST * turned / rate)
    seconds = min(seconds, new.ends - now)
    knots = np.unique(np.concatenate([now + seconds * np.linspace(0, 1, 5), new.times[new.times > now]]))
    share = np.clip((knots - now) / seconds, 0, 1)
    share = share * share * (3 - 2 * share)
    poses, widths = {}, {}
    for side in new.poses:
        poses[side] = _between(old.path(side, knots), new.path(side, knots), share)
        widths[side] = (1 - share) * old.openings(side, knots) + share * new.openings(side, knots)
    return Plan(new.observed, knots, poses, widths)


def catch_up(bounds: Bounds) -> tuple[float, float]:
    """How fast (m/s, rad/s) an arm goes over from one plan to another, at most."""
    return CATCH_UP * bounds.speed, CATCH_UP * bounds.turn_rate


def _apart(first: Float[ndarray, "n 4 4"], second: Float[ndarray, "n 4 4"]) -> tuple[float, float]:
    """The largest distance of poses from others: metres and radians."""
    distance = np.linalg.norm(second[:, :3, 3] - first[:, :3, 3], axis=1)
    return float(distance.max()), float(geodesic_angle(first[:, :3, :3], second[:, :3, :3]).max())


def _between(
    first: Float[ndarray, "n 4 4"], second: Float[ndarray, "n 4 4"], share: Float[ndarray, " n"]
) -> Float[ndarray, "n 4 4"]:
    """Poses on the way from some to others, each at its own share of it."""
    turns = Rotation.from_matrix(first[:, :3, :3].transpose(0, 2, 1) @ second[:, :3, :3]).as_rotvec()
    poses = first.copy()
    poses[:, :3, :3] = first[:, :3, :3] @ Rotation.from_rotvec(share[:, None] * turns).as_matrix()
    poses[:, :3, 3] += share[:, None] * (second[:, :3, 3] - first[:, :3, 3])
    return poses


def promise(
    plan: Plan,
    tcp: Mapping[str, Float[ndarray, "4 4"]],
    policy_to_tcp: Mapping[str, Float[ndarray, "4 4"]],
    *,
    observed: float,
    answered: float,
    gripper_scale: Mapping[str, float],
    longest: int,
) -> Promise | None:
    """What `plan` does after a picture, as the first rows of the chunk that is to be predicted from it.

    Args:
        plan: what the arms are driving.
        tcp: (4, 4) of each arm when the picture was taken, cell frame, metres.
        policy_to_tcp: as for `place`.
        observed: when the picture was taken.
        answered: when the chunk can be there, at the latest: rows due before are driven anyway.
        gripper_scale: real opening per opening of the models' space.
        longest: the most rows due before that the policy goes on from.

    Returns:
        None where the plan ends before the chunk is there: nothing is left to agree with; or where the policy cannot
        agree with as much.
    """
    times = observed + PERIOD * np.arange(1, HORIZON + 1)
    fixed = int(np.ceil((answered - observed) / PERIOD - 1e-6))
    known = int(np.floor((plan.ends - observed) / PERIOD + 1e-6))
    if not 0 <= fixed < min(known, HORIZON) or fixed > longest:
        return None
    still = np.repeat(np.eye(4)[None], HORIZON, axis=0)
    begins, steps, widths = {}, {}, {}
    for side in ARMS:
        begins[side], steps[side], widths[side] = np.eye(4), still, np.zeros(HORIZON)
        if side in tcp:
            poses = plan.path(side, times)
            back = np.linalg.inv(policy_to_tcp[side])
            steps[side] = conjugate(np.linalg.inv(tcp[side]) @ poses, back)
            widths[side] = plan.openings(side, times) / gripper_scale[side]
    return Promise(chunk_from_poses(begins, steps, widths), fixed=fixed, known=min(known, HORIZON))
