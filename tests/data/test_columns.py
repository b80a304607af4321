"""Names of columns are believed before their count; what neither tells is said beside the guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from motion import Motion, same
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS
from rdt2.data.sources import Source, SourceOptions, open_source
from rdt2.data.sources.columns import flat_names, read_names
from rdt2.errors import ConfigError, PoseError, RecordingError

LEFT_FIRST, RIGHT_FIRST = ("left", "right"), ("right", "left")
XYZ = ["x", "y", "z"]


def rotation(motion: Motion, arm: str) -> Rotation:
    return Rotation.from_rotvec(motion.rotvec[arm])


def euler(order: str, scale: float = 1.0) -> Callable[[Motion, str], np.ndarray]:
    return lambda motion, arm: scale * rotation(motion, arm).as_euler(order)


def quaternion(order: list[int]) -> Callable[[Motion, str], np.ndarray]:
    return lambda motion, arm: motion.quaternion(arm)[:, order]


def entries(rows: list[int], columns: list[int]) -> Callable[[Motion, str], np.ndarray]:
    return lambda motion, arm: rotation(motion, arm).as_matrix()[:, rows, columns]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes HDF5 files with these columns as observations/eef_pose."""

    def write(
        tables: list[np.ndarray], names: list[str] | None = None, key: str = "observations/eef_pose"
    ) -> Path:
        import h5py

        folder = tmp_path / "files"
        folder.mkdir(exist_ok=True)
        for number, table in enumerate(tables):
            with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
                file[key] = table
                file["timestamp"] = np.arange(len(table)) / 30
                for arm in ARMS:
                    file[f"observations/images/cam_{arm}_wrist"] = np.zeros((len(table), 16, 16, 3), np.uint8)
                if names is not None:
                    file[key].attrs["names"] = names
        return folder

    return write


def opened(folder: Path, **values: object) -> Source:
    return open_source(folder, "hdf5", SourceOptions(**({"instruction": "Fold."} | values)))  # type: ignore[arg-type]


def flags(source: Source) -> set[str]:
    return {guess.flag for guess in source.guesses}


def table(motion: Motion, arms: tuple[str, ...], turn: Callable[[Motion, str], np.ndarray]) -> np.ndarray:
    """Position, rotation, width of the arms side by side."""
    return motion.table(arms, lambda arm: turn(motion, arm))


def prefixed(arms: tuple[str, ...], names: list[str], form: str = "{arm}_{name}") -> list[str]:
    return [form.format(arm=arm, name=name, number=n) for n, arm in enumerate(arms) for name in names]


Q = quaternion([0, 1, 2, 3])
QUATERNION_NAMES = [*XYZ, "qx", "qy", "qz", "qw", "gripper"]
WHOLE = ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3)
MATRIX_ROWS = ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("arms", "names", "turn"),
    [
        (RIGHT_FIRST, QUATERNION_NAMES, Q),
        (LEFT_FIRST, [*XYZ, "qw", "qx", "qy", "qz", "gripper"], quaternion([3, 0, 1, 2])),
        (LEFT_FIRST, ["px", "py", "pz", "quat_z", "quat_y", "quat_x", "quat_w", "width"], quaternion([2, 1, 0, 3])),
        (LEFT_FIRST, [*XYZ, "rw", "rx", "ry", "rz", "gripper_pos"], quaternion([3, 0, 1, 2])),
        (RIGHT_FIRST, ["ee.x", "ee.y", "ee.z", "ee.wx", "ee.wy", "ee.wz", "ee.gripper_pos"], lambda m, a: m.rotvec[a]),
        (LEFT_FIRST, [*XYZ, *(f"rotvec_{n}" for n in range(3)), "gripper"], lambda m, a: m.rotvec[a]),
        (RIGHT_FIRST, [*XYZ, "r00", "r01", "r02", "r10", "r11", "r12", "width"], entries(*MATRIX_ROWS)),
        (LEFT_FIRST, [*XYZ, "R11", "R21", "R31", "R12", "R22", "R32", "width"], entries(*MATRIX_ROWS[::-1])),
        (LEFT_FIRST, [*XYZ, *(f"rot_{r}{c}" for r in range(3) for c in range(3)), "width"], entries(*WHOLE)),
    ],
)  # fmt: skip
def test_names_say_rotation_and_arms(written, arms, names, turn) -> None:
    motion = Motion(30)
    source = opened(written([table(motion, arms, turn)], prefixed(arms, names)))
    same(source[0], motion)
    assert not {guess.option for guess in source.guesses} & {"rotation", "arms"}, "nothing is left to guess"


