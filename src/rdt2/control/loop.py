"""Observe, infer, act: the loop that drives two arms with a policy, in the simulated cell and on robots.

One cycle:

1. read both wrist cameras and both arms; refuse what is stale or not finite;
2. let the policy predict a chunk while the waypoints of the last chunk are still being driven;
3. turn the chunk, which is motion of the policy's frame since the observation, into TCP poses of the cell, and
   find out how far they may be driven;
4. schedule so many of the poses and gripper widths, those not yet past, at the times they are meant for. Arms that
   have come to rest meanwhile begin when the chunk is there: none of its steps is past, and none is jumped over;
5. observe again when `execute_steps` of the chunk's steps have passed, or where the way ended. Arms that have got
   nowhere for a while drive a whole chunk first: an event at its end, such as letting go, would be put off each time
   by a policy that looks again before it, and never come.

Whatever goes wrong, both arms hold where they are, the reason is kept, and the loop tries again a few times.
"""

from __future__ import annotations

import time as wall
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rdt2.action import ARMS, FPS, HORIZON, ActionChunk, state_vector
from rdt2.control.safety import Plan, SafetyLimits, check_plan
from rdt2.errors import ConfigError, RDT2Error, RobotError, SafetyError
from rdt2.observation import Observation
from rdt2.pose import conjugate, interpolate

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.policy import Policy
    from rdt2.robot import Robot

PERIOD = 1.0 / FPS
LEAST_STEPS = 3
"""A plan of fewer steps ahead is not worth a movement: the arms hold instead."""
LINGERING = 0.04
"""Metres within which an arm gets nowhere."""
EARLY = 2e-3
"""Seconds that a clock may wake the loop too soon: simulated time advances in steps."""


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs. Times in seconds."""

    execute_steps: int = 12
    """Steps of a chunk (1..24) after which the next observation is taken."""
    patience: float | None = 1.0
    """When both arms have stayed within 4 cm for so long, the chunk is driven to its end. None: never."""
    latency: float | None = None
    """What inference takes on the robot's clock. None: as long as it really takes (robots). In simulation,
    where time stands still during inference, a number: the cell runs on for that long."""
    robot_action_latency: float = 0.0
    """How long after a command an arm moves: poses are scheduled that much earlier."""
    gripper_latency: float = 0.0
    """The same for the grippers."""
    gripper_scale: float = 1.0
    """Real opening per opening of the models' space; 0.1 / 0.088 for the Zhixing gripper."""
    max_age: float = 0.25
    """Pictures and arm states older than this are not acted upon."""
    max_failures: int = 5
    """Failed cycles in a row (invalid chunk, stale picture, refused waypoint) that end the episode."""
    limits: SafetyLimits = field(default_factory=SafetyLimits)

    def __post_init__(self) -> None:
        if not 1 <= self.execute_steps <= HORIZON:
            raise ConfigError(
                f"execute_steps is {self.execute_steps}, expected 1 to {HORIZON}, the steps of a chunk."
            )
        if self.max_failures < 1:
            raise ConfigError(f"max_failures is {self.max_failures}, expected at least 1.")
        if not self.gripper_scale > 0:
            raise ConfigError(f"gripper_scale is {self.gripper_scale}, expected more than 0.")
        for name in (
            "latency", "robot_action_latency", "gripper_latency", "max_age", "gripper_scale", "patience",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}, expected a finite number that is not negative.")


class Monitor(Protocol):
    """What knows whether the task is done: the cell's judge, or a person with a button."""

    @property
    def success(self) -> bool: ...

    @property
    def followed(self) -> bool: ...

    @property
    def done(self) -> bool: ...


class Recorder(Protocol):
    """What looks on: a report, a recording."""

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """A chunk was predicted for an observation taken at `time` (seconds of the robot's clock)."""
        ...

    def on_frame(self, time: float) -> None:
        """Called 30 times a second of the robot's clock while the arms move."""
        ...


@dataclass(frozen=True)
class Hold:
    """The loop stopped both arms for a reason."""

    time: float
    reason: str


