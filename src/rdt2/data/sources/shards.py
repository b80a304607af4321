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
from rdt2.data.dataset import ShardIndex
from rdt2.data.episode import Episode
from rdt2.data.shards import decode_jpeg
from rdt2.data.sources.base import Pictures, Source
from rdt2.errors import RDT2Error, ShardError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.data.sources.options import SourceOptions

_TOLERANCE_M, _TOLERANCE_RAD = 2e-3, 1e-2
"""How far two chunks may differ about the same instant and still be of one recording."""
_TIMES = np.arange(HORIZON + 1) / FPS


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
        action = self._index.action(number).astype(np.float64)
        path = np.tile(np.eye(4), (len(ARMS), HORIZON + 1, 1, 1))
        for row, arm in enumerate(ARMS):
            try:
                path[row, 1:] = pose.pose9_to_matrix(action[:, arm_slice(arm)][:, :9])
            except RDT2Error as error:
                raise ShardError(f"{self._index.where(number)}, {arm} arm: {error}") from None
        return path

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
                error = _disagreement(path_before, path, step)
                belongs = error[0] <= _TOLERANCE_M and error[1] <= _TOLERANCE_RAD
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
    """Seconds of each sample in its episode, from ``timestamp`` or ``frame`` of its meta."""
    try:
        if all("timestamp" in meta for meta in metas):
            return np.array([float(meta["timestamp"]) for meta in metas])
        if all("frame" in meta for meta in metas):
            return np.array([int(meta["frame"]) for meta in metas]) / FPS
    except (TypeError, ValueError) as error:
        raise ShardError(f"meta.json: timestamp or frame is no number ({error}).") from None
    return None


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
            poses[arm] = pose.interpolate(_TIMES, path, np.array([reach]))[0]
            widths[arm] = float(np.interp(reach, _TIMES[1:], part[:, 9]))
    return poses, widths


def _disagreement(
    first: Float[np.ndarray, "2 25 4 4"], second: Float[np.ndarray, "2 25 4 4"], step: float
) -> tuple[float, float]:
    """Largest distance (m) and angle (rad) between two samples' paths about the instants both tell of."""
    rows = round(step * FPS)
    if rows and abs(step * FPS - rows) < 0.05:  # an even rate: close enough to judge by, and ten times faster
        ahead = first[:, rows:]
        found = second[:, : HORIZON + 1 - rows]
    else:
        shared = np.arange(HORIZON + 1) / FPS
        shared = np.concatenate([[0.0], shared[(shared > 0) & (shared + step <= HORIZON / FPS + 1e-6)]])
        ahead = np.stack([pose.interpolate(_TIMES, path, shared + step) for path in first])
        found = np.stack([pose.interpolate(_TIMES, path, shared) for path in second])
    here, turned = ahead[:, :1], ahead[:, :1, :3, :3].swapaxes(-1, -2)
    offset = (turned @ (ahead[..., :3, 3:] - here[..., :3, 3:]))[..., 0]
    distance = np.linalg.norm(offset - found[..., :3, 3], axis=-1).max()
    # The chord of a rotation: twice the sine of half its angle, over all columns.
    chord = np.linalg.norm(turned @ ahead[..., :3, :3] - found[..., :3, :3], axis=(-2, -1)) / np.sqrt(8)
    return float(distance), float(2 * np.arcsin(np.clip(chord, 0, 1)).max())


def _unique(names: list[str]) -> list[str]:
    """The same names, with a number added where one comes more than once."""
    seen: dict[str, int] = {}
    repeated = {name for name, count in Counter(names).items() if count > 1}
    out = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        out.append(f"{name}_{seen[name]:06d}" if name in repeated else name)
    return out