@pytest.mark.parametrize(
    "form", ["{arm}.pos.{name}", "{name}_{arm}", "{arm}Arm_{name}", "observation.{arm}_ee_{name}"]
)
def test_arms_in_names(written, form) -> None:
    motion = Motion(30)
    same(
        opened(written([table(motion, RIGHT_FIRST, Q)], prefixed(RIGHT_FIRST, QUATERNION_NAMES, form)))[0],
        motion,
    )


def test_short_and_numbered_arms(written) -> None:
    motion = Motion(30)
    short = [f"{arm[0]}_{name}" for arm in RIGHT_FIRST for name in QUATERNION_NAMES]
    same(opened(written([table(motion, RIGHT_FIRST, Q)], short))[0], motion)
    for form in ("robot_{number}_{name}", "robot{number}_{name}", "arm_{number}.{name}", "{name}"):
        names = prefixed(RIGHT_FIRST, QUATERNION_NAMES, form)
        folder = written([table(motion, RIGHT_FIRST, Q)], names)
        assert "--arms left-right" in flags(opened(folder)), "a number is no side"
        same(opened(folder, arms="right-left")[0], motion)


def test_columns_in_any_order_and_others_between(written) -> None:
    motion = Motion(30)
    parts, names = [], []
    for arm in RIGHT_FIRST:
        gripper, other = motion.width[arm][:, None], np.full((30, 1), 7.0)
        parts += [gripper, motion.position[arm], other, motion.quaternion(arm)[:, [3, 0, 1, 2]], other]
        names += [f"{arm}_{name}" for name in ("gripper", *XYZ, "x_vel", "qw", "qx", "qy", "qz", "pad")]
    same(opened(written([np.concatenate(parts, 1)], names))[0], motion)


@pytest.mark.parametrize("order", ["xyz", "zyx", "XYZ", "ZYX"])
def test_euler_angles(written, order) -> None:
    motion = Motion(30)
    kind = f"euler-{order.lower()}{'-intrinsic' if order.isupper() else ''}"
    names = prefixed(
        LEFT_FIRST, [*XYZ, *(dict(x="roll", y="pitch", z="yaw")[a] for a in order.lower()), "g_gripper"]
    )
    folder = written([table(motion, LEFT_FIRST, euler(order))], [name.replace("g_", "") for name in names])
    same(opened(folder, rotation=kind, angle_unit="rad")[0], motion)
    source = opened(folder)
    assert {"--rotation euler-xyz", "--angle-unit rad"} <= flags(source)
    assert "euler-zyx-intrinsic" in next(g.reason for g in source.guesses if g.option == "rotation")
    with pytest.raises(ConfigError, match=r"named as euler-xyz.*--rotation says rotvec.*--pose-names"):
        opened(folder, rotation="rotvec")


def test_degrees(written) -> None:
    motion = Motion(30)
    names = [*XYZ, "roll", "pitch", "yaw", "gripper"]
    degrees = table(motion, LEFT_FIRST, euler("xyz", 180 / np.pi))
    folder = written([degrees], prefixed(LEFT_FIRST, names))
    assert "--angle-unit deg" in flags(opened(folder)), "beyond 2 pi"
    same(opened(folder)[0], motion)
    said = prefixed(LEFT_FIRST, [*XYZ, "roll_deg", "pitch_deg", "yaw_deg", "gripper"])
    source = opened(written([degrees], said))
    assert "angle_unit" not in {guess.option for guess in source.guesses}
    same(source[0], motion)
    with pytest.raises(ConfigError, match="named in deg, --angle-unit says rad"):
        opened(written([degrees], said), angle_unit="rad")


