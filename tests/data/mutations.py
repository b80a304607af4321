"""Small recordings in the layouts of other projects, and the ways in which such recordings go wrong.

A recording is kept as its numbers and written at the end, so that one mutation serves all layouts. A mutation changes
numbers, names or files as people's recorders, copies and conversions do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from motion import SIDE, Motion
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS

Random = np.random.Generator
FRAMES = 34
SENTENCE = "Pick up the cup."
QUATERNION = {"xyzw": [0, 1, 2, 3], "wxyz": [3, 0, 1, 2]}


@dataclass
class Recording:
    """Numbers as they will be written. truth: the motion that was really made."""

    truth: Motion
    times: np.ndarray = field(init=False)
    position: dict[str, np.ndarray] = field(init=False)
    rotation: dict[str, np.ndarray] = field(init=False)
    width: dict[str, np.ndarray] = field(init=False)
    picture: dict[str, np.ndarray] = field(init=False)
    rotation_names: tuple[str, ...] = ("qx", "qy", "qz", "qw")
    arms: tuple[str, ...] = ("left", "right")
    dtype: str = "float64"
    missing: set[str] = field(default_factory=set)
    sentence: str | None = SENTENCE

    def __post_init__(self) -> None:
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
        return names, np.concatenate(columns, axis=1).astype(self.dtype)


# ----------------------------------------------------------------------------------------------- layouts


def write_hdf5(recording: Recording, folder: Path) -> None:
    """ALOHA's layout with end-effector poses, without names."""
    import h5py

    with h5py.File(folder / "episode_0.hdf5", "w") as file:
        if "poses" not in recording.missing:
            file["observations/eef_pose"] = recording.table()[1]
        if "times" not in recording.missing:
            file["timestamp"] = recording.times
        if recording.sentence is not None:
            file.attrs["instruction"] = recording.sentence
        for arm in ARMS:
            if f"{arm} camera" not in recording.missing:
                file[f"observations/images/cam_{arm}_wrist"] = recording.picture[arm]


def write_fastumi(recording: Recording, folder: Path) -> None:
    """FastUMI's layout: a group an arm, robot_0 is the left hand."""
    import h5py

    with h5py.File(folder / "episode_0.hdf5", "w") as file:
        for robot, arm in enumerate(("left", "right")):
            pose = np.concatenate([recording.position[arm], recording.rotation[arm]], 1).astype(
                recording.dtype
            )
            width = recording.width[arm][:, None].astype(recording.dtype)
            if "poses" not in recording.missing:
                file[f"robot_{robot}/observations/qpos"] = pose
            if "grippers" not in recording.missing:
                file[f"robot_{robot}/action"] = np.concatenate([pose, width], 1)
            if f"{arm} camera" not in recording.missing:
                file[f"robot_{robot}/observations/images/front"] = recording.picture[arm]
        if "times" not in recording.missing:
            file["timestamps"] = recording.times
        if recording.sentence is not None:
            file.attrs["instruction"] = recording.sentence


def write_umi(recording: Recording, folder: Path) -> None:
    """UMI's zarr, robot 0 is the right hand; its clock is the frame's number."""
    import zarr

    store = zarr.storage.ZipStore(folder / "dataset.zarr.zip", mode="w")
    root = zarr.open_group(store, mode="w", zarr_format=2)
    fields = {"meta/episode_ends": np.array([len(recording.position["right"])])}
    for robot, arm in enumerate(("right", "left")):
        rotvec = Rotation.from_quat(recording.rotation[arm]).as_rotvec()
        fields[f"data/robot{robot}_eef_pos"] = recording.position[arm].astype(recording.dtype)
        fields[f"data/robot{robot}_eef_rot_axis_angle"] = rotvec.astype(recording.dtype)
        fields[f"data/robot{robot}_gripper_width"] = recording.width[arm][:, None].astype(recording.dtype)
        fields[f"data/camera{robot}_rgb"] = recording.picture[arm]
    gone = {
        "poses": "data/robot1_eef_pos", "grippers": "data/robot0_gripper_width",
        "right camera": "data/camera0_rgb", "left camera": "data/camera1_rgb",
    }  # fmt: skip
    for missing in recording.missing & set(gone):
        del fields[gone[missing]]
    for name, values in fields.items():
        chunks = (1, *values.shape[1:]) if name.endswith("rgb") else values.shape
        array = root.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=None
        )
        array[...] = values
    store.close()


