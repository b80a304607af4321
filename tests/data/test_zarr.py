"""UMI's layout in every kind of zarr store; chunks that are not there are never made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from motion import Motion, same, same_pictures

from rdt2.data.clock import pieces
from rdt2.data.convert import convert
from rdt2.data.sources import SourceOptions, open_source, zarr_files
from rdt2.errors import ConfigError, RDT2Error, RecordingError

OPTIONS: dict[str, Any] = {"arms": "right-left", "fps": 30, "gripper_unit": "m", "instruction": "Fold it."}


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """Writes a store of one or two episodes of 30 frames as a folder, or as a zip; ``options`` go to zarr."""

    def write(
        motions: list[Motion],
        *,
        zarr_format: int = 3,
        zipped: bool = False,
        top: str = "",
        stamps=None,
        **options: Any,
    ) -> Path:
        zarr = pytest.importorskip("zarr")  # not for Python 3.10

        folder = tmp_path / top / "dataset.zarr"
        root = zarr.open_group(folder, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
        options = {"config": {"write_empty_chunks": False}} | options

        def put(name: str, values: np.ndarray, chunks: Any) -> None:
            array = root.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, **options)
            array[...] = values

        ends = np.cumsum([len(motion.times) for motion in motions])
        root.create_array("meta/episode_ends", data=ends.astype(np.int64))
        if stamps is not None:
            root.create_array("data/timestamp", data=stamps)
        for robot, arm in enumerate(("right", "left")):
            for name, parts in (
                ("eef_pos", [motion.position[arm] for motion in motions]),
                ("eef_rot_axis_angle", [motion.rotvec[arm] for motion in motions]),
                ("gripper_width", [motion.width[arm][:, None] for motion in motions]),
            ):
                values = np.concatenate(parts)
                put(f"data/robot{robot}_{name}", values, (30, values.shape[1]))
            pictures = np.concatenate([motion.picture[arm] for motion in motions])
            put(f"data/camera{robot}_rgb", pictures, (1, *pictures.shape[1:]))
        if not zipped:
            return folder
        shutil.make_archive(str(tmp_path / "dataset.zarr"), "zip", tmp_path if top else folder, top or None)
        return tmp_path / "dataset.zarr.zip"

    return write


def test_one_gripper_array_is_not_that_of_two_robots(store: Callable[..., Path]) -> None:
    options = SourceOptions(**OPTIONS, gripper_key="robot0_gripper_width")
    with pytest.raises(ConfigError, match="is one array for two robots"):
        open_source(store([Motion(30)]), "umi-zarr", options)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_formats(store: Callable[..., Path], zarr_format: int, zipped: bool) -> None:
    motions = [Motion(30), Motion(30, number=1)]
    source = open_source(
        store(motions, zarr_format=zarr_format, zipped=zipped), "umi-zarr", SourceOptions(**OPTIONS)
    )
    for motion, episode in zip(motions, source, strict=True):
        same(episode, motion)
        same_pictures(episode, motion)


def test_a_zip_of_the_folder(store: Callable[..., Path]) -> None:
    path = store([Motion(30)], zipped=True, top="recording")
    same(open_source(path, "umi-zarr", SourceOptions(**OPTIONS))[0], Motion(30))


def test_shards_of_chunks(store: Callable[..., Path]) -> None:
    """Many chunks in a file, and other names of the files."""
    zarr = pytest.importorskip("zarr")  # not for Python 3.10

    path = store([Motion(30)], chunk_key_encoding={"name": "v2", "separator": "."})
    group = zarr.open_group(path, mode="a")
    for robot, arm in enumerate(("right", "left")):
        pictures = Motion(30).picture[arm]
        del group[f"data/camera{robot}_rgb"]
        group.create_array(
            f"data/camera{robot}_rgb",
            data=pictures,
            chunks=(1, *pictures.shape[1:]),
            shards=(15, *pictures.shape[1:]),
        )
    episode = open_source(path, "umi-zarr", SourceOptions(**OPTIONS))[0]
    same(episode, Motion(30))
    same_pictures(episode, Motion(30))
    shutil.rmtree(path / "data/camera0_rgb/c/1")
    with pytest.raises(RecordingError, match="camera0_rgb lacks the chunk of frame 15"):
        open_source(path, "umi-zarr", SourceOptions(**OPTIONS))[0]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_black_picture_that_zarr_left_out(
    store: Callable[..., Path], zarr_format: int, zipped: bool
) -> None:
    motion = Motion(30)
    motion.picture["left"][4] = 0
    path = store([motion, Motion(30, number=1)], zarr_format=zarr_format, zipped=zipped)
    source = open_source(path, "umi-zarr", SourceOptions(**OPTIONS))
    same(source[1], Motion(30, number=1))
    with pytest.raises(
        RecordingError, match=r"camera1_rgb lacks the chunk of frame 4.*--missing-chunks fill"
    ):
        source[0]
    filled = open_source(path, "umi-zarr", SourceOptions(**OPTIONS, missing_chunks="fill"))[0]
    assert not filled.videos["left"][4].any()
    same(filled, motion)
    same_pictures(filled, motion)


def test_a_lost_gripper_chunk_is_no_closed_gripper(store: Callable[..., Path], tmp_path: Path) -> None:
    path = store([Motion(30), Motion(30, number=1)])
    (path / "data/robot1_gripper_width/c/0/0").unlink()
    source = open_source(path, "umi-zarr", SourceOptions(**OPTIONS))
    with pytest.raises(
        RecordingError, match=r"robot1_gripper_width lacks the chunk of frame 0 of episode_000000"
    ):
        source[0]
    same(source[1], Motion(30, number=1))
    report = convert(
        path, tmp_path / "out", kind="umi-zarr", options=SourceOptions(**OPTIONS), on_error="skip"
    )
    assert (report.episodes, len(report.skipped)) == (1, 1)


@pytest.mark.parametrize("name", ["robot0_eef_pos", "robot1_eef_rot_axis_angle", "robot0_gripper_width"])
def test_without_a_fill_value_nothing_is_left_out(store: Callable[..., Path], name: str) -> None:
    path = store([Motion(30)], zarr_format=2)
    meta = json.loads((path / f"data/{name}/.zarray").read_text())
    (path / f"data/{name}/.zarray").write_text(json.dumps(meta | {"fill_value": None}))
    (path / f"data/{name}/0.0").unlink()
    with pytest.raises(RecordingError, match=f"{name} lacks the chunk of frame 0.*incomplete"):
        open_source(path, "umi-zarr", SourceOptions(**OPTIONS, missing_chunks="fill"))[0]


def test_lost_episode_ends(store: Callable[..., Path]) -> None:
    path = store([Motion(30)])
    shutil.rmtree(path / "meta/episode_ends/c")
    with pytest.raises(RecordingError, match="episode_ends is incomplete"):
        open_source(path, "umi-zarr", SourceOptions(**OPTIONS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "could run code"),
        ({"data_type": "string"}, "could run code"),
        ({"data_type": {"name": "struct"}}, "could run code"),
        ({"data_type": "complex64"}, "expected numbers"),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 34, 3]}}},
            "more than a recording",
        ),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 3]}}},
            "more than a recording",
        ),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [30]}}}, "chunks of"),
        ({"chunk_grid": None}, "unreadable zarr.json"),
        ({"shape": [30, 1 << 40]}, "no recording has"),
        ({"node_type": "group"}, "unreadable zarr.json"),
        ({"codecs": [{"name": "no such codec"}]}, "cannot be opened"),
    ],
)
def test_harmful_or_broken_metadata(store: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    path = store([Motion(30)])
    meta = path / "data/robot0_eef_pos/zarr.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
    with pytest.raises(RDT2Error, match=message):
        open_source(path, "umi-zarr", SourceOptions(**OPTIONS))


def test_recorded_times(store: Callable[..., Path]) -> None:
    """Milliseconds since 1970, with a pause in the second episode; without them the rate is a guess."""
    motions = [Motion(30), Motion(30, number=1)]
    late = np.r_[:15, 75:90] / 30
    stamps = np.round(1e3 * (1.7e9 + np.concatenate([motions[0].times, 5 + late])))
    path = store(motions, stamps=stamps)
    source = open_source(path, "umi-zarr", SourceOptions(**OPTIONS | {"fps": None}))
    assert source.guesses == []
    np.testing.assert_allclose(source[0].timestamps, motions[0].times, atol=1e-3)
    assert [part.start for part in pieces(source[1].timestamps)] == [0, 15]
    fast = open_source(path, "umi-zarr", SourceOptions(**OPTIONS | {"fps": 60}))
    np.testing.assert_allclose(fast[0].timestamps, motions[0].times / 2, atol=1e-9)
    assert [part.start for part in pieces(fast[1].timestamps)] == [0, 15]


def test_python_3_10_is_told_what_it_lacks(
    store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_files, "sys", SimpleNamespace(version_info=(3, 10, 13)))
    with pytest.raises(RecordingError, match="which needs Python 3"):
        list(open_source(store([Motion(30)]), "umi-zarr", SourceOptions(**OPTIONS)))
