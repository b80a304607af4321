"""LeRobotDataset v3.0 and v2.1 on disk, read with pyarrow and av; the lerobot package is not needed.

The state (``observation.state``, or ``--pose-key``) has to hold end-effector poses: for each arm position,
rotation and gripper, arms side by side. Joint angles are no poses and are refused where their names say so.
Datasets written by :mod:`rdt2.data.lerobot_writer` name their columns and leave nothing to guess.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS
from rdt2.data.sources.base import Source, guess_cameras, guess_rotation
from rdt2.data.sources.options import ROTATION_SIZE, SourceOptions, guess_gripper
from rdt2.data.sources.pictures import MAX_SIDE, decode_image
from rdt2.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

STATE_NAMES = [
    f"{arm}_{name}"
    for arm in ARMS
    for name in ("x", "y", "z", "r00", "r10", "r20", "r01", "r11", "r21", "width")
]
"""Columns of a state written by this package: position (m), first two COLUMNS of R, gripper width (m)."""
_JOINT_WORDS = ("joint", "motor", "shoulder", "elbow", "waist", "forearm", ".pos")


@dataclass
class _Entry:
    """Where one episode lies."""

    index: int
    length: int
    data: Path
    tasks: list[str]
    videos: dict[str, tuple[Path, float]] = field(default_factory=dict)


class LeRobot(Source):
    """See the module. ``path`` is the folder that holds ``meta/info.json``. Needs pyarrow and av."""

    kind = "lerobot"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: files missing or damaged, or another version.
            ConfigError: a state that is no poses, or options that contradict the dataset.
        """
        super().__init__(path, options)
        info = _json(self.path / "meta" / "info.json")
        self._info = info
        self._features: dict[str, Any] = info.get("features", {})
        version = str(info.get("codebase_version", ""))
        if version.startswith("v3"):
            self._entries = list(self._entries_v3())
        elif version.startswith("v2"):
            self._entries = list(self._entries_v2())
        else:
            raise RecordingError(f"{self.path}: LeRobot dataset version {version!r}; v2.x and v3.x are read.")
        if not self._entries:
            raise RecordingError(f"{self.path}: the dataset holds no episode.")
        self.names = [f"episode_{entry.index:06d}" for entry in self._entries]
        self.lengths = [entry.length for entry in self._entries]
        for name, length in zip(self.names, self.lengths, strict=True):
            if length < 1:
                raise RecordingError(f"{self.path}: {name} has no frame. Remove it from the dataset.")
        self._fps = float(info.get("fps") or 0)
        if not 1 <= self._fps <= 1000:
            raise RecordingError(f"{self.path}: fps in info.json is {info.get('fps')!r}, expected 1 to 1000.")
        self._read_layout()

    def _read_layout(self) -> None:
        key = self.options.pose_key or "observation.state"
        if key not in self._features:
            raise ConfigError(
                f"{self.path}: has no feature {key}; there are {', '.join(self._features)}. "
                f"Name the one that holds end-effector poses: --pose-key NAME"
            )
        self._pose_key = key
        names = _flat_names(self._features[key].get("names"))
        columns = int(np.prod(self._features[key]["shape"]))
        own = names == STATE_NAMES
        if (
            not own
            and self.options.pose_key is None
            and any(word in name.lower() for name in names for word in _JOINT_WORDS)
        ):
            raise ConfigError(
                f"{self.path}: {key} holds joint angles ({', '.join(names[:3])}, ...), which are no poses. "
                f"Point --pose-key at end-effector poses."
            )
        if own:
            self.options = replace(self.options, arms="right-left", rotation="columns", gripper_unit="m")
        arms = self._arms_of_columns(columns, "LeRobot's two-armed robots list the left arm first")
        rotation = self._choose("rotation", lambda: guess_rotation(columns, arms, where=str(self.path)))
        self._size = 4 + ROTATION_SIZE[rotation]
        if columns != arms * self._size:
            raise ConfigError(
                f"{self.path}: {key} has {columns} columns; {arms} arm(s) of position, {rotation}, gripper have "
                f"{arms * self._size}. Choose another --rotation or --arms."
            )
        pictures = [
            name for name, value in self._features.items() if value.get("dtype") in ("video", "image")
        ]
        if arms == 1 and self.options.cameras is None and len(pictures) == 1:
            cameras = (pictures[0], pictures[0])
        elif own and self.options.cameras is None:
            cameras = guess_cameras(pictures, where=str(self.path))[0]
        else:
            cameras = self._choose("cameras", lambda: guess_cameras(pictures, where=str(self.path)))
        self._camera_of = {arm: cameras[0 if arm == "right" else 1] for arm in self._robots_of}
        for name in self._camera_of.values():
            if name not in pictures:
                raise ConfigError(f"{self.path}: has no camera {name!r}; there are {', '.join(pictures)}.")
        self.options = replace(self.options, rotation=rotation)  # type: ignore[arg-type]
        if self.options.gripper_unit is None:
            state = self._table(self._entries[0])[0]
            grippers = np.concatenate(
                [state[:, (robot + 1) * self._size - 1] for robot in self._robots_of.values()]
            )
            unit = self._choose("gripper_unit", lambda: guess_gripper(grippers, where=str(self.path)))
            self.options = replace(self.options, gripper_unit=unit)

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names file and frame."""
        entry = self._entries[number]
        state, times, stored = self._table(entry)
        part = {
            arm: state[:, robot * self._size : (robot + 1) * self._size]
            for arm, robot in self._robots_of.items()
        }
        frames: dict[str, Any] = {}
        for arm, key in self._camera_of.items():
            if key in stored:
                frames[arm] = _stored_pictures(stored[key], self.path, f"{self.names[number]}, {key}")
            else:
                path, start = entry.videos[key]
                frames[arm] = VideoFrames(path, start + times, fps=self._fps)
        return self._episode(
            number,
            position={arm: values[:, :3] for arm, values in part.items()},
            rotation={arm: values[:, 3:-1] for arm, values in part.items()},
            gripper={arm: values[:, -1] for arm, values in part.items()},
            frames=frames,
            timestamps=np.arange(len(times)) / self.options.fps if self.options.fps else times,
            instruction=entry.tasks[0] if entry.tasks else None,
        )

    def _table(self, entry: _Entry) -> tuple[np.ndarray, np.ndarray, dict[str, list[Any]]]:
        """(n, columns) state, (n,) seconds, and pictures stored inside the table."""
        import pyarrow.compute as pc

        inside = [key for key in set(self._camera_of.values()) if self._features[key]["dtype"] == "image"]
        wanted = [self._pose_key, "timestamp", "episode_index", *inside]
        table = _parquet(entry.data, columns=wanted)
        table = table.filter(pc.equal(table["episode_index"], entry.index))
        where = f"{entry.data}, episode {entry.index}"
        if table.num_rows != entry.length:
            raise RecordingError(
                f"{where}: {table.num_rows} rows, the episode table promises {entry.length}. "
                f"The dataset is incomplete: download it again."
            )
        column = table[self._pose_key].combine_chunks()
        flat = np.asarray(column.flatten(), np.float64)
        if len(flat) % entry.length:
            raise RecordingError(f"{where}: {self._pose_key} has rows of different lengths.")
        # The float32 seconds of LeRobot are rounded; on the grid of its rate they are exact.
        times = np.asarray(table["timestamp"], np.float64)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            frame = int((~(np.diff(times) > 0)).argmax()) + 1
            raise RecordingError(f"{where}: timestamps do not increase at frame {frame}. Sort the recording.")
        grid = np.round(times * self._fps) / self._fps
        if len(times) == 1 or (np.abs(grid - times).max() < 1e-3 and (np.diff(grid) > 0).all()):
            times = grid
        return flat.reshape(entry.length, -1), times, {key: table[key].to_pylist() for key in inside}

    def _entries_v3(self) -> Iterator[_Entry]:
        rows: list[dict[str, Any]] = []
        files = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise RecordingError(f"{self.path}: meta/episodes holds no parquet file. Download it again.")
        for file in files:
            rows += _parquet(file, leave_out="stats/").to_pylist()
        keys = [name for name, value in self._features.items() if value.get("dtype") == "video"]
        data_path, video_path = self._info["data_path"], self._info.get("video_path") or ""
        for row in sorted(rows, key=lambda row: row["episode_index"]):
            videos = {
                key: (
                    self._inside(
                        video_path,
                        video_key=key,
                        chunk_index=row[f"videos/{key}/chunk_index"],
                        file_index=row[f"videos/{key}/file_index"],
                    ),
                    float(row[f"videos/{key}/from_timestamp"]),
                )
                for key in keys
            }
            yield _Entry(
                index=int(row["episode_index"]),
                length=int(row["length"]),
                data=self._inside(
                    data_path, chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
                ),
                tasks=list(row.get("tasks") or []),
                videos=videos,
            )

    def _entries_v2(self) -> Iterator[_Entry]:
        keys = [name for name, value in self._features.items() if value.get("dtype") == "video"]
        size = int(self._info.get("chunks_size", 1000))
        for line in _lines(self.path / "meta" / "episodes.jsonl"):
            index, length = int(line["episode_index"]), int(line["length"])
            place = {"episode_chunk": index // size, "episode_index": index}
            yield _Entry(
                index=index,
                length=length,
                data=self._inside(self._info["data_path"], **place),
                tasks=list(line.get("tasks") or []),
                videos={
                    key: (self._inside(self._info["video_path"], video_key=key, **place), 0.0) for key in keys
                },
            )

    def _inside(self, template: str, **values: Any) -> Path:
        """A file of the dataset; a template that leads out of its folder is refused."""
        try:
            path = (self.path / template.format(**values)).resolve()
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise RecordingError(
                f"{self.path}: info.json has a path template {template!r} ({error})."
            ) from None
        if not path.is_relative_to(self.path.resolve()):
            raise RecordingError(f"{self.path}: info.json points outside the dataset ({template!r}).")
        return path


class VideoFrames:
    """Frames of a video by number, decoded forwards with the file kept open; stepping back seeks.

    times: (n,) seconds in the file, one for each frame.
    """

    def __init__(self, path: Path, times: np.ndarray, *, fps: float) -> None:
        self._path, self._times, self._half = path, times, 0.5 / fps
        self._next = 0
        self._container: Any = None
        self._decoder: Any = None

    def __call__(self, number: int) -> np.ndarray:
        import av

        target = float(self._times[number])
        try:
            if self._container is None or number < self._next:
                self._open(target)
            assert self._decoder is not None
            for frame in self._decoder:
                if frame.time is None or frame.time < target - self._half:
                    continue
                if frame.time > target + self._half:
                    break
                self._next = number + 1
                return frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError) as error:
            raise RecordingError(f"{self._path}: cannot be decoded at {target:.3f} s ({error}).") from None
        raise RecordingError(
            f"{self._path}: has no frame at {target:.3f} s, where the table has one. "
            f"A missing frame is never filled in: download the video again, or leave the episode out."
        )

    def _open(self, target: float) -> None:
        import av

        if self._container is not None:
            self._container.close()
        self._container = av.open(str(self._path))
        stream = self._container.streams.video[0]
        if max(stream.width, stream.height) > MAX_SIDE:
            raise RecordingError(f"{self._path}: {stream.width} x {stream.height} is no wrist camera.")
        if target > 0:
            self._container.seek(int(target / stream.time_base), stream=stream)
        self._decoder = self._container.decode(stream)


def _stored_pictures(values: list[Any], folder: Path, where: str) -> Any:
    def read(number: int) -> np.ndarray:
        data = values[number].get("bytes")
        if not data:
            raise RecordingError(f"{folder}: {where}, frame {number}: the table holds no picture bytes.")
        return decode_image(data, where=f"{folder}: {where}, frame {number}")

    return read


def _flat_names(names: Any) -> list[str]:
    if isinstance(names, dict):
        return [str(name) for part in names.values() for name in (part if isinstance(part, list) else [part])]
    return [str(name) for name in names or []]


def _parquet(path: Path, *, columns: list[str] | None = None, leave_out: str | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if leave_out is not None:
                columns = [name for name in file.schema_arrow.names if not name.startswith(leave_out)]
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise RecordingError(f"{path}: lacks the columns {', '.join(sorted(missing))}.")
            return file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise RecordingError(f"{path}: is no whole parquet file ({error}). Download it again.") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read ({error}). This is no LeRobot dataset.") from None
    if not isinstance(value, dict):
        raise RecordingError(f"{path}: expected a JSON object.")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read ({error}).") from None
