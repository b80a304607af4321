"""What a calibration found: told in the terminal, on a page with plots, as JSON, and written into the robot's yaml."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.pages.axes import spread, ticks
from rdt2.files import write_whole

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 420, 230, 46, 26, 8
COLOURS = ("#1f6feb", "#d1495b", "#2a9d4a", "#8250df")
MOST_POINTS, DOTS = 800, 12
"""Points of a line that are drawn at most; up to how many are drawn as dots."""


@dataclass(frozen=True)
class Outcome:
    """All that there is to say."""

    title: str
    rows: Sequence[tuple[str, str]]
    """What was found, in words: name and value."""
    values: Mapping[str, Any]
    """The same for programs."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """New values of the robot's yaml, by dotted key."""
    notes: Sequence[str] = ()
    """What makes it less than it could be."""
    following: Sequence[str] = ()
    """What to do next; {robot} stands for the option that names the robot as it is now."""
    plots: Sequence[str] = ()
    """HTML, of `plot` and `picture`."""
    holds: bool = True
    """Of a check: whether what is stored holds; of a motion: whether it determined everything."""


def write_page(outcome: Outcome, path: Path) -> Path:
    """One file without references to others.

    Raises:
        RecordingError: it cannot be written.
    """
    told = html.escape
    rows = "".join(f"<tr><td>{told(name)}</td><td>{told(value)}</td></tr>" for name, value in outcome.rows)
    notes = "".join(f"<li class='note'>{told(note)}</li>" for note in outcome.notes)
    changed = ", ".join(f"<code>{told(key)}</code>" for key in outcome.changes)
    after = "".join(f"<li>{told(step)}</li>" for step in outcome.following)
    return write_whole(
        path,
        "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{told(outcome.title)}</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em;overflow-wrap:break-word}"
        "td{padding:.2em 1.5em .2em 0;vertical-align:top}svg,img{width:100%;height:auto}"
        ".note{color:#9a3412}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22em,100%),1fr));gap:1em}"
        "figure{margin:0}figcaption{font-size:14px}h1{font-size:26px}h2{font-size:18px}</style>"
        f"<h1>{told(outcome.title)}</h1><table>{rows}</table>"
        + (f"<ul>{notes}</ul>" if notes else "")
        + (f"<p>For the robot's yaml: {changed}</p>" if changed else "<p>Nothing is changed in the yaml.</p>")
        + f"<div class='plots'>{''.join(outcome.plots)}</div><h2>Next</h2><ol>{after}</ol>\n",
    )


def plot(title: str, lines: Mapping[str, tuple[Any, Any]], *, x: str, y: str) -> str:
    """A figure of some lines (name: xs and ys) with numbers at both axes, as HTML."""
    points = {
        name: np.stack([np.asarray(a, float), np.asarray(b, float)], axis=1) for name, (a, b) in lines.items()
    }
    points = {n: p[np.isfinite(p).all(axis=1)][:: max(1, len(p) // MOST_POINTS)] for n, p in points.items()}
    every = np.concatenate(list(points.values()))
    if len(every) == 0:
        return ""
    ends = np.stack([every.min(axis=0), every.max(axis=0)])
    (left, right), (low, high) = (spread(*pair) for pair in ends.T)
    across, up = WIDTH - LEFT - 12, HEIGHT - BELOW - ABOVE

    def at(value: Any) -> Any:
        share = (np.asarray(value) - (left, low)) / (right - left, high - low)
        return np.array([LEFT, HEIGHT - BELOW]) + share * (across, -up)

    drawn, legend, marks = [], [], []
    for (name, line), colour in zip(points.items(), COLOURS * len(points), strict=False):
        placed = at(line)
        if len(placed) <= DOTS:
            drawn += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{colour}'/>" for a, b in placed]
        else:
            text = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
            drawn.append(f"<polyline fill='none' stroke='{colour}' stroke-width='1.3' points='{text}'/>")
        legend.append(f"<span style='color:{colour}'>{html.escape(name)}</span>")
    for value, number in ticks(*ends[:, 0]):
        place = at((value, low))[0]
        marks.append(f"<path stroke='#ccc' d='M{place:.1f} {ABOVE}v{up}'/>")
        marks.append(f"<text x='{place:.1f}' y='{HEIGHT - 10}' text-anchor='middle'>{number}</text>")
    for value, number in ticks(*ends[:, 1]):
        place = at((left, value))[1]
        marks.append(f"<path stroke='#ccc' d='M{LEFT} {place:.1f}h{across}'/>")
        marks.append(f"<text x='{LEFT - 5}' y='{place + 4:.1f}' text-anchor='end'>{number}</text>")
    return (
        f"<figure><h2>{html.escape(title)}</h2><svg viewBox='0 0 {WIDTH} {HEIGHT}' font-size='12'>"
        f"<g fill='#555'>{''.join(marks)}</g>{''.join(drawn)}</svg>"
        f"<figcaption>{', '.join(legend)}: {html.escape(y)} over {html.escape(x)}</figcaption></figure>"
    )


def picture(title: str, pixels: UInt8[ndarray, "h w 3"]) -> str:
    """A picture (RGB) with its title, as HTML."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="jpeg", quality=85)
    told, name = base64.b64encode(file.getvalue()).decode(), html.escape(title)
    return f"<figure><h2>{name}</h2><img alt='{name}' src='data:image/jpeg;base64,{told}'></figure>"
