"""Drawings of a run: its loss, and what the model predicts for held-out samples against what was recorded."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import FPS, SIDES, arm_slice
from rdt2.files import whole_file

if TYPE_CHECKING:
    from jaxtyping import Float

AXES = {"x": "#c2571a", "y": "#2f8f5b", "z": "#1a6fb0"}


def chunks_figure(
    predicted: Float[np.ndarray, "n 24 20"], recorded: Float[np.ndarray, "n 24 20"], *, title: str
) -> Any:
    """A matplotlib Figure: a row a sample; positions of each arm, then both gripper widths.

    Args:
        predicted: chunks, metres; drawn dashed.
        recorded: the same samples as recorded; drawn solid.
        title: above all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.2 * len(predicted) + 0.6), layout="constrained")
    figure.suptitle(f"{title}: recorded (solid), predicted (dashed), mm over seconds")
    grid = figure.subplots(len(predicted), 3, squeeze=False, sharex=True)
    seconds = np.arange(1, predicted.shape[1] + 1) / FPS
    for row, pair in zip(grid, zip(recorded, predicted, strict=True), strict=True):
        for chunk, dash in zip(pair, ("-", "--"), strict=True):
            for axes, arm in zip(row, SIDES, strict=False):
                for column, (axis, colour) in enumerate(AXES.items()):
                    axes.plot(
                        seconds, 1000 * chunk[:, arm_slice(arm)][:, column], dash, color=colour, label=axis
                    )
                row[2].plot(seconds, 1000 * chunk[:, arm_slice(arm)][:, 9], dash, label=arm,
                            color={"right": "#c2571a", "left": "#1a6fb0"}[arm])  # fmt: skip
    for axes, name in zip(grid[0], (*(f"{arm} hand" for arm in SIDES), "gripper widths"), strict=True):
        axes.set_title(name, fontsize=9)
        lines, names = axes.get_legend_handles_labels()
        half = len(names) // 2  # the dashed lines bear the same names
        axes.legend(lines[:half], names[:half], loc="upper left", frameon=False, fontsize=7)
    return figure


def loss_figure(
    train: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]], *, title: str
) -> Any:
    """A matplotlib Figure of the loss over steps, smoothed over 20 logged points, with the evaluations.

    Args:
        train: (step, loss) as logged, one or more.
        held_out: (step, loss) of the evaluations.
        title: above all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*train, strict=True), color="0.8", label="training")
    smooth = [
        (step, statistics.fmean(loss for _, loss in train[max(0, i - 19) : i + 1]))
        for i, (step, _) in enumerate(train)
    ]
    axes.plot(*zip(*smooth, strict=True), color="tab:blue", label="training, smoothed")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="tab:orange", label="held out")
    axes.set(xlabel="step", ylabel="loss", title=title, yscale="log")
    axes.legend(loc="upper right")  # looking for the best place can take a second, and then warns
    return figure


def save_figure(figure: Any, path: Path) -> Path:
    """Write a Figure as PNG, whole or not at all."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=100)
    return path
