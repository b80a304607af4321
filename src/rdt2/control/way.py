"""A way along joint angles that the guard's bodies go through without touching anything, and how it is driven slowly.

The guard checks where a policy's next step may end. Here a whole way is known beforehand: that of arms that are
brought home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.control.bodies import OPENINGS, SELF_CLEARANCE, cross_pairs, distances
from rdt2.control.gaps import motions
from rdt2.control.obstacles import Obstacles
from rdt2.control.pairs import BETWEEN, EXACT
from rdt2.control.servo import TICK
from rdt2.control.shadow import Shadow
from rdt2.errors import SafetyError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.settings import RobotSettings

SAMPLE = 4e-3
"""Metres that any part moves at most between two postures that are looked at."""
TCP_SPEED = 0.25
"""m/s that a TCP on its way home has at most."""
PEAKS = 1.875, 10 / 3**0.5, 60.0
"""Largest speed, acceleration and jerk of a motion of length 1 in 1 second that begins and ends at rest with a smooth
acceleration."""
PEAK = PEAKS[0]
SHORTEST = 1.0
"""Seconds that any motion takes."""
AT_ONCE = 64
"""Postures that are looked at together."""


@dataclass(frozen=True, eq=False)
class Way:
    """Where all joints are, `TICK` by `TICK`; every arm is at rest at both ends."""

    joints: Mapping[str, Float[ndarray, "n j"]]
    """Radians, by side."""
    order: str
    """In words: "both arms at once", "the right arm, then the left"."""
    widths: Mapping[str, float] = field(default_factory=dict)
    """Openings of the grippers with which it was found free, metres; empty where none were looked at."""

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return TICK * (max(map(len, self.joints.values())) - 1)

    def at(self, side: str, time: float) -> Float[ndarray, " j"]:
        """Joint angles at a time since it began, seconds; the ends before and after."""
        joints = self.joints[side]
        place = min(max(time / TICK, 0.0), len(joints) - 1.0)
        before = min(int(place), len(joints) - 2)
        share = place - before
        return (1 - share) * joints[before] + share * joints[before + 1]


def free_way(
    settings: RobotSettings,
    start: Mapping[str, Float[ndarray, " j"]],
    end: Mapping[str, Float[ndarray, " j"]],
    widths: Mapping[str, float],
    *,
    speed: float,
) -> Way:
    """A way from joints to joints on which no part touches anything: both arms at once, or one after the other.

    Args:
        settings: of the robot.
        start: where the joints are, radians, by side.
        end: where they are to be.
        widths: openings of the grippers, metres; they stay.
        speed: rad/s of the fastest joint at most.

    Raises:
        SafetyError: no such way is free; says what would be touched on each.
    """
    sides = tuple(start)
    orders: list[tuple[str, Sequence[tuple[str, ...]]]] = [
        ("both arms at once" if len(sides) > 1 else f"the {sides[0]} arm", [sides])
    ]
    if len(sides) == 2:
        one, other = sides
        orders += [(f"the {a} arm, then the {b}", [(a,), (b,)]) for a, b in ((one, other), (other, one))]
    room, reasons = Room(settings, widths), []
    for order, legs in orders:
        here = {side: np.asarray(joints, dtype=np.float64) for side, joints in start.items()}
        pieces: dict[str, list[ndarray]] = {side: [joints[None]] for side, joints in here.items()}
        for moving in legs:
            there = {side: np.asarray(end[side]) if side in moving else here[side] for side in sides}
            count = room.ticks(here, there, speed)
            shares = smooth(np.linspace(0.0, 1.0, count + 1))[1:, None]
            for side in sides:
                pieces[side].append(here[side] + shares * (there[side] - here[side]))
            here = there
        way = Way({side: np.concatenate(parts) for side, parts in pieces.items()}, order, dict(widths))
        if not (reason := room.touched(way)):
            return way
        reasons.append(f"{order}: {reason}")
    raise SafetyError(
        "no way home is free:\n  "
        + "\n  ".join(reasons)
        + "\nMove the arms by hand, or with their pendant, to where the "
        "straight way of their joints is free."
    )


def smooth(share: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    """From 0 to 1, at rest and without acceleration at both ends."""
    return share**3 * (10 - 15 * share + 6 * share**2)


class Room:
    """All that parts of the arms must not touch."""

    def __init__(self, settings: RobotSettings, widths: Mapping[str, float | Float[ndarray, "n 2"]]) -> None:
        """widths: openings of the grippers, metres; where fingers move meanwhile, the least and the largest at each
        tick of the way."""
        kinematics = settings.kinematics()
        self._shadows = {
            side: Shadow(side, arm, settings.safety, kinematics[side], period=TICK)
            for side, arm in settings.arms.items()
        }
        self._kinematics, self._bounds = kinematics, {s: arm.bounds for s, arm in settings.arms.items()}
        self._widths = {
            side: np.broadcast_to(widths[side], (max(1, np.size(widths[side]) // OPENINGS), OPENINGS))
            for side in settings.arms
        }
        self._obstacles = Obstacles(settings.safety.obstacles)
        self._clearance = settings.safety.arm_clearance

    def ticks(self, start: Mapping[str, ndarray], end: Mapping[str, ndarray], speed: float) -> int:
        """Periods that a motion takes: no joint turns faster than `speed` (rad/s), and no TCP leaves its bounds."""
        seconds = SHORTEST
        for side, shadow in self._shadows.items():
            bounds, line = self._bounds[side], np.linspace(start[side], end[side], 65)
            tcp = shadow.body.tcp(self._frames(side, line))
            steps = np.linalg.norm(np.diff(tcp[:, :3, 3], axis=0), axis=1)
            turns = Rotation.from_matrix(tcp[1:, :3, :3] @ tcp[:-1, :3, :3].transpose(0, 2, 1)).magnitude()
            for length, limits in (
                (np.abs(end[side] - start[side]).max(), (speed,)),
                # were it all as fast as the fastest
                (64 * steps.max(), (min(TCP_SPEED, bounds.speed), bounds.acceleration, bounds.jerk)),
                (64 * turns.max(), (bounds.turn_rate, bounds.turn_acceleration, bounds.turn_jerk)),
            ):
                for order, (peak, limit) in enumerate(zip(PEAKS, limits, strict=False), start=1):
                    seconds = max(seconds, float(peak * length / limit) ** (1 / order))
        return int(np.ceil(seconds / TICK))

    def touched(self, way: Way) -> str:
        """What would be touched, and when; empty where the way is free."""
        for side, kinematics in self._kinematics.items():
            assert kinematics is not None, "an arm without joints has no way"
            ends = way.joints[side][-1]
            beyond = np.flatnonzero((ends < kinematics.lower) | (ends > kinematics.upper))
            if beyond.size:
                return f"joint {beyond[0] + 1} of the {side} arm would be at its limit"
        return self._met(way)

    def _frames(
        self, side: str, joints: Float[ndarray, "s j"], ticks: ndarray | None = None
    ) -> Float[ndarray, "s f 4 4"]:
        """With openings as they are at these ticks of a way; None: as they are at its beginning."""
        widths = self._widths[side]
        return self._shadows[side].body.frames(
            joints,
            np.broadcast_to(np.eye(4), (len(joints), 4, 4)),
            widths[:1] if ticks is None or len(widths) == 1 else widths[ticks],
        )

    def _met(self, way: Way) -> str:
        ticks = self._samples(way)
        floors: dict[str, ndarray] = {}
        for first in range(0, len(ticks), AT_ONCE - 1):
            part = ticks[first : first + AT_ONCE]
            frames = {side: self._frames(side, way.joints[side][part], part) for side in self._shadows}
            segments = {side: s.body.segments(frames[side]) for side, s in self._shadows.items()}
            for what, gaps, moved in self._gaps(frames, segments):
                floor = floors.setdefault(what, np.minimum(gaps[0], 0.0))
                wrong = np.asarray((gaps < floor - EXACT).any(axis=1))
                if len(gaps) > 1:
                    # between two samples a gap is no less than its mean less half of what the two parts can move
                    wrong[1:] |= (0.5 * (gaps[:-1] + gaps[1:] - moved) < floor - BETWEEN).any(axis=1)
                if wrong.any():
                    share = part[int(np.argmax(wrong))] / max(len(way.joints[s]) - 1 for s in way.joints)
                    return f"{what}, after {100 * share:.0f} % of the way"
        return ""

    def _gaps(
        self, frames: Mapping[str, ndarray], segments: Mapping[str, ndarray]
    ) -> list[tuple[str, ndarray, ndarray]]:
        """What is near to what: what would be touched, its distance beyond what is kept clear (s, p) in metres, and how
        far the two move towards each other from each sample to the next (s - 1, p)."""
        found: list[tuple[str, ndarray, ndarray]] = []
        motion = {side: motions(ends)[0] for side, ends in segments.items()}
        for side, shadow in self._shadows.items():
            low = shadow.body.lowest(frames[side], segments[side]) - shadow.ground
            fastest = motion[side].max(axis=1, keepdims=True)
            found.append((f"the {side} arm would touch the table", low, fastest))
            tcp = shadow.body.tcp(frames[side])[:, :3, 3]
            inside = np.concatenate([tcp - shadow.low, shadow.high - tcp], axis=1)
            went = np.linalg.norm(np.diff(tcp, axis=0), axis=1)[:, None]
            found.append((f"the {side} arm would leave its workspace", inside, went))
            a, b = shadow.pairs
            own = distances(segments[side], segments[side], shadow.body, shadow.body, shadow.pairs)
            found.append(
                (
                    f"the {side} arm would touch itself",
                    own - min(SELF_CLEARANCE, self._clearance),
                    motion[side][:, a] + motion[side][:, b],
                )
            )
            if len(self._obstacles):
                moving = np.flatnonzero(shadow.body.moves)
                for number, name in enumerate(self._obstacles.names):
                    boxes = np.full(len(moving), number)
                    gaps = self._obstacles.gaps(segments[side], shadow.body.radius, np.stack([moving, boxes]))
                    found.append(
                        (
                            f"the {side} arm would touch the {name}",
                            gaps - self._clearance,
                            motion[side][:, moving],
                        )
                    )
        if len(self._shadows) == 2:
            (one, first), (other, second) = self._shadows.items()
            pairs = cross_pairs(first.body, second.body)
            gaps = distances(segments[one], segments[other], first.body, second.body, pairs)
            moved = motion[one][:, pairs[0]] + motion[other][:, pairs[1]]
            found.append(("the arms would touch each other", gaps - self._clearance, moved))
        return found

    def _samples(self, way: Way) -> ndarray:
        """Ticks so near to each other that no part moves by more than `SAMPLE` between two."""
        count = len(next(iter(way.joints.values())))
        moved, every = np.zeros(count - 1), np.arange(count)
        for side in self._shadows:
            ends = self._shadows[side].body.segments(self._frames(side, way.joints[side], every))
            moved = np.maximum(moved, motions(ends)[0].max(axis=1))
        sums = np.concatenate([[0.0], np.cumsum(moved)])
        wanted = np.arange(0.0, sums[-1], SAMPLE)
        return np.unique(np.append(np.searchsorted(sums, wanted), count - 1))
