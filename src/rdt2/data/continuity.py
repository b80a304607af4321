"""What consecutive samples of an episode say about each other: time, motion, and what the cameras saw of it.

An *episode* is what the shards name in ``episode`` of each sample's meta; the check, the statistics, the splits,
pages and conversions count these. Where frames are missing inside it, it has several *pieces* (rdt2.data.clock).
Shards that name none have an episode for each run of samples that fit together.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rdt2 import pose
from rdt2.action import ARMS, FPS, HORIZON, arm_slice
from rdt2.data.clock import longest_step, usual_step
from rdt2.errors import RDT2Error, ShardError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, UInt8

TOLERANCE_M, TOLERANCE_RAD = 2e-3, 1e-2
"""How far two chunks may differ about the same instant and still be of one recording."""
Thumbs = dict[str, np.ndarray]
"""For each arm what its camera saw (see `thumbnails`)."""
STEP_TIMES = np.arange(HORIZON + 1) / FPS

_FROZEN_FRAMES, _FROZEN_CHANGE, _MOVED_M = 5, 0.02, 0.02
_LEVER_M = 0.15
"""Turning by an angle changes a wrist picture about as much as moving by this times the angle."""
_MIN_PAIRS, _MARGIN = 30, 0.15
_MIN_ALONE, _ALONE_M = 10, 1e-3


# ------------------------------------------------------------------------------------------ two chunks compared


def chunk_paths(action: Float[np.ndarray, "24 20"], *, rows: bool = False) -> Float[np.ndarray, "2 25 4 4"]:
    """Poses of (right, left) arm at a sample and at its 24 steps, in the sample's own frames.

    rows: read the six rotation numbers as the first two rows of the matrix.

    Raises:
        PoseError: no rotations.
    """
    path = np.tile(np.eye(4), (len(ARMS), HORIZON + 1, 1, 1))
    for row, arm in enumerate(ARMS):
        part = action[:, arm_slice(arm)].astype(np.float64)
        path[row, 1:] = pose.pose9_to_matrix(part[:, :9])
        if rows:
            path[row, 1:, :3, :3] = path[row, 1:, :3, :3].swapaxes(-1, -2)
    return path


def disagreement(
    first: Float[np.ndarray, "2 25 4 4"], second: Float[np.ndarray, "2 25 4 4"], seconds: float
) -> tuple[float, float]:
    """Largest distance (m) and angle (rad) between two samples' paths about the instants both tell of.

    seconds: how long after the first the second was taken, 0 to 0.8.
    """
    rows = round(seconds * FPS)
    if rows and abs(seconds * FPS - rows) < 0.05:  # an even rate: close enough, and ten times faster
        ahead = first[:, rows:]
        found = second[:, : HORIZON + 1 - rows]
    else:
        shared = STEP_TIMES
        shared = np.concatenate([[0.0], shared[(shared > 0) & (shared + seconds <= HORIZON / FPS + 1e-6)]])
        ahead = np.stack([pose.interpolate(STEP_TIMES, path, shared + seconds) for path in first])
        found = np.stack([pose.interpolate(STEP_TIMES, path, shared) for path in second])
    here, turned = ahead[:, :1], ahead[:, :1, :3, :3].swapaxes(-1, -2)
    offset = (turned @ (ahead[..., :3, 3:] - here[..., :3, 3:]))[..., 0]
    distance = np.linalg.norm(offset - found[..., :3, 3], axis=-1).max()
    # The chord of a rotation: twice the sine of half its angle, over all columns.
    chord = np.linalg.norm(turned @ ahead[..., :3, :3] - found[..., :3, :3], axis=(-2, -1)) / np.sqrt(8)
    return float(distance), float(2 * np.arcsin(np.clip(chord, 0, 1)).max())


def fits(first: Float[np.ndarray, "2 25 4 4"], second: Float[np.ndarray, "2 25 4 4"], seconds: float) -> bool:
    """Whether the second sample may be of the same episode: within 0.8 s, and its chunk goes on with the first's."""
    if not 0 < seconds <= HORIZON / FPS + 1e-6:
        return False
    distance, angle = disagreement(first, second, seconds)
    return distance <= TOLERANCE_M and angle <= TOLERANCE_RAD


