"""Lance tables as Hy-Embodied-0.5-VLA-Data has them, small and with a motion that is known."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

SIDES = ("left", "right")
SHAPE = (240, 424, 3)


@dataclass
class HandMotion:
    """Both hands at ``count`` frames of 30 Hz: where the gripper is, where its left, up and forward point in the world
    (columns of ``axes``), how wide it is open (m), and how bright the wrist camera's picture is."""

    count: int = 40
    number: int = 0
    task: int = 0
    position: dict[str, np.ndarray] = field(default_factory=dict)
    axes: dict[str, np.ndarray] = field(default_factory=dict)
    width: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for hand, side in enumerate(SIDES):
            t = np.arange(self.count) / 30 + self.number
            sway = [0.1 * np.sin(t), 0.3 - 0.6 * hand + 0.05 * t, 0.2 - 0.08 * np.cos(2 * t)]
            self.position[side] = np.stack(sway, axis=1)
            turn = np.stack([0.5 * np.sin(t), 0.3 + 0.4 * t, 0.2 * np.cos(t) + hand], axis=1)
            self.axes[side] = Rotation.from_rotvec(turn).as_matrix()
            self.width[side] = 0.045 + 0.04 * np.sin(3 * t + hand)

    def brightness(self, side: str) -> np.ndarray:
        """(n,) grey of the wrist pictures: the frame, the episode, and the hand."""
        return 20 + np.arange(self.count) % 80 + 7 * self.number + 100 * SIDES.index(side)


def write_table(
    folder: Path, motions: Sequence[HandMotion], *, tasks: Sequence[str], meta: str = "meta", **change: Any
) -> Path:
    """A table ``folder/NAME/NAME.lance`` with its metadata; returns ``folder/NAME``. ``change``: columns that replace
    the table's (None: left out)."""
    import lance
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, bounds = [_rows(number, motion) for number, motion in enumerate(motions)], [0]
    bounds += np.cumsum([motion.count for motion in motions]).tolist()
    columns = {name: [value for part in rows for value in part[name]] for name in rows[0]}
    columns = {name: values for name, values in (columns | change).items() if values is not None}
    vectors = {"observation_state": 16, "action": 2}
    types = {name: pa.list_(pa.float32(), vectors[name]) for name in vectors if name in columns}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    place = folder / f"{folder.name}.lance"
    folder.mkdir(parents=True)
    lance.write_dataset(pa.table(arrays), str(place), max_rows_per_file=64)
    episodes = folder / meta / "episodes/chunk-000"
    episodes.mkdir(parents=True)
    table = {
        "episode_index": list(range(len(motions))),
        "length": [motion.count for motion in motions],
        "dataset_from_index": bounds[:-1],
        "dataset_to_index": bounds[1:],
    }
    pq.write_table(pa.table(table), episodes / "file-000.parquet")
    sentences = {"task_index": list(range(len(tasks))), "task": list(tasks)}
    pq.write_table(pa.table(sentences), folder / meta / "tasks.parquet")
    features: dict[str, Any] = {
        f"observation.images.cam_{name}": {"dtype": "video", "shape": list(SHAPE)}
        for name in ("high", "left_wrist", "right_wrist")
    }
    features["observation.state"] = {"dtype": "float32", "shape": [16]}
    if "action" in columns:
        features["action"] = {"dtype": "float32", "shape": [2]}
    info = {"codebase_version": "v3.0", "fps": 30, "total_frames": bounds[-1], "features": features}
    (folder / meta / "info.json").write_text(json.dumps(info))
    (folder / meta / "stats.json").write_text("{}")
    return folder


def _rows(number: int, motion: HandMotion) -> dict[str, list[Any]]:
    arms = []
    for side in SIDES:  # x of the tool points left, y up, z forward; grippers in mm from open
        turn = Rotation.from_matrix(motion.axes[side]).as_quat()
        measured = 90 - 1e3 * motion.width[side] + 1.5  # the measured gripper lags behind its command
        arms.append(np.concatenate([motion.position[side], turn, measured[:, None]], axis=1))
    count = motion.count
    return {
        "episode_index": np.full(count, number, np.int32).tolist(),
        "frame_index": list(range(count)),
        "timestamp": (np.arange(count) / 30).astype(np.float32).tolist(),
        "task_index": [motion.task] * count,
        "observation_state": np.concatenate(arms, axis=1).tolist(),
        "action": np.stack([90 - 1e3 * motion.width[side] for side in SIDES], axis=1).tolist(),
        "observation_images_cam_high": [_jpeg(128)] * count,
        **{
            f"observation_images_cam_{side}_wrist": [_jpeg(int(grey)) for grey in motion.brightness(side)]
            for side in SIDES
        },
    }


def _jpeg(grey: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.full(SHAPE, grey, np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()
