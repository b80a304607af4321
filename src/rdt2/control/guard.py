"""The only way from a wish to a command: it can only make a motion safer.

Whatever is commanded, there is a way to come to rest from it that has been verified. In every period

1. the wish is brought into the workspace and over the table;
2. one step is made towards it from what is commanded now, within limits of speed, acceleration and jerk, and slower
   near the other arm, near a joint's limit and near a singular posture;
3. the way to rest from there, of ALL arms, is swept: links, palm, fingers and camera against the table, the other arm
   and the arm itself, the TCP against its workspace, the joints against their limits. If it is clean, the step is
   commanded and its way to rest is kept; if not, the arm at fault goes one step further on the way to rest it has.

An arm that starts where it must not be, below the table, outside of its workspace or too near to the other arm, may go
everywhere where none of what is wrong gets worse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rdt2.control.bodies import SELF_CLEARANCE, cross_pairs
from rdt2.control.limiter import Limiter, LimitError, Motion, Stop, nearest_rotation
from rdt2.control.pairs import Pairs
from rdt2.control.shadow import Shadow, Sweep
from rdt2.errors import SafetyError
from rdt2.robot.kinematics import rotation_vector

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.robot.kinematics import ArmKinematics
    from rdt2.robot.protocols import ArmState
    from rdt2.robot.settings import ArmSettings, RobotSettings

JAW_SPEED = 0.5
"""m/s of the opening at most: between two checks the fingers move by a few millimetres."""
SPACING, TURN_REACH, MOST_SAMPLES = 0.015, 0.2, 10
"""A sweep has a sample every so many metres of a TCP's way, a radian counting as 0.2 m, and not more than ten."""
STANDING, STILL = 1e-5, 1e-3
"""Speed (m/s, rad/s) and acceleration below which an arm is at rest."""
CREEP = 0.02
"""Share of the limits that nearness never takes: an arm must be able to go away."""
RETURNING = 0.1
"""Share of its speed with which an arm that starts where it must not be comes back: nobody asked for that way."""
UNSAID = 2e-3
"""Metres between wish and command that nobody is told about."""
LAG = 5e-3
"""Metres by which an arm may follow its wish, as every arm with limits does, before somebody is told."""


@dataclass(frozen=True)
class Commanded:
    """What goes to the devices for one period from now."""

    poses: dict[str, Float[ndarray, "4 4"]]
    """TCPs, cell frame, metres."""
    velocity: dict[str, Float[ndarray, " 6"]]
    """m/s, then rad/s, along the cell's axes."""
    acceleration: dict[str, Float[ndarray, " 6"]]
    widths: dict[str, float]
    """Openings, metres."""
    slowed: str
    """Why the wish was not met in full, in a person's words; empty where it was."""


class _Course(NamedTuple):
    """What an arm may do: a path from its tick `first` on, with an opening of `width` metres."""

    path: Stop
    first: int
    width: float


class _Arm:
    """What the guard knows of one arm."""

    def __init__(self, shadow: Shadow, limiter: Limiter, arm: ArmSettings, remembered: int) -> None:
        self.shadow, self.limiter, self.bounds, self.stroke = shadow, limiter, arm.bounds, arm.gripper.stroke
        self.past: deque[ndarray] = deque(maxlen=remembered)
        """Poses commanded within the arm's latency: where it may be now."""
        self.slow: tuple[float, str] = (np.inf, "")
        """How many times faster than now it may be, and why."""
        self.wish: tuple[ndarray, ndarray] | None = None

    @property
    def held(self) -> _Course:
        """One period further on the verified way to rest."""
        return _Course(self.shadow.path, self.shadow.tick + 1, self.shadow.width)


