"""A report a person opens in a browser: one HTML file with its videos, drawings and figures inside."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rdt2.evaluation.statistics import Rate
from rdt2.files import write_whole

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

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
    timing: Sequence[StageTiming]
    settings: Mapping[str, str]
    """What to know to run it again: command, seeds, checkpoint."""
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    title_zh: str = ""


def write_report(path: str | Path, report: Report) -> Path:
    """Render the page and write it atomically.

    Returns:
        The absolute path of the file.

    Raises:
        RecordingError: the file cannot be written.
    """
    return write_whole(path, render(report))


def render(report: Report) -> str:
    """The page as HTML. Every text is escaped; the drawings are our own SVG."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from rdt2.evaluation.figures import episode_figure

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.0f}"
    environment.filters["number"] = lambda value, digits=1: (
        f"{value:.{digits}f}" if np.isfinite(value) else "–"
    )
    source = resources.files("rdt2.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    # Each SVG's inner ids must differ from those of the other drawings on the page.
    figures = [Markup(_own_ids(episode_figure(view), f"e{k}")) for k, view in enumerate(report.episodes)]
    return environment.from_string(source).render(report=report, figures=figures)


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


def versions() -> dict[str, str]:
    """Versions of what computes the result, as installed."""
    found = {"python": platform.python_version()}
    for package in ("rdt2", "torch", "transformers", "mujoco", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _own_ids(svg: str, prefix: str) -> str:
    import re

    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
