"""One episode with the people who look on: what every command that drives arms does."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rdt2.control import STOPPED, EpisodeResult, Monitor, Together, run_episode
from rdt2.errors import RobotError, SafetyError, ServingError

if TYPE_CHECKING:
    from rdt2.control import LoopConfig, Pilot, Recorder
    from rdt2.dashboard.desk import Desk
    from rdt2.dashboard.figure import Figure
    from rdt2.dashboard.messages import Mark
    from rdt2.policy import Policy
    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings


SIGNALLED = 128
"""Exit codes above it are this and the number of a signal."""


class Judge(Monitor, Protocol):
    """Who says when the task is done."""

    @property
    def judged(self) -> bool:
        """Whether there was anything to judge."""
        ...


JudgeT = TypeVar("JudgeT", bound=Judge)


@dataclass(frozen=True)
class Driven(Generic[JudgeT]):
    """How an episode went, and what the operator said of it."""

    result: EpisodeResult
    judge: JudgeT
    mark: Mark | None

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked the whole command to end; see `obey`."""
        return bool(self.result.signal) or self.result.ending == STOPPED

    def obey(self) -> None:
        """What Ctrl-C, or a signal, meant: called when all that was opened for the episode has been closed.

        Raises:
            KeyboardInterrupt: for Ctrl-C. Other signals do what they do.
        """
        if self.result.signal:
            signal.raise_signal(self.result.signal)
        if self.interrupted:
            raise KeyboardInterrupt


def result_of(error: BaseException) -> EpisodeResult:
    """How an episode went that an exception has ended: what `run_episode` says of it, or else its words alone."""
    if isinstance(found := getattr(error, "episode", None), EpisodeResult):
        return found
    return EpisodeResult(ending=str(error) or type(error).__name__)


def drive(
    robot: Robot,
    policy: Policy,
    sentence: str,
    *,
    settings: RobotSettings,
    config: LoopConfig,
    max_seconds: float,
    seed: int,
    figure: Callable[[], Figure],
    title: str,
    judge: Callable[[Callable[[], str]], JudgeT],
    desk: Desk | None = None,
    recorders: Sequence[Recorder] = (),
    pilot: Pilot | None = None,
    prepare: Callable[[], None] | None = None,
) -> Driven[JudgeT] | None:
    """Wait for the operator, if there is one; drive until the task is done, the time is up or somebody stops it.

    Args:
        robot: connected and enabled; stopped when this returns.
        policy: what predicts.
        sentence: what is asked for, unless the operator asks for something else.
        settings: of the robot.
        config: of the loop.
        max_seconds: on the robot's clock, pauses left out.
        seed: of the policy's noise.
        figure: what the operator is shown of the robot.
        title: of the episode.
        judge: makes who says when the task is done, from what says the sentence of the moment; called when it begins.
        desk: the operator.
        recorders: who else looks on.
        pilot: a person who may take over, and give back.
        prepare: is called when the operator's word has recovered a robot that was stopped, before anything moves.

    Returns:
        None where the operator left before it began.

    Raises:
        RobotError, SafetyError, ServingError: what ended the episode, where nobody is there who may mend it; what the
            desk or `run_episode` raises beside these, too. `result_of` has how it went until then.
    """
    say = desk.sentence if desk is not None else lambda: sentence
    if desk is not None:
        desk.begin(robot, figure(), sentence, title=title, prepare=prepare)
        if desk.left:
            return None
    monitor = judge(say)
    try:
        result = run_episode(
            robot,
            policy,
            say,
            settings=settings,
            monitor=monitor,
            config=config,
            recorder=Together([*recorders, *([desk] if desk is not None else [])]),
            permit=desk.permit if desk is not None else None,
            pause=desk.pause if desk is not None else None,
            pilot=pilot,
            max_seconds=max_seconds,
            seed=seed,
        )
    except (RobotError, SafetyError, ServingError) as error:
        if desk is None or not robot.concurrent:
            raise
        result = result_of(error)  # a person who is there may mend it and go on
    driven = Driven(result, monitor, None)
    if desk is None or driven.interrupted or desk.left:
        return driven
    try:
        return Driven(result, monitor, desk.end(robot, result, judged=monitor.judged))
    except (
        KeyboardInterrupt
    ):  # while it waits for a mark: the episode is over, and what was recorded of it is whole
        result.signal = signal.SIGINT
    except SystemExit as ended:  # another signal, see `ending_in_order`
        if not isinstance(ended.code, int) or ended.code <= SIGNALLED:
            raise
        result.signal = ended.code - SIGNALLED
    return driven
