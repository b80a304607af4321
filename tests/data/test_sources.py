"""Each source gives back the poses, widths, pictures and times that were recorded, or says what is wrong."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from motion import Motion, same, same_pictures

from rdt2.action import ARMS
from rdt2.data import Episode, ShardWriter
from rdt2.data.convert import convert
from rdt2.data.sources import SourceOptions, open_source
from rdt2.data.sources.numbers import to_matrices, to_widths
from rdt2.data.sources.pictures import to_picture
from rdt2.errors import ConfigError, PoseError, RDT2Error, RecordingError, ShardError
from rdt2.pose import rot6d_from_rows

CUP = {"instruction": "Pick up the cup."}


def options(**values: object) -> SourceOptions:
    return SourceOptions(**(CUP | values))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ UMI zarr


def test_umi(umi_zarr, motions) -> None:
    source = open_source(umi_zarr(motions, dtype="<f8"), "umi-zarr", options(fps=30.0))
    assert source.lengths == [30, 26, 34]
    for episode, motion in zip(source, motions, strict=True):
        same(episode, motion)
        same_pictures(episode, motion)
    assert {guess.option for guess in source.guesses} == {"arms", "gripper_unit"}


def test_umi_guesses_its_own_rate(umi_zarr, motions) -> None:
    source = open_source(umi_zarr(motions[:1]), "umi-zarr", options())
    assert source[0].timestamps[-1] == pytest.approx(29 / 59.94)
    assert "--fps 59.94" in [guess.flag for guess in source.guesses]


def test_umi_big_endian_numbers(umi_zarr, motions) -> None:
    same(open_source(umi_zarr(motions[:1], dtype=">f8"), "umi-zarr", options(fps=30.0))[0], motions[0])


def test_umi_jpeg_xl(umi_zarr, motions) -> None:
    jpegxl = pytest.importorskip("imagecodecs.numcodecs").Jpegxl
    source = open_source(umi_zarr(motions[:1], codec=jpegxl(lossless=True)), "umi-zarr", options())
    same_pictures(source[0], motions[0])


def test_umi_arm_order_is_an_option(umi_zarr, motions) -> None:
    source = open_source(umi_zarr(motions[:1], dtype="<f8"), "umi-zarr", options(arms="left-right"))
    np.testing.assert_array_equal(source[0].poses["left"][:, :3, 3], motions[0].position["right"])


def test_one_armed_data_needs_leave(umi_zarr, motions) -> None:
    path = umi_zarr(motions[:1], arms=("right",), dtype="<f8")
    with pytest.raises(ConfigError, match="--missing-arm still"):
        open_source(path, "umi-zarr", options(arms="right"))
    episode = open_source(path, "umi-zarr", options(arms="right", missing_arm="still", fps=30.0))[0]
    same(episode, motions[0], arms=("right",))
    np.testing.assert_array_equal(episode.poses["left"], np.tile(np.eye(4), (30, 1, 1)))
    assert (episode.videos["left"][3] == 128).all()
    assert episode.meta["still_arms"] == ["left"]


def test_truncated_zip(umi_zarr, motions) -> None:
    path = umi_zarr(motions[:1])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordingError, match=r"dataset.zarr.zip: is no whole zip file"):
        open_source(path, "umi-zarr", options())


def test_damaged_picture_is_named(umi_zarr, motions) -> None:
    path = umi_zarr(motions[:1])
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("data/camera1_rgb/7.0.0.0")
    data = bytearray(path.read_bytes())
    header = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
    data[info.header_offset + 30 + sum(header) + 5] ^= 255
    path.write_bytes(data)
    episode = open_source(path, "umi-zarr", options())[0]
    assert episode.videos["left"][6] is not None
    with pytest.raises(RecordingError, match="camera1_rgb, frame 7"):
        episode.videos["left"][7]


def rewrite(path: Path, change) -> None:
    """Copies a zip, member by member; ``change(name, data)`` gives new bytes or None to leave it out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            data = change(name, data)
            if data is not None:
                file.writestr(name, data)


