"""Episodes as a LeRobotDataset v3.0, written with pyarrow and av; the lerobot package is not needed.

    observation.state               (20,) float32: right arm, then left: position (m), first two COLUMNS of R,
                                    gripper width (m); ABSOLUTE, in the frame of the episode
    action                          (20,) float32: the state of the next frame (the last one holds)
    observation.images.right_wrist  video, 384 x 384
    observation.images.left_wrist   video, 384 x 384

LeRobot has one even rate: episodes are resampled to 30 Hz, and a pause of the recording ends one. The video is
lossy (H.264), the numbers are not beyond float32. The folder is written under a temporary name and renamed when
it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.action import ARMS, FPS, state_vector
from rdt2.data.episode import Episode, decoded_picture
from rdt2.data.resample import resample
from rdt2.data.sources.lerobot import STATE_NAMES
from rdt2.errors import RecordingError
from rdt2.files import whole_folder
from rdt2.observation import IMAGE_SIZE

CAMERAS = {arm: f"observation.images.{arm}_wrist" for arm in ARMS}
_CHUNK = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA_PATH = f"data/{_CHUNK}.parquet"
_VIDEO_PATH = f"videos/{{video_key}}/{_CHUNK}.mp4"
_FILES_PER_CHUNK = 1000
_VIDEO_MB = 200
_STATS_EVERY = 10
"""Every so many frames one is counted into the picture statistics."""


def write_lerobot(episodes: Iterable[Episode], out: str | Path, *, video_mb: float = _VIDEO_MB) -> int:
    """Write a LeRobotDataset v3.0; returns the number of episodes.

    video_mb: a new video file is begun after so many megabytes.

    Raises:
        RecordingError: the folder is there already, there is no episode, or the disk is full.
    """
    target = Path(out)
    if target.exists():
        raise RecordingError(f"{target}: is there already. Choose a new folder, or remove it.")
    with whole_folder(target) as partial:
        writer = _Writer(partial, video_mb)
        try:
            for episode in episodes:
                for piece in resample(episode):
                    writer.add(piece)
            writer.finish()
        finally:
            writer.close()
    return len(writer.rows)


@dataclass
class _Moments:
    """Running minimum, maximum, mean and standard deviation of columns."""

    count: int = 0
    low: Any = np.inf
    high: Any = -np.inf
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        values = values.astype(np.float64)
        self.count += len(values)
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))
        self.total, self.squares = self.total + values.sum(0), self.squares + (values**2).sum(0)

    def as_dict(self, *, picture: bool = False) -> dict[str, Any]:
        mean = self.total / self.count
        values = {
            "min": self.low,
            "max": self.high,
            "mean": mean,
            "std": np.sqrt(np.maximum(self.squares / self.count - mean**2, 0)),
        }
        # LeRobot keeps picture statistics as (channels, 1, 1) in 0..1.
        shaped = {
            name: (np.reshape(value / 255, (3, 1, 1)) if picture else np.atleast_1d(value)).tolist()
            for name, value in values.items()
        }
        return {**shaped, "count": [self.count]}


@dataclass
class _Writer:
    root: Path
    video_mb: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    stats: dict[str, _Moments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = 0
        self._tables: list[Any] = []
        self._videos: dict[str, _Video] = {}

    def add(self, episode: Episode) -> None:
        """Append one episode at 30 Hz."""
        import pyarrow as pa

        if not self._videos:
            self._videos = {
                arm: _Video(self._path(_VIDEO_PATH, video_key=key)) for arm, key in CAMERAS.items()
            }
        count, number = len(episode), len(self.rows)
        for sentence in episode.sentences:
            self.tasks.setdefault(sentence, len(self.tasks))
        state = state_vector(episode.poses, episode.widths).astype(np.float32)
        columns: dict[str, np.ndarray] = {
            "observation.state": state,
            "action": np.concatenate([state[1:], state[-1:]]),
            "timestamp": (np.arange(count) / FPS).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, number),
            "index": np.arange(self.frames, self.frames + count),
            "task_index": np.array([self.tasks[episode.sentence(frame)] for frame in range(count)]),
        }
        for name, values in columns.items():
            self.stats.setdefault(name, _Moments()).add(values)
        self._tables.append(
            pa.table(
                {
                    name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
                    if values.ndim == 2
                    else pa.array(values)
                    for name, values in columns.items()
                }
            )
        )
        place = {"chunk_index": self._file // _FILES_PER_CHUNK, "file_index": self._file % _FILES_PER_CHUNK}
        row = {
            "episode_index": number,
            "tasks": episode.sentences,
            "length": count,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + count,
            **{f"data/{name}": value for name, value in place.items()},
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for arm, key in CAMERAS.items():
            video = self._videos[arm]
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
            row[f"videos/{key}/from_timestamp"] = video.count / FPS
            row[f"videos/{key}/to_timestamp"] = (video.count + count) / FPS
            for frame in range(count):
                picture = decoded_picture(episode.videos[arm][frame])
                video.write(picture)
                if frame % _STATS_EVERY == 0:
                    self.stats.setdefault(key, _Moments()).add(picture[::4, ::4].reshape(-1, 3))
        self.rows.append(row)
        self.frames += count
        if max(video.bytes for video in self._videos.values()) >= self.video_mb * 2**20:
            self._finish_file()

    def finish(self) -> None:
        """Close the files and write ``meta``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.rows:
            raise RecordingError("there is no episode to write.")
        self._finish_file()
        episodes = self.root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        episodes.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self.rows), episodes)
        pq.write_table(_task_table(self.tasks), self.root / "meta" / "tasks.parquet")
        stats = {key: value.as_dict(picture=key in CAMERAS.values()) for key, value in self.stats.items()}
        for name, values in (("stats.json", stats), ("info.json", self._info())):
            (self.root / "meta" / name).write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Let go of files that an error left open."""
        for video in self._videos.values():
            video.abandon()
        self._videos = {}

    def _finish_file(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._tables:
            return
        for video in self._videos.values():
            video.close()
        self._videos = {}
        pq.write_table(pa.concat_tables(self._tables), self._path(_DATA_PATH))
        self._tables = []
        self._file += 1

    def _path(self, template: str, **values: Any) -> Path:
        chunk, number = divmod(self._file, _FILES_PER_CHUNK)
        path = self.root / template.format(chunk_index=chunk, file_index=number, **values)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _info(self) -> dict[str, Any]:
        rate = int(FPS)
        vector = {"dtype": "float32", "shape": [20], "names": STATE_NAMES, "fps": rate}
        scalars = {
            name: {"dtype": kind, "shape": [1], "names": None, "fps": rate}
            for name, kind in (
                ("timestamp", "float32"),
                ("frame_index", "int64"),
                ("episode_index", "int64"),
                ("index", "int64"),
                ("task_index", "int64"),
            )
        }
        video = {
            "dtype": "video",
            "shape": [IMAGE_SIZE, IMAGE_SIZE, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": IMAGE_SIZE,
                "video.width": IMAGE_SIZE,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": rate,
                "video.channels": 3,
                "has_audio": False,
            },
        }
        return {
            "codebase_version": "v3.0",
            "robot_type": "rdt2",
            "total_episodes": len(self.rows),
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": _VIDEO_MB,
            "fps": rate,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": _DATA_PATH,
            "video_path": _VIDEO_PATH,
            "features": {
                "observation.state": vector,
                "action": vector,
                **{key: video for key in CAMERAS.values()},
                **scalars,
            },
        }


class _Video:
    """One mp4 being written, frame by frame."""

    def __init__(self, path: Path) -> None:
        import av

        self.count, self.bytes = 0, 0
        self._container: Any = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=int(FPS))
        self._stream.width = self._stream.height = IMAGE_SIZE
        self._stream.pix_fmt = "yuv420p"
        # A key frame every second one, as LeRobot has it: any frame is decoded after at most one other.
        self._stream.codec_context.gop_size = 2
        self._stream.options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        self._stream.thread_count = 1

    def write(self, picture: np.ndarray) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self.count
        self.count += 1
        self._mux(self._stream.encode(frame))

    def close(self) -> None:
        self._mux(self._stream.encode())
        self._container.close()
        self._container = None

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)

    def abandon(self) -> None:
        if self._container is not None:
            self._container.close()


def _task_table(tasks: dict[str, int]) -> Any:
    """``meta/tasks.parquet``: LeRobot reads it with pandas and expects the sentence as the index."""
    import pyarrow as pa

    def column(name: str | None, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy_kind,
            "metadata": None,
        }

    note = {
        "index_columns": ["task"],
        "column_indexes": [column(None, "unicode", "object")],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})
