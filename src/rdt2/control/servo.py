"""The part that never waits: 125 times a second it reads every arm, and sends every arm one command.

Whatever else happens (inference that takes long or hangs, a slow disk), `tick` comes round. A wish becomes a command
only through the `Guard`. Without a plan the arms come to rest and are told so again and again; when anything is wrong
with a device, the robot stops, and stays stopped until a person lets it go on.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.control.following import Commands
from rdt2.control.guard import Commanded
from rdt2.control.held import HeldBack
from rdt2.control.watch import Watch
from rdt2.errors import LateError, RDT2Error, SafetyError
from rdt2.pose import interpolate
from rdt2.robot.protocols import WATCHDOG, ArmState, GripperState

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.guard import Guard
    from rdt2.control.plan import Plan
    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings

TICK = 0.008
"""Seconds between two commands."""
AHEAD = 0.5 * TICK
"""Seconds before it is due that a command sets out at least."""
BEHIND = round(WATCHDOG / TICK) + 1
"""Periods of the way to rest that are sent behind every command: after so long devices stop by themselves."""
KEPT = 250
"""Ticks that wait for who looks on: two seconds."""
REMEMBERED = 2.0
"""Seconds of measured poses that are kept."""
STANDS = 0.05, 0.2
"""m/s and rad/s up to which an arm counts as at rest when an episode begins: what moves must not be stopped dead."""
SLACK = 5e-3
"""Metres by which a gripper may measure more than its stroke, or less than nothing."""
SAME = 5e-4
"""Metres by which an opening may differ from the one that was found and still be that one."""
LATE = 0.2
"""Seconds between two ticks after which a plan is dropped: this process was suspended, and the world has gone on."""
SHAPES: dict[type, dict[str, tuple[int | None, ...]]] = {
    ArmState: {"timestamp": (), "sequence": (), "pose": (4, 4), "velocity": (6,), "joints": (None,)},
    GripperState: {"timestamp": (), "sequence": (), "width": ()},
}
"""What states must hold."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the devices were told in one tick, and what the plan wished for."""

    due: float
    """When they are to be there, seconds of the robot's clock."""
    wish: Mapping[str, Float[ndarray, "4 4"]]
    """TCPs of the plan for that moment, cell frame, metres; empty where the arms brake."""
    wish_widths: Mapping[str, float]
    """Openings of the plan, metres; empty where the arms brake."""
    command: Commanded
    """What the guard made of the wish."""
    taken: bool
    """Whether every device took it; False where it came too late for one."""


@dataclass(frozen=True, eq=False)
class Tick:
    """One period: what was measured, and what the devices were told upon it."""

    time: float
    """Seconds of the robot's clock."""
    arms: Mapping[str, ArmState]
    grippers: Mapping[str, GripperState]
    told: Told