def test_missing_picture_is_no_black_frame(umi_zarr, motions) -> None:
    path = umi_zarr(motions[:1])
    rewrite(path, lambda name, data: None if name == "data/camera0_rgb/4.0.0.0" else data)
    with pytest.raises(RecordingError, match=r"lacks the chunk of frame 4.*--missing-chunks fill"):
        open_source(path, "umi-zarr", options())[0]


def test_zip_bomb(umi_zarr, motions) -> None:
    path = umi_zarr(motions[:1])
    rewrite(path, lambda name, data: bytes(20 << 20) if name == "data/camera0_rgb/4.0.0.0" else data)
    with pytest.raises(RecordingError, match="would inflate"):
        open_source(path, "umi-zarr", options())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "fill_value": None}, "Python objects"),
        ({"filters": [{"id": "pickle", "protocol": 5}]}, "Python objects"),
        ({"chunks": [1 << 40, 3]}, "more than a recording needs"),
        ({"shape": [1 << 60, 3]}, "no recording is that long"),
        ({"dtype": "|S9"}, "expected numbers"),
    ],
)
def test_umi_refuses_harmful_metadata(umi_zarr, motions, change, message) -> None:
    path = umi_zarr(motions[:1])

    def edit(name: str, data: bytes) -> bytes:
        return (
            json.dumps(json.loads(data) | change).encode() if name == "data/robot0_eef_pos/.zarray" else data
        )

    rewrite(path, edit)
    with pytest.raises(RecordingError, match=message):
        open_source(path, "umi-zarr", options())


def test_umi_empty_episode(umi_zarr, motions) -> None:
    path = umi_zarr([motions[0], Motion(0), motions[1]])
    source = open_source(path, "umi-zarr", options())
    assert [len(source[0]), len(source[2])] == [30, 26]
    with pytest.raises(RecordingError, match="episode_000001: has no frame"):
        source[1]


def test_nan_pose_is_named(umi_zarr, motions) -> None:
    motions[0].position["left"][11, 1] = np.nan
    source = open_source(umi_zarr(motions[:1]), "umi-zarr", options())
    with pytest.raises(PoseError, match=r"left arm: the pose of frame 11 holds NaN"):
        source[0]


# -------------------------------------------------------------------------------------------------- HDF5


def test_fastumi(fastumi, motions) -> None:
    source = open_source(fastumi(motions), "hdf5", options(fps=30.0))
    assert source.names == ["episode_0", "episode_1", "episode_2"]
    for episode, motion in zip(source, motions, strict=True):
        same(episode, motion)
        same_pictures(episode, motion)
    assert "--arms left-right" in [guess.flag for guess in source.guesses]


def test_fastumi_big_endian_millimetres_and_own_times(fastumi, motions) -> None:
    motions[0].times = motions[0].times * 1.25
    source = open_source(fastumi(motions[:1], clamp=1000.0, dtype=">f8", times=True), "hdf5", options())
    same(source[0], motions[0])
    assert "--gripper-unit mm" in [guess.flag for guess in source.guesses]


def test_rate_is_never_made_up(fastumi, motions) -> None:
    with pytest.raises(ConfigError, match="--fps 30"):
        open_source(fastumi(motions[:1]), "hdf5", options())


def test_gripper_range(fastumi, motions) -> None:
    path = fastumi(motions[:1], clamp=-1 / 0.088)  # 0 closed, -1 open
    with pytest.raises(ConfigError, match="--gripper-unit range"):
        open_source(path, "hdf5", options(fps=30.0))
    chosen = options(fps=30.0, gripper_unit="range", gripper_range=(0.0, -1.0))
    same(open_source(path, "hdf5", chosen)[0], motions[0])


