"""Training shards back to episodes, and to other shards.

Each sample says where its grippers go in the next 0.8 s. Where the next sample was taken within that time,
its pose follows from the chunk; the path of an episode comes out in the frame of its first pose, which is
all that chunks keep. Over more than 0.8 s without a sample, the ``state`` in the metas tells how poses lie to each
other; without it, the hands are shown to go on from where the last chunk ends. No motion is made up in between:
such a time ends a piece (see rdt2.data.clock). The last 0.8 s of motion have no pictures in shards and so are no
part of an episode.

Shards made from shards keep the samples as they are: pictures, chunks, and what their metas say. Only rotations that
were stored as the first two rows (``rotation``: rows) become columns, in chunks and states.

What is an episode: see rdt2.data.continuity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2 import pose
from rdt2.action import ARMS, FPS, HORIZON, arm_slice
from rdt2.data.continuity import STEP_TIMES, chunk_paths, disagreement, fits, recorded_time
from rdt2.data.dataset import ShardIndex
from rdt2.data.episode import Episode
from rdt2.data.shards import INSTRUCTION_KEY, decode_jpeg, read_instructions, told_key
from rdt2.data.sources.base import OPTIONS, Pictures, Source
from rdt2.errors import ConfigError, RDT2Error, ShardError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.data.sources.options import SourceOptions

_REACH = HORIZON / FPS + 1e-6
"""Seconds that a chunk reaches."""


class Shards(Source):
    """See the module. ``path`` is a folder of shards or one tar."""

    kind = "shards"
    meaningless = OPTIONS - {"instruction", "rotation"}
    because = "shards hold the models' own conventions, and their samples stay as they are"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            ShardError: a damaged shard, or no sentence for a sample and no ``options.instruction``.
            ConfigError: options that say nothing about shards.
        """
        super().__init__(path, options)
        if self.options.rotation not in (None, "columns", "rows"):
            raise ConfigError(
                f"--rotation is {self.options.rotation}; shards hold six numbers: --rotation columns or rows."
            )
        # Sentences that are missing are filled one by one, so the index must not insist on them.
        self._instead = (self.options.instruction or "").strip()
        self._index = ShardIndex(self.path, instructions="ignore" if self._instead else "file")
        self._table = (read_instructions(self._index.shards[0]) or {}) if self._instead else {}
        self._times = self._index.times
        self._episodes = self._find_episodes()
        self.names = _unique([name or "episode" for name, _ in self._episodes])
        self.lengths = [len(numbers) for _, numbers in self._episodes]

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names shard and sample."""
        numbers = self._episodes[number][1]
        times = self._times[numbers]
        poses = {arm: np.tile(np.eye(4), (len(numbers), 1, 1)) for arm in ARMS}
        widths = {arm: np.empty(len(numbers)) for arm in ARMS}
        anchor = 0
        for row in range(len(numbers)):
            if row and times[row] - times[row - 1] > _REACH:
                beyond = self._beyond(int(numbers[row - 1]), int(numbers[row]))
                for arm in ARMS:
                    poses[arm][row] = poses[arm][row - 1] @ beyond[arm]
                    widths[arm][row] = _width_before(self._action(numbers[row]), arm)
                anchor = row
                continue
            # The longest reach keeps rounding errors from adding up: one product for 0.8 s, not 24.
            if times[row] - times[anchor] > _REACH:
                anchor = row - 1
            if row:
                reach = times[row] - times[anchor]
                at, opening = _chunk_at(self._action(numbers[anchor]), reach)
                for arm in ARMS:
                    poses[arm][row] = poses[arm][anchor] @ at[arm]
                    widths[arm][row] = opening[arm]
        for arm in ARMS:
            widths[arm][0] = _width_before(self._action(numbers[0]), arm)
        return Episode(
            videos={
                "left": Pictures(len(numbers), lambda row: self._half(numbers[row], 0)),
                "right": Pictures(len(numbers), lambda row: self._half(numbers[row], 1)),
            },
            poses=poses,
            widths=widths,
            timestamps=times - times[0],
            instruction=[self._sentence(number) for number in numbers],
            source=f"{self.path.name}, {self.names[number]}",
            meta={"episode": self.names[number]},
        )

    def samples(self, number: int, *, stride: int = 1) -> Iterator[dict[str, Any]]:
        """The stored samples of an episode, every ``stride``-th, as arguments of `ShardWriter.write`.

        Action tokens are left out: they belong to the normalizer that they were made with.

        Raises:
            RDT2Error: naming shard and sample.
        """
        numbers, index = self._episodes[number][1], self._index
        times = self._times[numbers]
        for row in range(0, len(numbers), stride):
            sample = int(numbers[row])
            meta = index.meta(sample)
            if self.options.rotation == "rows" and "state" in meta:
                meta = meta | {"state": self._as_columns(index.state(sample)).tolist()}
            sentence = self._sentence(sample)
            # A sentence that was filled in gets a key of its own.
            key = (
                told_key(meta)
                if not self._instead or self._table.get(told_key(meta) or "") == sentence
                else None
            )
            told = {"frame": row, "timestamp": round(float(times[row] - times[0]), 9)}
            yield {
                "picture": index.jpeg(sample),
                "action": self._action(sample),
                "instruction": sentence,
                "instruction_key": key,
                "meta": ({} if recorded_time(meta, where=index.where(sample)) is not None else told)
                | {"episode": self.names[number]}
                | {name: value for name, value in meta.items() if name != INSTRUCTION_KEY},
                "key": f"{number:06d}_{row:06d}",
            }

    def _action(self, number: int) -> Float[np.ndarray, "24 20"]:
        """The chunk of a sample, its rotations as columns."""
        return self._as_columns(self._index.action(int(number)))

    def _as_columns(self, values: Float[np.ndarray, "*b 20"]) -> Float[np.ndarray, "*b 20"]:
        if self.options.rotation != "rows":
            return values
        values = values.copy()
        for arm in ARMS:
            part = values[..., arm_slice(arm)]  # a view
            part[..., 3:9] = pose.rot6d_from_rows(part[..., 3:9])
        return values

    def _sentence(self, number: int) -> str:
        """The stored sentence of a sample, --instruction where there is none."""
        if not self._instead:
            return self._index.instruction(int(number)) or ""
        stored = self._table.get(told_key(self._index.meta(int(number))) or "", "")
        return stored if stored.strip() else self._instead

    def _beyond(self, before: int, after: int) -> dict[str, np.ndarray]:
        """Pose of each arm at a sample relative to one more than 0.8 s before, see the module."""
        try:
            states = [
                self._as_columns(self._index.state(number)[None].astype(np.float64))
                for number in (before, after)
            ]
        except ShardError:
            return _chunk_at(self._action(before), HORIZON / FPS)[0]
        first, second = (
            {arm: pose.pose9_to_matrix(state[:, arm_slice(arm)][:, :9])[0] for arm in ARMS}
            for state in states
        )
        return {arm: np.linalg.inv(first[arm]) @ second[arm] for arm in ARMS}

    def _paths(self, number: int) -> Float[np.ndarray, "2 25 4 4"]:
        """Poses of both arms at a sample and at its 24 steps, in the sample's own frames."""
        try:
            return chunk_paths(self._action(number))
        except RDT2Error as error:
            raise ShardError(f"{self._index.where(number)}: {error}") from None

    def _half(self, number: int, side: int) -> np.ndarray:
        picture = decode_jpeg(self._index.jpeg(int(number)), where=self._index.where(int(number)))
        return np.ascontiguousarray(picture[:, 384 * side : 384 * (side + 1)])

    def _find_episodes(self) -> list[tuple[str, np.ndarray]]:
        """(name, sample numbers in time order) of each."""
        index = self._index
        episodes: list[tuple[str, np.ndarray]] = []
        groups: dict[str, list[int]] = {}
        for name, span in index.episode_runs():
            groups.setdefault(name, []).extend(span)
        for name, group in groups.items():
            numbers = np.array(group)
            told = not np.isnan(self._times[numbers]).any()
            if not name:
                if not told:
                    self._times[numbers] = np.arange(len(numbers)) / FPS
                episodes += [("", run) for run in self._fitting(numbers)]
                continue
            if told:
                numbers = numbers[np.argsort(self._times[numbers], kind="stable")]
                self._require_fit(name, numbers)
            else:
                self._times[numbers] = np.cumsum([0.0, *self._steps(numbers)])
            episodes.append((name, numbers))
        return episodes

    def _require_fit(self, name: str, numbers: np.ndarray) -> None:
        """Raises ShardError where the samples of a named episode contradict each other."""
        path = self._paths(numbers[0])
        for before, after in pairwise(numbers):
            step = self._times[after] - self._times[before]
            where = self._index.where(after)
            if step <= 0:
                raise ShardError(
                    f"{where}: two samples of episode {name!r} at the same time, the other is "
                    f"{self._index.where(before)}. Were two recordings put into one folder? Keep them apart and train "
                    f"on a mixture of both, or convert them again."
                )
            path, path_before = self._paths(after), path
            if step <= _REACH and not fits(path_before, path, step):
                metres, radians = disagreement(path_before, path, step)
                raise ShardError(
                    f"{where}: its chunk contradicts the sample before it in episode {name!r} by "
                    f"{metres:.4f} m and {radians:.3f} rad. Wrong frame numbers, or chunks that are not "
                    f"relative to their own frame."
                )

    def _steps(self, numbers: np.ndarray) -> Iterator[float]:
        """Seconds between samples that tell no times: the fewest steps after which their chunks go on with each
        other for 0.4 s, or more than a chunk reaches."""
        path = self._paths(numbers[0])
        for after in numbers[1:]:
            path, before = self._paths(after), path
            steps = np.arange(1, HORIZON // 2 + 1) / FPS
            yield next((float(step) for step in steps if fits(before, path, step)), _REACH + 1 / FPS)

    def _fitting(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Samples without a name as runs that fit together."""
        breaks = []
        path = self._paths(numbers[0])
        for row, (before, after) in enumerate(pairwise(numbers), 1):
            path, path_before = self._paths(after), path
            same = self._sentence(before) == self._sentence(after)
            if not (same and fits(path_before, path, self._times[after] - self._times[before])):
                breaks.append(row)
        return np.split(numbers, breaks)


def _width_before(action: Float[np.ndarray, "24 20"], arm: str) -> float:
    """The width at a sample, which is in no chunk: carried back along the first two steps."""
    first, second = action[:2, arm_slice(arm)][:, 9].astype(np.float64)
    return max(0.0, float(2 * first - second))


def _chunk_at(
    action: Float[np.ndarray, "24 20"], reach: float
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Pose (relative to the sample's) and width of each arm ``reach`` seconds after a sample."""
    poses, widths = {}, {}
    step = round(reach * FPS)
    on_a_step = 1 <= step <= HORIZON and abs(reach - step / FPS) < 1e-7
    for arm in ARMS:
        part = action[:, arm_slice(arm)].astype(np.float64)
        if on_a_step:
            poses[arm], widths[arm] = pose.pose9_to_matrix(part[step - 1, :9]), float(part[step - 1, 9])
        else:
            path = np.concatenate([np.eye(4)[None], pose.pose9_to_matrix(part[:, :9])])
            poses[arm] = pose.interpolate(STEP_TIMES, path, np.array([reach]))[0]
            widths[arm] = float(np.interp(reach, STEP_TIMES[1:], part[:, 9]))
    return poses, widths


def _unique(names: list[str]) -> list[str]:
    """The same names, with a number added where one comes more than once."""
    seen: dict[str, int] = {}
    repeated = {name for name, count in Counter(names).items() if count > 1}
    out = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        out.append(f"{name}_{seen[name]:06d}" if name in repeated else name)
    return out
