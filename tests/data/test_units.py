"""Units and openings: recognised, refused by name, or said; judged by all episodes and not by the first."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from motion import Motion, same

from rdt2.action import ARMS
from rdt2.data.sources import SourceOptions, open_source
from rdt2.data.sources.numbers import guess_gripper
from rdt2.errors import ConfigError, RecordingError


def options(**values: object) -> SourceOptions:
    return SourceOptions(**({"instruction": "Pick up the cup.", "fps": 30.0} | values))  # type: ignore[arg-type]


def in_unit(motions: list[Motion], per_metre: float) -> list[Motion]:
    for motion in motions:
        motion.position = {arm: per_metre * values for arm, values in motion.position.items()}
    return motions


# ------------------------------------------------------------------------------------------------ positions


@pytest.mark.parametrize(("unit", "per_metre"), [("mm", 1000.0), ("cm", 100.0)])
def test_positions_in_mm_and_cm(fastumi, umi_zarr, lerobot_v21, unit, per_metre) -> None:
    for write, kind in ((fastumi, "hdf5"), (umi_zarr, "umi-zarr"), (lerobot_v21, "lerobot")):
        path = write(in_unit([Motion(30)], per_metre))
        with pytest.raises(ConfigError, match=r"no arm does that in metres.*--position-unit mm"):
            open_source(path, kind, options())
        same(open_source(path, kind, options(position_unit=unit))[0], Motion(30))


def test_a_unit_that_the_numbers_contradict(fastumi) -> None:
    path = fastumi([Motion(30)])
    with pytest.raises(ConfigError, match="they look like metres"):
        open_source(path, "hdf5", options(position_unit="mm"))
    far = Motion(30)
    far.position["left"] += 50.0
    path = fastumi([far])
    same(open_source(path, "hdf5", options(position_unit="m"))[0], far)


def test_a_later_episode_in_mm_is_named(fastumi) -> None:
    path = fastumi([Motion(30), *in_unit([Motion(30)], 1000.0)])
    with pytest.raises(ConfigError, match=r"positions of episode_1, \w+ arm.*look like mm"):
        open_source(path, "hdf5", options())


# ------------------------------------------------------------------------------------------------- grippers


def test_the_unit_of_grippers_is_judged_by_all_episodes() -> None:
    assert guess_gripper({"a": (0.0, 0.08)}, where="t")[0] == "m"
    unit, reason = guess_gripper({"a": (0.0, 0.0), "b": (0.0, 80.0)}, where="t")
    assert (unit, "percent would look the same" in reason) == ("mm", True)
    with pytest.raises(
        ConfigError, match=r"to 0.08 in a, to 80 in b.*--gripper-unit range --gripper-range 0 100"
    ):
        guess_gripper({"a": (0.0, 0.08), "b": (0.0, 80.0)}, where="t")
    with pytest.raises(ConfigError, match=r"--gripper-range 0 1 "):
        guess_gripper({"a": (0.0, 0.1), "b": (0.1, 0.9)}, where="t")
    with pytest.raises(ConfigError, match="neither metres nor millimetres"):
        guess_gripper({"a": (0.0, 9.0)}, where="t")  # centimetres as likely as millimetres


@pytest.mark.parametrize("kind", ["hdf5", "lerobot", "umi-zarr"])
def test_a_first_episode_with_a_closed_gripper_decides_nothing(fastumi, lerobot_v21, umi_zarr, kind) -> None:
    motions = [Motion(30), Motion(30)]
    for motion, scale in zip(motions, (0.1, 10.0), strict=True):
        motion.width = {arm: scale * width for arm, width in motion.width.items()}
    path = {"hdf5": fastumi, "lerobot": lerobot_v21, "umi-zarr": umi_zarr}[kind](motions)
    with pytest.raises(
        ConfigError, match=r"run from 0.00\d+ to 0.6999.*--gripper-unit range --gripper-range 0 1 "
    ):
        open_source(path, kind, options())
    source = open_source(path, kind, options(gripper_unit="range", gripper_range=(0.0, 1.0)))
    np.testing.assert_allclose(source[1].widths["left"], 0.088 * motions[1].width["left"], atol=1e-6)


def without_grippers(path) -> None:
    import h5py

    for file_path in path.glob("*.hdf5"):
        with h5py.File(file_path, "a") as file:
            for robot in (0, 1):
                del file[f"robot_{robot}/action"]


def test_a_quaternion_and_no_gripper(tmp_path) -> None:
    """Of a gripper that points down: qw stays near 0 and would pass for a width."""
    import h5py

    motion = Motion(30)
    for arm in ARMS:
        motion.rotvec[arm] = np.stack(
            [3.12 + 0.01 * np.sin(motion.times), 0.02 * motion.times, 0 * motion.times], 1
        )
    rows = np.concatenate([motion.position["left"], motion.quaternion("left")], 1)
    assert np.abs(rows[:, 6]).max() < 0.05
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/qpos"] = rows
        file["observations/gripper"] = motion.width["left"]
        file["observations/images/front"] = motion.picture["left"]
    chosen = {"missing_arm": "still", "arms": "left"}
    with pytest.raises(ConfigError) as error:
        open_source(tmp_path, "hdf5", options(**chosen))
    message = str(error.value)
    assert re.search(r"7 columns: position and rotation \(xyzw\) of 1 arm\(s\), and no gripper", message)
    assert "--gripper-key NAME (there are observations/gripper)" in message
    assert "--gripper-fixed 0.05" in message
    with pytest.raises(ConfigError, match="columns 4 to 7 of an arm are unit quaternions"):
        open_source(tmp_path, "hdf5", options(**chosen, pose_key="observations/qpos", rotation="rotvec"))
    source = open_source(tmp_path, "hdf5", options(**chosen, gripper_key="observations/gripper"))
    same(source[0], motion, arms=("left",))
    fixed = open_source(tmp_path, "hdf5", options(**chosen, gripper_fixed=0.05))
    assert (fixed[0].widths["left"] == 0.05).all()
    assert "gripper_unit" not in {guess.option for guess in fixed.guesses}


def test_grippers_elsewhere_in_fastumi(fastumi) -> None:
    import h5py

    motion = Motion(30)
    path = fastumi([motion])
    without_grippers(path)
    with pytest.raises(
        ConfigError, match=r"robot_0/observations/qpos has 7 columns.*no gripper.*--gripper-fixed"
    ):
        open_source(path, "hdf5", options())
    with h5py.File(path / "episode_0.hdf5", "a") as file:
        for robot, arm in enumerate(("left", "right")):
            file[f"robot_{robot}/clamp"] = motion.width[arm][:, None]
        file["both"] = np.stack([motion.width["right"], motion.width["left"]], 1)
        file["both"].attrs["names"] = ["right_gripper", "left_gripper"]
    for key in ("robot_{robot}/clamp", "both"):
        same(open_source(path, "hdf5", options(gripper_key=key))[0], motion)
    with pytest.raises(ConfigError, match="has 1 numbers a frame for the gripper of 2 arm"):
        open_source(path, "hdf5", options(gripper_key="robot_0/clamp"))


def test_grippers_elsewhere_in_lerobot(lerobot_v21) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    motion = Motion(30)
    path = lerobot_v21([motion])
    file = next((path / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    poses = np.concatenate(
        [np.concatenate([motion.position[arm], motion.quaternion(arm)], 1) for arm in ("left", "right")], 1
    ).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(poses.reshape(-1)), 14)
    table = table.set_column(table.column_names.index("observation.state"), "observation.state", column)
    for arm in ARMS:
        table = table.append_column(f"observation.{arm}_gripper", pa.array(motion.width[arm]))
    pq.write_table(table, file)
    info = json.loads((path / "meta" / "info.json").read_text())
    info["features"]["observation.state"]["shape"] = [14]
    info["features"] |= {f"observation.{arm}_gripper": {"dtype": "float64", "shape": [1]} for arm in ARMS}
    (path / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=r"no gripper.*observation.right_gripper.*--gripper-fixed"):
        open_source(path, "lerobot", options())
    same(open_source(path, "lerobot", options(gripper_key="observation.{arm}_gripper"))[0], motion)
    with pytest.raises(ConfigError, match=r"has no feature nothing; there are .*--gripper-key"):
        open_source(path, "lerobot", options(gripper_key="nothing"))
    assert (open_source(path, "lerobot", options(gripper_fixed=0.03))[0].widths["right"] == 0.03).all()


def test_grippers_elsewhere_or_nowhere_in_a_zarr(umi_zarr) -> None:
    path = umi_zarr([Motion(30)], dtype="<f8")
    assert (open_source(path, "umi-zarr", options(gripper_fixed=0.02))[0].widths["left"] == 0.02).all()
    same(open_source(path, "umi-zarr", options(gripper_key="robot{robot}_gripper_width"))[0], Motion(30))
    with pytest.raises(RecordingError, match="robot0_nothing"):
        open_source(path, "umi-zarr", options(gripper_key="robot{robot}_nothing"))


def test_options_of_grippers_that_contradict_each_other() -> None:
    for values, message in (
        ({"gripper_fixed": 0.5}, "0 to 0.2 m"),
        ({"gripper_fixed": 0.05, "gripper_key": "a"}, "not both"),
        ({"gripper_unit": "mm", "gripper_range": (0.0, 1.0)}, "--gripper-unit range"),
        ({"gripper_open": 0.0}, "gripper_open"),
    ):
        with pytest.raises(ConfigError, match=message):
            options(**values)


# ------------------------------------------------------------------------------------------- all in one message


def test_everything_missing_is_asked_at_once(tmp_path) -> None:
    import h5py

    motion = Motion(30)
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        share = motion.width["left"][:, None] / 0.088
        file["observations/qpos"] = np.concatenate(
            [motion.position["left"], motion.quaternion("left"), share], 1
        )
        for name in ("a", "b"):
            file[f"observations/images/{name}"] = motion.picture["left"]
    with pytest.raises(ConfigError) as error:
        open_source(tmp_path, "hdf5", SourceOptions())
    for flag in (
        *("--missing-arm still", "--fps 30", "--gripper-unit range --gripper-range 0 1 ", "--instruction"),
        *(
            "--cameras RIGHT LEFT",
            "--pose-key observations/qpos",
            "--rotation xyzw",
            "--arms right",
            "--color rgb",
        ),
    ):
        assert flag in str(error.value)
    said = options(
        missing_arm="still", cameras=("a", "a"), pose_key="observations/qpos", arms="left", color="rgb",
        gripper_unit="range", gripper_range=(0.0, 1.0), rotation="xyzw",
    )  # fmt: skip
    source = open_source(tmp_path, "hdf5", said)
    assert source.guesses == []
    same(source[0], motion, arms=("left",))


def asked(path, kind: str, **values: object) -> str:
    with pytest.raises(ConfigError) as error:
        open_source(path, kind, SourceOptions(**values))  # type: ignore[arg-type]
    return str(error.value)


def test_where_the_poses_are_is_asked_together_with_the_rest(tmp_path) -> None:
    import h5py

    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/qpos"] = np.random.default_rng(0).normal(size=(30, 14))  # joint angles
        file["observations/ee"] = np.zeros((30, 16))
        for name in ("a", "b"):
            file[f"observations/images/{name}"] = np.zeros((30, 8, 8, 3), np.uint8)
    rest = ("--fps 30", "--cameras RIGHT LEFT", "--instruction", "--color rgb")
    for key, said in (
        (None, "--pose-key NAME"),
        ("observations/qpos", "joint angles"),
        ("gone", "no dataset"),
    ):
        message = asked(tmp_path, "hdf5", pose_key=key)
        for flag in (said, *rest):
            assert flag in message


def test_contradictions_are_said_together_with_the_rest(umi_zarr, lerobot_v21) -> None:
    message = asked(umi_zarr([Motion(30)]), "umi-zarr", rotation="xyzw", arms="left")
    assert "--rotation says xyzw" in message
    assert "--arms left names 1" in message
    assert "--instruction" in message
    parts = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    names = [f"{arm}_{part}" for arm in ("left", "right") for part in parts]
    path = lerobot_v21([Motion(30)], names=names)
    episodes = path / "meta" / "episodes.jsonl"
    episodes.write_text(json.dumps(json.loads(episodes.read_text()) | {"tasks": [" "]}) + "\n")
    for option, value, said in (
        ("rotation", "wxyz", "--rotation says wxyz"),
        ("pose_key", "gone", "has no feature gone"),
    ):
        message = asked(path, "lerobot", **{option: value})
        assert said in message
        assert "--instruction" in message
        assert "--cameras" in message


@pytest.mark.parametrize(("unit", "per_metre"), [("mm", 1000.0), ("cm", 100.0)])
def test_an_episode_in_metres_among_others(fastumi, unit, per_metre) -> None:
    near = in_unit([Motion(30)], 1.0 if unit == "mm" else 0.5)[0]
    path = fastumi([*in_unit([Motion(30)], per_metre), near])
    source = open_source(path, "hdf5", options(position_unit=unit))
    same(source[0], Motion(30))
    with pytest.raises(RecordingError, match=rf"episode_1.* mm in {unit}.*--position-unit m\b"):
        source[1]


def test_a_share_of_the_opening_among_millimetres_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"to 0\.79 in b, to 70 in a"):
        guess_gripper({"a": (10.0, 70.0), "b": (0.11, 0.79)}, where="set")
    assert guess_gripper({"a": (10.0, 70.0), "b": (0.3, 0.35)}, where="set")[0] == "mm"  # a closed one