def test_times_that_run_back_are_named(fastumi, motions) -> None:
    motions[0].times[9] = motions[0].times[8]
    source = open_source(fastumi(motions[:1], times=True), "hdf5", options())
    with pytest.raises(RecordingError, match=r"timestamp of frame 9 is the same as that of frame 8.*--fps"):
        source[0]


def test_aloha_with_poses_and_jpeg(tmp_path, motions) -> None:
    import h5py
    import simplejpeg

    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/qpos"] = np.zeros((30, 14))
        file["observations/eef_pose"] = motions[0].table(("left", "right"), motions[0].rot6d)
        file.attrs["instruction"] = "Open the drawer."
        for arm in ARMS:
            jpegs = [simplejpeg.encode_jpeg(p, quality=95, colorspace="RGB") for p in motions[0].picture[arm]]
            size = max(map(len, jpegs))
            packed = np.stack([np.frombuffer(data.ljust(size, b"\0"), np.uint8) for data in jpegs])
            file[f"observations/images/cam_{arm}_wrist"] = packed
        file["observations/images/cam_high"] = motions[0].picture["left"]
    source = open_source(tmp_path, "hdf5", SourceOptions(fps=30.0))
    same(source[0], motions[0])
    same_pictures(source[0], motions[0], tolerance=4)
    assert source[0].instruction == "Open the drawer."
    assert "--rotation columns" in [guess.flag for guess in source.guesses]


def test_aloha_joint_angles_are_no_poses(tmp_path) -> None:
    import h5py

    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/qpos"] = np.zeros((30, 14))
    with pytest.raises(ConfigError, match="joint angles"):
        open_source(tmp_path, "hdf5", options(fps=30.0))


def test_truncated_hdf5(fastumi, motions) -> None:
    folder = fastumi(motions[:1])
    path = folder / "episode_0.hdf5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RecordingError, match=r"episode_0.hdf5: is no whole HDF5 file"):
        open_source(folder, "hdf5", options(fps=30.0))


def test_pictures_short_of_poses(fastumi, motions) -> None:
    motions[0].picture["right"] = motions[0].picture["right"][:-2]
    source = open_source(fastumi(motions[:1]), "hdf5", options(fps=30.0))
    with pytest.raises(RecordingError, match="28 pictures for 30 poses"):
        source[0]


# ----------------------------------------------------------------------------------------------- LeRobot


def test_lerobot_v21(lerobot_v21, motions) -> None:
    source = open_source(lerobot_v21(motions), "lerobot")
    assert source.lengths == [30, 26, 34]
    for episode, motion in zip(source, motions, strict=True):
        same(episode, motion)
        same_pictures(episode, motion)
        assert episode.instruction == "Pick up the cup."
    assert {"--rotation xyzw", "--arms left-right"} <= {guess.flag for guess in source.guesses}


def test_lerobot_joints_are_refused(lerobot_v21, motions) -> None:
    path = lerobot_v21(motions[:1], names=[f"left_joint_{n}" for n in range(16)])
    with pytest.raises(ConfigError, match="joint angles"):
        open_source(path, "lerobot")


def test_lerobot_truncated_table(lerobot_v21, motions) -> None:
    path = lerobot_v21(motions)
    table = path / "data" / "chunk-000" / "episode_000001.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    source = open_source(path, "lerobot")
    same(source[0], motions[0])
    with pytest.raises(RecordingError, match=r"episode_000001.parquet: is no whole parquet file"):
        source[1]


def test_lerobot_path_outside_the_dataset(lerobot_v21, motions) -> None:
    path = lerobot_v21(motions[:1])
    info = json.loads((path / "meta" / "info.json").read_text())
    info["data_path"] = "../../{episode_index}.parquet"
    (path / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(RecordingError, match="outside the dataset"):
        open_source(path, "lerobot")


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("hdf5", "*.hdf5"),
        ("umi-zarr", "*.zip"),
        ("lerobot", "meta/info.json"),
        ("lerobot", "data/*/*.parquet"),
        ("lerobot", "meta/episodes.jsonl"),
    ],
)
def test_git_lfs_pointers_are_not_called_damaged(kind, pattern, request, motions) -> None:
    root = request.getfixturevalue(
        {"hdf5": "fastumi", "umi-zarr": "umi_zarr", "lerobot": "lerobot_v21"}[kind]
    )(motions)
    for path in root.glob(pattern) if root.is_dir() else [root]:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 60323840\n")
    with pytest.raises(RecordingError, match="git lfs pull"):
        list(open_source(root, kind, options()))


