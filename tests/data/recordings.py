"""Small recordings in the layouts of other projects, written from numbers that tests change beforehand."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from motion import SIDE, Motion
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS

FRAMES = 34
SENTENCE = "Pick up the cup."


@dataclass
class Recording:
    """Numbers of one episode as they will be written. truth: the motion that was really made."""

    truth: Motion
    times: np.ndarray = field(init=False)
    position: dict[str, np.ndarray] = field(init=False)
    rotation: dict[str, np.ndarray] = field(init=False)
    width: dict[str, np.ndarray] = field(init=False)
    picture: dict[str, np.ndarray] = field(init=False)
    rotation_names: tuple[str, ...] = ("qx", "qy", "qz", "qw")
    arms: tuple[str, ...] = ("left", "right")
    dtype: str = "float64"
    reshape: Callable[[np.ndarray], np.ndarray] = lambda table: table
    names: Callable[[list[str]], list[str]] = lambda names: names
    missing: set[str] = field(default_factory=set)
    sentence: str | None = SENTENCE

    def __post_init__(self) -> None:
        for index, arm in enumerate(ARMS):  # brighter from frame to frame, so that a wrong one shows
            levels = 20 + 6 * (np.arange(len(self.truth.times)) % 39) + self.truth.number
            self.truth.picture[arm][..., index] = levels[:, None, None]
        self.times = self.truth.times.copy()
        self.position = {arm: self.truth.position[arm].copy() for arm in ARMS}
        self.rotation = {arm: self.truth.quaternion(arm).copy() for arm in ARMS}
        self.width = {arm: self.truth.width[arm].copy() for arm in ARMS}
        self.picture = {arm: self.truth.picture[arm].copy() for arm in ARMS}

    def table(self) -> tuple[list[str], np.ndarray]:
        """Names and values of all arms' columns side by side."""
        names, columns = [], []
        for arm in self.arms:
            names += [f"{arm}_{name}" for name in ("x", "y", "z", *self.rotation_names, "gripper")]
            columns += [self.position[arm], self.rotation[arm], self.width[arm][:, None]]
        return self.names(names), self.as_written(self.reshape(np.concatenate(columns, axis=1)))

    def as_written(self, values: np.ndarray) -> np.ndarray:
        """In the type that the file has; what was made complex stays so."""
        return values if np.iscomplexobj(values) else values.astype(self.dtype)


def write_hdf5(recordings: Sequence[Recording], folder: Path) -> None:
    """ALOHA's layout with end-effector poses, without names."""
    import h5py

    for number, recording in enumerate(recordings):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            if "poses" not in recording.missing:
                file["observations/eef_pose"] = recording.table()[1]
            _write_common(file, recording, "timestamp", "observations/images/cam_{arm}_wrist")


def write_fastumi(recordings: Sequence[Recording], folder: Path) -> None:
    """FastUMI's layout: a group an arm, robot_0 is the left hand."""
    import h5py

    for number, recording in enumerate(recordings):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            for robot, arm in enumerate(("left", "right")):
                pose = recording.reshape(
                    np.concatenate([recording.position[arm], recording.rotation[arm]], 1)
                )
                pose = recording.as_written(pose)
                if "poses" not in recording.missing:
                    file[f"robot_{robot}/observations/qpos"] = pose
                if "grippers" not in recording.missing:
                    width = recording.width[arm][:, None].astype(recording.dtype)
                    file[f"robot_{robot}/action"] = np.concatenate([pose, width], 1)
            _write_common(file, recording, "timestamps", "robot_{robot}/observations/images/front")


def _write_common(file: Any, recording: Recording, clock: str, camera: str) -> None:
    if "times" not in recording.missing:
        file[clock] = recording.times
    if recording.sentence is not None:
        file.attrs["instruction"] = recording.sentence
    for robot, arm in enumerate(("left", "right")):
        if f"{arm} camera" not in recording.missing:
            file[camera.format(arm=arm, robot=robot)] = recording.picture[arm]