class Guard:
    """See the module.

    Args:
        settings: of the robot.
        kinematics: of each arm; None where its joints are not known. Then only its gripper and a wrist are kept clear.
        period: seconds between two calls of `step`.
    """

    def __init__(
        self, settings: RobotSettings, kinematics: Mapping[str, ArmKinematics | None], *, period: float
    ) -> None:
        self._period, self._safety = period, settings.safety
        self.sides = tuple(settings.arms)
        self._arms: dict[str, _Arm] = {}
        for side, arm in settings.arms.items():
            shadow = Shadow(side, arm, settings.safety, kinematics.get(side), period=period)
            remembered = round((arm.latency + settings.safety.max_age) / period) + 1
            self._arms[side] = _Arm(shadow, Limiter(arm.bounds, period=period), arm, remembered)
        clearance = settings.safety.arm_clearance
        self._own = {
            side: Pairs(arm.shadow, arm.shadow, arm.shadow.pairs, min(SELF_CLEARANCE, clearance))
            for side, arm in self._arms.items()
        }
        self._cross: Pairs | None = None
        if len(self.sides) == 2:
            one, other = (self._arms[side].shadow for side in self.sides)
            self._cross = Pairs(one, other, cross_pairs(one.body, other.body), clearance)
        self._started = False

    def start(
        self,
        poses: Mapping[str, Float[ndarray, "4 4"]],
        joints: Mapping[str, Float[ndarray, " n"]],
        widths: Mapping[str, float],
    ) -> None:
        """Be at rest where the arms were measured to be: TCPs (cell frame, metres), joints (rad), openings (m).

        Raises:
            SafetyError: not finite, or joints that do not belong to the pose.
        """
        self._require(poses, widths)
        for side, arm in self._arms.items():
            pose = np.array(poses[side], dtype=np.float64)
            pose[:3, :3] = nearest_rotation(pose[:3, :3])
            rest = arm.limiter.stop(Motion.at_rest(pose))
            arm.shadow.start(rest, np.asarray(joints[side], dtype=np.float64), float(widths[side]))
            arm.past.clear()
            arm.past.append(pose)
            arm.slow, arm.wish = (np.inf, ""), None
        for group in self._groups:
            group.start()
        self._started = True

    def step(self, poses: Mapping[str, Float[ndarray, "4 4"]], widths: Mapping[str, float]) -> Commanded:
        """One period towards a wish: where the TCPs (cell frame, metres) and openings (metres) should be at its end.

        Raises:
            SafetyError: a wish that is no pose, or not finite. Nothing was commanded: call `brake` for this period.
        """
        self._require(poses, widths)
        self._require_started()
        notes: dict[str, str] = {}
        fresh = {}
        for side, arm in self._arms.items():
            most = JAW_SPEED * self._period
            change = min(max(float(widths[side]), 0.0), arm.stroke) - arm.shadow.width
            width = arm.shadow.width + min(max(change, -most), most)
            try:
                path = self._towards(side, np.asarray(poses[side], dtype=np.float64), width, notes)
                fresh[side] = _Course(path, 0, width)
            except LimitError as error:
                notes[side] = f"brakes: no motion was found ({error})"
        self._command(self._allowed(fresh, notes))
        for side, arm in self._arms.items():
            lag = self._lag(arm.shadow.motion, np.asarray(poses[side], dtype=np.float64))
            if lag < UNSAID:
                notes.pop(side, None)
            elif lag > LAG:
                notes.setdefault(side, f"follows within its limits of {arm.bounds.speed:g} m/s")
        return self._commanded(notes)

    def brake(self) -> Commanded:
        """One period further on the verified way to rest; openings stay."""
        self._require_started()
        moving = not self.at_rest
        self._command({side: arm.held for side, arm in self._arms.items()})
        for arm in self._arms.values():
            arm.wish = None
        return self._commanded({side: "brakes" for side in self.sides} if moving else {})

    def check(self, states: Mapping[str, ArmState]) -> None:
        """Compare measured poses with what was commanded within each arm's latency.

        Raises:
            SafetyError: an arm is further from all of that than the settings' tracking errors.
        """
        safety = self._safety
        for side, state in states.items():
            if not np.isfinite(state.pose).all():
                raise SafetyError(f"the {side} arm reports a pose that is not finite. Look at its driver.")
            past = np.stack(self._arms[side].past)
            distance = float(np.linalg.norm(past[:, :3, 3] - state.pose[:3, 3], axis=1).min())
            trace = np.einsum("nij,ij->n", past[:, :3, :3], state.pose[:3, :3]).max()
            angle = float(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0)))
            if distance > safety.tracking_error_m or angle > safety.tracking_error_rad:
                raise SafetyError(
                    f"the {side} arm is {1e3 * distance:.0f} mm and {np.degrees(angle):.1f} degrees from what it was "
                    f"commanded; {1e3 * safety.tracking_error_m:.0f} mm and "
                    f"{np.degrees(safety.tracking_error_rad):.1f} degrees are allowed. Something holds it, or its "
                    "driver does not follow."
                )

    @property
    def at_rest(self) -> bool:
        """Whether nothing is commanded to move."""
        return all(
            np.abs(arm.shadow.motion.velocity).max() < STANDING
            and np.abs(arm.shadow.motion.acceleration).max() < STILL
            for arm in self._arms.values()
        )

    # ------------------------------------------------------------------------------------------------------- one step

    @property
    def _groups(self) -> list[Pairs]:
        return [*self._own.values(), *([self._cross] if self._cross else [])]

    def _require_started(self) -> None:
        if not self._started:
            raise SafetyError("the guard was not started. Call start() with the measured poses first.")

    def _require(self, poses: Mapping[str, ndarray], widths: Mapping[str, float]) -> None:
        if set(poses) != set(self.sides) or set(widths) != set(self.sides):
            raise SafetyError(
                f"poses for {sorted(poses)} and widths for {sorted(widths)}, expected both for {sorted(self.sides)}."
            )
        for side in self.sides:
            pose = np.asarray(poses[side], dtype=np.float64)
            if pose.shape != (4, 4) or not np.isfinite(pose).all() or not np.isfinite(widths[side]):
                raise SafetyError(
                    f"the {side} arm's pose of shape {pose.shape}, or its opening {widths[side]}, is not finite; "
                    "expected a (4, 4) matrix and metres. The arms must brake."
                )
            rotation = pose[:3, :3]
            if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
                raise SafetyError(
                    f"the {side} arm's pose holds no rotation in its upper left 3x3. The arms must brake."
                )

    def _towards(self, side: str, wish: ndarray, width: float, notes: dict[str, str]) -> Stop:
        """The fastest step to the wish, brought into what is allowed, and how it comes to rest."""
        arm = self._arms[side]
        shadow, motion = arm.shadow, arm.shadow.motion
        rotation = nearest_rotation(wish[:3, :3])
        position = np.clip(wish[:3, 3], shadow.low, shadow.high)
        outside = float(np.linalg.norm(position - wish[:3, 3]))
        if outside > UNSAID:
            notes[side] = f"stays in its workspace: the wish is {1e3 * outside:.0f} mm outside"
        lift = (
            shadow.ground + float(shadow.body.hang(rotation[None], max(width, shadow.width))[0]) - position[2]
        )
        if lift > 0:
            position[2] = min(position[2] + lift, shadow.high[2])
            if lift > UNSAID:
                notes[side] = f"stays over the table: the wish is {1e3 * lift:.0f} mm too low"
        velocity = np.zeros(6)
        if arm.wish is not None:
            before, turned = arm.wish
            velocity[:3] = (position - before) / self._period
            velocity[3:] = rotation_vector(rotation @ turned.T) / self._period
        arm.wish = position, rotation
        ratio, reason = arm.slow
        scale = min(1.0, max(ratio * max(shadow.load, CREEP), CREEP))
        if scale < 1.0:
            notes.setdefault(side, f"slows: {reason}")
        if astray := self._astray(arm):
            scale = min(scale, RETURNING)
            notes.setdefault(
                side, f"comes back slowly: it is {1e3 * astray:.0f} mm outside of what is allowed"
            )
        low = shadow.low.copy()
        low[2] = max(low[2], motion.position[2] - shadow.margins[0])
        following = arm.limiter.towards(
            motion, position, rotation, velocity, scale=scale, low=low, high=shadow.high
        )
        path = arm.limiter.stop(following)
        if not path.within(arm.bounds.speed, arm.bounds.turn_rate):
            raise LimitError("it would become too fast")
        return path

    def _astray(self, arm: _Arm) -> float:
        """Metres by which an arm that started outside of its workspace, or below the table, still is; else 0."""
        shadow, motion = arm.shadow, arm.shadow.motion
        away = float(np.max(np.maximum(shadow.low - motion.position, motion.position - shadow.high)))
        lifted = float(shadow.body.hang(motion.rotation[None], shadow.width)[0])
        away = max(away, shadow.ground + lifted - float(motion.position[2]))
        return away if away > UNSAID else 0.0

    def _allowed(self, fresh: Mapping[str, _Course], notes: dict[str, str]) -> dict[str, _Course]:
        """What each arm does: its step to the wish where the way to rest is clean, else what it holds."""
        held = {side: arm.held for side, arm in self._arms.items()}
        ticks = _samples([*fresh.values(), *held.values()])
        moving: dict[str, Sweep] = {}
        for side, course in fresh.items():
            shadow = self._arms[side].shadow
            sweep = shadow.sweep(course.path, course.first, ticks, course.width)
            broken = shadow.broken(sweep)
            if not broken and self._own[side].meet(sweep, sweep):
                broken = "it would touch itself"
            if broken:
                notes[side] = f"stops: {broken}"
            else:
                moving[side] = sweep
        for going in self._attempts(moving, held, ticks):
            for side in set(moving) - set(going):
                notes[side] = "stops: the other arm is in its way"
            return {**held, **{side: fresh[side] for side in going}}
        return held

    def _attempts(
        self, moving: Mapping[str, Sweep], held: Mapping[str, _Course], ticks: Int[ndarray, " s"]
    ) -> Iterator[tuple[str, ...]]:
        """Those of the `moving` arms that may go on together: first all, then each of two while the other stops."""
        if self._cross is None:
            yield tuple(moving)
            return
        one, other = self.sides
        resting: dict[str, Sweep] = {}
        for going in [tuple(moving), *([(one,), (other,)] if len(moving) == 2 else [])]:
            for side in {one, other} - set(going) - set(resting):
                resting[side] = self._arms[side].shadow.sweep(*held[side][:2], ticks, held[side].width)
            sweeps = {**resting, **{side: moving[side] for side in going}}
            if not going or not self._cross.meet(sweeps[one], sweeps[other]):
                yield going
        yield ()

    def _command(self, courses: Mapping[str, _Course]) -> None:
        """Go on by one period, and see how fast the next may be."""
        for side, course in courses.items():
            arm = self._arms[side]
            arm.shadow.commit(*course)
            arm.past.append(arm.shadow.motion.pose)
            arm.slow = arm.shadow.slowing()
        within = self._safety.slow_within
        for group in self._groups:
            gaps, closed = group.move(within)
            if not (closed > 0).any():
                continue
            speed = max(self._arms[side].bounds.speed for side in group.sides)
            room = np.maximum(gaps - group.clearance, 0.0)
            ratios = speed * room / (within - group.clearance) * self._period / np.maximum(closed, 1e-9)
            nearest = int(np.argmin(ratios))
            gap = 1e3 * float(gaps[nearest])
            for side, other in zip(group.sides, group.sides[::-1], strict=True):
                what = "itself" if side == other else f"the {other} arm"
                arm = self._arms[side]
                arm.slow = min(arm.slow, (float(ratios[nearest]), f"{gap:.0f} mm from {what}"))

    def _lag(self, motion: Motion, wish: ndarray) -> float:
        """Metres from what is commanded to the wish; a turn counts as the way at `TURN_REACH`."""
        turned = TURN_REACH * float(np.abs(motion.rotation - wish[:3, :3]).max())
        return max(float(np.linalg.norm(motion.position - wish[:3, 3])), turned)

    def _commanded(self, notes: Mapping[str, str]) -> Commanded:
        motions = {side: arm.shadow.motion for side, arm in self._arms.items()}
        return Commanded(
            poses={side: motion.pose for side, motion in motions.items()},
            velocity={side: motion.velocity for side, motion in motions.items()},
            acceleration={side: motion.acceleration for side, motion in motions.items()},
            widths={side: arm.shadow.width for side, arm in self._arms.items()},
            slowed="; ".join(f"{side} arm {note}" for side, note in notes.items()),
        )


def _samples(courses: Sequence[_Course]) -> Int[ndarray, " s"]:
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