# ------------------------------------------------------------------------------------------------ shards


def write_shards(folder: Path, motions: list[Motion], *, named: bool = True) -> None:
    with ShardWriter(folder, samples_per_shard=9) as writer:
        for number, motion in enumerate(motions):
            Episode(
                videos={arm: [np.full((384, 384, 3), 90, np.uint8)] * len(motion.times) for arm in ARMS},
                poses=motion.poses,
                widths=motion.width,
                timestamps=motion.times,
                instruction="Pick up the cup.",
                meta={"episode": f"e{number}"} if named else {},
            ).write(writer)


def from_first(poses: np.ndarray) -> np.ndarray:
    return np.linalg.inv(poses[0]) @ poses


@pytest.mark.parametrize("named", [True, False])
def test_shards_give_the_path_back(tmp_path, named) -> None:
    """Over several shards and 0.8 s reaches; without names, episodes end where chunks contradict each other."""
    motions = [Motion(100), Motion(60, number=3)]
    write_shards(tmp_path, motions, named=named)
    episodes = list(open_source(tmp_path, "shards"))
    assert [len(episode) for episode in episodes] == [76, 36]
    for episode, motion in zip(episodes, motions, strict=True):
        count = len(episode)
        for arm in ARMS:
            found, expected = episode.poses[arm], from_first(motion.poses[arm])[:count]
            np.testing.assert_allclose(found[:, :3, 3], expected[:, :3, 3], atol=1e-6)
            between = found[:, :3, :3].swapaxes(1, 2) @ expected[:, :3, :3]
            assert np.abs(between - np.eye(3)).max() < 1e-6
            np.testing.assert_allclose(episode.widths[arm][1:], motion.width[arm][1:count], atol=1e-6)


def test_shards_whose_rotations_are_rows_become_columns(tmp_path) -> None:
    """Chunks and states; regression: --rotation rows was taken and changed nothing."""
    write_shards(tmp_path / "columns", [Motion(60)])
    source = open_source(tmp_path / "columns", "shards")
    with ShardWriter(tmp_path / "transposed") as writer:
        for sample in source.samples(0):
            turned = {"action": as_rows(sample["action"])}
            state = as_rows(np.array(sample["meta"]["state"])).tolist()
            writer.write(**(sample | turned | {"meta": sample["meta"] | {"state": state}}))
    read = open_source(tmp_path / "transposed", "shards", SourceOptions(rotation="rows"))
    for found, expected in zip(read.samples(0), source.samples(0), strict=True):
        np.testing.assert_allclose(found["action"], expected["action"], atol=1e-6)
        np.testing.assert_allclose(found["meta"]["state"], expected["meta"]["state"], atol=1e-6)
    np.testing.assert_allclose(read[0].poses["left"], source[0].poses["left"], atol=1e-5)


def as_rows(values: np.ndarray) -> np.ndarray:
    """Chunks or states with the first two rows of each rotation in the place of its columns."""
    values = values.copy()
    for start in (3, 13):
        values[..., start : start + 6] = rot6d_from_rows(values[..., start : start + 6])  # its own inverse
    return values


