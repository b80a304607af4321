"""A LeRobotDataset v3.0 written here, read back here; its tables in the form that LeRobot expects."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from motion import Motion, same

from rdt2.action import ARMS
from rdt2.data import Episode
from rdt2.data.lerobot_writer import CAMERAS, write_lerobot
from rdt2.data.sources import open_source
from rdt2.errors import RecordingError

pytest.importorskip("av")


def episode(motion: Motion, instruction: str, level: int) -> Episode:
    videos = {}
    for number, arm in enumerate(ARMS):
        frames = [
            np.full((384, 384, 3), level + 3 * f + 40 * number, np.uint8) for f in range(len(motion.times))
        ]
        videos[arm] = frames
    return Episode(
        videos=videos,
        poses=motion.poses,
        widths=motion.width,
        timestamps=motion.times,
        instruction=instruction,
    )


@pytest.fixture(scope="module")
def motions():
    return [Motion(8), Motion(6, number=1), Motion(9, number=2)]


@pytest.fixture(scope="module")
def written(tmp_path_factory, motions):
    folder = tmp_path_factory.mktemp("lerobot") / "set"
    episodes = [
        episode(motions[0], "Pick up the cup.", 20),
        episode(motions[1], "Open the drawer.", 60),
        episode(motions[2], "Pick up the cup.", 30),
    ]
    assert write_lerobot(episodes, folder) == 3
    return folder


@pytest.fixture
def dataset(written, tmp_path):
    """A copy, for tests that damage it."""
    return shutil.copytree(written, tmp_path / "copy")


def test_round_trip(written, motions) -> None:
    source = open_source(written, "lerobot")
    assert source.guesses == []
    assert source.lengths == [8, 6, 9]
    for number, motion in enumerate(motions):
        found = source[number]
        same(found, motion)
        assert found.instruction == ["Pick up the cup.", "Open the drawer.", "Pick up the cup."][number]
        for index, arm in enumerate(ARMS):
            for frame in (0, 5, len(motion.times) - 1, 2):
                level = [20, 60, 30][number] + 3 * frame + 40 * index
                assert abs(found.videos[arm][frame].mean() - level) < 2.5


def test_what_lerobot_records_of_our_robots_is_known(dataset, motions) -> None:
    """Its names end with ".pos", since it drops what has another ending."""
    info = json.loads((dataset / "meta" / "info.json").read_text())
    for key in ("observation.state", "action"):
        info["features"][key]["names"] = [f"{name}.pos" for name in info["features"][key]["names"]]
    (dataset / "meta" / "info.json").write_text(json.dumps(info))
    source = open_source(dataset, "lerobot")
    assert source.guesses == []
    same(source[1], motions[1])


def test_layout(written) -> None:
    import pyarrow.parquet as pq

    info = json.loads((written / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 30, 23)
    for key in CAMERAS.values():
        assert (written / "videos" / key / "chunk-000" / "file-000.mp4").is_file()
    rows = pq.read_table(written / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, 8, 14]
    assert rows[1][f"videos/{CAMERAS['right']}/from_timestamp"] == pytest.approx(8 / 30)
    tasks = pq.read_table(written / "meta" / "tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    data = pq.read_table(written / "data" / "chunk-000" / "file-000.parquet")
    state, action = (np.array(data[name].to_pylist()) for name in ("observation.state", "action"))
    np.testing.assert_array_equal(action[:7], state[1:8])  # the action is the NEXT state
    np.testing.assert_array_equal(action[7], state[7])
    stats = json.loads((written / "meta" / "stats.json").read_text())
    np.testing.assert_allclose(stats["observation.state"]["mean"], state.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(0), atol=1e-5)
    assert np.shape(stats[CAMERAS["left"]]["max"]) == (3, 1, 1)
    assert stats[CAMERAS["left"]]["max"][0][0][0] <= 1


def test_several_files(tmp_path, motions) -> None:
    episodes = [episode(motion, "Pick up the cup.", 20) for motion in motions]
    write_lerobot(episodes, tmp_path / "set", video_mb=0)
    assert len(list((tmp_path / "set" / "data").rglob("*.parquet"))) == 3
    for found, motion in zip(open_source(tmp_path / "set", "lerobot"), motions, strict=True):
        same(found, motion)
        assert abs(found.videos["left"][4].mean() - 72) < 2.5


def test_missing_frame_is_named(dataset) -> None:
    """A video that is too short is never filled in."""
    source = open_source(dataset, "lerobot")
    video = dataset / "videos" / CAMERAS["left"] / "chunk-000" / "file-000.mp4"
    other = dataset / "videos" / CAMERAS["right"] / "chunk-000" / "file-000.mp4"
    video.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    with pytest.raises(RecordingError, match=r"file-000.mp4"):
        source[2].videos["left"][8]


def test_nothing_is_left_after_an_error(tmp_path, motions) -> None:
    def episodes():
        yield episode(motions[0], "Pick up the cup.", 20)
        raise RecordingError("the recording ends here")

    with pytest.raises(RecordingError, match="ends here"):
        write_lerobot(episodes(), tmp_path / "set")
    with pytest.raises(RecordingError, match="no episode"):
        write_lerobot([], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    with pytest.raises(RecordingError, match="already"):
        write_lerobot([], tmp_path / "set")