def recorded_time(meta: Mapping[str, Any], *, where: str) -> float | None:
    """Seconds of a sample in its episode, from ``timestamp`` or ``frame`` of its meta; None where it has none.

    Raises:
        ShardError: they are no finite numbers.
    """
    name, rate = ("timestamp", 1.0) if "timestamp" in meta else ("frame", FPS)
    if name not in meta:
        return None
    try:
        seconds = float(meta[name]) / rate
    except (TypeError, ValueError):
        seconds = np.nan
    if not np.isfinite(seconds):
        raise ShardError(f"{where}: {name} in meta.json is {meta[name]!r}, expected a number.")
    return seconds


# ------------------------------------------------------------------------------------------------ one episode


class Remark(NamedTuple):
    """Something wrong with a sample: the name of the finding, what exactly, and how bad."""

    finding: str
    detail: str
    score: float


@dataclass
class _Before:
    """What is kept of the sample before."""

    time: float | None
    paths: np.ndarray
    paths_as_rows: np.ndarray
    thumbs: Thumbs | None
    sentence: str


@dataclass
class EpisodeTrack:
    """Takes the samples of one name in stored order and remarks on each against the one before."""

    named: bool
    """Whether the shards say that these samples are of one episode: then they must fit together."""
    pairs: int = 0
    """Pairs whose chunks could be compared and that turn enough to tell rows from columns."""
    rows: int = 0
    """Of these, pairs that fit together better when rotations are read as rows."""
    episodes: int = 1
    """How many episodes they are: one, or where they have no name, as many as fit together."""
    _before: _Before | None = None
    _steps: array[float] = field(default_factory=lambda: array("d"))
    _long: list[tuple[float, str]] = field(default_factory=list)
    _still: dict[str, tuple[int, float]] = field(default_factory=lambda: dict.fromkeys(ARMS, (0, 0.0)))
    _motion: dict[str, array[float]] = field(default_factory=lambda: {arm: array("f") for arm in ARMS})
    _change: dict[str, array[float]] = field(default_factory=lambda: {arm: array("f") for arm in ARMS})

    def add(
        self,
        action: Float[np.ndarray, "24 20"],
        time: float | None,
        thumbs: Thumbs | None,
        *,
        where: str,
        sentence: str = "",
    ) -> Iterator[Remark]:
        """Remarks on the next sample. time: seconds; thumbs: None: without cameras; where: its name in ``gaps``."""
        try:
            paths, as_rows = chunk_paths(action), chunk_paths(action, rows=True)
        except RDT2Error:
            self._before = None  # no rotations at all, which the check of the sample itself says
            return
        now = _Before(time, paths, as_rows, thumbs, sentence)
        before, self._before = self._before, now
        if before is None:
            return
        seconds = None if before.time is None or time is None else time - before.time
        if not self.named:
            same = sentence == before.sentence and fits(
                before.paths, paths, 1 / FPS if seconds is None else seconds
            )
            self.episodes += not same
        elif seconds is not None:
            yield from self._time(seconds, where)
            yield from self._chunks(before, now, seconds)
        yield from self._cameras(before, now, seconds)

    def forget(self) -> None:
        """Let the last sample go, and with it 30 kB: another one will hardly follow."""
        self._before = None

    def _time(self, seconds: float, where: str) -> Iterator[Remark]:
        if seconds <= 0:
            yield Remark("time order", f"{seconds:+.3f} s after the sample before it", -seconds)
            return
        self._steps.append(seconds)
        if seconds > longest_step(0):
            self._long.append((seconds, where))

    def gaps(self) -> Iterator[tuple[str, Remark]]:
        """Where the pieces of the episode end: the name of the sample after each, and the remark."""
        usual = usual_step(np.concatenate([[0.0], np.cumsum(self._steps)]))
        for seconds, where in self._long:
            if seconds > longest_step(usual):
                detail = f"{seconds:.3f} s after the sample before, usual {usual:.3f} s"
                yield where, Remark("time gap", detail, seconds)

    def _chunks(self, before: _Before, now: _Before, seconds: float) -> Iterator[Remark]:
        if not 0 < seconds <= HORIZON / FPS + 1e-6:
            return
        distance, angle = disagreement(before.paths, now.paths, seconds)
        fits = distance <= TOLERANCE_M and angle <= TOLERANCE_RAD
        as_rows, _ = disagreement(before.paths_as_rows, now.paths_as_rows, seconds)
        # Where nothing turns, rows and columns are the same and nothing can be told.
        if abs(as_rows - distance) > TOLERANCE_M / 4:
            self.pairs += 1
            self.rows += as_rows < distance / 2
        if not fits:
            yield Remark(
                "chunks disagree", f"by {distance:.4f} m, {angle:.3f} rad", distance + _LEVER_M * angle
            )

    def _cameras(self, before: _Before, now: _Before, seconds: float | None) -> Iterator[Remark]:
        if before.thumbs is None or now.thumbs is None:
            return
        step = 1 if seconds is None else round(float(np.clip(seconds * FPS, 1, HORIZON)))
        for row, arm in enumerate(ARMS):
            here = before.paths[row, step]
            turn = np.arccos(np.clip((np.trace(here[:3, :3]) - 1) / 2, -1, 1))
            motion = float(np.linalg.norm(here[:3, 3]) + _LEVER_M * turn)
            change = float(np.abs(now.thumbs[arm] - before.thumbs[arm]).mean())
            self._motion[arm].append(motion)
            self._change[arm].append(change)
            frames, moved = self._still[arm]
            self._still[arm] = (frames + 1, moved + motion) if change < _FROZEN_CHANGE else (0, 0.0)
            frames, moved = self._still[arm]
            if frames >= _FROZEN_FRAMES and moved > _MOVED_M:
                yield Remark(
                    "frozen camera", f"{arm}, {frames + 1} equal pictures while it moved {moved:.3f} m", moved
                )

    def swapped(self) -> float | None:
        """How much better each picture's change follows the OTHER arm's motion: -2..2; None: cannot be told.

        A wrist camera sees its own arm's motion: the change of a picture and the motion rank alike.
        """
        if len(self._motion["right"]) < _MIN_PAIRS:
            return None
        own = np.mean([_rank_correlation(self._motion[arm], self._change[arm]) for arm in ARMS])
        crossed = np.mean(
            [_rank_correlation(self._motion[a], self._change[b]) for a, b in (ARMS, reversed(ARMS))]
        )
        better = float(crossed - own)
        if abs(better) < _MARGIN or (better > 0 and self._mover_sees_more()):
            return None
        return better

    def _mover_sees_more(self) -> bool:
        """Whether, while one arm rests, the picture of the one that moves mostly changes more.

        A camera at rest that watches the other arm follows its motion well, too, but changes less.
        """
        motion = np.array([self._motion[arm] for arm in ARMS])
        change = np.array([self._change[arm] for arm in ARMS])
        alone = motion.max(axis=0) > 3 * motion.min(axis=0) + _ALONE_M
        agree = np.sign(motion[0] - motion[1]) == np.sign(change[0] - change[1])
        return bool(alone.sum() >= _MIN_ALONE and agree[alone].mean() >= 0.5)


def thumbnails(picture: UInt8[np.ndarray, "384 768 3"]) -> Thumbs:
    """Small grey pictures of both cameras, away from the seam."""
    left, right = picture[4:380:8, 4:376:8], picture[4:380:8, 396:764:8]
    return {"right": right.mean(axis=-1, dtype=np.float32), "left": left.mean(axis=-1, dtype=np.float32)}


def _rank_correlation(first: array[float], second: array[float]) -> float:
    """Spearman's; 0 where one of them is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(first), rankdata(second)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
