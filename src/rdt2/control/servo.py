"""The part that never waits: 125 times a second it reads every arm, and sends every arm one command.

Whatever else happens (inference that takes long or hangs, a slow disk), `tick` comes round. A wish becomes a command
only through the `Guard`. Without a plan the arms come to rest and are told so again and again; when anything is wrong
with a device, the robot stops, and stays stopped until a person lets it go on.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.control.held import HeldBack
from rdt2.control.watch import Watch
from rdt2.errors import LateError, RDT2Error, SafetyError
from rdt2.pose import interpolate

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.guard import Commanded, Guard
    from rdt2.control.plan import Plan
    from rdt2.robot import ArmState, Clock, Robot
    from rdt2.robot.settings import RobotSettings

TICK = 0.008
"""Seconds between two commands."""
REMEMBERED = 2.0
"""Seconds of measured poses that are kept."""
STANDS = 0.05, 0.2
"""m/s and rad/s up to which an arm counts as at rest when an episode begins: what moves must not be stopped dead."""
SLACK = 5e-3
"""Metres by which a gripper may measure more than its stroke, or less than nothing."""
HANGS = 0.5
"""Seconds without a tick after which a driver counts as hanging; every device stops by itself sooner."""


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
        self._timeout, self._until = settings.safety.command_timeout, 0.0
        self._due = self._now = -float("inf")
        self._latency: dict[str, tuple[float, float]] = {
            side: (arm.latency, arm.gripper.latency) for side, arm in settings.arms.items()
        }
        self._strokes = {side: arm.gripper.stroke for side, arm in settings.arms.items()}
        self.stopped = ""
        """Why the robot was stopped; it moves no more."""
        self.unstopped = ""
        """What could not be stopped, and why."""
        self.commanded: Commanded | None = None
        self.widths: dict[str, float] = {}
        """Measured openings, metres."""
        self.held = HeldBack(TICK)
        """What the guard held back."""
        self._plan: Plan | None = None
        self._lock, self._stopping = threading.Lock(), threading.Lock()
        self._past: dict[str, deque[tuple[float, ndarray]]] = {
            side: deque(maxlen=int(REMEMBERED / TICK)) for side in robot.sides
        }

    def start(self, now: float) -> None:
        """Look where the arms are; they are at rest there.

        Raises:
            SafetyError: a device says nothing that may be believed, an arm moves, or a gripper is open further than
                its settings know.
        """
        states = self._measure(now)
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
        self.guard.start(
            {side: state.pose for side, state in states.items()},
            {side: state.joints for side, state in states.items()},
            openings,
        )

    @property
    def plan(self) -> Plan | None:
        """What is being driven."""
        return self._plan

    def drive(self, plan: Plan, now: float) -> None:
        """From the next tick on, follow this plan."""
        self._until = now + self._timeout
        self._plan = plan

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
            self._now = now
            states = self._measure(now)
            self.guard.check(states)
            self._command(now)
        except Exception as error:  # of any driver: whatever it is, arms that nobody watches must not move
            self.stop(_told(error))

    def _command(self, now: float) -> None:
        # Steps of one period lie at least one period apart, and are sent at least one ahead, however late this thread
        # wakes: devices drive evenly from each to the next, and what was missed makes the motion slower, never faster.
        due, plan, robot = max(self._due, now) + TICK, self._plan, self.robot
        if plan is None or now > self._until:
            command = self.guard.brake()
        else:
            # A device that moves so much later is told so much earlier.
            poses = {side: plan.pose(side, due + late) for side, (late, _) in self._latency.items()}
            widths = {side: plan.width(side, due + late) for side, (_, late) in self._latency.items()}
            command = self.guard.step(poses, widths)
        self._due = due = max(due, robot.clock.now() + TICK)
        with contextlib.suppress(
            LateError
        ):  # devices wait for the next one, so long as their watchdog lets them
            robot.execute(
                np.array([due]),
                {side: pose[None] for side, pose in command.poses.items()},
                {side: np.array([width]) for side, width in command.widths.items()},
            )
        self.held.note(now, command.slowed)
        self.commanded = command

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
            stamps, poses = zip(*self._past[side], strict=True)
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
        return device.state()
    except RDT2Error:
        raise
    except Exception as error:  # of any driver
        raise SafetyError(
            f"the {name} does not say where it is: {type(error).__name__}: {error}. Check its driver."
        ) from error


def _forbidden(reason: object) -> str:
    """What a permit said instead of ""; only "" lets arms move, and a switch that answers yes or no is told so."""
    if isinstance(reason, str):
        return reason
    return (
        f'the permit answered {reason!r}, expected "" when the arms may move, or in words why they may not.'
    )


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, RDT2Error) else f"{type(error).__name__}: {error}"


class Beat:
    """A servo on a thread of its own, on a clock that goes on, within a `with` statement."""

    def __init__(self, servo: Servo, clock: Clock) -> None:
        self._servo, self._clock = servo, clock
        self._over = threading.Event()
        self._last = clock.now()
        self._thread = threading.Thread(target=self._run, name="servo", daemon=True)
        self.periods: list[float] = []
        """Seconds from each tick to the next."""

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(HANGS)

    def hangs(self, now: float) -> str:
        """Where the servo has been stuck for too long; nothing while it comes round."""
        if now - self._last <= HANGS:
            return ""
        where = "its thread has ended"
        if (frame := sys._current_frames().get(self._thread.ident or 0)) is not None:
            place = traceback.extract_stack(frame)[-1]
            where = f"it hangs in {place.name}, line {place.lineno} of {place.filename}"
        return f"the servo has not come round for {now - self._last:.1f} s: {where}. Look at the device's driver."

    def _run(self) -> None:
        due, first = self._last, True
        while not self._over.is_set():
            now = self._clock.now()
            self._servo.tick(now)
            if not first:
                self.periods.append(now - self._last)
            self._last, first = now, False
            # One that is late does not delay the next; beats that were missed are not made up for.
            due = due + TICK if due + TICK > now else now + TICK
            self._clock.sleep_until(due)
