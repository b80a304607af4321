"""A report a person opens in a browser: one HTML file with its videos, drawings and figures inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rdt2.evaluation.identity import versions
from rdt2.evaluation.statistics import Rate
from rdt2.files import whole_file

if TYPE_CHECKING:
    from jaxtyping import Float
    from jinja2 import Template
    from numpy import ndarray

    from rdt2.evaluation.results import EpisodeRecord, Event
    from rdt2.evaluation.video import Clip


@dataclass(frozen=True)
class ChunkView:
    """One predicted chunk, drawn where it was predicted."""

    time: float
    """Seconds since the episode began, of the observation."""
    positions: Mapping[str, Float[ndarray, "24 3"]]
    """Arm -> predicted TCP positions in the cell frame, metres."""
    widths: Mapping[str, Float[ndarray, " 24"]]
    """Arm -> predicted widths, metres."""


@dataclass(frozen=True)
class EpisodeView:
    """One episode as the report shows it."""

    title: str
    instruction: str
    seed: int
    success: bool | None
    """None: nothing could be judged (a free instruction)."""
    followed: bool | None
    seconds: float
    """Simulated or real duration."""
    reason: str
    times: Float[ndarray, " n"]
    positions: Mapping[str, Float[ndarray, "n 3"]]
    """Arm -> TCP path in the cell frame, metres."""
    widths: Mapping[str, Float[ndarray, " n"]]
    chunks: Sequence[ChunkView] = ()
    clip: Clip | None = None
    events: Sequence[Event] = ()
    """Pauses, what the guard held back, and collisions, in order."""


@dataclass(frozen=True)
class SummaryRow:
    """One line of the success table."""

    label: str
    success: Rate
    followed: Rate
    seconds: float
    """Median duration of the successful episodes; NaN without any."""


@dataclass(frozen=True)
class StageTiming:
    """How long one stage took, over all its calls."""

    stage: str
    calls: int
    median_ms: float
    p95_ms: float
    share: float
    """Of the time of all stages, 0..1."""


@dataclass(frozen=True)
class Report:
    """Everything a report page says."""

    title: str
    subtitle: str
    summary: Sequence[SummaryRow]
    episodes: Sequence[EpisodeView]
    """Those that are shown in full."""
    timing: Sequence[StageTiming]
    settings: Mapping[str, str]
    """What to know to run it again: command, seeds, checkpoint."""
    versions: Mapping[str, str] = field(default_factory=versions)
    title_zh: str = ""
    records: Sequence[EpisodeRecord] = ()
    """Those that get a line each in a table of all."""
    heading: str = "Episodes"


def write_report(path: str | Path, report: Report, *, articles: Mapping[str, Path] | None = None) -> Path:
    """Render the page and write it atomically, episode by episode: however many videos it has, one is in memory.

    Args:
        path: the page.
        report: what it says.
        articles: name -> file of an episode that was made before (`episode_article`), after those of the report.

    Returns:
        The absolute path of the file.

    Raises:
        RecordingError: the file cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.writelines(_pieces(report, articles or {}))
    return Path(path).expanduser().absolute()


def render(report: Report) -> str:
    """The page as HTML. Every text is escaped; the drawings are our own SVG."""
    return "".join(_pieces(report, {}))


def _pieces(report: Report, articles: Mapping[str, Path]) -> Iterator[str]:
    from markupsafe import Markup

    def shown() -> Iterator[str]:
        for k, view in enumerate(report.episodes):
            yield Markup(episode_article(view, f"e{k}"))
        for file in articles.values():
            yield Markup(file.read_text(encoding="utf-8"))

    yield from _template("report.html.j2").generate(
        report=report,
        heading=report.heading,
        shown=len(report.episodes) + len(articles),
        articles=shown(),
        filmed=set(articles),
    )


def episode_article(view: EpisodeView, name: str) -> str:
    """One episode as the page shows it: HTML whose ids, `name` first of all, are those of no other."""
    from markupsafe import Markup

    from rdt2.evaluation.figures import episode_figures

    figures = [Markup(_own_ids(svg, f"{name}-{k}")) for k, svg in enumerate(episode_figures(view))]
    return _template("episode.html.j2").render(view=view, name=name, figures=figures)


def article_name(record: EpisodeRecord) -> str:
    """What an episode's article is called, on the page and as a file."""
    return f"{record.task}-{record.index:05}"


def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.0f}"
    environment.filters["number"] = lambda value, digits=1: (
        f"{value:.{digits}f}" if np.isfinite(value) else "–"
    )
    environment.filters["counted"] = _counted
    environment.filters["anchor"] = article_name
    source = resources.files("rdt2.evaluation").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(source)


def _counted(events: Sequence[Event]) -> str:
    counts = Counter(event.kind for event in events)
    return ", ".join(f"{kind} ({count})" for kind, count in counts.items())


def stage_timings(seconds: Mapping[str, Sequence[float]]) -> list[StageTiming]:
    """Median and 95th percentile of each stage's durations (seconds), longest total first."""
    total = sum(float(np.sum(values)) for values in seconds.values())
    rows = [
        StageTiming(
            stage=stage,
            calls=len(values),
            median_ms=1000 * float(np.median(values)),
            p95_ms=1000 * float(np.percentile(values, 95)),
            share=float(np.sum(values)) / total if total else 0.0,
        )
        for stage, values in seconds.items()
        if len(values)
    ]
    return sorted(rows, key=lambda row: -row.share)


def _own_ids(svg: str, prefix: str) -> str:
    import re

    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