class Servo:
    """Drives the arms along a plan, within what the guard allows.

    Args:
        robot: enabled.
        settings: its own.
        guard: what stands between a wish and a command.
        watch: what doubts devices.
        permit: asked at every tick why the arms may not move, "" when they may: an emergency stop, a dead man's
            switch that was let go, a door.
    """

    def __init__(
        self,
        robot: Robot,
        settings: RobotSettings,
        guard: Guard,
        watch: Watch,
        permit: Callable[[], str] | None,
    ) -> None:
        self.robot, self.guard, self.watch, self.permit = robot, guard, watch, permit
        self._due = self._now = -float("inf")
        self._missed, self._late = 0, ""
        self._latency: dict[str, tuple[float, float]] = {
            side: (arm.latency, arm.gripper.latency) for side, arm in settings.arms.items()
        }
        # A device is told so much earlier what is due later.
        self._timeout = settings.safety.command_timeout + max(map(max, self._latency.values()))
        self._commands = {
            side: Commands(arm, max_age=settings.safety.max_age) for side, arm in settings.arms.items()
        }
        self._strokes = {side: arm.gripper.stroke for side, arm in settings.arms.items()}
        self.stopped = ""
        """Why the robot was stopped; it moves no more."""
        self.unstopped = ""
        """What could not be stopped, and why."""
        self.told: Told | None = None
        """What the devices were told last."""
        self.ticks: deque[Tick] = deque(maxlen=KEPT)
        """The last ones, for who takes them out."""
        self.states: dict[str, ArmState] = {}
        """Of the arms, as measured last."""
        self.widths: dict[str, float] = {}
        """Measured openings, metres."""
        self._openings: dict[str, GripperState] = {}
        self._grips: dict[str, float] = {}
        """Openings that are commanded, metres: those that were found, until a plan changes them."""
        self._gripped: set[str] = set()
        """Whose gripper a plan has moved. The others are told nothing: fingers that hold something stand further open
        than they were told to be, and would let it go if they were told to be where they are."""
        self.overslept = 0.0
        """Seconds between two ticks, so many that the plan was dropped; who has taken note sets it to 0."""
        self.held = HeldBack(TICK)
        """What the guard held back."""
        self.by_hand = False
        """A person moves the arms with the hand: they are measured, and told nothing."""
        self._plan: Plan | None = None
        self._lock, self._stopping = threading.Lock(), threading.Lock()
        self._past: dict[str, deque[tuple[float, ndarray]]] = {
            side: deque(maxlen=int(REMEMBERED / TICK)) for side in robot.sides
        }

    def start(self, now: float) -> None:
        """Look where the arms are; they are at rest there, and the grippers hold what they hold.

        Raises:
            SafetyError: a device says nothing that may be believed, an arm moves, or a gripper is open further than
                its settings know.
        """
        self._now = now
        self._gripped.clear()
        self._stand(self._measure(now))

    def _stand(self, states: Mapping[str, ArmState]) -> None:
        """Take where the arms are for where they are commanded to be; raises SafetyError as `start` does."""
        openings = {}
        for side, state in states.items():
            speed, turn = (float(np.linalg.norm(part)) for part in (state.velocity[:3], state.velocity[3:]))
            if not (speed <= STANDS[0] and turn <= STANDS[1]):
                raise SafetyError(
                    f"the {side} arm moves at {speed:.2f} m/s and {turn:.2f} rad/s, expected an arm at rest. Wait "
                    "until it stands, and see that nothing else drives it."
                )
            stroke, width = self._strokes[side], self.widths[side]
            openings[side] = min(max(width, 0.0), stroke)
            if abs(openings[side] - width) > SLACK:
                raise SafetyError(
                    f"the {side} gripper is {1e3 * width:.0f} mm open, its settings say 0 to {1e3 * stroke:.0f} mm. "
                    f"Mend arms.{side}.gripper.stroke, or calibrate the gripper."
                )
        self._grips = openings | {side: self._grips[side] for side in self._gripped}
        self.guard.start(
            {side: state.pose for side, state in states.items()},
            {side: state.joints for side, state in states.items()},
            self._grips,
        )
        for side, state in states.items():
            self._commands[side].start(np.asarray(state.pose, dtype=np.float64))

    @property
    def plan(self) -> Plan | None:
        """What is being driven."""
        return self._plan

    def drive(self, plan: Plan, now: float) -> Plan:
        """From the next tick on, follow this plan; returns what of it is driven if no other one comes in time."""
        self._plan = plan = plan.until(now + self._timeout)
        return plan

    def pause(self) -> None:
        """Come to rest and wait for another plan."""
        self._plan = None

    def tick(self, now: float) -> None:
        """One period: measure, doubt, command. Never raises; what is wrong stops the robot."""
        if self.stopped:
            return
        try:
            if self.permit is not None and (reason := self.permit()) != "":
                raise SafetyError(_forbidden(reason))
            if now < self._now:
                raise SafetyError(
                    f"the robot's clock went back by {self._now - now:.3f} s: nothing that is timed can be believed. "
                    "Give it a clock that is never set."
                )
            if now - self._now > LATE:
                self._plan, self.overslept = None, now - self._now
            self._now = now
            states = self._measure(now)
            if self.by_hand:
                self._follow_the_hand(now, states)
                return
            meant = {side: self._commands[side].meant(state.timestamp) for side, state in states.items()}
            self.guard.check(states, meant)
            self.guard.see(self.widths)
            self._command(now)
        except Exception as error:  # of any driver: whatever it is, arms that nobody watches must not move
            late = (
                f"So many of the last commands were not taken: {self._missed}. {self._late}"
                if self._late
                else ""
            )
            self.stop(f"{_told(error)} {late}".rstrip())

    def let_go(self) -> None:
        """The person's hand is off: the arms, at rest, are commanded again, from where they are; grippers as before.

        Raises:
            SafetyError: one of them still moves.
        """
        self._stand(self.states)
        self._due, self.by_hand = -float("inf"), False

    def _follow_the_hand(self, now: float, states: Mapping[str, ArmState]) -> None:
        nothing = Commanded(
            {side: state.pose for side, state in states.items()}, {}, {}, dict(self._grips), ""
        )
        self.told = Told(now, {}, {}, nothing, taken=True)
        self.ticks.append(Tick(now, states, self._openings, self.told))

    def _command(self, now: float) -> None:
        due, plan, robot = self._next(now), self._plan, self.robot
        poses: dict[str, ndarray] = {}
        widths: dict[str, float] = {}
        if plan is None:
            command = self.guard.brake()
        else:
            # A device that moves so much later is told so much earlier.
            poses = {side: plan.pose(side, due + late) for side, (late, _) in self._latency.items()}
            widths = {side: plan.width(side, due + late) for side, (_, late) in self._latency.items()}
            command = self.guard.step(poses, widths)
        self._note(due, command)
        # Behind each step goes the way to rest from it: where nothing more is heard of this process, arms brake.
        rest = self.guard.to_rest(BEHIND if robot.concurrent else 0)
        count = 1 + max(map(len, rest.values()))
        # By another thread, while a device was waited for: a person may have let the robot go on since.
        if self.stopped:
            return
        try:
            robot.execute(
                due + TICK * np.arange(count),
                {side: np.concatenate([pose[None], rest[side]]) for side, pose in command.poses.items()},
                {side: np.full(count, width) for side, width in self._moved_grips(command).items()},
            )
            self._missed, self._late = 0, ""
        except LateError as error:  # devices wait for the next one, so long as their watchdog lets them
            self._missed, self._late = self._missed + 1, str(error)
        self.held.note(now, command.slowed)
        self.told = Told(due, poses, widths, command, taken=not self._late)
        self.ticks.append(Tick(now, self.states, self._openings, self.told))

    def _moved_grips(self, command: Commanded) -> dict[str, float]:
        """Openings of those grippers that a plan has moved, metres: what they are told."""
        for side, width in command.widths.items():
            if side in self._gripped or abs(width - self._grips[side]) > SAME:
                self._gripped.add(side)
                self._grips[side] = width
        return {side: self._grips[side] for side in self._gripped}

    def _next(self, now: float) -> float:
        """When the next command is due: one period after the last.

        Where this thread wakes too late for that, devices have gone on along the way to rest that was sent before; the
        guard is taken along it, and the motion goes on from there, whole periods after what they were sent last.
        """
        if not self.robot.concurrent:
            return max(self._due, now) + TICK
        due, earliest = self._due + TICK, self.robot.clock.now() + AHEAD
        while due < earliest and not self.guard.at_rest:
            self._note(due, self.guard.brake())
            due += TICK
        if due >= earliest:
            return due
        later = earliest + AHEAD
        return due + TICK * ceil((later - due) / TICK) if isfinite(due) else later

    def _note(self, due: float, command: Commanded) -> None:
        self._due = due
        for side, pose in command.poses.items():
            self._commands[side].note(due, pose)

    def stop(self, reason: str) -> None:
        """Stop the robot for good, and say why. Any thread may; the first reason counts.

        What could not be stopped is tried again, now and whenever this is called.
        """
        with self._stopping:
            if not self.stopped or self.unstopped:
                failed = self.robot.stop() and self.robot.stop()
                self.unstopped = " ".join(
                    f"The {name} could not be stopped: {why}" for name, why in failed.items()
                )
                self.stopped = self.stopped or f"{reason} {self.unstopped}".strip()

    def _measure(self, now: float) -> dict[str, ArmState]:
        robot = self.robot
        if faults := robot.faults():
            raise SafetyError(" ".join(faults))
        states = {side: _state(f"{side} arm", arm) for side, arm in robot.arms.items()}
        grippers = {side: _state(f"{side} gripper", gripper) for side, gripper in robot.grippers.items()}
        # what was measured while this part was being served may be newer than `now`
        self.watch.states(states, grippers, now=max(now, robot.clock.now()))
        self.states, self._openings = states, grippers
        self.widths = {side: state.width for side, state in grippers.items()}
        with self._lock:
            for side, state in states.items():
                past = self._past[side]
                if not past or state.timestamp > past[-1][0]:
                    past.append((state.timestamp, np.asarray(state.pose, dtype=np.float64)))
        return states

    def was(self, side: str, time: float) -> Float[ndarray, "4 4"]:
        """Where a TCP was measured to be at `time` of the last two seconds, cell frame, metres."""
        with self._lock:
            past = list(self._past[side])
        after = bisect_right(past, time, key=itemgetter(0))
        stamps, poses = zip(*past[max(after - 1, 0) : after + 1], strict=True)
        return interpolate(np.array(stamps), np.stack(poses), np.array([time]))[0]

    def lingers(self, since: float, within: float) -> bool:
        """Whether no TCP has left a ball of the radius `within` metres since then; False if that is not known."""
        with self._lock:
            kept = {side: list(past) for side, past in self._past.items()}
        for past in kept.values():
            places = np.array([pose[:3, 3] for stamp, pose in past if stamp > since])
            if past[0][0] > since or np.linalg.norm(places - past[-1][1][:3, 3], axis=1).max() > within:
                return False
        return True