@pytest.mark.parametrize("values", [{"arms": "right-left"}, {"position_unit": "mm"}, {"rotation": "xyzw"}])
def test_options_that_shards_have_no_use_for_are_refused(tmp_path, values) -> None:
    write_shards(tmp_path, [Motion(40)])
    with pytest.raises(
        ConfigError, match=r"--from shards: shards hold the models'|--rotation columns or rows"
    ):
        open_source(tmp_path, "shards", SourceOptions(**values))
    with pytest.raises(ConfigError, match="shards keep the chunks that they have"):
        convert(tmp_path, tmp_path / "out", kind="shards", tail="pad")


def test_shards_of_the_real_recording(real) -> None:
    source = open_source(real, "shards", options())
    assert source.names == ["episode0", "episode1"]
    assert source.lengths == [448, 266]
    episode = source[1]
    action = source._index.action(int(source._episodes[1][1][100]))  # type: ignore[attr-defined]
    chunk = dict(episode.chunks())[100]
    np.testing.assert_allclose(chunk, action, atol=2e-5)


def test_shards_that_contradict_themselves(tmp_path) -> None:
    write_shards(tmp_path, [Motion(40)])
    with ShardWriter(tmp_path, first_shard=5) as writer:
        action = np.zeros((24, 20), np.float32)
        action[:, [3, 7, 13, 17]] = 1
        action[:, 0] = 0.5
        picture = np.full((384, 768, 3), 90, np.uint8)
        meta = {"episode": "e0", "frame": 16}
        writer.write(picture=picture, action=action, instruction="Pick up the cup.", meta=meta)
    with pytest.raises(ShardError, match="contradicts the sample before it in episode 'e0'"):
        open_source(tmp_path, "shards")


def test_truncated_shard(tmp_path) -> None:
    write_shards(tmp_path, [Motion(40)])
    path = tmp_path / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ShardError, match=r"shard-000001.tar.*cut off"):
        open_source(tmp_path, "shards")


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("kind", ["columns", "rows", "xyzw", "wxyz", "rotvec"])
def test_rotation_storages(kind) -> None:
    motion = Motion(20)
    stored = {
        "columns": motion.rot6d("left"),
        "rows": motion.rot6d("left", rows=True),
        "xyzw": motion.quaternion("left"),
        "wxyz": motion.quaternion("left")[:, [3, 0, 1, 2]],
        "rotvec": motion.rotvec["left"],
    }[kind]
    found = to_matrices(motion.position["left"], stored, kind, where="test")
    np.testing.assert_allclose(found, motion.poses["left"], atol=1e-12)


def test_values_that_are_no_rotation() -> None:
    zeros = np.zeros((3, 3))
    with pytest.raises(PoseError, match="length 0"):
        to_matrices(zeros, np.zeros((3, 4)), "xyzw", where="test")
    with pytest.raises(PoseError, match="orthonormal"):
        to_matrices(zeros, np.ones((3, 6)), "rows", where="test")
    with pytest.raises(PoseError, match="another --rotation"):
        to_matrices(zeros, np.zeros((3, 4)), "rotvec", where="test")


def test_pictures_are_cropped_around_the_centre() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 80:560] = (10, 20, 30)
    out = to_picture(image, SourceOptions(), where="test")
    assert out.shape == (384, 384, 3)
    assert (out == (10, 20, 30)).all()
    assert (to_picture(image, SourceOptions(color="bgr"), where="test") == (30, 20, 10)).all()
    with pytest.raises(RecordingError, match="--crop 500"):
        to_picture(image, SourceOptions(crop=500), where="test")
    with pytest.raises(RecordingError, match="uint8"):
        to_picture(image.astype(np.float32), SourceOptions(), where="test")


def test_widths_out_of_any_gripper() -> None:
    with pytest.raises(RecordingError, match="--gripper-unit"):
        to_widths(np.array([10.0, 60.0]), "m", SourceOptions(), where="test")


def test_options_that_contradict_themselves() -> None:
    with pytest.raises(ConfigError, match="--gripper-range"):
        SourceOptions(gripper_unit="range")
    with pytest.raises(RDT2Error, match="fps"):
        SourceOptions(fps=0.0)
