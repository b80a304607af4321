"""What the arms are to do and when: a chunk placed in space and time, and the hand-over from one to the next.

A chunk is motion of the policy's frame since a picture. Placed, it is TCP poses in the cell frame at times of the
robot's clock: row k is due k/30 s after the picture, or later where the arms have stood still meanwhile. At the
hand-over the new plan takes over from the old one

* with a promise (real-time chunking, arXiv 2506.07339): the new chunk was predicted around the steps that the arms
  drive while it is computed, so both plans agree there;
* else by blending on SE(3): for a tenth of a second the wish moves from the old plan to the new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ARMS, FPS, HORIZON, ActionChunk, Promise, chunk_from_poses
from rdt2.errors import SafetyError
from rdt2.pose import conjugate, interpolate
from rdt2.robot.waypoints import PoseTrajectory, WidthTrajectory

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

PERIOD = 1.0 / FPS


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

    def pose(self, side: str, time: float) -> Float[ndarray, "4 4"]:
        """Where a TCP is to be at `time`: its first pose before the plan begins, its last after it ends."""
        return self._paths[side].at(time)  # type: ignore[attr-defined]

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


def blend(old: Plan, new: Plan, *, now: float, seconds: float) -> Plan:
    """`new`, reached from `old` within `seconds` from `now`: no jump of the wish where they differ.

    The share of the new plan grows as 3u^2 - 2u^3, which begins and ends without a step in velocity.
    """
    if seconds <= 0 or now >= new.ends:
        return new
    knots = np.unique(np.concatenate([now + seconds * np.linspace(0, 1, 5), new.times[new.times > now]]))
    share = np.clip((knots - now) / seconds, 0, 1)
    share = share * share * (3 - 2 * share)
    poses, widths = {}, {}
    for side in new.poses:
        pairs = [(old.pose(side, t), new.pose(side, t)) for t in knots]
        ends = np.array([0.0, 1.0])
        poses[side] = np.stack(
            [
                interpolate(ends, np.stack(pair), np.array([u]))[0]
                for pair, u in zip(pairs, share, strict=True)
            ]
        )
        widths[side] = np.array(
            [(1 - u) * old.width(side, t) + u * new.width(side, t) for t, u in zip(knots, share, strict=True)]
        )
    return Plan(new.observed, knots, poses, widths)


def promise(
    plan: Plan,
    tcp: Mapping[str, Float[ndarray, "4 4"]],
    policy_to_tcp: Mapping[str, Float[ndarray, "4 4"]],
    *,
    observed: float,
    answered: float,
    gripper_scale: Mapping[str, float],
) -> Promise | None:
    """What `plan` does after a picture, as the first rows of the chunk that is to be predicted from it.

    Args:
        plan: what the arms are driving.
        tcp: (4, 4) of each arm when the picture was taken, cell frame, metres.
        policy_to_tcp: as for `place`.
        observed: when the picture was taken.
        answered: when the chunk can be there, at the latest: rows due before are driven anyway.
        gripper_scale: real opening per opening of the models' space.

    Returns:
        None where the plan ends before the chunk is there: nothing is left to agree with.
    """
    times = observed + PERIOD * np.arange(1, HORIZON + 1)
    fixed = int(np.ceil((answered - observed) / PERIOD - 1e-6))
    known = int(np.floor((plan.ends - observed) / PERIOD + 1e-6))
    if not 0 <= fixed < min(known, HORIZON):
        return None
    still = np.repeat(np.eye(4)[None], HORIZON, axis=0)
    begins, steps, widths = {}, {}, {}
    for side in ARMS:
        begins[side], steps[side], widths[side] = np.eye(4), still, np.zeros(HORIZON)
        if side in tcp:
            poses = np.stack([plan.pose(side, t) for t in times])
            back = np.linalg.inv(policy_to_tcp[side])
            steps[side] = conjugate(np.linalg.inv(tcp[side]) @ poses, back)
            widths[side] = np.array([plan.width(side, t) for t in times]) / gripper_scale[side]
    return Promise(chunk_from_poses(begins, steps, widths), fixed=fixed, known=min(known, HORIZON))