def _state(name: str, device: Any) -> Any:
    try:
        state = device.state()
    except RDT2Error:
        raise
    except Exception as error:  # of any driver
        raise SafetyError(
            f"the {name} does not say where it is: {type(error).__name__}: {error}. Check its driver."
        ) from error
    kind = ArmState if name.endswith("arm") else GripperState
    if not isinstance(state, kind):
        raise SafetyError(
            f"the {name}'s state() gave {state!r:.80}, expected a {kind.__name__}. Look at its driver."
        )
    for field, shape in SHAPES[kind].items():
        value = getattr(state, field)
        if (
            not _numeric(value)
            or np.ndim(value) != len(shape)
            or (None not in shape and np.shape(value) != shape)
        ):
            raise SafetyError(
                f"the {name}'s state has {field} {value!r:.80}, expected numbers"
                f"{' of shape ' + _words(shape) if shape else ''}. Look at its driver."
            )
    return state


def _words(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in shape) + ")"


def _numeric(value: object) -> bool:
    return isinstance(value, int | float | np.number | np.ndarray) and np.asarray(value).dtype.kind in "fiu"


def _forbidden(reason: object) -> str:
    """What a permit said instead of ""; only "" lets arms move, and a switch that answers yes or no is told so."""
    if isinstance(reason, str):
        return reason
    return (
        f'the permit answered {reason!r}, expected "" when the arms may move, or in words why they may not.'
    )


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, RDT2Error) else f"{type(error).__name__}: {error}"