@dataclass(frozen=True)
class Cycle:
    """What one chunk became."""

    time: float
    """Of the observation, seconds since the episode began."""
    tcp: dict[str, Float[ndarray, "4 4"]]
    """Measured TCP poses at the observation, cell frame, metres."""
    plan: Plan
    """TCP poses the chunk asks for, and how many of them may be driven."""
    widths: dict[str, Float[ndarray, " 24"]]
    """Openings the chunk asks for, metres."""
    skipped: int
    """Leading steps that were past, or less than a period ahead, when inference had finished."""


@dataclass
class EpisodeResult:
    """How an episode went."""

    success: bool = False
    followed: bool = False
    ending: str = ""
    """Why it ended: "done", "time is up", "stopped by the operator", or a fault."""
    seconds: float = 0.0
    """On the robot's clock."""
    cycles: list[Cycle] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    """Wall-clock seconds of every prediction."""
    holds: list[Hold] = field(default_factory=list)


class _Finished(Exception):
    """Leaves the loop from wherever it waits: the monitor says done, or the time is up."""


def run_episode(
    robot: Robot,
    policy: Policy,
    instruction: str,
    *,
    monitor: Monitor | None = None,
    config: LoopConfig | None = None,
    recorder: Recorder | None = None,
    max_seconds: float = 30.0,
    seed: int | None = 0,
) -> EpisodeResult:
    """Drive both arms with a policy until the task is done or the time is up; both hold when this returns.

    Args:
        robot: arms, grippers, cameras and clock.
        policy: what predicts chunks.
        instruction: the sentence, for example "Pick up the red cube with the left hand."
        monitor: who says when the task is done; without one the episode lasts `max_seconds`.
        config: times, latencies, limits.
        recorder: who looks on.
        max_seconds: on the robot's clock.
        seed: of the policy's noise: cycle k uses `seed + k`. None: fresh noise.

    Raises:
        ConfigError: `max_seconds` is not positive.
        ObservationError: the instruction is empty.
    """
    if not max_seconds > 0:
        raise ConfigError(f"max_seconds is {max_seconds}, expected more than 0.")
    return _Episode(
        robot, policy, instruction, monitor, config or LoopConfig(), recorder, max_seconds, seed
    ).run()


@dataclass
class _Moment:
    observation: Observation
    time: float
    tcp: dict[str, Float[ndarray, "4 4"]]


