"""HDF5 files with a dataset of poses an arm, and with pictures elsewhere than in the usual group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from motion import Motion, same, same_pictures

from rdt2.action import ARMS
from rdt2.data.sources import Source, SourceOptions, open_source
from rdt2.errors import ConfigError, RDT2Error, RecordingError

h5py = pytest.importorskip("h5py")

EACH = "arms/{arm}/tcp_pose"
JAWS = "arms/{arm}/jaw"
COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
FILE = "episode_0.hdf5"


@pytest.fixture
def each(tmp_path: Path) -> Callable[..., Path]:
    """Writes one file: of each arm poses (n, 7), jaw (n,) and pictures."""

    def write(
        motion: Motion, arms: tuple[str, ...] = ARMS, camera: str = "observations/images/cam_{arm}_wrist"
    ) -> Path:
        with h5py.File(tmp_path / FILE, "w") as file:
            for arm in arms:
                pose = np.concatenate([motion.position[arm], motion.quaternion(arm)], 1)
                file[EACH.format(arm=arm)] = pose
                file[JAWS.format(arm=arm)] = motion.width[arm]
                file[camera.format(arm=arm)] = motion.picture[arm]
            file["timestamp"] = motion.times
        return tmp_path

    return write


def opened(folder: Path, **values: object) -> Source:
    usual = {"instruction": "Fold.", "pose_key": EACH, "gripper_key": JAWS}
    return open_source(folder, "hdf5", SourceOptions(**(usual | values)))  # type: ignore[arg-type]


def test_a_dataset_an_arm_is_read_and_its_name_tells_the_arm(each) -> None:
    motion = Motion(30)
    source = opened(each(motion))
    same(source[0], motion)
    same_pictures(source[0], motion)
    assert source.options.arms == "left-right"
    assert "arms" not in {guess.option for guess in source.guesses}


def test_the_order_of_the_arms_may_be_said(each) -> None:
    motion = Motion(30)
    folder = each(motion)
    same(opened(folder, arms="right-left")[0], motion)
    same(opened(folder, pose_names=COLUMNS)[0], motion)
    same(opened(folder, pose_names=tuple(f"{arm}_{name}" for arm in ARMS for name in COLUMNS))[0], motion)


@pytest.mark.parametrize("form", ["{}", "{arm}_{}", "robot{other}_{}", "tcp.{}"])
def test_names_of_columns_are_those_of_the_dataset_s_arm(each, form) -> None:
    """A robot's number in them, which tells another order, is not that of the datasets."""
    motion = Motion(30)
    order = (6, 3, 4, 5, 0, 1, 2)
    with h5py.File(each(motion) / FILE, "a") as file:
        for other, arm in enumerate(ARMS):
            turned = file[EACH.format(arm=arm)][()][:, order]
            del file[EACH.format(arm=arm)]
            file[EACH.format(arm=arm)] = turned
            names = [form.format(COLUMNS[number], arm=arm, other=other) for number in order]
            file[EACH.format(arm=arm)].attrs["names"] = names
        folder = Path(file.filename).parent
    source = opened(folder)
    same(source[0], motion)
    assert {guess.option for guess in source.guesses}.isdisjoint({"arms", "rotation"})


def test_names_of_the_other_arm_are_refused(each) -> None:
    with h5py.File(each(Motion(30)) / FILE, "a") as file:
        for arm, other in zip(ARMS, ARMS[::-1], strict=True):
            file[EACH.format(arm=arm)].attrs["names"] = [f"{other}_{name}" for name in COLUMNS]
        folder = Path(file.filename).parent
    with pytest.raises(ConfigError, match=r"its names say right-left, --arms says left-right"):
        opened(folder)


def test_one_arm_alone(each) -> None:
    motion = Motion(30)
    folder = each(motion, arms=("left",))
    alone = {"arms": "left", "missing_arm": "still"}
    same(opened(folder, **alone)[0], motion, arms=("left",))
    same(opened(folder, **alone, cameras=("none", "cam_left_wrist"))[0], motion, arms=("left",))
    with pytest.raises(ConfigError) as caught:
        opened(folder)
    assert "has no dataset arms/right/tcp_pose." in str(caught.value)
    assert "--arms left --missing-arm still" in str(caught.value)