def write_lerobot(recording: Recording, folder: Path) -> None:
    """LeRobot v2.1 with named columns and pictures in the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def png(picture: np.ndarray) -> dict[str, object]:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    (folder / "meta").mkdir()
    (folder / "data/chunk-000").mkdir(parents=True)
    names, table = recording.table()
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), len(names)),
        "timestamp": recording.times,
        "episode_index": np.zeros(len(table), np.int64),
        "frame_index": np.arange(len(table)),
        "task_index": np.zeros(len(table), np.int64),
        **{f"cam_{arm}_wrist": [png(picture) for picture in recording.picture[arm]] for arm in ARMS},
    }
    gone = {"poses": "observation.state", "times": "timestamp", "tasks": "task_index"}
    gone |= {f"{arm} camera": f"cam_{arm}_wrist" for arm in ARMS}
    for missing in recording.missing & set(gone):
        del columns[gone[missing]]
    rows = min(len(column) for column in columns.values())
    columns = {name: column[:rows] for name, column in columns.items()}
    pq.write_table(pa.table(columns), folder / "data/chunk-000/episode_000000.parquet")
    info = {
        "codebase_version": "v2.1",
        "fps": 30,
        "chunks_size": 1000,
        "total_episodes": 1,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
        "features": {
            "observation.state": {"dtype": recording.dtype, "shape": [len(names)], "names": names},
            **{f"cam_{arm}_wrist": {"dtype": "image", "shape": [SIDE, SIDE, 3]} for arm in ARMS},
        },
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    tasks = [] if recording.sentence is None else [recording.sentence]
    episode = {"episode_index": 0, "tasks": tasks, "length": len(table)}
    (folder / "meta/episodes.jsonl").write_text(json.dumps(episode) + "\n")
    (folder / "meta/tasks.jsonl").write_text(
        "".join(json.dumps({"task_index": number, "task": task}) + "\n" for number, task in enumerate(tasks))
    )


LAYOUTS: dict[str, Callable[[Recording, Path], None]] = {
    "hdf5": write_hdf5, "fastumi": write_fastumi, "umi-zarr": write_umi, "lerobot": write_lerobot,
}  # fmt: skip
NAMED = {"lerobot"}
"""Layouts whose columns say what they hold."""
CLOCKED = {"hdf5", "fastumi", "lerobot"}
"""Layouts with the time of each frame."""

# --------------------------------------------------------------------------------- mutations of numbers


def _at(recording: Recording, random: Random) -> tuple[str, int]:
    return str(random.choice(ARMS)), int(random.integers(1, len(recording.times) - 1))


def lose_tracking(recording: Recording, random: Random) -> None:
    """NaN or infinity in one frame."""
    arm, frame = _at(recording, random)
    values = getattr(recording, str(random.choice(["position", "rotation", "width"])))[arm]
    values[frame] = random.choice([np.nan, np.inf, -np.inf])


def other_dtype(recording: Recording, random: Random) -> None:
    """Poses as other numbers, or as text."""
    recording.dtype = str(
        random.choice(["float32", ">f4", ">f8", "float16", "int32", "int64", "uint8", "S12"])
    )


def other_length_unit(recording: Recording, random: Random) -> None:
    """Positions in centimetres or millimetres."""
    factor = float(random.choice([100.0, 1000.0]))
    for arm in ARMS:
        recording.position[arm] *= factor


def other_width_unit(recording: Recording, random: Random) -> None:
    """Gripper openings in millimetres, as a share of the opening, or as an encoder's ticks."""
    factor = float(random.choice([1000.0, 1 / 0.088, 12000 / 0.088]))
    for arm in ARMS:
        recording.width[arm] *= factor


def other_clock(recording: Recording, random: Random) -> None:
    """Milliseconds to nanoseconds, since the start, the boot or 1970, whole or not; or a column vector."""
    since = float(random.choice([0.0, 5e4, 1.7e9]))
    ticks = (recording.times + since) * float(random.choice([1.0, 1e3, 1e6, 1e9]))
    recording.times = ticks.astype(np.int64) if ticks[-1] > 1e6 and random.random() < 0.5 else ticks
    if random.random() < 0.2:
        recording.times = recording.times[:, None]


def disorder(recording: Recording, random: Random) -> None:
    """A clock that stands still or goes back once."""
    _, frame = _at(recording, random)
    recording.times[frame] = recording.times[frame - 1] - float(random.choice([0.0, 0.02, 1.0]))


