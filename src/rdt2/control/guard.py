"""The only way from a wish to a command: it can only make a motion safer.

Whatever is commanded, there is a way to come to rest from it that has been verified. In every period

1. the wish is brought into the workspace and over the table;
2. one step is made towards it from what is commanded now, within limits of speed, acceleration and jerk, and slower
   near the other arm, near a joint's limit and near a singular posture;
3. the way to rest from there, of ALL arms, is swept: links, palm, fingers and camera against the table, obstacles, the
   other arm and the arm itself, the TCP against its workspace, the joints against their limits. If it is clean, the
   step is commanded and its way to rest is kept; if not, the arm at fault goes one step further on the way it has.

A stopped device leaves that way: it brakes along its velocity, on a ramp of its own (`rdt2.robot.braking`). Ways are
as long as such ramps; where a way bends, a ramp ends beside it.

Fingers are where they were commanded and where they were measured, both at once. An arm that starts where it must not
be, below the table, outside of its workspace or too near to something, may go everywhere where none of what is wrong
gets worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from rdt2.control.bodies import SELF_CLEARANCE, cross_pairs
from rdt2.control.limiter import Limiter, LimitError, Motion, Stop
from rdt2.control.obstacles import Obstacles
from rdt2.control.pairs import Pairs
from rdt2.control.shadow import TURN_REACH, Course, Shadow, Sweep, watched_ticks
from rdt2.control.yielding import Leash, parts
from rdt2.errors import SafetyError
from rdt2.robot.kinematics import nearest_rotation, rotation_vector

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.robot.kinematics import ArmKinematics
    from rdt2.robot.protocols import ArmState
    from rdt2.robot.settings import ArmSettings, RobotSettings

JAW_SPEED = 0.5
"""m/s of the opening at most: between two checks the fingers move by a few millimetres."""
STANDING, STILL = 1e-5, 1e-3
"""Speed (m/s, rad/s) and acceleration below which an arm is at rest."""
CREEP = 0.02
"""Share of the limits that nearness never takes: an arm must be able to go away."""
RETURNING = 0.1
"""Share of its speed with which an arm that starts where it must not be comes back: nobody asked for that way."""
UNSAID = 2e-3
"""Metres between wish and command that nobody is told about."""
LITTLE = 1e-4
"""Metres: a part of a wish that is nearer than this is no way on."""
LAG = 5e-3
"""Metres by which an arm may follow its wish, as every arm with limits does, before somebody is told."""
POSTURE = 0.25
"""Radians that a joint may be off all that was checked for it lately: an arm of seven joints can hold its TCP where it
should be, and have its elbow elsewhere."""
LATELY = 0.6
"""Seconds: longer than any device's latency."""


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


