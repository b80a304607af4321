"""The page of an evaluation: the counts, every episode in a line, and films of those that are worth looking at.

An episode's part of the page is made where it was run, in a worker process too, and waits in a folder beside the page
until all are there: however many films there are, memory holds one. The folder outlives an evaluation that is
interrupted and goes on later.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdt2.evaluation.report import (
    EpisodeView,
    Report,
    SummaryRow,
    article_name,
    episode_article,
    write_report,
)
from rdt2.files import write_whole

if TYPE_CHECKING:
    from rdt2.evaluation.results import CellEvaluation, EpisodeRecord

Film = Literal["failures", "all", "none"]


@dataclass(frozen=True)
class Page:
    """Where the page will be, and what it will show."""

    path: Path
    film: Film = "failures"

    @property
    def folder(self) -> Path:
        """Where films wait."""
        place = self.path.expanduser().absolute()
        return place.with_name(f".{place.name}.films")

    def begin(self, settings: Mapping[str, Any], *, keep: bool) -> None:
        """Forget the films of an earlier evaluation, unless it had these settings and is gone on with."""
        of = json.dumps(settings, sort_keys=True)
        file = self.folder / "settings.json"
        if not (keep and file.is_file() and file.read_text("utf-8") == of):
            self.close()
            write_whole(file, of)

    def wants(self, record: EpisodeRecord) -> bool:
        """Whether an episode is to be seen."""
        return self.film == "all" or (self.film == "failures" and not record.success)

    def keep(self, record: EpisodeRecord, view: EpisodeView) -> None:
        """Keep an episode's film. Raises RecordingError: the system does not let it be written."""
        name = article_name(record)
        write_whole(self.folder / f"{name}.html", episode_article(view, name))

    def write(self, result: CellEvaluation) -> Path:
        """Put the page together and forget its parts; returns where it is.

        Raises:
            RecordingError: the system does not let it be written.
        """
        names = [article_name(record) for record in result.records if self.wants(record)]
        articles = {name: self.folder / f"{name}.html" for name in names}
        found = {name: file for name, file in articles.items() if file.is_file()}
        path = write_report(self.path, _report(result, self.film, len(names) - len(found)), articles=found)
        self.close()
        return path

    def close(self) -> None:
        """Forget all films."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _report(result: CellEvaluation, film: Film, missing: int) -> Report:
    heading = "Failures" if film == "failures" else "Episodes"
    if missing:
        heading += f" ({missing} more were not filmed, by an earlier run)"
    settings = result.settings
    each = {name: result.of_task(name) for name in result.tasks}
    rows = [_row(name, part) for name, part in each.items()]
    rows += [_row("all tasks", result)] if len(rows) > 1 else []
    return Report(
        title=f"{result.policy} on {result.robot}",
        subtitle=f"Evaluation in the simulated cell: {result.conditions()}.",
        summary=rows,
        episodes=(),
        timing=(),
        settings={
            **{f"command {k + 1}": str(run["command"]) for k, run in enumerate(result.runs)},
            **_words("policy", settings["policy"]),
            **_words("scenes", settings["scenes"]),
            **_words("loop", settings["loop"]),
            **_words("platform", {f"of command {k + 1}": run["platform"] for k, run in enumerate(result.runs)}),
        },
        versions=settings["versions"],
        records=result.records,
        heading=heading,
    )  # fmt: skip


def _row(label: str, result: CellEvaluation) -> SummaryRow:
    return SummaryRow(label, result.success_rate, result.followed_rate, result.median_seconds())


def _words(what: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Settings that were set, a line each; files with their digests."""
    lines: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            lines |= {f"{what}: {name}, {key}": _told(item) for key, item in value.items()}
        elif value is not None and value is not False:
            lines[f"{what}: {name}"] = _told(value)
    return lines


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(item)}" for key, item in value.items())
    return ", ".join(map(_told, value)) if isinstance(value, (list, tuple)) else str(value)