def write_umi(recordings: Sequence[Recording], folder: Path, *, version: int = 2) -> None:
    """UMI's zarr, robot 0 is the right hand; it keeps no clock. zarr v2 in a zip, v3 in a folder."""
    zarr = pytest.importorskip("zarr")  # not for Python 3.10

    store: Any
    if version == 2:
        store = zarr.storage.ZipStore(folder / "dataset.zarr.zip", mode="w")
    else:
        store = zarr.storage.LocalStore(folder / "dataset.zarr")
    root = zarr.open_group(store, mode="w", zarr_format=version)  # type: ignore[arg-type]
    gone = {
        "poses": "data/robot1_eef_pos", "grippers": "data/robot0_gripper_width",
        "right camera": "data/camera0_rgb", "left camera": "data/camera1_rgb",
    }  # fmt: skip
    fields: dict[str, list[np.ndarray]] = {}
    for recording in recordings:
        for robot, arm in enumerate(ARMS):
            rotvec = Rotation.from_quat(recording.rotation[arm]).as_rotvec()
            numbers = {
                f"data/robot{robot}_eef_pos": recording.position[arm],
                f"data/robot{robot}_eef_rot_axis_angle": rotvec,
                f"data/robot{robot}_gripper_width": recording.width[arm][:, None],
            }
            for name, values in numbers.items():
                fields.setdefault(name, []).append(recordings[-1].as_written(recording.reshape(values)))
            fields.setdefault(f"data/camera{robot}_rgb", []).append(recording.picture[arm])
    ends = np.cumsum([len(recording.position["right"]) for recording in recordings])
    missing = {gone[name] for recording in recordings for name in recording.missing & set(gone)}
    for name, parts in {**fields, "meta/episode_ends": [ends]}.items():
        if name in missing:
            continue
        values = np.concatenate(parts)
        chunks = (8 if name.endswith("rgb") else max(len(values), 1), *values.shape[1:])
        array = root.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=None
        )
        array[...] = values
    store.close()