def test_lengths_named_in_millimetres(written) -> None:
    motion = Motion(30)
    motion_mm = Motion(30)
    for arm in ARMS:
        motion_mm.position[arm] = 1e3 * motion.position[arm]
        motion_mm.width[arm] = 1e3 * motion.width[arm]
    names = prefixed(LEFT_FIRST, ["x_mm", "y_mm", "z_mm", "qx", "qy", "qz", "qw", "gripper_mm"])
    source = opened(written([table(motion_mm, LEFT_FIRST, Q)], names))
    same(source[0], motion)
    assert not {guess.option for guess in source.guesses} & {"position_unit", "gripper_unit"}
    with pytest.raises(ConfigError, match="named in mm, --position-unit says m"):
        opened(written([table(motion_mm, LEFT_FIRST, Q)], names), position_unit="m")


def test_what_cannot_be_told_is_said(written) -> None:
    motion = Motion(30)
    for turn, flag, other in (
        (Q, "xyzw", "wxyz would look the same"),
        (lambda m, a: m.rot6d(a), "columns", "rows would look the same"),
        (lambda m, a: m.rotvec[a], "rotvec", "Euler angles"),
    ):
        source = opened(written([table(motion, LEFT_FIRST, turn)]))
        guess = next(guess for guess in source.guesses if guess.option == "rotation")
        assert (guess.value, other in guess.reason) == (flag, True)
    names = prefixed(LEFT_FIRST, [*XYZ, *(f"rot6d_{n}" for n in range(6)), "gripper"])
    source = opened(written([table(motion, LEFT_FIRST, lambda m, a: m.rot6d(a, rows=True))], names))
    assert any("rows" in guess.reason for guess in source.guesses if guess.option == "rotation")
    same(
        opened(
            written([table(motion, LEFT_FIRST, lambda m, a: m.rot6d(a, rows=True))], names), rotation="rows"
        )[0],
        motion,
    )


def test_flags_that_contradict_names(written) -> None:
    motion = Motion(30)
    names = prefixed(RIGHT_FIRST, QUATERNION_NAMES)
    folder = written([table(motion, RIGHT_FIRST, Q)], names)
    same(opened(folder, arms="right-left", rotation="xyzw")[0], motion)
    with pytest.raises(ConfigError, match=r"named as xyzw, --rotation says wxyz"):
        opened(folder, rotation="wxyz")
    with pytest.raises(ConfigError, match=r"names say right-left, --arms says left-right"):
        opened(folder, arms="left-right")


def test_columns_can_be_named_by_the_user(written) -> None:
    motion = Motion(30)
    wrong = prefixed(LEFT_FIRST, QUATERNION_NAMES)
    folder = written([table(motion, RIGHT_FIRST, quaternion([3, 0, 1, 2]))], wrong)
    right = ("x", "y", "z", "qw", "qx", "qy", "qz", "gripper")
    same(opened(folder, pose_names=right, arms="right-left")[0], motion)
    same(opened(folder, pose_names=tuple(prefixed(RIGHT_FIRST, list(right))))[0], motion)
    with pytest.raises(ConfigError, match="has 16 columns, --pose-names names 7"):
        opened(folder, pose_names=right[:7])


