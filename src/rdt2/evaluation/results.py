"""What an evaluation in the cell found: every episode, the counts, and all that decided them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.errors import ConfigError
from rdt2.evaluation.statistics import Rate

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Event:
    """Something that a person who looks for a mistake wants to know."""

    time: float
    """Seconds since the episode began."""
    kind: Literal["pause", "held back", "collision", "told"]
    what: str
    seconds: float | None = None
    """For how long, where that is known."""


@dataclass(frozen=True)
class EpisodeRecord:
    """How one trial went."""

    index: int
    """Of the task's trials."""
    task: str
    seed: int
    """Of the scene."""
    instruction: str
    """What is judged; the policy may be told another sentence, or none, as a control."""
    hand: str | None
    target: str | None
    colour: str | None
    success: bool
    followed: bool
    """The hand that the sentence names acted first, on the object that it names."""
    judged: bool
    """False for a sentence that names no task of the scene: nobody can say whether it was done."""
    seconds: float
    """Simulated."""
    reason: str
    """How it ended."""
    chunks: int
    pauses: int
    """How often the arms came to rest for a fault: an invalid chunk, an old picture."""
    slowed: dict[str, float]
    """What the guard held back -> for how many seconds, the longest first."""
    collisions: int
    """How often parts of the arms met one another, the table or what they should not touch."""
    inference_ms: float | None
    """Median wall-clock time of a prediction; None without any."""
    events: tuple[Event, ...] = ()
    """Pauses, what was held back, collisions, and other sentences that an operator told the arms, in order."""
    mark: Literal["success", "failure"] | None = None
    """What a person who watched said of it; it counts nothing, and stands beside what the cell's judge says."""

    @property
    def trial(self) -> tuple[str, int]:
        """Which of the evaluation's trials it was."""
        return self.task, self.index


