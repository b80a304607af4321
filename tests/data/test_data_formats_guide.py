"""What docs/data_formats.md says of files of others: each is written, and read with the flags that the guide gives."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recordings
from motion import Motion, same
from scipy.spatial.transform import Rotation

from rdt2.action import ACTION_DIM, ARMS, NUM_TOKENS, POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS, arm_slice
from rdt2.cli.main import parse
from rdt2.data.sources import SourceOptions, open_source
from rdt2.data.sources.columns import read_names
from rdt2.data.sources.layout import read_layout

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("data_formats.md", "data_formats.zh.md")
FRAMES = 34


def tables(page: str) -> list[list[list[str]]]:
    """Every table of a page: rows of cells, the heading first."""
    found: list[list[list[str]]] = [[]]
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if set("".join(cells)) - set("-"):
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _hdf5(folder: Path, fill: Callable) -> None:
    import h5py

    for number in range(2):
        motion = Motion(FRAMES, number=number)
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["instruction"] = recordings.SENTENCE
            fill(file, motion)


def _cameras(file, motion: Motion) -> None:
    for arm in ARMS:
        file[f"observations/images/cam_{arm}_wrist"] = motion.picture[arm]


def two_hands(file, motion: Motion) -> None:
    for robot, arm in enumerate(("left", "right")):
        qpos = np.concatenate([motion.position[arm], motion.quaternion(arm)], 1)
        file[f"robot_{robot}/observations/qpos"] = qpos
        file[f"robot_{robot}/action"] = np.concatenate([qpos, motion.width[arm][:, None]], 1)
        file[f"robot_{robot}/observations/images/front"] = motion.picture[arm]
    file["timestamps"] = motion.times


def one_hand(file, motion: Motion) -> None:
    file["observations/qpos"] = motion.table(("right",), motion.quaternion)
    file["observations/images/front"] = motion.picture["right"]
    file["timestamps"] = motion.times


def aloha(file, motion: Motion) -> None:
    file["observations/eef_pose"] = motion.table(("left", "right"), motion.quaternion)
    _cameras(file, motion)
    file["timestamp"] = motion.times


def named(file, motion: Motion) -> None:
    aloha(file, motion)
    parts = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    file["observations/eef_pose"].attrs["names"] = [
        f"{arm}_{part}" for arm in ("left", "right") for part in parts
    ]


def elsewhere(file, motion: Motion) -> None:
    arms = [np.concatenate([motion.position[arm], motion.rotvec[arm]], 1) for arm in ("left", "right")]
    file["arms/tcp"] = np.concatenate(arms, 1)
    for arm in ARMS:
        file[f"arms/{arm}/jaw"] = motion.width[arm]
    _cameras(file, motion)


def one_each(file, motion: Motion) -> None:
    for arm in ARMS:
        file[f"arms/{arm}/tcp_pose"] = np.concatenate([motion.position[arm], motion.quaternion(arm)], 1)
        file[f"arms/{arm}/jaw"] = motion.width[arm]
        file[f"video/{arm}_wrist"] = motion.picture[arm]
    file["timestamp"] = motion.times


HDF5 = [two_hands, one_hand, aloha, named, elsewhere, one_each]
OTHERS = ["umi-zarr", "lerobot", "lerobot-v3", "mcap"]
NEEDED = {"hdf5": "h5py", "umi-zarr": "zarr", "lerobot": "pyarrow", "mcap": "mcap"}


def layouts(page: str) -> list[list[str]]:
    """Rows of the table of layouts: name, kind, contents, flags."""
    return next(table for table in tables(page) if "`--from`" in table[0])[1:]


@pytest.mark.parametrize("row", range(len(HDF5) + len(OTHERS)))
def test_each_layout_is_read_with_the_flags_of_the_guide(row, tmp_path) -> None:
    _, kind, contents, flags = layouts(PAGES[0])[row]
    ((kind,), (flags,)) = code(kind), code(flags)
    pytest.importorskip(NEEDED[kind])
    if row < len(HDF5):
        import h5py

        _hdf5(tmp_path, HDF5[row])
        with h5py.File(tmp_path / "episode_0.hdf5") as file:
            for name in (each for each in code(contents) if re.fullmatch(r"\w+(/\w+)+", each)):
                assert name in file, name
    else:
        written = [recordings.Recording(Motion(FRAMES, number=number)) for number in range(2)]
        recordings.LAYOUTS[OTHERS[row - len(HDF5)]](written, tmp_path)
    inside = recordings.INSIDE.get(OTHERS[row - len(HDF5)], "") if row >= len(HDF5) else ""
    words = ["data", "convert", str(tmp_path / inside), "out", "--from", kind, *shlex.split(flags)]
    source = open_source(tmp_path / inside, kind, parse(words).source)
    assert not [guess.flag for guess in source.guesses]
    # UMI's have no clock, and go at the rate that is said; this motion was written at 30
    slower = 59.94 / 30 if kind == "umi-zarr" else 1.0
    for number, episode in enumerate(source):
        from_zero = replace(episode, timestamps=slower * (episode.timestamps - episode.timestamps[0]))
        same(from_zero, Motion(FRAMES, number=number), ("right",) if "still" in flags else ARMS)
        assert episode.instruction == recordings.SENTENCE


def test_names_of_columns() -> None:
    """Each form of the table, for both arms, is understood, and is a pose together with the usual other parts."""
    rows = next(
        table
        for table in tables(PAGES[0])
        if ["position", "`x y z`, `px py pz`, `pos_x pos_y pos_z`"] in table
    )
    usual = {"position": "x y z", "rotation": "qx qy qz qw", "gripper": "gripper"}
    for what, forms in rows[1:]:
        part = what if what in usual else "rotation"
        for form in code(forms):
            for single in form.split() if part == "gripper" else [form]:
                names = " ".join({**usual, part: single}.values()).split()
                found = read_names(
                    [f"{arm}_{name}" for arm in ("left", "right") for name in names], where="here"
                )
                assert found is not None, names
                assert list(found.arms) == ["left", "right"]


def test_counts_of_columns() -> None:
    rows = next(table for table in tables(PAGES[0]) if table[1][0] == "6" and "rotvec" in table[1][1])
    motion = Motion(FRAMES)
    turns = {"rotvec": lambda arm: motion.rotvec[arm], "xyzw": motion.quaternion, "columns": motion.rot6d}
    for count, reading in rows[1:]:
        for meant in reading.split(";"):
            (kind,) = code(meant)
            table = motion.table(("left", "right"), turns[kind])
            if "no gripper" in meant:
                table = np.delete(table, [table.shape[1] // 2 - 1, table.shape[1] - 1], axis=1)
            assert table.shape[1] == 2 * int(count), (count, meant)
            found = read_layout("poses", [], table, SourceOptions(), where="here")
            assert found.rotation == kind
            assert (found.arms[0].gripper is None) == ("no gripper" in meant)


@pytest.mark.parametrize("page", PAGES)
def test_columns_and_tokens_are_those_of_the_package(page) -> None:
    for arm in ARMS:
        own = range(*arm_slice(arm).indices(ACTION_DIM))
        parts = [
            [column for column in columns if column in own]
            for columns in (POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS)
        ]
        said = [f"`{part[0]}..{part[-1]}`" if len(part) > 1 else f"`{part[0]}`" for part in parts]
        (line,) = [
            line for line in (DOCS / page).read_text("utf-8").splitlines() if line.startswith(f"| `{arm}`")
        ]
        assert re.findall(r"`[\d.]+`", line) == said
    assert f"`{NUM_TOKENS}`" in (DOCS / page).read_text("utf-8")


def test_both_languages_have_the_same_tables_and_code() -> None:
    english, chinese = (
        [[code(cell) for cell in row] for table in tables(page) for row in table] for page in PAGES
    )
    assert english == chinese


@pytest.mark.parametrize("page", PAGES)
def test_the_snippet_runs(page) -> None:
    for snippet in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), flags=re.S):
        told: dict = {}
        exec(compile(snippet, page, "exec"), told)
        np.testing.assert_allclose(told["there"], np.tile(np.eye(4), (24, 1, 1)))


def test_rotation_rows_are_told_from_columns() -> None:
    from rdt2.pose import matrix_to_rot6d, rot6d_from_rows

    matrix = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix()
    np.testing.assert_allclose(rot6d_from_rows(matrix[:2].reshape(6)), matrix_to_rot6d(matrix))
