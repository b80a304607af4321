"""What the actions of a data set range over, and the normalizer that follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS, FPS, POSITION_DIMS, SIDES, arm_slice
from rdt2.data.clock import pieces, usual_step
from rdt2.data.dataset import ShardIndex
from rdt2.errors import ShardError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.normalizer import LinearNormalizer, NormalizerMode

BLOCK = 4096  # samples in memory at once: large sets do not fit
_STILL_M, _STILL_WIDTH_M, _STILL_PART = 5e-3, 2e-3, 40
"""A column whose values all lie this close rests: positions, openings, and the part of the widest position."""
_CONSTANT_M = 1e-4
"""Less than this is constant for LinearNormalizer, which does not magnify it."""
COLUMNS = ("x", "y", "z", *(f"rotation {k}" for k in range(1, 7)), "width")


@dataclass(frozen=True)
class ActionStatistics:
    """Of every action dimension over all steps of all samples; metres, or 6D rotation. All (20,) float64."""

    minimum: Float[np.ndarray, " 20"]
    maximum: Float[np.ndarray, " 20"]
    mean: Float[np.ndarray, " 20"]
    std: Float[np.ndarray, " 20"]

    def normalizer(self, mode: NormalizerMode = "limits") -> LinearNormalizer:
        """The normalizer fitted to these."""
        from rdt2.normalizer import LinearNormalizer

        return LinearNormalizer.from_statistics(
            minimum=self.minimum, maximum=self.maximum, mean=self.mean, std=self.std, mode=mode
        )


def action_statistics(source: ShardIndex | str | Path | Iterable[str | Path]) -> ActionStatistics:
    """Read all actions once, some thousand samples at a time.

    Raises:
        ShardError: a damaged shard, or a value that is not finite.
    """
    index = source if isinstance(source, ShardIndex) else ShardIndex(source, instructions="ignore")
    low, high = np.full(20, np.inf), np.full(20, -np.inf)
    total, squares, count = np.zeros(20), np.zeros(20), 0
    shift: np.ndarray | None = None
    for start in range(0, len(index), BLOCK):
        actions = index.all_actions(range(start, min(start + BLOCK, len(index))))
        if not (finite := np.isfinite(actions).all(axis=(1, 2))).all():
            raise ShardError(
                f"{index.where(start + int(np.argmin(finite)))}: action.npy holds NaN or infinity. "
                "Drop or record that sample again."
            )
        rows = actions.reshape(-1, 20).astype(np.float64)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        # Around a value near the mean: the variance of a column that hardly moves stays exact.
        shift = rows[0] if shift is None else shift
        total += (rows - shift).sum(axis=0)
        squares += ((rows - shift) ** 2).sum(axis=0)
        count += len(rows)
    if shift is None:
        raise ShardError("the shards hold no samples; there is nothing to take statistics of.")
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    return ActionStatistics(low, high, mean + shift, np.sqrt(variance))


def fit_normalizer(
    source: ShardIndex | str | Path | Iterable[str | Path], *, mode: NormalizerMode = "limits"
) -> LinearNormalizer:
    """A normalizer fitted to shards; see :meth:`LinearNormalizer.fit` for the modes.

    Raises:
        ShardError: a damaged shard, or a value that is not finite.
    """
    return action_statistics(source).normalizer(mode)


def magnified(
    minimum: Float[np.ndarray, " 20"],
    maximum: Float[np.ndarray, " 20"],
    normalizer: LinearNormalizer | None = None,
) -> dict[str, str]:
    """What a normalizer magnifies although it hardly moves: arm -> which columns, how much, and what helps.

    A hand that rests is recorded with the noise of its tracker; limits fitted to that make it as large as the motion
    of the other hand.

    minimum, maximum: of the actions (metres). normalizer: None stands for the limits fitted to them.
    """
    spans = np.asarray(maximum - minimum, np.float64)
    fitted = spans if normalizer is None else 2 / np.abs(np.asarray(normalizer.scale, np.float64))
    widest = float(spans[list(POSITION_DIMS)].max())
    found = {}
    for arm in ARMS:
        part = arm_slice(arm)
        still = {}
        for name, span, reach in zip(COLUMNS, spans[part], fitted[part], strict=True):
            limit = {"width": _STILL_WIDTH_M}.get(name, max(_STILL_M, widest / _STILL_PART))
            if not name.startswith("rotation") and _CONSTANT_M <= span < limit and reach < limit:
                still[name] = (span, 2 / reach)
        if still:
            told = ", ".join(
                f"{name} {1000 * span:.2g} mm (scale {scale:,.0f})" for name, (span, scale) in still.items()
            )
            found[arm] = (
                f"{told}; the widest position has scale {2 / max(widest, _STILL_M):,.0f}. Fit one scale for all "
                f"positions ('rdt2 data stats DATA --fit FOLDER --mode mean_std') or take the published normalizer, "
                f"and train with --set normalizer=FOLDER"
            )
    return found


def recorded_minutes(index: ShardIndex) -> tuple[float, bool]:
    """How long the episodes are together, from the first to the last sample of each piece, and whether the shards
    tell times: where they do not, 30 samples a second are taken for granted."""
    times = index.times
    if np.isnan(times).any():
        return len(index) / FPS / 60, False
    episodes: dict[tuple[int, str], list[np.ndarray]] = {}
    for source in range(len(index.sources)):  # two of them may both have an episode_000000
        for name, numbers in index.episode_runs(source):
            episodes.setdefault((source, name), []).append(times[numbers.start : numbers.stop])
    seconds = 0.0
    for (_, name), parts in episodes.items():
        told = np.sort(np.concatenate(parts)) if name else np.concatenate(parts)
        for run in np.split(told, np.flatnonzero(np.diff(told) <= 0) + 1):
            # Each sample stands for the time until the next one, the last of a piece for a usual step.
            usual = usual_step(run) if len(run) > 1 else 1 / FPS
            seconds += sum(run[part][-1] - run[part][0] + usual for part in pieces(run))
    return seconds / 60, True


def ranges_figure(
    statistics: ActionStatistics, normalizers: dict[str, LinearNormalizer], *, title: str
) -> Any:
    """A matplotlib Figure: where a data set's actions lie in the numbers of normalizers, by arm and column.

    Bars go from the smallest to the largest value, dots mark the mean, thick parts one standard deviation. The
    models were made for numbers within the dotted lines, -1 and 1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, len(SIDES), sharey=True, squeeze=False)[0]
    places = np.arange(len(COLUMNS))
    offsets = np.linspace(-0.18, 0.18, len(normalizers)) if len(normalizers) > 1 else [0.0]
    for axis, arm in zip(axes, SIDES, strict=True):
        part = arm_slice(arm)
        for k, (name, normalizer) in enumerate(normalizers.items()):
            spread = statistics.std * normalizer.scale.abs().numpy()
            middle, *ends = (
                normalizer.normalize(values)[part]
                for values in (statistics.mean, statistics.minimum, statistics.maximum)
            )
            at, colour = places + offsets[k], f"C{k}"
            axis.hlines(at, *ends, color=colour, linewidth=1, label=name)
            axis.hlines(at, middle - spread[part], middle + spread[part], color=colour, linewidth=4)
            axis.plot(middle, at, "o", color=colour, markersize=4)
        for edge in (-1, 1):
            axis.axvline(edge, color="grey", linestyle=":", linewidth=1)
        axis.set_title(f"{arm} arm")
        axis.set_xlabel("normalised")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(places, COLUMNS)
    axes[0].invert_yaxis()
    axes[-1].legend(loc="lower right", fontsize=8)
    return figure