@dataclass(frozen=True)
class CellEvaluation:
    """Closed-loop result of one policy on one robot."""

    settings: Mapping[str, Any]
    """All that decides the result, as plain values (`rdt2.evaluation.identity`): policy, robot, scenes, loop, versions.
    """
    episodes_each: int
    """Scenes of each task that were asked for."""
    records: Sequence[EpisodeRecord]
    wall_seconds: float
    runs: Sequence[Mapping[str, Any]] = ()
    """Command, platform and time of everyone who worked at it."""

    @property
    def policy(self) -> str:
        """Its name."""
        return str(self.settings["policy"]["policy"])

    @property
    def robot(self) -> str:
        """Its name."""
        return str(self.settings["robot"]["robot"])

    @property
    def tasks(self) -> list[str]:
        """What was asked for."""
        return [str(task) for task in self.settings["scenes"]["tasks"]]

    @property
    def complete(self) -> bool:
        """Whether all episodes that were asked for have been run."""
        return self.episodes >= self.episodes_each * len(self.tasks)

    @property
    def episodes(self) -> int:
        """How many were run."""
        return len(self.records)

    @property
    def success(self) -> int:
        """How many succeeded."""
        return sum(record.success for record in self.records)

    @property
    def followed(self) -> int:
        """In how many the arms did what the sentence says."""
        return sum(record.followed for record in self.records)

    @property
    def success_rate(self) -> Rate:
        """With its 95 % Wilson interval."""
        return Rate.of(self.success, self.episodes)

    @property
    def followed_rate(self) -> Rate:
        """With its 95 % Wilson interval."""
        return Rate.of(self.followed, self.episodes)

    def of_task(self, task: str) -> CellEvaluation:
        """Only the episodes of one task."""
        return dataclasses.replace(self, records=[record for record in self.records if record.task == task])

    def by(self, name: Literal["hand", "colour"]) -> dict[str, Rate]:
        """Success by hand or by colour asked for."""
        trials = Counter(str(getattr(record, name)) for record in self.records)
        wins = Counter(str(getattr(record, name)) for record in self.records if record.success)
        return {key: Rate.of(wins[key], trials[key]) for key in sorted(trials)}

    def median_seconds(self) -> float:
        """Of the successful episodes; NaN without any."""
        seconds = [record.seconds for record in self.records if record.success]
        return float(np.median(seconds)) if seconds else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: counts and intervals, all that decides them, then every episode."""
        return {
            "policy": self.policy,
            "robot": self.robot,
            "task": self.tasks[0] if len(self.tasks) == 1 else "all",
            **self._counts(),
            "tasks": {task: self.of_task(task)._counts() for task in self.tasks},
            "by_hand": {key: rate.as_dict() for key, rate in self.by("hand").items()},
            "by_colour": {key: rate.as_dict() for key, rate in self.by("colour").items()},
            "complete": self.complete,
            "episodes_each": self.episodes_each,
            "wall_seconds": self.wall_seconds,
            "settings": self.settings,
            "runs": list(self.runs),
            "records": [dataclasses.asdict(record) for record in self.records],
        }

    def _counts(self) -> dict[str, Any]:
        success, followed = self.success_rate, self.followed_rate
        return {
            "success": self.success,
            "episodes": self.episodes,
            "followed": self.followed,
            "success_rate": success.rate,
            "success_interval": [success.low, success.high],
            "followed_rate": followed.rate,
            "followed_interval": [followed.low, followed.high],
        }

    def table(self) -> Table:
        """A table for the terminal: a row for each task, and the total."""
        from rich.table import Table

        table = Table(title=f"{self.policy} on {self.robot}, {self.conditions()}", title_justify="left")
        table.add_column("", no_wrap=True)
        for name in ("success", "rate", "95 % interval"):
            table.add_column(name, justify="right")
        rows = [(task, self.of_task(task).success_rate) for task in self.tasks]
        rows += [("all tasks", self.success_rate)] if len(self.tasks) > 1 else []
        rows += [("did what the sentence says", self.followed_rate)]
        rows += [(f"  {hand} hand", rate) for hand, rate in self.by("hand").items()]
        for label, rate in rows:
            table.add_row(label, *rate_cells(rate))
        caption = [f"{self.median_seconds():.1f} s to a success (median)"] if self.success else []
        for name in ("pauses", "collisions"):
            if count := sum(getattr(record, name) for record in self.records):
                caption.append(f"{count} {name}")
        caption += [f"seed {self.settings['scenes']['seed']}", f"{self.wall_seconds:.0f} s of computing"]
        table.caption = ", ".join(caption)
        return table

    def conditions(self) -> str:
        """In words what makes it another evaluation than the usual one."""
        scenes, policy = self.settings["scenes"], self.settings["policy"]
        words = [", ".join(self.tasks)]
        words += [f"{scenes['scenery']} scenes"] if scenes["scenery"] != "seen" else []
        words += ["unseen shapes"] if scenes["unseen_shapes"] else []
        words += ["swapped instructions"] if scenes["swap_instruction"] else []
        words += ["black pictures"] if policy["blind"] else []
        words += ["no instruction"] if policy["no_instruction"] else []
        return ", ".join(words)


def rate_cells(rate: Rate) -> tuple[str, str, str]:
    """A rate as three cells of a table: count, percent, interval."""
    return (
        f"{rate.count}/{rate.trials}",
        f"{100 * rate.rate:.0f} %",
        f"{100 * rate.low:.0f} to {100 * rate.high:.0f} %",
    )


def read_evaluation(path: str | Path) -> CellEvaluation:
    """What `rdt2 evaluate cell --json` wrote, finished or not.

    Raises:
        ConfigError: it cannot be read, or is something else; says what.
    """
    from pydantic import TypeAdapter, ValidationError

    file = Path(path).expanduser()
    advice = "Expected a file that 'rdt2 evaluate cell --json' of this version wrote."
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}). {advice}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is no JSON ({error}). {advice}") from error
    names = [field.name for field in dataclasses.fields(CellEvaluation)]
    if not isinstance(values, dict) or (missing := [name for name in names if name not in values]):
        lacks = ", ".join(missing) if isinstance(values, dict) else "everything"
        raise ConfigError(f"{file}: lacks {lacks}. {advice} Evaluate once more to have one.")
    try:
        found = TypeAdapter(CellEvaluation).validate_python({name: values[name] for name in names})
        found.conditions()
    except (ValidationError, KeyError, TypeError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"{file}: its episodes or settings are damaged ({words:.300}). {advice}") from error
    return found


def require_new(path: str | Path) -> None:
    """See that no file is lost where an evaluation begins: hours of episodes, or something else altogether.

    Raises:
        ConfigError: there is a file that holds something; says what, and the ways on.
    """
    file = Path(path).expanduser()
    if not file.is_file() or not file.stat().st_size:
        return
    try:
        found = read_evaluation(file)
    except ConfigError:
        raise ConfigError(
            f"{file} is there, and holds nothing that 'rdt2 evaluate cell' goes on with: expected a new file. Name "
            "another, or remove it."
        ) from None
    what = "an evaluation" if found.complete else "an evaluation that was interrupted"
    raise ConfigError(
        f"{file} holds {found.episodes} episodes of {what}: expected a new file. --resume goes on with it; or name "
        "another, or remove it."
    )