def test_a_later_file_without_one_arm_is_damaged(each) -> None:
    motion = Motion(30)
    folder = each(motion)
    for number in (1, 2):
        (folder / f"episode_{number}.hdf5").write_bytes((folder / FILE).read_bytes())
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        del file["arms/right/tcp_pose"]
    source = opened(folder)
    assert list(source.damaged) == [1]
    assert "has no dataset arms/right/tcp_pose" in str(source.damaged[1])


@pytest.mark.parametrize("cut", [np.s_[:28], np.s_[:, :6]], ids=["rows", "columns"])
def test_arms_that_do_not_fit_together(each, cut) -> None:
    with h5py.File(each(Motion(30)) / FILE, "a") as file:
        short = file["arms/right/tcp_pose"][()][cut]
        del file["arms/right/tcp_pose"]
        file["arms/right/tcp_pose"] = short
        folder = Path(file.filename).parent
    with pytest.raises(RecordingError) as caught:
        opened(folder)
    assert f"arms/left/tcp_pose is (30, 7) and arms/right/tcp_pose is {short.shape}" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"pose_key": "tcp_pose"}, {"pose_key": None}, {"pose_key": "arms/left/tcp_pose"}],
    ids=["none of that name", "none named", "one of the two"],
)
def test_messages_tell_how_both_arms_are_named(each, values) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(each(Motion(30)), **values)
    said = str(caught.value)
    assert "--pose-key 'arms/{arm}/tcp_pose', where {arm} stands for right and left" in said


# ------------------------------------------------------------------------------------------------ cameras


def test_cameras_elsewhere_are_guessed_by_their_names(each) -> None:
    motion = Motion(30)
    source = opened(each(motion, camera="video/{arm}_wrist"))
    assert "--cameras video/right_wrist video/left_wrist" in {guess.flag for guess in source.guesses}
    same_pictures(source[0], motion)


def test_cameras_elsewhere_that_their_names_do_not_tell_are_listed(each) -> None:
    """Regression: "cannot tell the right wrist camera among no cameras"."""
    folder = each(Motion(30), camera="video/{arm}_wrist")
    with h5py.File(folder / FILE, "a") as file:
        for number, arm in enumerate(ARMS):
            file.move(f"video/{arm}_wrist", f"video/{number}")
        file["notes"] = np.array([b"left and right"] * 30)  # bytes a frame are no pictures by that
    with pytest.raises(ConfigError) as caught:
        opened(folder)
    said = str(caught.value)
    assert "cannot tell the right wrist camera among video/0, video/1." in said
    assert "whole paths" in said


@pytest.mark.parametrize("pose_key", [EACH, "nowhere"])
def test_a_camera_that_is_not_there_is_told_with_the_other_questions(each, pose_key) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(each(Motion(30)), cameras=("wrist", "cam_left_wrist"), pose_key=pose_key)
    said = str(caught.value)
    assert "no file has a camera wrist" in said
    assert "There are observations/images/cam_left_wrist, observations/images/cam_right_wrist" in said
    assert "--color rgb" in said  # beside the guesses
    assert pose_key == "nowhere" or "--gripper-unit m" in said


def test_a_camera_that_some_files_lack_is_their_damage(each) -> None:
    motion = Motion(30)
    folder = each(motion, camera="video/{arm}_wrist")
    (folder / "episode_1.hdf5").write_bytes((folder / FILE).read_bytes())
    with h5py.File(folder / FILE, "a") as file:
        del file["video/left_wrist"]
    source = opened(folder, cameras=("video/right_wrist", "video/left_wrist"))
    with pytest.raises(RDT2Error, match="has no camera video/left_wrist"):
        source[0]
    same_pictures(source[1], motion)


def test_one_episode_is_one(each) -> None:
    with pytest.raises(ConfigError, match=r"no instruction is recorded in 1 of 1 episode\. Give one"):
        opened(each(Motion(30)), instruction=None)
