"""The findings of a data check as a page: a table, distributions, and the worst samples shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import SIDES
from rdt2.data.pages import render
from rdt2.data.pages.axes import spread, ticks
from rdt2.data.shards import write_atomic

if TYPE_CHECKING:
    from rdt2.data.findings import CheckReport

_SENTENCES = 30
_BINS = 40
_PLOTS = (
    ("step", "largest step of a chunk (mm in 1/30 s)", 1000.0),
    ("turn", "largest turn of a chunk (degrees in 1/30 s)", 180 / np.pi),
    ("width", "gripper opening (mm)", 1000.0),
)


def write_check_page(path: str | Path, report: CheckReport, *, title: str) -> Path:
    """Write the page; returns its path. Raises RecordingError when it cannot be written."""
    common = sorted(report.sentences.items(), key=lambda item: (-item[1], item[0]))
    page = render(
        "check.html.j2",
        title=title,
        report=report,
        findings=sorted(report.findings, key=lambda each: not any(worst.jpeg for worst in each.worst)),
        plots=[
            _histogram(label, [scale * np.array(report.values[f"{name} {arm}"]) for arm in SIDES])
            for name, label, scale in _PLOTS
            if report.values.get(f"{name} {SIDES[0]}")
        ],
        sentences=common[:_SENTENCES],
        more_sentences=max(0, len(common) - _SENTENCES),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return Path(path).absolute()


def _histogram(title: str, values: Sequence[np.ndarray]) -> dict[str, Any]:
    """Bars of both arms in a 320 x 150 drawing; heights are roots, so that rare samples are seen."""
    everything = np.concatenate(values)
    ends = float(everything.min()), float(everything.max())
    low, high = spread(*ends)
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.sqrt([np.histogram(each, edges)[0] for each in values])
    width = 300 / _BINS
    bars = [
        {
            "arm": side,
            "x": round(10 + number * width, 2),
            "y": round(125 - 110 * count / counts.max(), 2),
            "width": round(width - 0.5, 2),
            "height": round(110 * count / counts.max(), 2),
        }
        for side, row in zip(SIDES, counts, strict=True)
        for number, count in enumerate(row)
        if count
    ]
    marks = [{"x": round(10 + 300 * (at - low) / (high - low), 1), "text": text} for at, text in ticks(*ends)]
    return {"title": title, "bars": bars, "ticks": marks}
