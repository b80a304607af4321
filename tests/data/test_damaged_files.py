"""Of many HDF5 files some cannot be read, or lack what the others have: they are named, and left out on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from motion import Motion

from rdt2.data.convert import convert
from rdt2.data.sources import SourceOptions
from rdt2.errors import RDT2Error, RecordingError

OPTIONS = SourceOptions(fps=30.0, instruction="Pick up the cup.")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def edited(path: Path, key: str, values: object = None) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        del file[key]
        if values is not None:
            file[key] = values


def lacks_poses(path: Path) -> None:
    edited(path, "robot_0/observations/qpos")


def other_camera(path: Path) -> None:
    edited(path, "robot_1/observations/images/front")


def lost_tracking(path: Path) -> None:
    edited(path, "robot_1/observations/qpos", np.full((30, 7), np.nan))


def short_video(path: Path) -> None:
    edited(path, "robot_0/observations/images/front", np.zeros((29, 16, 16, 3), np.uint8))


def depth(path: Path) -> None:
    edited(path, "robot_0/observations/images/front", np.zeros((30, 16, 16), np.uint16))


def words_for_numbers(path: Path) -> None:
    edited(path, "robot_0/observations/qpos", np.full((30, 7), b"no"))


def other_columns(path: Path) -> None:
    edited(path, "robot_0/observations/qpos", np.zeros((30, 9)))


def a_folder_for_numbers(path: Path) -> None:
    import h5py

    edited(path, "robot_0/observations/qpos")
    with h5py.File(path, "a") as file:
        file["robot_0/observations/qpos/x"] = 1


DAMAGE = [
    cut, empty, lacks_poses, other_camera, lost_tracking, short_video, depth, words_for_numbers, other_columns,
    a_folder_for_numbers,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("number", [0, 1])
def test_the_others_convert(fastumi, tmp_path, damage, number) -> None:
    folder = fastumi([Motion(30, number=n) for n in range(3)])
    damage(folder / f"episode_{number}.hdf5")
    settings = {"kind": "hdf5", "options": OPTIONS, "accept_guesses": True}
    with pytest.raises(RDT2Error, match=f"episode_{number}"):
        convert(folder, tmp_path / "strict", **settings)
    assert not list((tmp_path / "strict").glob("*.tar"))
    report = convert(folder, tmp_path / "out", on_error="skip", **settings)
    assert (report.episodes, len(report.skipped)) == (2, 1)
    assert f"episode_{number}" in report.skipped[0]


def test_shadow_files_are_no_recordings(fastumi, tmp_path) -> None:
    folder = fastumi([Motion(30)])
    (folder / "._episode_0.hdf5").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    report = convert(folder, tmp_path / "out", kind="hdf5", options=OPTIONS, accept_guesses=True)
    assert (report.episodes, report.skipped) == (1, [])


def test_when_none_can_be_read_the_first_is_named(fastumi, tmp_path) -> None:
    folder = fastumi([Motion(30), Motion(30)])
    for path in folder.glob("*.hdf5"):
        cut(path)
    with pytest.raises(RecordingError, match=r"episode_0.hdf5: is no whole HDF5 file"):
        convert(folder, tmp_path / "out", kind="hdf5", options=OPTIONS, on_error="skip")


def test_the_layout_is_that_of_most_files(fastumi, tmp_path) -> None:
    """Also where the first file is the odd one."""
    import h5py

    folder = fastumi([Motion(30, number=n) for n in range(3)])
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        for robot in (0, 1):
            images = file[f"robot_{robot}/observations/images"]
            images["head"] = images["front"]
            del images["front"]
    report = convert(
        folder, tmp_path / "out", kind="hdf5", options=OPTIONS, accept_guesses=True, on_error="skip"
    )
    assert report.episodes == 2
    assert "has no camera robot_0/observations/images/front" in report.skipped[0]