def cut_short(recording: Recording, random: Random) -> None:
    """One of the arrays ends before the others."""
    which = str(random.choice(["times", "position", "rotation", "width", "picture"]))
    frames = int(random.integers(0, len(recording.times) - 1))
    if which == "times":
        recording.times = recording.times[:frames]
        return
    arm = str(random.choice(ARMS))
    values = getattr(recording, which)
    values[arm] = values[arm][:frames]
    if which in ("position", "rotation", "width"):  # columns of one table end together
        for name in ("position", "rotation", "width"):
            for side in ARMS:
                getattr(recording, name)[side] = getattr(recording, name)[side][:frames]


def leave_out(recording: Recording, random: Random) -> None:
    """A dataset, feature or sentence that is not there."""
    what = str(
        random.choice(["poses", "times", "grippers", "tasks", "left camera", "right camera", "sentence"])
    )
    if what == "sentence":
        recording.sentence = random.choice([None, "", " "])  # type: ignore[arg-type]
    else:
        recording.missing.add(what)


def jump(recording: Recording, random: Random) -> None:
    """The tracker jumps by half a metre, for a frame or for good."""
    arm, frame = _at(recording, random)
    end = frame + 1 if random.random() < 0.5 else len(recording.times)
    recording.position[arm][frame:end] += random.choice([0.5, -0.5], size=3)


def bad_rotation(recording: Recording, random: Random) -> None:
    """One quaternion, or all of them, of another length."""
    arm, frame = _at(recording, random)
    rows = slice(frame, frame + 1) if random.random() < 0.7 else slice(None)
    recording.rotation[arm][rows] *= float(random.choice([0.0, 0.5, 1.2]))


def padded_arm(recording: Recording, random: Random) -> None:
    """An arm that was not there, written as zeros."""
    arm = str(random.choice(ARMS))
    for values in (recording.position, recording.rotation, recording.width):
        values[arm] = np.zeros_like(values[arm])


def other_names(recording: Recording, random: Random) -> None:
    """Right arm first, w first, or Euler angles, and columns that say so."""
    if random.random() < 0.5:
        recording.arms = ("right", "left")
    kind = str(random.choice(["xyzw", "wxyz", "rpy", "degrees"]))
    if kind in QUATERNION:
        order = QUATERNION[kind]
        recording.rotation_names = tuple(np.array(["qx", "qy", "qz", "qw"])[order])
        recording.rotation = {arm: recording.rotation[arm][:, order] for arm in ARMS}
        return
    degrees = kind == "degrees"
    suffix = "_deg" if degrees else ""
    recording.rotation_names = ("roll" + suffix, "pitch" + suffix, "yaw" + suffix)
    recording.rotation = {
        arm: Rotation.from_quat(recording.rotation[arm]).as_euler("xyz", degrees=degrees) for arm in ARMS
    }


def other_pictures(recording: Recording, random: Random) -> None:
    """Depth, grey, float or transparent pictures from one camera or both."""
    kind = str(random.choice(["uint16", "float32", "grey", "alpha"]))
    for arm in ARMS if random.random() < 0.5 else (str(random.choice(ARMS)),):
        pictures = recording.picture[arm]
        if kind == "uint16":
            recording.picture[arm] = pictures[..., 0].astype(np.uint16) * 40
        elif kind == "float32":
            recording.picture[arm] = pictures.astype(np.float32) / 255
        elif kind == "grey":
            recording.picture[arm] = pictures.max(-1)
        else:
            alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
            recording.picture[arm] = np.concatenate([pictures, alpha], axis=-1)


MUTATIONS = [
    lose_tracking, other_dtype, other_length_unit, other_width_unit, other_clock, disorder, cut_short, leave_out,
    jump, bad_rotation, padded_arm, other_names, other_pictures,
]  # fmt: skip

# ----------------------------------------------------------------------------------- mutations of files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def damage_file(path: Path, random: Random) -> bool:
    """Cut, emptied, overwritten or replaced by a pointer. Returns whether the damage can be seen in principle."""
    data = path.read_bytes()
    kind = str(random.choice(["cut", "empty", "pointer", "bytes", "shadow"]))
    if kind == "cut":
        path.write_bytes(data[: int(random.integers(1, len(data)))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pointer":
        path.write_bytes(POINTER)
    elif kind == "bytes":
        changed = bytearray(data)
        for place in random.integers(0, len(data), size=20):
            changed[place] = int(random.integers(0, 256))
        path.write_bytes(bytes(changed))
        return False  # most layouts keep numbers without a checksum
    else:
        path.with_name("._" + path.name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        " + b"\0" * 100)
    return True
