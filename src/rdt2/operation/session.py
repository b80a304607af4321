"""Which episodes a person runs one after the other, on a real robot or in the cell."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdt2.errors import ConfigError
from rdt2.evaluation.scenes import draw_trials, trials_for
from rdt2.operation.checklist import Checklist
from rdt2.operation.driving import SIGNALLED
from rdt2.operation.opening import Opened, opened_cell, opened_robot
from rdt2.signals import Listening

if TYPE_CHECKING:
    from types import FrameType

    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings

MOST = 120
"""Scenes of the cell in one session."""


@dataclass(frozen=True)
class Episode:
    """One that is about to be run."""

    number: int
    opened: Opened
    sentence: str
    prepare: Callable[[], None] | None = None
    """Enables and looks up a robot that was recovered, before anything moves; raises RobotError. None: there is nothing
    to do, or nothing is to be enabled."""


def episodes(
    settings: RobotSettings,
    *,
    instruction: str | None,
    task: str,
    seed: int,
    checklist: Checklist,
    enable: bool = True,
    check: Callable[[Robot], None] = lambda robot: None,
) -> Generator[Episode, None, None]:
    """The next episode whenever one is asked for. What is open is closed with this iterator.

    Of a real robot all are of the same robot, connected once; it is enabled and looked up before the first, and for the
    others when a person's word has recovered it (`Episode.prepare`): one that has lost a device cannot be before. Of a
    simulated robot each has a scene of its own.

    Args:
        settings: of the robot.
        instruction: what is asked for; None: what the scene was made for.
        task: of the cell: what stands on the table.
        seed: of the cell: which scenes.
        checklist: what has to be right before anything is enabled.
        enable: whether devices are enabled.
        check: is called with each robot that was opened, before anything is enabled.

    Raises:
        ConfigError: a real robot without an instruction, or what `check` raises. RobotError: a device that does not
            answer, is not set up as the yaml says, or was not confirmed.
    """
    if settings.kind != "cell":
        if instruction is None:
            raise ConfigError(
                f"robot {settings.name!r} is real, and nothing says what it is to do: "
                '--instruction "Pick up the apple."'
            )
        with opened_robot(settings) as opened:
            check(opened.robot)
            checklist.look(opened.robot)
            prepare = functools.partial(checklist.enable, opened.robot) if enable else None
            if prepare is not None:
                prepare()
            for number in itertools.count():
                yield Episode(number, opened, instruction, prepare)
    trials = (
        draw_trials(task, MOST, seed, hands=settings.sides)
        if instruction is None
        else trials_for(instruction, [task], 20, seed)
    )
    for number, trial in enumerate(trials):
        scene = trial.scene()
        asked = trial.task(scene)
        with opened_cell(settings, scene, asked) as opened:
            check(opened.robot)
            yield Episode(number, opened, instruction or (asked.instruction if asked else ""))


class _Ends(Listening):
    """SIGTERM and SIGHUP leave by way of all `with` statements, so that devices are closed."""

    def __init__(self) -> None:
        super().__init__("SIGTERM", "SIGHUP")

    def _heard(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(SIGNALLED + number)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP end the process in order, with 128 and their number."""
    with _Ends():
        yield


def confirmed(text: str, *, yes: bool) -> bool:
    """Whether a person says yes in the terminal; with `yes` nobody is asked.

    Raises:
        ConfigError: nobody is there to be asked.
    """
    if yes:
        return True
    try:
        return input(f"{text} [y/N] ").strip().casefold() in ("y", "yes", "是")
    except EOFError:
        raise ConfigError(
            f"nobody is there to answer: {text} Run it in a terminal, or answer with --yes."
        ) from None
