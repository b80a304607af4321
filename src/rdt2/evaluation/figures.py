"""Drawings of what a policy planned and what the arms did, as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import SIDES

if TYPE_CHECKING:
    from rdt2.evaluation.report import EpisodeView

# Stand-ins that matplotlib draws with; the page's own colours replace them, so one drawing fits light and
# dark.
_COLOURS = {
    "#01fe01": "var(--ink)",
    "#01fe02": "var(--muted)",
    "#01fe03": "var(--rule)",
    "#01fe04": "var(--right)",
    "#01fe05": "var(--left)",
}
INK, MUTED, RULE, RIGHT, LEFT = _COLOURS
_ARM_COLOURS = {"right": RIGHT, "left": LEFT}


def episode_figures(view: EpisodeView) -> list[str]:
    """Both arms' paths in 3-D with the predicted chunks, and the gripper widths over time. Each is SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": RULE,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": RULE,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
    }
    with rc_context(style):
        paths = Figure(figsize=(5.2, 4.1))
        space: Any = paths.add_axes((0.06, 0.03, 0.93, 0.97), projection="3d", computed_zorder=False)
        _draw_paths(space, view)
        widths = Figure(figsize=(5.2, 3.2))
        above: Any = None
        for k, arm in enumerate(SIDES):
            axes: Any = widths.add_axes((0.08, 0.60 - 0.46 * k, 0.90, 0.32), sharex=above)
            _draw_widths(axes, view, arm)
            above = above or axes
        above.tick_params(labelbottom=False)
        widths.axes[-1].set_xlabel("time (s)")
        return [_svg(figure) for figure in (paths, widths)]


def chunk_figure(paths: dict[str, Any], widths: dict[str, Any]) -> Any:
    """A matplotlib Figure of one predicted chunk, for `rdt2 predict --plot`.

    Args:
        paths: arm -> (24, 3) predicted positions in metres, relative to where that gripper is now.
        widths: arm -> (24,) metres.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    steps = np.arange(1, 1 + len(next(iter(widths.values())))) / 30.0
    colours = {"right": "#c2571a", "left": "#1a6fb0"}
    for arm in SIDES:
        path = paths[arm]
        for axis, dash in zip(range(3), ("-", "--", ":"), strict=True):
            left.plot(steps, 1000 * path[:, axis], dash, color=colours[arm], label=f"{arm} {'xyz'[axis]}")
        right.plot(steps, 1000 * widths[arm], color=colours[arm], label=arm)
    left.set(title="motion of the gripper, in its own frame", xlabel="time (s)", ylabel="mm")
    right.set(title="gripper opening", xlabel="time (s)", ylabel="mm", ylim=(-5, 105))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2)
    at_least(left, 10)
    return figure


def at_least(axes: Any, span: float) -> None:
    """Widen the y axis to `span` at least: the noise of numbers that stand still is no motion."""
    low, high = axes.get_ylim()
    if high - low < span:
        axes.set_ylim((low + high - span) / 2, (low + high + span) / 2)


def _draw_paths(axes: Any, view: EpisodeView) -> None:
    from matplotlib.ticker import MaxNLocator

    for arm in SIDES:
        if arm not in view.positions:
            continue
        colour = _ARM_COLOURS[arm]
        path = np.asarray(view.positions[arm])
        for chunk in view.chunks:
            if arm in chunk.positions:
                x, y, z = np.asarray(chunk.positions[arm]).T
                axes.plot(x, y, z, color=colour, lw=0.7, alpha=0.55)
        axes.plot(*path.T, color=colour, lw=2.0, label=f"{arm} arm")
        axes.scatter(*path[0], color=colour, s=14, marker="o", depthshade=False)
        axes.scatter(*path[-1], color=colour, s=34, marker="*", depthshade=False)
        # The shadow on the table: without it a 3-D line on paper has no depth.
        axes.plot(path[:, 0], path[:, 1], np.zeros(len(path)), color=RULE, lw=1.2)
    axes.set(xlabel="x (m)", ylabel="y (m)", zlabel="z (m)")
    axes.view_init(elev=24, azim=24)  # about as the front camera looks
    axes.set_proj_type("persp", focal_length=0.45)
    _same_scale(axes, view)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_facecolor("none")
        axis.pane.set_edgecolor(RULE)
        axis._axinfo["grid"].update(color=RULE, linewidth=0.5)
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.label.set_size(9)
    axes.tick_params(labelsize=8, pad=-1)
    axes.legend(loc="upper left", bbox_to_anchor=(0.02, 0.97), frameon=False, fontsize=9, labelcolor=INK)


def _draw_widths(axes: Any, view: EpisodeView, arm: str) -> None:
    colour = _ARM_COLOURS[arm]
    if arm in view.widths:
        for chunk in view.chunks:
            if arm not in chunk.widths:
                continue
            width = np.asarray(chunk.widths[arm])
            axes.plot(
                chunk.time + np.arange(1, len(width) + 1) / 30.0,
                1000 * width,
                color=colour,
                lw=0.7,
                alpha=0.55,
            )
        axes.plot(view.times, 1000 * np.asarray(view.widths[arm]), color=colour, lw=1.8)
    axes.set_title(f"{arm} gripper opening (mm)", loc="left", fontsize=9, color=INK)
    axes.set_ylim(-6, 106)
    axes.grid(lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)


def _same_scale(axes: Any, view: EpisodeView) -> None:
    """One metre is as long on every axis, none is shorter than 25 cm, and the table plane is in view."""
    points = np.concatenate([np.asarray(p) for p in view.positions.values()] or [np.zeros((1, 3))])
    low, high = points.min(axis=0) - 0.03, points.max(axis=0) + 0.03
    low[2] = min(low[2], 0.0)
    lack = np.maximum(0.25 - (high - low), 0) / 2 * (1, 1, 2)
    low[:2], high = low[:2] - lack[:2], high + lack
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect(high - low, zoom=0.95)


def _svg(figure: Any) -> str:
    """The figure as an inline SVG element without a fixed size, in the page's colours and font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)  # hundredths of a point are enough
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    return text
