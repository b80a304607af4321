"""A two-handed motion, and its recording in the layouts of other projects, written with their own libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from motion import SIDE, Motion

from rdt2.action import ARMS


@pytest.fixture
def motions() -> list[Motion]:
    return [Motion(30), Motion(26, number=1), Motion(34, number=2)]


@pytest.fixture
def umi_zarr(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``dataset.zarr.zip`` as UMI does: zarr v2, a chunk a picture."""

    def write(motions: list[Motion], *, codec: object = None, arms=("right", "left"), dtype="<f4") -> Path:
        zarr = pytest.importorskip("zarr")  # not for Python 3.10

        path = tmp_path / "dataset.zarr.zip"
        store = zarr.storage.ZipStore(path, mode="w")
        root = zarr.open_group(store, mode="w", zarr_format=2)
        data, meta = root.create_group("data"), root.create_group("meta")

        def put(group, name, values, chunks=None, codec=None):
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks or values.shape,
                compressors=codec,
                config={"write_empty_chunks": True},
            )
            array[...] = values

        ends = np.cumsum([len(motion.times) for motion in motions])
        put(meta, "episode_ends", ends.astype(np.int64))
        for robot, arm in enumerate(arms):
            for name, values in (
                ("eef_pos", [motion.position[arm] for motion in motions]),
                ("eef_rot_axis_angle", [motion.rotvec[arm] for motion in motions]),
                ("gripper_width", [motion.width[arm][:, None] for motion in motions]),
            ):
                put(data, f"robot{robot}_{name}", np.concatenate(values).astype(dtype))
            pictures = np.concatenate([motion.picture[arm] for motion in motions])
            put(data, f"camera{robot}_rgb", pictures, (1, *pictures.shape[1:]), codec)
        store.close()
        return path

    return write


@pytest.fixture
def fastumi(tmp_path: Path) -> Callable[..., Path]:
    """Writes FastUMI's HDF5, an episode a file; robot_0 is the LEFT hand."""

    def write(motions: list[Motion], *, clamp: float = 1.0, dtype="<f8", times: bool = False) -> Path:
        import h5py

        folder = tmp_path / "fastumi"
        folder.mkdir(exist_ok=True)
        for number, motion in enumerate(motions):
            with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
                for robot, arm in enumerate(("left", "right")):
                    pose = np.concatenate([motion.position[arm], motion.quaternion(arm)], axis=1)
                    action = np.concatenate([pose, clamp * motion.width[arm][:, None]], axis=1)
                    file[f"robot_{robot}/observations/qpos"] = pose.astype(dtype)
                    file[f"robot_{robot}/action"] = action.astype(dtype)
                    file[f"robot_{robot}/observations/images/front"] = motion.picture[arm]
                if times:
                    file["timestamps"] = motion.times
        return folder

    return write


@pytest.fixture
def lerobot_v21(tmp_path: Path) -> Callable[..., Path]:
    """Writes a LeRobotDataset v2.1 with pictures inside the tables, left arm first, quaternions x y z w."""

    def write(motions: list[Motion], *, names: list[str] | None = None) -> Path:
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image

        root = tmp_path / "lerobot21"
        (root / "meta").mkdir(parents=True)
        (root / "data" / "chunk-000").mkdir(parents=True)

        def png(picture):
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            return {"bytes": stream.getvalue(), "path": None}

        for number, motion in enumerate(motions):
            count = len(motion.times)
            state = motion.table(("left", "right"), motion.quaternion).astype(np.float32)
            pq.write_table(
                pa.table(
                    {
                        "observation.state": pa.FixedSizeListArray.from_arrays(
                            pa.array(state.reshape(-1)), 16
                        ),
                        "timestamp": motion.times.astype(np.float32),
                        "episode_index": np.full(count, number),
                        "frame_index": np.arange(count),
                        **{f"cam_{arm}_wrist": [png(p) for p in motion.picture[arm]] for arm in ARMS},
                    }
                ),
                root / "data" / "chunk-000" / f"episode_{number:06d}.parquet",
            )
        info = {
            "codebase_version": "v2.1",
            "fps": 30,
            "chunks_size": 1000,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": None,
            "features": {
                "observation.state": {"dtype": "float32", "shape": [16], "names": names},
                **{f"cam_{arm}_wrist": {"dtype": "image", "shape": [SIDE, SIDE, 3]} for arm in ARMS},
            },
        }
        (root / "meta" / "info.json").write_text(json.dumps(info))
        (root / "meta" / "episodes.jsonl").write_text(
            "".join(
                json.dumps({"episode_index": n, "tasks": ["Pick up the cup."], "length": len(m.times)}) + "\n"
                for n, m in enumerate(motions)
            )
        )
        return root

    return write