def write_lerobot(recordings: Sequence[Recording], folder: Path) -> None:
    """LeRobot v2.1 with named columns and pictures in the tables."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data/chunk-000").mkdir(parents=True)
    for number, recording in enumerate(recordings):
        columns = _rows(recordings, number)
        for arm in ARMS:
            if f"{arm} camera" not in recording.missing:
                pictures = [{"bytes": png(picture), "path": None} for picture in recording.picture[arm]]
                columns[f"cam_{arm}_wrist"] = pictures
        rows = min(len(column) for column in columns.values())
        table = pa.table({name: column[:rows] for name, column in columns.items()})
        pq.write_table(table, folder / f"data/chunk-000/episode_{number:06d}.parquet")
    cameras = {f"cam_{arm}_wrist": {"dtype": "image", "shape": [SIDE, SIDE, 3]} for arm in ARMS}
    info = {
        "codebase_version": "v2.1", "chunks_size": 1000, "video_path": None,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    }  # fmt: skip
    _write_info(recordings, folder, info, cameras)
    tasks = _tasks(recordings)
    episodes = [
        {"episode_index": number, "tasks": list(filter(None, [recording.sentence])), "length": _length(recording)}
        for number, recording in enumerate(recordings)
    ]  # fmt: skip
    for name, rows in (("episodes", episodes), ("tasks", tasks)):
        # LeRobot writes text as it is, whatever its letters.
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"meta/{name}.jsonl").write_bytes("".join(lines).encode())


def write_lerobot_v3(recordings: Sequence[Recording], folder: Path) -> None:
    """LeRobot v3.0 with all episodes in one table and one video of each camera."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    tables, episodes, shown = [], [], dict.fromkeys(ARMS, 0)
    for number, recording in enumerate(recordings):
        columns = _rows(recordings, number)
        rows = min(len(column) for column in columns.values())
        tables.append(pa.table({name: column[:rows] for name, column in columns.items()}))
        episode = {
            "episode_index": number, "tasks": list(filter(None, [recording.sentence])), "length": _length(recording),
            "data/chunk_index": 0, "data/file_index": 0,
        }  # fmt: skip
        for arm in ARMS:
            key, count = f"videos/cam_{arm}_wrist", len(recording.picture[arm])
            episode |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0}
            episode |= {
                f"{key}/from_timestamp": shown[arm] / 30,
                f"{key}/to_timestamp": (shown[arm] + count) / 30,
            }
            shown[arm] += count
        episodes.append(episode)
    pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(_tasks(recordings)), folder / "meta/tasks.parquet")
    for arm in ARMS:
        if not any(f"{arm} camera" in recording.missing for recording in recordings):
            pictures = np.concatenate([recording.picture[arm] for recording in recordings])
            write_video(folder / f"videos/cam_{arm}_wrist/chunk-000/file-000.mp4", pictures)
    cameras = {f"cam_{arm}_wrist": {"dtype": "video", "shape": [SIDE, SIDE, 3]} for arm in ARMS}
    info = {
        "codebase_version": "v3.0",
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    _write_info(recordings, folder, info, cameras)


def write_mcap(recordings: Sequence[Recording], folder: Path) -> None:
    """One rosbag2 file an episode; all messages of a frame have its time in their headers."""
    from bags import FLOAT, JPEG, POSE, TEXT, header
    from mcap_ros2.writer import Writer

    for number, recording in enumerate(recordings):
        with open(folder / f"episode_{number}.mcap", "wb") as stream:
            writer = Writer(stream)
            schemas = {kind: writer.register_msgdef(kind, text) for kind, text in (POSE, FLOAT, JPEG, TEXT)}

            # The recorder has a clock of its own, whatever the headers say.
            own = recording.truth.times
            messages: list[tuple[float, str, tuple[str, str], dict[str, Any]]] = []
            if recording.sentence is not None:
                messages.append((0.0, "/instruction", TEXT, {"data": recording.sentence}))
            for row, (logged, time) in enumerate(zip(own, np.ravel(recording.times), strict=False)):
                for arm in ARMS:
                    if row < len(recording.position[arm]):
                        values = [*recording.position[arm][row], *recording.rotation[arm][row]]
                        x, y, z, qx, qy, qz, qw = (
                            np.array(values).astype(recording.dtype).astype(float).tolist()
                        )
                        pose = {
                            "position": {"x": x, "y": y, "z": z},
                            "orientation": {"x": qx, "y": qy, "z": qz, "w": qw},
                        }
                        if "poses" not in recording.missing:
                            messages.append(
                                (logged, f"/{arm}/tcp_pose", POSE, {"header": header(time), "pose": pose})
                            )
                        if "grippers" not in recording.missing:
                            opening = {"data": float(recording.width[arm][row])}
                            messages.append((logged, f"/{arm}/opening", FLOAT, opening))
                    if row < len(recording.picture[arm]) and f"{arm} camera" not in recording.missing:
                        picture = {"format": "png", "data": png(recording.picture[arm][row])}
                        messages.append(
                            (logged, f"/camera_{arm}/image", JPEG, {"header": header(time), **picture})
                        )
            for seconds, topic, (kind, _), values in messages:
                at = round(1e9 * (1000 + seconds))
                writer.write_message(topic, schemas[kind], values, log_time=at, publish_time=at)
            writer.finish()


def png(picture: np.ndarray) -> bytes:
    """A picture as the bytes of a file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def write_video(path: Path, pictures: np.ndarray) -> None:
    """An mp4 of 30 frames a second."""
    import av

    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.options, stream.thread_count = "yuv444p", {"g": "10", "crf": "8"}, 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _rows(recordings: Sequence[Recording], number: int) -> dict[str, Any]:
    """The columns of an episode in a table of LeRobot, without pictures."""
    import pyarrow as pa

    recording = recordings[number]
    task = next((row["task_index"] for row in _tasks(recordings) if row["task"] == recording.sentence), 0)
    table = recording.table()[1]
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1]),
        "timestamp": recording.times,
        "episode_index": np.full(len(table), number),
        "frame_index": np.arange(len(table)),
        "task_index": np.full(len(table), task),
    }
    gone = {"poses": "observation.state", "times": "timestamp", "tasks": "task_index"}
    return {
        name: values
        for name, values in columns.items()
        if name not in {gone.get(each) for each in recording.missing}
    }


def _length(recording: Recording) -> int:
    return len(recording.position["right"])


def _tasks(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    sentences = dict.fromkeys(
        recording.sentence for recording in recordings if recording.sentence is not None
    )
    return [{"task_index": number, "task": sentence} for number, sentence in enumerate(sentences)]


def _write_info(
    recordings: Sequence[Recording], folder: Path, info: dict[str, Any], cameras: dict[str, Any]
) -> None:
    names, table = recordings[0].table()
    state = {"dtype": recordings[0].dtype, "shape": [*table.shape[1:]], "names": names}
    info |= {
        "fps": 30,
        "total_episodes": len(recordings),
        "features": {"observation.state": state, **cameras},
    }
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps(info))


LAYOUTS: dict[str, Callable[[Sequence[Recording], Path], None]] = {
    "hdf5": write_hdf5,
    "fastumi": write_fastumi,
    "umi-zarr": write_umi,
    "umi-zarr-v3": lambda recordings, folder: write_umi(recordings, folder, version=3),
    "lerobot": write_lerobot,
    "lerobot-v3": write_lerobot_v3,
    "mcap": write_mcap,
}
KIND = {"fastumi": "hdf5", "umi-zarr-v3": "umi-zarr", "lerobot-v3": "lerobot"}
"""Layouts that are read as a kind of another name."""
INSIDE = {"umi-zarr": "dataset.zarr.zip", "umi-zarr-v3": "dataset.zarr"}
"""What in the folder is the recording; else the folder itself."""
NAMED = {"lerobot", "lerobot-v3"}
"""Layouts whose columns say what they hold."""
CLOCKED = {"hdf5", "fastumi", "lerobot", "lerobot-v3", "mcap"}
"""Layouts with the time of each frame."""