class _Episode:
    def __init__(
        self,
        robot: Robot,
        policy: Policy,
        instruction: str,
        monitor: Monitor | None,
        config: LoopConfig,
        recorder: Recorder | None,
        max_seconds: float,
        seed: int | None,
    ) -> None:
        self.robot, self.policy, self.instruction, self.seed = robot, policy, instruction, seed
        self.monitor, self.config, self.recorder = monitor, config, recorder
        self.clock = robot.clock
        self.began = self.clock.now()
        self.ends = self.began + max_seconds
        self.next_frame = self.began + PERIOD
        self.predictions = 0
        # When the arms come to rest, if nothing more is sent.
        self.rests = self.began
        # What was sent last: device, times, values. Sent again 30 times a second, for devices that stop in silence.
        self.sent: list[tuple[Any, ndarray, ndarray]] = []
        # Of each arm, the path it was sent along: times and poses.
        self.path: dict[str, tuple[ndarray, ndarray]] = {}
        self.result = EpisodeResult()
        # Measured poses of the last second or more, one or two a frame: to know where an arm was when a picture was
        # taken, and whether it got anywhere.
        kept = 2 * int(FPS * max(1.0, self.config.patience or 0.0))
        self.past: dict[str, deque[tuple[float, ndarray]]] = {side: deque(maxlen=kept) for side in ARMS}

    def run(self) -> EpisodeResult:
        result, failures = self.result, 0
        # An empty sentence is the caller's mistake, not a fault of the robot to be tried again.
        blank = np.zeros((384, 384, 3), np.uint8)
        Observation(blank, blank, self.instruction)
        try:
            while True:
                try:
                    if failures:
                        self._go_on()
                    self._cycle()
                    failures = 0
                except RDT2Error as error:
                    failures += 1
                    self._hold(str(error))
                    if failures >= self.config.max_failures:
                        result.ending = f"{failures} failed cycles in a row, the last: {error}"
                        break
        except _Finished as finished:
            result.ending = str(finished)
        except KeyboardInterrupt:
            result.ending = "stopped by the operator"
        finally:
            self.robot.stop()
            result.seconds = self.clock.now() - self.began
        if self.monitor is not None:
            result.success, result.followed = bool(self.monitor.success), bool(self.monitor.followed)
        return result

    def _cycle(self) -> None:
        moment = self._observe()
        chunk = self._predict(moment)
        chunk.require_valid()
        steps = HORIZON if self._lingers() else self.config.execute_steps
        start, driven = self._execute(moment, chunk)
        self._wait_until(start + min(steps, driven) * PERIOD)

    def _lingers(self) -> bool:
        """Whether both arms have got nowhere for as long as the loop's patience lasts."""
        patience = self.config.patience
        if patience is None:
            return False
        since = self.clock.now() - patience
        for side in ARMS:
            stamps, poses = zip(*self.past[side], strict=True)
            ways = np.linalg.norm(np.stack(poses)[:, :3, 3] - poses[-1][:3, 3], axis=1)
            recent = np.array(stamps) > since
            if stamps[0] > since + PERIOD or ways[recent].max(initial=0.0) > LINGERING:
                return False
        return True

    def _observe(self) -> _Moment:
        """Both pictures, and where both TCPs were when the older of them was taken."""
        frames = {side: self.robot.cameras[side].read() for side in ARMS}
        self._remember()
        now, time = self.clock.now(), min(frame.timestamp for frame in frames.values())
        for side, frame in frames.items():
            _fresh(f"the picture of the {side} camera", frame.timestamp, now, self.config.max_age)
        tcp = {}
        for side in ARMS:
            stamps, poses = zip(*self.past[side], strict=True)
            _fresh(f"the state of the {side} arm", stamps[-1], now, self.config.max_age)
            tcp[side] = interpolate(np.array(stamps), np.stack(poses), np.array([time]))[0]
        robot, scale = self.robot, self.config.gripper_scale
        poses = {side: tcp[side] @ robot.policy_to_tcp[side] for side in ARMS}
        widths = {side: np.array(robot.grippers[side].state().width / scale) for side in ARMS}
        observation = Observation(
            left=frames["left"].image,
            right=frames["right"].image,
            instruction=self.instruction,
            timestamp=time,
            state=state_vector(poses, widths).astype(np.float32),
        )
        return _Moment(observation, time, tcp)

    def _predict(self, moment: _Moment) -> ActionChunk:
        """The chunk, at the moment of the robot's clock when it is there."""
        asked, started = self.clock.now(), wall.perf_counter()
        seed = None if self.seed is None else self.seed + self.predictions
        (chunk,) = self.policy.predict([moment.observation], seed=seed)
        self.predictions += 1
        self.result.inference.append(wall.perf_counter() - started)
        if self.recorder is not None:
            self.recorder.on_cycle(moment.observation, chunk, moment.time)
        if self.config.latency is not None:
            self._wait_until(asked + self.config.latency)
        return chunk

    def _execute(self, moment: _Moment, chunk: ActionChunk) -> tuple[float, int]:
        """Schedule every step of a chunk that is still ahead and may be driven, for both arms and both grippers.

        Returns when the chunk starts, on the robot's clock, and how many of its steps, from the first, are driven.
        The arms stop at the last.
        """
        config, robot = self.config, self.robot
        poses, widths = {}, {}
        for side in ARMS:
            motion = conjugate(chunk.relative_poses(side).astype(np.float64), robot.policy_to_tcp[side])
            poses[side] = moment.tcp[side] @ motion
            widths[side] = np.maximum(chunk.widths(side).astype(np.float64), 0.0) * config.gripper_scale
        plan = check_plan(moment.tcp, poses, widths, config.limits)
        now = self.clock.now()
        if now >= moment.time + HORIZON * PERIOD - config.robot_action_latency:
            raise SafetyError(
                f"the chunk was {now - moment.time:.2f} s old when it came, its last step is past. "
                "Use a faster machine or model."
            )
        # For so long the arms have stood still since the picture: that much later all steps are due.
        stood = max(0.0, now + config.robot_action_latency - max(self.rests, moment.time))
        start = moment.time + stood
        times = start + PERIOD * np.arange(1, HORIZON + 1)
        # What differs from the plan being driven is made up for within a whole period, not within what is left of one.
        skipped = int(np.sum(times - config.robot_action_latency < now + PERIOD - EARLY))
        if plan.steps - skipped < min(LEAST_STEPS, HORIZON - skipped):
            raise SafetyError(plan.reason)
        driven = slice(skipped, plan.steps)
        self.sent = []
        for side in ARMS:
            arm, gripper = robot.arms[side], robot.grippers[side]
            openings = np.minimum(widths[side], gripper.stroke)
            self.sent.append(
                (
                    arm,
                    *self._joined(
                        side, times[driven] - config.robot_action_latency, plan.poses[side][driven]
                    ),
                )
            )
            self.sent.append((gripper, times[driven] - config.gripper_latency, openings[driven]))
        self._send()
        self.rests = times[plan.steps - 1]
        self.result.cycles.append(Cycle(moment.time - self.began, moment.tcp, plan, widths, skipped))
        return start, plan.steps

    def _joined(self, side: str, times: ndarray, poses: ndarray) -> tuple[ndarray, ndarray]:
        """Waypoints that begin where the arm's path is now, so that nothing of the last plan lies in between."""
        now = self.clock.now() + EARLY
        path_times, path_poses = self.path.get(side, (np.array([now]), self.past[side][-1][1][None]))
        here = interpolate(path_times, path_poses, np.array([now]))
        times, poses = np.append(now, times), np.concatenate([here, poses])
        self.path[side] = (times, poses)
        return times, poses

    def _send(self) -> None:
        """Give the devices what is still ahead of what they were given last."""
        now = self.clock.now()
        for device, times, values in self.sent:
            ahead = times > now
            if ahead.any():
                device.execute(times[ahead], values[ahead])

    def _wait_until(self, time: float) -> None:
        """Let the robot move until `time`, looking 30 times a second.

        Raises:
            _Finished: the monitor says done, or the episode's time is up.
        """
        while True:
            if self.monitor is not None and self.monitor.done:
                raise _Finished("done")
            now = self.clock.now()
            if now >= self.ends - EARLY:
                raise _Finished("time is up")
            if now >= time - EARLY:
                return
            self.clock.sleep_until(min(time, self.next_frame, self.ends))
            if self.clock.now() >= self.next_frame - EARLY:
                self.next_frame = max(self.next_frame + PERIOD, self.clock.now() + 0.5 * PERIOD)
                self._remember()
                self._send()
                if self.recorder is not None:
                    self.recorder.on_frame(self.clock.now())

    def _remember(self) -> None:
        """Add the newest measured poses to those of the past."""
        for side in ARMS:
            state = self.robot.arms[side].state()
            if not (np.isfinite(state.pose).all() and np.isfinite(state.joints).all()):
                raise SafetyError(
                    f"the state of the {side} arm holds NaN or infinite values. Check its driver."
                )
            past = self.past[side]
            if not past or state.timestamp > past[-1][0]:
                past.append((state.timestamp, np.asarray(state.pose, dtype=np.float64)))

    def _go_on(self) -> None:
        """Let the arms come to rest, and move again."""
        for _ in range(int(FPS)):
            self._wait_until(self.clock.now() + PERIOD)
            try:
                self.robot.recover()
            except RobotError:
                continue
            return
        self.robot.recover()

    def _hold(self, reason: str) -> None:
        self.robot.stop()
        self.sent, self.path = [], {}
        self.rests = self.clock.now()
        self.result.holds.append(Hold(self.clock.now() - self.began, reason))


def _fresh(what: str, stamp: float, now: float, most: float) -> None:
    """Raises SafetyError for a timestamp that is not finite, or older than `most` seconds."""
    if not np.isfinite(stamp) or now - stamp > most:
        raise SafetyError(
            f"{what} is {now - stamp:.2f} s old, the limit is {most:.2f} s. Check the device's stream."
        )