@pytest.mark.parametrize(
    "names",
    [
        [f"{arm}_joint_{n}" for arm in ARMS for n in range(7)],
        prefixed(ARMS, ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]),
        [f"{n}.pos" for n in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_flex", "roll", "b", "gripper")] * 2,
    ],
)  # fmt: skip
def test_joint_angles_are_refused_also_where_they_are_named(written, names) -> None:
    folder = written([np.full((30, 14), 0.05)], names, "observations/state")
    with pytest.raises(ConfigError, match=r"joint angles.*no poses.*--pose-key"):
        opened(folder, pose_key="observations/state")


def test_qpos_are_joint_angles_unless_their_numbers_say_otherwise(written) -> None:
    folder = written([np.full((30, 14), 0.05)], None, "observations/qpos")
    with pytest.raises(ConfigError, match=r"joint angles by its name.*--pose-key"):
        opened(folder, pose_key="observations/qpos")
    motion = Motion(30)
    same(
        opened(
            written([table(motion, LEFT_FIRST, Q)], None, "observations/qpos"), pose_key="observations/qpos"
        )[0],
        motion,
    )


def test_a_part_of_a_pose_and_differences_are_refused(written) -> None:
    with pytest.raises(ConfigError, match=r"no whole pose.*--pose-names"):
        opened(written([np.full((30, 7), 0.05)], [*XYZ, "a", "b", "c", "gripper"]))
    with pytest.raises(ConfigError, match="differences"):
        opened(
            written(
                [np.full((30, 7), 0.05)], [f"delta_{n}" for n in (*XYZ, "roll", "pitch", "yaw", "gripper")]
            )
        )


def test_numbers_that_are_no_quaternion_where_one_should_be(written) -> None:
    moved = np.roll(table(Motion(30), ("left",), Q), 1, axis=1)  # the gripper first
    with pytest.raises(ConfigError, match=r"columns 5 to 8 are unit quaternions.*--pose-names"):
        opened(written([moved]), arms="left", missing_arm="still")


def test_names_by_arm_in_lerobot(lerobot_v21, motions) -> None:
    part = {"position": XYZ, "orientation": ["x", "y", "z", "w"], "gripper": ["width"]}
    path = lerobot_v21(motions[:1], names={"left_arm": part, "right_arm": part})
    source = open_source(path, "lerobot")
    same(source[0], motions[0])
    assert not {guess.option for guess in source.guesses} & {"rotation", "arms"}
    info = json.loads((path / "meta" / "info.json").read_text())
    info["features"]["observation.state"]["names"] = {"right_arm": part, "left_arm": part}
    (path / "meta" / "info.json").write_text(json.dumps(info))
    swapped = open_source(path, "lerobot")[0]
    np.testing.assert_allclose(swapped.poses["right"][:, :3, 3], motions[0].position["left"], atol=1e-6)


def test_names_in_all_their_forms() -> None:
    assert flat_names({"motors": ["a", "b"]}) == ["a", "b"]
    assert flat_names({"x": 1, "y": 0}) == ["y", "x"]
    assert flat_names([["a"], ["b"]]) == ["a", "b"]
    assert flat_names(None) == []
    assert read_names(["state_0", "state_1"], where="test") is None


def test_one_bad_quaternion_is_the_recordings_fault(written) -> None:
    rows = table(Motion(30), LEFT_FIRST, Q)
    rows[17, 3:7] = 0
    source = opened(written([rows]))
    with pytest.raises(
        PoseError, match=r"quaternion of frame 17 has length 0.*29 of 30 frames are right.*Cut"
    ) as error:
        source[0]
    assert "--rotation" not in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        [*prefixed(("left",), QUATERNION_NAMES), *QUATERNION_NAMES],
        prefixed(("left", "left"), QUATERNION_NAMES),
        [
            *prefixed(("left",), QUATERNION_NAMES),
            *prefixed(("right",), [*XYZ, "roll", "pitch", "yaw", "grip", "a"]),
        ],
    ],
)
def test_names_that_contradict_each_other(written, names) -> None:
    with pytest.raises(ConfigError, match="name something twice, more than two arms, different rotations"):
        opened(written([table(Motion(30), LEFT_FIRST, Q)], names))


