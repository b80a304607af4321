"""Two evaluations on the same scenes, pair by pair: which is better, by how much, and how sure that is.

    comparison = compare(read_evaluation("a.json"), read_evaluation("b.json"))
    print(comparison.total)              # +12 points  [+3, +21], p = 0.012

Scenes differ more than policies do. Where both policies had the same ones, only those count that one did and the other
did not, and much smaller differences show than between two rates with their own intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdt2.errors import ConfigError
from rdt2.evaluation.identity import differences
from rdt2.evaluation.statistics import Paired

if TYPE_CHECKING:
    from rich.table import Table

    from rdt2.evaluation.results import CellEvaluation, EpisodeRecord

UNTOLD = ("policy.files.",)
"""Settings whose values say nothing to a reader."""


@dataclass(frozen=True)
class Comparison:
    """The first against the second; positive differences are in favour of the first."""

    tasks: dict[str, Paired]
    total: Paired
    followed: Paired
    """Of doing what the sentence says, over all tasks."""
    settings: list[tuple[str, Any, Any]]
    """What differs between the two: name, value of the first, value of the second."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tasks": {task: paired.as_dict() for task, paired in self.tasks.items()},
            "total": self.total.as_dict(),
            "followed": self.followed.as_dict(),
            "settings": {name: {"first": one, "second": other} for name, one, other in self.settings},
        }

    def table(self, first: str, second: str) -> Table:
        """A table for the terminal; `first` and `second` name the two."""
        from rich.table import Table

        table = Table(title=f"first: {first}\nsecond: {second}", title_justify="left")
        table.add_column("", no_wrap=True)
        for name in ("first", "second", "only\n1st", "only\n2nd", "points", "95 %", "p"):
            table.add_column(name, justify="right", no_wrap=True)
        rows = list(self.tasks.items())
        rows += [("all tasks", self.total)] if len(rows) > 1 else []
        for label, paired in [*rows, ("followed", self.followed)]:
            one, other = paired.both + paired.only_first, paired.both + paired.only_second
            table.add_row(
                label,
                *(f"{count}/{paired.trials}" for count in (one, other)),
                *(str(count) for count in (paired.only_first, paired.only_second)),
                f"{100 * paired.difference:+.0f}",
                f"[{100 * paired.low:+.0f}, {100 * paired.high:+.0f}]",
                f"{paired.p:.2g}",
            )
        table.caption = self._verdict()
        return table

    def _verdict(self) -> str:
        total = self.total
        if total.p >= 1 - total.confidence:
            return "Neither is shown to be better: such a split is likely without a difference."
        better = "first" if total.difference > 0 else "second"
        return f"The {better} succeeds more often (McNemar's exact test)."

    def differing(self) -> list[str]:
        """What differs between the two, a line each."""
        lines = []
        for name, one, other in self.settings:
            if name.startswith(UNTOLD):
                name, one, other = name.rsplit(".", 1)[0], "some files", "others"
                lines += [line] if (line := f"{name}: {one} / {other}") not in lines else []
            else:
                lines.append(f"{name}: {one} / {other}")
        return lines


def compare(first: CellEvaluation, second: CellEvaluation) -> Comparison:
    """Compare two evaluations of the same scenes and sentences.

    Raises:
        ConfigError: they are not of the same scenes and sentences, or one is not finished; says where they differ.
    """
    for number, each in (("first", first), ("second", second)):
        if not each.complete:
            raise ConfigError(
                f"the {number} has {_extent(each)} and was interrupted: what is left may differ. Go on with it "
                "(rdt2 evaluate cell ... --resume)."
            )
    one, other = ({record.trial: record for record in each.records} for each in (first, second))
    for name in ("scenery", "unseen_shapes"):
        here, there = first.settings["scenes"].get(name), second.settings["scenes"].get(name)
        if here != there:
            raise ConfigError(
                f"the scenes are not the same: {name} is {here} in the first and {there} in the second."
            )
    if set(one) != set(other) or not one:
        raise ConfigError(
            f"the first has {_extent(first)}, the second {_extent(second)}: a comparison needs the same scenes "
            "of both. Evaluate the one that has fewer with the other's --task, --episodes and --seed; its --json file "
            "goes on with --resume."
        )
    for trial, record in one.items():
        for name in ("seed", "instruction"):
            if getattr(record, name) != getattr(other[trial], name):
                raise ConfigError(
                    f"episode {record.index} of {record.task} is not the same: {name} is {getattr(record, name)!r} in "
                    f"the first and {getattr(other[trial], name)!r} in the second. Evaluate both with the same --seed "
                    "and the same sentences."
                )
    pairs = [(one[trial], other[trial]) for trial in sorted(one)]
    tasks = {task: _paired([pair for pair in pairs if pair[0].task == task]) for task in first.tasks}
    return Comparison(
        tasks=tasks,
        total=_paired(pairs),
        followed=Paired.of([a.followed for a, _ in pairs], [b.followed for _, b in pairs]),
        settings=differences(first.settings, second.settings),
    )


def _paired(pairs: list[tuple[EpisodeRecord, EpisodeRecord]]) -> Paired:
    return Paired.of([a.success for a, _ in pairs], [b.success for _, b in pairs])


def _extent(result: CellEvaluation) -> str:
    counts = {task: result.of_task(task).episodes for task in result.tasks}
    return ", ".join(f"{count} episodes of {task}" for task, count in counts.items()) or "no episodes"
