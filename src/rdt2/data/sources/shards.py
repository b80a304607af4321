"""Training shards back to episodes: the relative chunks of consecutive frames are put end to end.

Each sample says where its grippers go in the next 0.8 s. Where the next sample was taken within that time,
its pose follows from the chunk; the path of an episode comes out in the frame of its first pose, which is
all that shards keep. Chunks that contradict each other end an episode (or are an error where the shards say
that they belong to one). The last 0.8 s of motion have no pictures in shards and so are no part of the
episode.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2 import pose
from rdt2.action import ARMS, FPS, HORIZON, arm_slice
from rdt2.data.continuity import (
    STEP_TIMES,
    TOLERANCE_M,
    TOLERANCE_RAD,
    chunk_paths,
    disagreement,
    recorded_time,
)
from rdt2.data.dataset import ShardIndex
from rdt2.data.episode import Episode
from rdt2.data.shards import decode_jpeg
from rdt2.data.sources.base import Pictures, Source
from rdt2.errors import RDT2Error, ShardError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.data.sources.options import SourceOptions


class Shards(Source):
    """See the module. ``path`` is a folder of shards or one tar."""

    kind = "shards"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            ShardError: a damaged shard, or no sentence for a sample and no ``options.instruction``.
        """
        super().__init__(path, options)
        ignore = self.options.instruction is not None
        self._index = ShardIndex(self.path, instructions="ignore" if ignore else "file")
        self._runs = self._find_runs()
        self.names = _unique([name for name, _ in self._runs])
        self.lengths = [len(numbers) for _, numbers in self._runs]

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names shard and sample."""
        numbers = self._runs[number][1]
        times = self._times[numbers]
        index = self._index
        poses = {arm: np.tile(np.eye(4), (len(numbers), 1, 1)) for arm in ARMS}
        widths = {arm: np.empty(len(numbers)) for arm in ARMS}
        anchor = 0
        for row in range(len(numbers)):
            # The longest reach keeps rounding errors from adding up: one product for 0.8 s, not 24.
            if times[row] - times[anchor] > HORIZON / FPS + 1e-6:
                anchor = row - 1
            if row:
                reach = times[row] - times[anchor]
                at, opening = _chunk_at(index.action(int(numbers[anchor])), reach)
                for arm in ARMS:
                    poses[arm][row] = poses[arm][anchor] @ at[arm]
                    widths[arm][row] = opening[arm]
        for arm in ARMS:
            # The width at the first frame is in no chunk: carried back along the first two steps.
            first = index.action(int(numbers[0]))[:, arm_slice(arm)][:, 9].astype(np.float64)
            widths[arm][0] = max(0.0, 2 * first[0] - first[1])
        sentence = self.options.instruction or index.instruction(int(numbers[0]))
        return Episode(
            videos={
                "left": Pictures(len(numbers), lambda row: self._half(numbers[row], 0)),
                "right": Pictures(len(numbers), lambda row: self._half(numbers[row], 1)),
            },
            poses=poses,
            widths=widths,
            timestamps=times - times[0],
            instruction=sentence or "",
            source=f"{self.path.name}, {self.names[number]}",
            meta={"episode": self.names[number]},
        )

    def _paths(self, number: int) -> Float[np.ndarray, "2 25 4 4"]:
        """Poses of both arms at a sample and at its 24 steps, in the sample's own frames."""
        try:
            return chunk_paths(self._index.action(number))
        except RDT2Error as error:
            raise ShardError(f"{self._index.where(number)}: {error}") from None

    def _half(self, number: int, side: int) -> np.ndarray:
        picture = decode_jpeg(self._index.jpeg(int(number)), where=self._index.where(int(number)))
        return np.ascontiguousarray(picture[:, 384 * side : 384 * (side + 1)])

    def _find_runs(self) -> list[tuple[str, np.ndarray]]:
        """Episodes: (name, sample numbers in time order)."""
        index = self._index
        self._times = np.empty(len(index))
        runs: list[tuple[str, list[int]]] = []
        groups: dict[str, list[int]] = {}
        for number in range(len(index)):
            groups.setdefault(str(index.episodes[number]), []).append(number)
        for name, numbers in groups.items():
            metas = [index.meta(number) for number in numbers]
            said = _recorded_times(metas)
            self._times[numbers] = np.arange(len(numbers)) / FPS if said is None else said
            named = bool(name) and said is not None
            if said is not None and named:
                numbers = [numbers[row] for row in np.argsort(said, kind="stable")]
            runs += self._split(name, numbers, named=named)
        return [(name, np.array(run)) for name, run in runs]

    def _split(self, name: str, numbers: list[int], *, named: bool) -> list[tuple[str, list[int]]]:
        runs: list[list[int]] = [[numbers[0]]]
        path = self._paths(numbers[0])
        for before, after in pairwise(numbers):
            step = self._times[after] - self._times[before]
            where = self._index.where(after)
            if named and step <= 0:
                raise ShardError(
                    f"{where}: two samples of episode {name!r} at the same time. Convert the recording again."
                )
            belongs = 0 < step <= HORIZON / FPS + 1e-6 and (
                self._index.instruction(before) == self._index.instruction(after)
            )
            path, path_before = self._paths(after), path
            if belongs:
                error = disagreement(path_before, path, step)
                belongs = error[0] <= TOLERANCE_M and error[1] <= TOLERANCE_RAD
                if not belongs and named:
                    raise ShardError(
                        f"{where}: its chunk contradicts the sample before it in episode {name!r} by "
                        f"{error[0]:.4f} m and {error[1]:.3f} rad. Wrong frame numbers, or chunks that are not "
                        f"relative to their own frame."
                    )
            if belongs:
                runs[-1].append(after)
            else:
                runs.append([after])
        return [(name or "episode", run) for run in runs]


def _recorded_times(metas: list[dict[str, Any]]) -> np.ndarray | None:
    """Seconds of each sample in its episode; None where one of them does not say."""
    times = [recorded_time(meta) for meta in metas]
    return None if any(time is None for time in times) else np.array(times, dtype=np.float64)


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