def test_names_that_are_not_as_many_as_columns(written) -> None:
    names = prefixed(LEFT_FIRST, QUATERNION_NAMES)
    with pytest.raises(ConfigError, match=r"has 16 columns and 15 names for them.*--pose-names"):
        opened(written([table(Motion(30), LEFT_FIRST, Q)], names[:-1]))
    same(opened(written([table(Motion(30), LEFT_FIRST, Q)], ["state"]))[0], Motion(30))


def test_poses_of_whole_numbers_are_refused(written) -> None:
    rows = (1000 * table(Motion(30), LEFT_FIRST, lambda m, a: m.rotvec[a])).astype(np.int32)
    with pytest.raises(RecordingError, match="eef_pose holds int32: poses of whole numbers"):
        opened(written([rows]), position_unit="mm")


# ------------------------------------------------------------------------------------ what else others write


def test_robots_are_numbered_by_their_names(written) -> None:
    """Regression: the robot whose columns came first was robot 0."""
    motion = Motion(30)
    names = [f"robot{robot}_{name}" for robot in (1, 0) for name in QUATERNION_NAMES]
    source = opened(written([table(motion, LEFT_FIRST, Q)], names), arms="right-left")
    same(source[0], motion)


@pytest.mark.parametrize("name", ["gripper_rad", "gripper_deg"])
def test_a_gripper_named_in_angles_needs_a_range(written, name) -> None:
    """Regression: a KeyError from deep down."""
    motion = Motion(30)
    names = prefixed(LEFT_FIRST, [*QUATERNION_NAMES[:-1], name])
    same(opened(written([table(motion, LEFT_FIRST, Q)], names), gripper_unit="m")[0], motion)
    closed_and_open = opened(
        written([table(motion, LEFT_FIRST, Q)], names), gripper_unit="range", gripper_range=(0.0, 0.088)
    )
    same(closed_and_open[0], motion)


@pytest.mark.parametrize("kind", ["bytes", "text"])
def test_sentences_that_are_no_utf8_are_refused(written, kind) -> None:
    """Regression: they were learnt as question marks, different ones as the same."""
    import h5py

    folder = written([table(Motion(30), LEFT_FIRST, Q)], prefixed(LEFT_FIRST, QUATERNION_NAMES))
    said = "拿起杯子".encode("gbk")
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        text = h5py.string_dtype("utf-8")
        file.attrs.create(
            "instruction",
            np.bytes_(said) if kind == "bytes" else said,
            dtype=None if kind == "bytes" else text,
        )
    with pytest.raises(RecordingError, match=r"instruction is .* which is no UTF-8 \(perhaps GBK\)"):
        list(opened(folder))


def test_cameras_by_their_whole_paths(written) -> None:
    import h5py

    folder = written([table(Motion(30), LEFT_FIRST, Q)], prefixed(LEFT_FIRST, QUATERNION_NAMES))
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        for arm in ARMS:
            file.move(f"observations/images/cam_{arm}_wrist", f"obs/{arm}_image")
    with pytest.raises(
        ConfigError, match=r"no file has a camera right_image, neither .* nor as a whole path"
    ):
        opened(folder, cameras=("right_image", "left_image"))
    assert len(opened(folder, cameras=("obs/right_image", "obs/left_image"))[0]) == 30


def test_several_demonstrations_in_one_file_are_refused(written) -> None:
    """robomimic's form: one --pose-key would take one of them and drop the others."""
    import h5py

    folder = written([table(Motion(30), LEFT_FIRST, Q)], prefixed(LEFT_FIRST, QUATERNION_NAMES))
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        for number in range(2):
            file[f"data/demo_{number}/obs/eef_pose"] = np.zeros((30, 16))
    with pytest.raises(RecordingError, match=r"holds 2 demonstrations in one file \(data/demo_0"):
        opened(folder, pose_key="data/demo_0/obs/eef_pose")
