"""Observe, infer, act: what drives arms with a policy, in the simulated cell and on robots.

Three parts that do not wait for each other:

* the `Servo` sends every arm a command 125 times a second, along the plan it was given last, within what the `Guard`
  allows;
* a `Thinker` predicts the next chunk meanwhile;
* a recorder looks on behind a queue.

`_Episode.think` ties them together: when `execute_steps` of a chunk have passed it takes both pictures, finds out where
the arms were at that moment, and asks; when the chunk is there it is placed in space and time (`plan.py`) and handed to
the servo. While no chunk is there, the arms drive the plan they have to its end and rest there.

What is wrong with a picture or a chunk makes the arms pause: they come to rest, the reason is kept, and the loop looks
again, as often and as long as the budget of faults allows. What is wrong with a device stops the robot, and only a
person lets it go on. Every way out of an episode stops the robot.

Where the clock is simulated everything runs in one thread and in the same order every time; on a clock of its own the
servo has a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import HORIZON, ActionChunk
from rdt2.control.beat import Beat, undisturbed
from rdt2.control.config import LoopConfig, chosen_mode, possible_mode, require_time
from rdt2.control.guard import Guard
from rdt2.control.looking import Eyes, Film, Pairs, dark, observed
from rdt2.control.piloting import Helm, Pilot
from rdt2.control.plan import PERIOD, blend, catch_up, place, promise
from rdt2.control.recording import Driver, Moment, Recorder, behind_queues, missed, wants_pictures
from rdt2.control.result import Cycle, EpisodeResult, Monitor, Pause
from rdt2.control.servo import TICK, Servo
from rdt2.control.signals import Asked
from rdt2.control.thinking import Answer, InSimulatedTime, InThread, Thinker
from rdt2.control.watch import Budget, Watch
from rdt2.errors import ConfigError, RDT2Error, SafetyError, ServingError
from rdt2.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.policy import Policy
    from rdt2.robot import Robot
    from rdt2.robot.settings import ArmSettings, RobotSettings

LINGERING = 0.04
"""Metres within which an arm gets nowhere."""
EARLY = 2e-3
"""Seconds that a clock may wake the loop too soon: simulated time advances in steps."""
STOPPED = "stopped by the operator"
"""How an episode ends on Ctrl-C."""


def run_episode(
    robot: Robot,
    policy: Policy,
    instruction: str | Callable[[], str],
    *,
    settings: RobotSettings,
    monitor: Monitor | None = None,
    config: LoopConfig | None = None,
    recorder: Recorder | None = None,
    permit: Callable[[], str] | None = None,
    pause: Callable[[], str] | None = None,
    pilot: Pilot | None = None,
    max_seconds: float = 30.0,
    seed: int | None = 0,
) -> EpisodeResult:
    """Drive the arms with a policy until the task is done or the time is up; the robot is stopped when this returns.

    Args:
        robot: connected and enabled.
        policy: what predicts chunks. Of an arm that the robot has not, its half of the picture is black, and its
            actions are ignored.
        instruction: the sentence, for example "Pick up the red cube with the left hand."; or what says it, asked
            before every prediction.
        settings: what the robot is and what it may do.
        monitor: who says when the task is done; without one the episode lasts `max_seconds`.
        config: how one chunk follows another.
        recorder: who looks on.
        permit: asked 125 times a second why the arms may not move, "" when they may: an emergency stop, a dead man's
            switch.
        pause: asked before every thought why the arms are to rest for now, "" when they go on; a pause takes nothing of
            `max_seconds`.
        pilot: a person who may take over, and give back.
        max_seconds: on the robot's clock.
        seed: of the policy's noise: prediction k uses `seed + k`. None: fresh noise.

    Raises:
        ConfigError: `max_seconds` is not positive, the robot is blind, or inference takes too long for a chunk's steps.
        ObservationError: the instruction is empty.
        SafetyError: a device says nothing that may be believed; nothing has moved.
    """
    if not max_seconds > 0:
        raise ConfigError(f"max_seconds is {max_seconds}, expected more than 0.")
    if not robot.cameras:
        raise ConfigError(
            f"robot {robot.name!r} was opened without cameras, and a policy looks through them."
        )
    episode = _Episode(
        robot, policy, instruction, settings, config or LoopConfig(), max_seconds, seed, permit, pause, pilot
    )
    return episode.run(monitor, recorder)


@dataclass
class _Question:
    observation: Observation
    time: float
    """When the older of the pictures was taken."""
    tcp: dict[str, Float[ndarray, "4 4"]]
    asked: float
    promised: float
    """Until when the chunk is to agree with what the arms drive meanwhile."""
    void: bool = False
    """The arms have come to rest since: what was asked before is not driven any more."""


class _Episode:
    def __init__(
        self,
        robot: Robot,
        policy: Policy,
        instruction: str | Callable[[], str],
        settings: RobotSettings,
        config: LoopConfig,
        max_seconds: float,
        seed: int | None,
        permit: Callable[[], str] | None,
        pause: Callable[[], str] | None,
        pilot: Pilot | None,
    ) -> None:
        self.policy, self.seed, self.pilot = policy, seed, pilot
        self.pause: Callable[[], str] = pause or (lambda: "")
        self.paused, self.waited = "", 0.0
        self.sentence: Callable[[], str] = instruction if callable(instruction) else lambda: instruction
        self.settings, self.config, self.max_seconds = settings, config, max_seconds
        self.clock = robot.clock
        self.real = robot.concurrent
        if set(settings.arms) != set(robot.sides):
            raise ConfigError(
                f"robot {robot.name!r} has the arms {list(robot.sides)}, its settings are of {sorted(settings.arms)}."
            )
        # An empty sentence is the caller's mistake, not a fault of the robot to be tried again.
        Observation(dark(), dark(), self.sentence())
        self.mode = chosen_mode(config, policy)
        require_time(config, settings.safety.command_timeout)
        watch, guard = Watch(settings), Guard(settings, settings.kinematics(), period=TICK)
        self.servo = Servo(robot, settings, guard, watch, permit)
        self.budget = Budget(settings.safety.faults_per_minute, settings.safety.fault_seconds)
        self.eyes = Eyes(robot)
        self.pairs = Pairs(self.eyes, watch, self.servo.was, robot.clock)
        self.film = Film(self.eyes, every=(0.4 if self.real else 0.95) * PERIOD)
        self.thinker: Thinker = (
            InThread(policy) if self.real else InSimulatedTime(policy, self.clock, config.latency)
        )
        arms: dict[str, ArmSettings] = dict(settings.arms.items())
        self.calibration = {side: arm.policy_to_tcp for side, arm in arms.items()}
        # From the moment a chunk is there until the arms do what it says.
        self.lead = TICK + max(arm.latency for arm in arms.values())
        self.helm = Helm(settings, self.servo, lead=self.lead)
        self.scale = {side: arm.gripper.scale for side, arm in arms.items()}
        self.catch_up = {side: catch_up(arm.bounds) for side, arm in arms.items()}
        self.question: _Question | None = None
        self.glance_at, self.doubted = -np.inf, False
        self.question_seen: dict[str, int] = {}
        self.predictions = self.periods_told = 0
        self.delays: deque[float] = deque(maxlen=8)
        self.recorder: Recorder | None = None
        # When the arms come to rest if nothing more is planned, and when to look next.
        self.began = self.rests = self.look_at = self.thought = self.clock.now()
        self.result = EpisodeResult()
        self.unforeseen: Exception | None = None

    # ---------------------------------------------------------------------------------------- the whole of it

    def run(self, monitor: Monitor | None, recorder: Recorder | None) -> EpisodeResult:
        result = self.result
        with Asked() as asked, undisturbed() if self.real else nullcontext():
            try:
                self.recorder = behind_queues(recorder) if self.real else recorder
                self.began = self.rests = self.look_at = self.clock.now()
                self.servo.start(self.began)
                self._learn_delay(asked)
                self.began = self.rests = self.look_at = self.thought = self.clock.now()
                self._drive(monitor, asked)
            except KeyboardInterrupt:
                result.ending = STOPPED
            except Exception as error:
                self.unforeseen = error
            finally:
                self.servo.stop("the episode is over.")
                self.thinker.close()
                self.eyes.close()
                result.unrecorded = missed(self.recorder, seconds=2.0)
        result.signal = asked.number
        result.seconds = self.clock.now() - self.began
        result.slowed = [replace(held, time=held.time - self.began) for held in self.servo.held.found]
        if (failure := self.unforeseen) is not None:
            result.ending = f"{type(failure).__name__}: {failure} {self.servo.unstopped}".rstrip()
            if self.servo.unstopped:
                failure, failure.__cause__ = SafetyError(result.ending), failure
            failure.episode = result  # type: ignore[attr-defined]  # what there was of it, for whoever keeps that
            raise failure
        if self.servo.unstopped not in result.ending:
            result.ending = f"{result.ending.rstrip('.')}. {self.servo.unstopped}"
        if monitor is not None:
            result.success, result.followed = bool(monitor.success), bool(monitor.followed)
        return result

    def _drive(self, monitor: Monitor | None, asked: Asked) -> None:
        next_frame = self.began + PERIOD
        with Beat(self.servo, self.clock) if self.real else nullcontext() as beat:
            while not self.result.ending:
                now = self.clock.now()
                if beat is None:
                    self.servo.tick(now)
                elif hangs := beat.hangs(now):
                    self.servo.stop(hangs)
                if wants_pictures(self.recorder):
                    self.film.look(now)
                if now >= next_frame - EARLY:
                    next_frame = max(next_frame + PERIOD, now + 0.5 * PERIOD)
                    if self.recorder is not None:
                        self.recorder.on_frame(self._moment(now, beat))
                self.think(now)
                self.result.ending = self._ended(now, monitor, asked)
                if not self.result.ending:
                    self.clock.sleep_until(now + TICK)
        self.result.lateness = beat.periods if beat is not None else []

    def _moment(self, now: float, beat: Beat | None) -> Moment:
        """What a recorder is told."""
        result, servo = self.result, self.servo
        periods = beat.periods[self.periods_told :] if beat is not None else []
        self.periods_told += len(periods)
        pausing = result.pauses[-1].reason if self.budget.ongoing and result.pauses else ""
        return Moment(
            time=now,
            since=now - self.began,
            states=servo.states,
            widths=servo.widths,
            told=servo.told,
            cycle=result.cycles[-1] if result.cycles else None,
            inference=result.inference[-1] if result.inference else None,
            period=max(periods, default=None),
            fault=servo.stopped or self.paused or pausing,
            driver=self._driver(pausing),
            ticks=[servo.ticks.popleft() for _ in range(len(servo.ticks))],
            frames=self.film.taken(),
        )

    def _driver(self, pausing: str) -> Driver:
        if self.helm.holds and not self.servo.stopped:
            return "person"
        return "nobody" if self.servo.stopped or self.helm.hands_over or self.paused or pausing else "policy"

    def _ended(self, now: float, monitor: Monitor | None, asked: Asked) -> str:
        if self.result.ending:
            return self.result.ending
        if self.servo.stopped:
            return self.servo.stopped
        if asked.name:
            return STOPPED if asked.name == "SIGINT" else f"stopped by {asked.name}"
        if monitor is not None and monitor.done:
            return "done"
        return "time is up" if now >= self.began + self.waited + self.max_seconds - EARLY else ""

    def _learn_delay(self, asked: Asked) -> None:
        """What a picture and a prediction take, found out while nothing moves. Where that is too long for the mode,
        and none was asked for, arms on a wall clock are driven in another one.

        Raises:
            ConfigError: the chunk would be past, or too little of it would be left, when it comes; or the arms would do
                more meanwhile than the policy goes on from.
        """
        age, uneven = max(arm.camera.latency for arm in self.settings.arms.values()), 0.0
        if self.config.latency is not None and not self.real:
            self.delays.append(age + self.config.latency)
            uneven = PERIOD + TICK  # of what is looked at, and of what is answered, so much more by chance
        else:
            for _ in range(2):  # the first prediction of a process takes longer than all later ones
                self.delays.clear()
                self._rehearse(asked)
        if self.delays:  # none: it was stopped meanwhile
            late = max(self.delays) + uneven + self.lead
            self.mode = possible_mode(self.config, self.mode, self.policy, late=late, instead=self.real)

    def _rehearse(self, asked: Asked) -> None:
        """One prediction that moves nothing; its delay is noted."""
        began = self.clock.now()
        while True:
            now = self.clock.now()
            self.servo.tick(now)
            if self.servo.stopped or asked.name:
                return
            if self.question is None:
                try:
                    self._look(now, moves=False)
                except SafetyError:  # while nothing moves, too, one late picture is no fault
                    if now - began > self.settings.safety.fault_seconds:
                        raise
            elif (answer := self.thinker.answer()) is not None:
                self.delays.append(now - self.question.time)
                self.question = None
                if answer.error is not None:
                    raise answer.error
                return
            if now - began > 60.0:
                raise SafetyError("the policy has not answered for 60 s. Try it alone: rdt2 predict.")
            self.clock.sleep_until(now + TICK)

    # ------------------------------------------------------------------------------------------- one thought

    def think(self, now: float) -> None:
        """Look, ask, and hand the answer to the servo, whichever is due."""
        question = self.question
        if died := self.thinker.died():
            self.result.ending = died
            return
        try:
            if slept := self.servo.overslept:
                self.servo.overslept = 0.0
                raise SafetyError(f"nothing ran for {slept:.1f} s: what was planned before is not driven.")
            elapsed, self.thought = now - self.thought, now
            if self._waits(now) or self._steered(now):
                self.waited += elapsed
                self.look_at = now
                if self.real and self.helm.holds and not self.servo.by_hand:
                    self._glance(now)  # what a person shows is learnt from
                else:
                    self.budget.pass_over(elapsed)
                return
            if self.real and not self.budget.ongoing:
                self._glance(now)
            if question is None:
                resting = self.servo.guard.at_rest
                if now >= self.look_at - EARLY and (self.mode != "synchronous" or resting):
                    self._look(now, moves=True)
            elif (answer := self.thinker.answer()) is None:
                if now - question.asked > self.config.deadline:
                    raise SafetyError(f"the policy has not answered for {now - question.asked:.1f} s.")
            else:
                self.question = None
                if not question.void:
                    self._take(question, answer, now)
        except RDT2Error as error:
            self._fault(str(error), now)

    def _glance(self, now: float) -> None:
        """Doubt the pictures at the cameras' own rate, also while a policy thinks.

        Raises:
            SafetyError: they have been wrong for a period of the cameras; a single late picture is none of that.
        """
        try:
            if now < self.glance_at or self.pairs.look(now) is None:
                return
            self.glance_at = now + PERIOD
        except SafetyError:
            self.glance_at = now + PERIOD
            if self.doubted:
                raise
            self.doubted = True
        else:
            self.doubted = False
            if self.helm.holds:
                self.budget.good()

    def _waits(self, now: float) -> bool:
        """Whether somebody wants the arms to rest for now: they do, and what was asked before is not driven."""
        reason = self.pause()
        if reason and not self.paused:
            self.result.pauses.append(Pause(now - self.began, reason))
        if reason or self.paused:
            self._come_to_rest(now)
        self.paused = reason
        return bool(reason)

    def _steered(self, now: float) -> bool:
        """Whether a person drives, or the arms are handed over: what was asked before is not driven either."""
        if self.pilot is None or not self.helm.turn(self.pilot, now):
            return False
        if self.question is not None:
            self.question.void = True
        self.rests = now
        return True

    def _come_to_rest(self, now: float) -> None:
        self.servo.pause()
        self.helm.let_go()
        if self.question is not None:
            self.question.void = True
        self.rests = now

    def _fault(self, reason: str, now: float) -> None:
        """Come to rest, and look again soon; end the episode when that has been too often or too long."""
        if not self.budget.ongoing:
            self.result.pauses.append(Pause(now - self.began, reason))
        self._come_to_rest(now)
        self.look_at = now + PERIOD
        if used_up := self.budget.fault(now):
            self.result.ending = f"{reason} That is no longer waited out: {used_up}."

    def _look(self, now: float, *, moves: bool) -> None:
        """Take both pictures, find out where the arms were at that moment, and ask."""
        servo = self.servo
        if (frames := self.pairs.look(now)) is None:
            return
        if self.question_seen == (seen := {side: frame.sequence for side, frame in frames.items()}):
            return  # the same pictures again: the next ones are on their way
        self.question_seen = seen
        time = min(frame.timestamp for frame in frames.values())
        tcp = {side: servo.was(side, frame.timestamp) for side, frame in frames.items()}
        observation = observed(self.settings, self.sentence(), frames, tcp, servo.widths)
        promised = None
        if moves and self.mode == "chunking" and servo.plan is not None:
            promised = promise(
                servo.plan,
                tcp,
                self.calibration,
                observed=time,
                answered=time + max(self.delays) + self.lead,
                gripper_scale=self.scale,
                longest=self.policy.longest_promise,
            )
        seed = None if self.seed is None else self.seed + self.predictions
        until = time if promised is None else time + promised.fixed * PERIOD
        self.question = _Question(observation, time, tcp, now, until)
        self.thinker.ask(observation, seed=seed, promised=promised)
        self.predictions += moves

    def _take(self, question: _Question, answer: Answer, now: float) -> None:
        """Hand a chunk to the servo."""
        self.result.inference.append(answer.seconds)
        if answer.error is not None:
            # On a simulated clock nobody waits for a server that has gone: an episode without a policy tells nothing.
            gone = isinstance(answer.error, ServingError) and not self.real
            if gone or not isinstance(answer.error, RDT2Error):
                self.unforeseen, self.result.ending = answer.error, f"the policy failed: {answer.error}"
                return
            raise answer.error
        chunk: ActionChunk = answer.chunk  # type: ignore[assignment]
        if self.recorder is not None:
            self.recorder.on_cycle(question.observation, chunk, question.time)
        chunk.require_valid()
        self.delays.append(now - question.time)
        servo = self.servo
        # From here on the new plan may speak: what the arms are told in the next tick they do so much later.
        speaks = now + self.lead
        # For so long the arms have stood still since the picture: that much later all steps are due.
        stood = max(0.0, speaks - max(self.rests, question.time))
        begins = question.time + stood
        if speaks >= begins + HORIZON * PERIOD:
            raise SafetyError(
                f"the chunk was {now - question.time:.2f} s old when it came, its last step is past. "
                "Use a faster machine or model."
            )
        plan = place(
            chunk,
            question.tcp,
            self.calibration,
            observed=question.time,
            begins=begins,
            gripper_scale=self.scale,
            width=servo.widths,
        )
        cycle = Cycle(question.time - self.began, question.tcp, plan, now - question.time)
        steps = HORIZON if self._lingers(now) else self.config.execute_steps
        if self.mode == "synchronous":
            plan = plan.first(steps)
        before = servo.plan
        if before is not None and self.rests > speaks > question.promised:
            plan = blend(before, plan, now=speaks, seconds=self.config.blend, catch_up=self.catch_up)
        plan = servo.drive(plan, now)
        self.rests, self.look_at = plan.ends, min(begins + steps * PERIOD, plan.ends)
        self.budget.good()
        self.result.cycles.append(cycle)

    def _lingers(self, now: float) -> bool:
        """Whether the arms have got nowhere for as long as the policy's patience lasts.

        Some policies put an event at the end of a chunk, such as letting go, off again each time they look before it.
        """
        patience = self.policy.patience
        return patience is not None and self.servo.lingers(now - patience, LINGERING)