class _Arm:
    """What the guard knows of one arm."""

    def __init__(self, shadow: Shadow, limiter: Limiter, leash: Leash, arm: ArmSettings) -> None:
        self.shadow, self.limiter, self.leash = shadow, limiter, leash
        self.postures = np.zeros((0, 0))
        """Joints that were checked lately, the newest last."""
        self.bounds, self.stroke = arm.bounds, arm.gripper.stroke
        self.slow: tuple[float, str] = (np.inf, "")
        """How many times faster than now it may be, and why."""
        self.wish: tuple[ndarray, ndarray] | None = None

    @property
    def held(self) -> Course:
        """One period further on the verified way to rest."""
        return Course(self.shadow.path, self.shadow.tick + 1, self.shadow.width)


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
            errors = settings.safety.tracking_error_m, settings.safety.tracking_error_rad
            leash = Leash(shadow.body.tip, error=errors, period=period)
            self._arms[side] = _Arm(shadow, Limiter(arm.bounds, period=period), leash, arm)
        clearance = settings.safety.arm_clearance
        self._own = {
            side: Pairs(arm.shadow, arm.shadow, arm.shadow.pairs, min(SELF_CLEARANCE, clearance))
            for side, arm in self._arms.items()
        }
        self._obstacles = Obstacles(settings.safety.obstacles)
        self._around = {
            side: Pairs(
                arm.shadow, self._obstacles, _with_all(arm.shadow.body.moves, len(self._obstacles)), clearance
            )
            for side, arm in self._arms.items()
            if len(self._obstacles)
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
            arm.slow, arm.wish = (np.inf, ""), None
            arm.leash.start(pose)
            arm.postures = np.tile(arm.shadow.joints, (ceil(LATELY / self._period), 1))
        for group in self._groups:
            group.start()
        self._started = True

    def see(self, widths: Mapping[str, float]) -> None:
        """Take in measured openings (metres): an object between the fingers, or a gripper that is late."""
        self._require_started()
        seen = [arm.shadow.see(float(widths[side])) for side, arm in self._arms.items() if side in widths]
        if any(seen):
            for group in self._groups:
                group.see()

    def step(self, poses: Mapping[str, Float[ndarray, "4 4"]], widths: Mapping[str, float]) -> Commanded:
        """One period towards a wish: where the TCPs (cell frame, metres) and openings (metres) should be at its end.

        Raises:
            SafetyError: a wish that is no pose, or not finite. Nothing was commanded: call `brake` for this period.
        """
        self._require(poses, widths)
        self._require_started()
        notes: dict[str, str] = {}
        fresh, openings = {}, {}
        for side, arm in self._arms.items():
            most = JAW_SPEED * self._period
            openings[side] = opening = min(max(float(widths[side]), 0.0), arm.stroke)
            width = arm.shadow.width + min(max(opening - arm.shadow.width, -most), most)
            wish = np.asarray(poses[side], dtype=np.float64)
            held = arm.leash.hold(wish)
            if np.linalg.norm(held[:3, 3] - wish[:3, 3]) > UNSAID:
                notes[side] = "presses no harder: something holds it"
            try:
                fresh[side] = Course(self._towards(side, held, opening, notes), 0, width)
            except LimitError as error:
                notes[side] = f"brakes: no motion was found ({error})"
        courses = self._allowed(fresh, notes)
        for side, course in fresh.items():
            if courses[side] is not course:
                courses = self._partly(side, course.width, openings[side], courses, notes)
        self._command(courses)
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

    def to_rest(self, periods: int) -> dict[str, Float[ndarray, "n 4 4"]]:
        """What `brake` would command from now on: the next poses of the verified way to rest, `periods` at most.

        As many of each arm as the longest way has; none where all are at rest.
        """
        self._require_started()
        shadows = {side: arm.shadow for side, arm in self._arms.items()}
        left = max(shadow.path.ticks - shadow.tick for shadow in shadows.values())
        ticks = np.arange(1, min(left, periods) + 1)
        return {side: shadow.path.poses(shadow.tick + ticks) for side, shadow in shadows.items()}

    def check(self, states: Mapping[str, ArmState], meant: Mapping[str, Float[ndarray, "n 4 4"]]) -> None:
        """Compare measured poses with what was meant for their moments.

        Args:
            states: of the arms, as measured last.
            meant: poses that were commanded for about that moment; an arm may be at any of them.

        Raises:
            SafetyError: an arm is further from all of that than the settings' tracking errors, its joints are not those
                that its way was checked with, it does not move, or it has been held for seconds, and whoever holds it
                should be let go.
        """
        safety = self._safety
        for side, state in states.items():
            pose = np.asarray(state.pose, dtype=np.float64)
            if not np.isfinite(pose).all():
                raise SafetyError(f"the {side} arm reports a pose that is not finite. Look at its driver.")
            distance = float(np.linalg.norm(meant[side][:, :3, 3] - pose[:3, 3], axis=1).min())
            trace = np.einsum("nij,ij->n", meant[side][:, :3, :3], pose[:3, :3]).max()
            angle = float(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0)))
            away = f"{1e3 * distance:.0f} mm and {np.degrees(angle):.1f} degrees from"
            if distance > safety.tracking_error_m or angle > safety.tracking_error_rad:
                raise SafetyError(
                    f"the {side} arm is {away} what it was commanded; {1e3 * safety.tracking_error_m:.0f} mm and "
                    f"{np.degrees(safety.tracking_error_rad):.1f} degrees are allowed. Something holds it, or its "
                    "driver does not follow."
                )
            arm = self._arms[side]
            if arm.shadow.kinematics is not None:
                off = float(np.abs(arm.postures - state.joints).max(axis=1).min())
                if not off <= POSTURE:
                    raise SafetyError(
                        f"the {side} arm's joints are {np.degrees(off):.0f} degrees from those that its way was "
                        f"checked with; {np.degrees(POSTURE):.0f} are allowed. Its driver holds the elbow elsewhere: "
                        "give it the base, tool and reset_radians (or reset_degrees) of this robot's yaml."
                    )
            leash = arm.leash
            leash.measure(pose, meant[side])
            if wrong := leash.wrong:
                raise SafetyError(
                    f"the {side} arm {wrong}; now it is {away} them. Something holds it, or its driver does not follow."
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
        return [*self._own.values(), *self._around.values(), *([self._cross] if self._cross else [])]

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

    def _towards(
        self, side: str, wish: ndarray, width: float, notes: dict[str, str], *, whole: bool = True
    ) -> Stop:
        """The fastest step to the wish, brought into what is allowed, and how it comes to rest.

        What is not the `whole` wish but a part of it stands still: nothing is known of how fast it moves.
        """
        arm = self._arms[side]
        shadow, motion = arm.shadow, arm.shadow.motion
        rotation = nearest_rotation(wish[:3, :3])
        position = np.clip(wish[:3, 3], shadow.low, shadow.high)
        outside = float(np.linalg.norm(position - wish[:3, 3]))
        if outside > UNSAID:
            notes[side] = f"stays in its workspace: the wish is {1e3 * outside:.0f} mm outside"
        openings = np.append(shadow.openings(width)[0], shadow.width)
        lift = shadow.ground + float(shadow.body.hang(rotation[None], openings)[0]) - position[2]
        if lift > 0:
            position[2] = min(position[2] + lift, shadow.high[2])
            if lift > UNSAID:
                notes[side] = f"stays over the table: the wish is {1e3 * lift:.0f} mm too low"
        velocity = np.zeros(6)
        if whole:
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

    def _partly(
        self, side: str, width: float, opening: float, courses: dict[str, Course], notes: dict[str, str]
    ) -> dict[str, Course]:
        """Courses in which one arm does what it can of a wish that is too much, and the other what it does already.

        Args:
            side: of this arm.
            width: of its gripper after this period, metres.
            opening: that is wished for in the end.
            courses: that are allowed.
            notes: why the arm stops; then, why it gives way.
        """
        arm = self._arms[side]
        shadow, stops = arm.shadow, notes.get(side, "")
        others = {s: c for s, c in courses.items() if s != side and c != self._arms[s].held}

        def able(course: Course) -> bool:
            nonlocal courses
            tried = self._allowed({**others, side: course}, {})
            if tried[side] is not course or any(tried[s] is not c for s, c in others.items()):
                return False
            courses = tried
            notes[side] = stops.replace("stops: ", "gives way: ")
            return True

        # The fingers first: where they may open or close, they do so on whatever way is found.
        if width != shadow.width and not able(Course(*arm.held[:2], width)):
            width = shadow.width
        wish, tip = np.eye(4), shadow.body.tip
        assert arm.wish is not None, "a step towards it was tried"
        wish[:3, 3], wish[:3, :3] = arm.wish
        for part in parts(wish, shadow.motion.pose, tip, self._other_tip(side)):
            if self._lag(shadow.motion, part) < LITTLE:
                continue
            try:
                path = self._towards(side, part, opening, {}, whole=False)
            except LimitError:
                continue
            if able(Course(path, 0, width)):
                break
        return courses

    def _other_tip(self, side: str) -> Float[ndarray, " 3"] | None:
        """Where the fingers of the other arm are, cell frame, metres; None without one."""
        for other, arm in self._arms.items():
            if other != side:
                return arm.shadow.motion.position + arm.shadow.motion.rotation @ arm.shadow.body.tip
        return None

    def _astray(self, arm: _Arm) -> float:
        """Metres by which an arm that started outside of its workspace, or below the table, still is; else 0."""
        shadow, motion = arm.shadow, arm.shadow.motion
        away = float(np.max(np.maximum(shadow.low - motion.position, motion.position - shadow.high)))
        lifted = float(shadow.body.hang(motion.rotation[None], shadow.openings(shadow.width)[0])[0])
        away = max(away, shadow.ground + lifted - float(motion.position[2]))
        return away if away > UNSAID else 0.0

    def _allowed(self, fresh: Mapping[str, Course], notes: dict[str, str]) -> dict[str, Course]:
        """What each arm does: its step to the wish where the way to rest is clean, else what it holds."""
        held = {side: arm.held for side, arm in self._arms.items()}
        ticks = watched_ticks([*fresh.values(), *held.values()])
        moving: dict[str, Sweep] = {}
        for side, course in fresh.items():
            shadow = self._arms[side].shadow
            sweep = shadow.sweep(course.path, course.first, ticks, course.width)
            broken = shadow.broken(sweep)
            broken = broken or self._touched(side, sweep)
            if broken:
                notes[side] = f"stops: {broken}"
            else:
                moving[side] = sweep
        for going in self._attempts(moving, held, ticks):
            for side in set(moving) - set(going):
                notes[side] = "stops: the other arm is in its way"
            return {**held, **{side: fresh[side] for side in going}}
        return held

    def _touched(self, side: str, sweep: Sweep) -> str:
        """What an arm would touch of itself or of what stands around it; empty where nothing."""
        groups = [(self._own[side], sweep)]
        if side in self._around:
            groups.append((self._around[side], self._obstacles.sweep(sweep.segments.shape[1])))
        for group, other in groups:
            if (met := group.meet(sweep, other)) is not None:
                return f"it would touch {group.told(met)[side]}"
        return ""

    def _attempts(
        self, moving: Mapping[str, Sweep], held: Mapping[str, Course], ticks: Int[ndarray, " s"]
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
            if not going or self._cross.meet(sweeps[one], sweeps[other]) is None:
                yield going
        yield ()

    def _command(self, courses: Mapping[str, Course]) -> None:
        """Go on by one period, and see how fast the next may be."""
        for side, course in courses.items():
            arm = self._arms[side]
            arm.shadow.commit(*course)
            arm.postures[:-1] = arm.postures[1:]
            arm.postures[-1] = arm.shadow.joints
            arm.slow = arm.shadow.slowing()
        within = self._safety.slow_within
        for group in self._groups:
            near, gaps, closed = group.move(within)
            if not (closed > 0).any():
                continue
            room = np.maximum(gaps - group.clearance, 0.0)
            shares = room / (within - group.clearance) * self._period / np.maximum(closed, 1e-9)
            nearest = int(np.argmin(shares))
            told, gap = group.told(int(near[nearest])), 1e3 * float(gaps[nearest])
            ratio = float(shares[nearest]) * max(self._arms[side].bounds.speed for side in told)
            for side, what in told.items():
                arm = self._arms[side]
                arm.slow = min(arm.slow, (ratio, f"{gap:.0f} mm from {what}"))

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


def _with_all(moves: ndarray, count: int) -> Int[ndarray, "2 p"]:
    """All that moves, with each of `count` obstacles."""
    a, b = np.meshgrid(np.flatnonzero(moves), np.arange(count), indexing="ij")
    return np.stack([a.ravel(), b.ravel()])
