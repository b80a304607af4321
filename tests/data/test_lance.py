"""LeRobot data in Lance tables: Hy-Embodied-0.5-VLA-Data is read as its README means it, others by the usual rules."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hy_tables import SIDES, HandMotion, write_table

from rdt2.data import ShardIndex
from rdt2.data.convert import convert
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError, RDT2Error, RecordingError

pytest.importorskip("lance")
TASKS = ["Fold the cloth.", "Pick up the cup."]


def expected_rotation(axes: np.ndarray) -> np.ndarray:
    """The models' frame: x right, y down, z forward; ``axes``: columns left, up, forward."""
    left, up, forward = axes[..., 0], axes[..., 1], axes[..., 2]
    return np.stack([-left, -up, forward], axis=-1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "table_000", [HandMotion(40), HandMotion(50, 1, task=1)], tasks=TASKS)


def test_an_episode_is_the_motion_that_was_recorded(table):
    source = open_source(table, "lerobot")
    assert source.guesses == []
    assert source.names == ["episode_000000", "episode_000001"]
    assert source.lengths == [40, 50]
    for number, sentence in enumerate(TASKS):
        truth, episode = HandMotion((40, 50)[number], number), source[number]
        assert episode.instruction == sentence
        np.testing.assert_allclose(episode.timestamps, np.arange(truth.count) / 30, atol=1e-6)
        for side in SIDES:
            pose = episode.poses[side]
            np.testing.assert_allclose(pose[:, :3, 3], truth.position[side], atol=1e-6)
            np.testing.assert_allclose(pose[:, :3, :3], expected_rotation(truth.axes[side]), atol=1e-6)
            np.testing.assert_allclose(episode.widths[side], truth.width[side], atol=1e-6)
            for frame in (0, 63 % truth.count, truth.count - 1, 3):
                grey = episode.videos[side][frame].mean()
                assert abs(grey - truth.brightness(side)[frame]) < 1


def test_motion_is_in_the_models_tool_frame(tmp_path):
    """The right gripper points along the world's x, its left is y, its up is z, and it goes 0.3 m/s forward; the left
    one goes to its left, and turns its nose up."""
    motion = HandMotion(40)
    t = np.arange(40) / 30
    pitch = 0.5 * t
    forward = np.stack([np.cos(pitch), 0 * t, np.sin(pitch)], axis=1)
    up = np.stack([-np.sin(pitch), 0 * t, np.cos(pitch)], axis=1)
    motion.position["right"] = np.stack([0.3 * t, 0 * t - 0.2, 0 * t], axis=1)
    motion.axes["right"] = np.tile(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0.0]]), (40, 1, 1))
    motion.position["left"] = np.stack([0 * t, 0.2 + 0.1 * t, 0 * t], axis=1)
    motion.axes["left"] = np.stack([np.tile([0, 1.0, 0], (40, 1)), up, forward], axis=2)
    episode = open_source(write_table(tmp_path / "table_000", [motion], tasks=TASKS), "lerobot")[0]
    _, chunk = next(iter(episode.chunks()))
    steps = np.arange(1, 25) / 30
    np.testing.assert_allclose(chunk[:, :3], np.stack([0 * steps, 0 * steps, 0.3 * steps], 1), atol=1e-5)
    np.testing.assert_allclose(chunk[:, 3:9], np.tile([1, 0, 0, 0, 1, 0], (24, 1)), atol=1e-5)
    np.testing.assert_allclose(chunk[:, 10:13], np.stack([-0.1 * steps, 0 * steps, 0 * steps], 1), atol=1e-5)
    c, s = np.cos(0.5 * steps), np.sin(0.5 * steps)
    nose_up = np.stack(
        [1 + 0 * c, 0 * c, 0 * c, 0 * c, c, s], axis=1
    )  # about +x, the right: down turns to forward
    np.testing.assert_allclose(chunk[:, 13:19], nose_up, atol=1e-5)


def test_values_survive_to_shards_and_the_report_says_what_was_taken_for_granted(table, tmp_path):
    report = convert(table, tmp_path / "out", kind="lerobot")
    assert report.episodes == 2
    (note,) = report.notes
    for words in (
        "Hy-Embodied-0.5-VLA-Data",
        "left-right",
        "xyzw",
        "90 closed",
        "left up forward",
        "--tool-axes",
    ):
        assert words in note
    assert note in json.loads((tmp_path / "out/conversion.json").read_text())["report"]["notes"]
    index = ShardIndex(tmp_path / "out")
    assert len(index) == report.samples == (40 - 24) + (50 - 24)
    action = index.action(20)  # the fifth of the second episode
    assert index.instruction(20) == TASKS[1]
    truth = HandMotion(50, 1)
    at, later = 20 - 16, 20 - 16 + 24
    halves = np.split(index.picture(20), 2, axis=1)
    for half, side in zip(halves, ("left", "right"), strict=True):
        assert abs(half.mean() - truth.brightness(side)[at]) < 1
    for column, side in ((0, "right"), (10, "left")):
        turn = expected_rotation(truth.axes[side][at])
        step = turn.T @ (truth.position[side][later] - truth.position[side][at])
        np.testing.assert_allclose(action[23, column : column + 3], step, atol=1e-5)
        np.testing.assert_allclose(action[23, column + 9], truth.width[side][later], atol=1e-5)


def test_two_tables_are_one_data_set_each_with_its_own_tasks(tmp_path):
    root = tmp_path / "hy"
    write_table(root / "table_000", [HandMotion(30), HandMotion(70, 1)], tasks=TASKS, meta="table_000_meta")
    write_table(root / "table_001", [HandMotion(35, 2)], tasks=["Wipe the plate."])
    source = open_source(root, "lerobot")
    assert source.names == [
        "table_000_episode_000000",
        "table_000_episode_000001",
        "table_001_episode_000000",
    ]
    assert [source[number].instruction for number in range(3)] == [TASKS[0], TASKS[0], "Wipe the plate."]
    np.testing.assert_allclose(source[2].widths["left"], HandMotion(35, 2).width["left"], atol=1e-6)
    report = convert(root, tmp_path / "out", kind="lerobot", episodes=2, workers=2, samples_per_shard=20)
    assert (report.episodes, report.samples) == (2, 30 + 70 - 48)
    with pytest.raises(ConfigError, match="episodes was 2, is 3"):
        convert(root, tmp_path / "out", kind="lerobot", episodes=3, samples_per_shard=20)


def test_a_table_is_found_by_its_own_folder_too(table):
    source = open_source(table / "table_000.lance", "lerobot")
    assert source.lengths == [40, 50]


def test_pictures_are_read_a_block_at_a_time(tmp_path, monkeypatch):
    from rdt2.data.sources.lance_tables import LanceTables

    write_table(tmp_path / "table_000", [HandMotion(200)], tasks=TASKS)
    read, asked = LanceTables._read, []

    def spy(self, entry, columns, first, count):
        asked.append((sorted(columns), count))
        return read(self, entry, columns, first, count)

    monkeypatch.setattr(LanceTables, "_read", spy)
    episode = open_source(tmp_path / "table_000", "lerobot")[0]
    for frame in (0, 1, 63, 64, 199):
        assert abs(episode.videos["left"][frame].mean() - HandMotion(200).brightness("left")[frame]) < 1
    pictures = [count for columns, count in asked if any("images" in name for name in columns)]
    assert pictures == [64, 64, 8]
    assert not any("observation.images.cam_high" in columns for columns, _ in asked)


def test_flags_take_the_place_of_what_is_known(table):
    as_recorded = SourceOptions(tool_axes=("right", "down", "forward"), gripper_open=0.088)
    source = open_source(table, "lerobot", as_recorded)
    truth = HandMotion(40)
    np.testing.assert_allclose(source[0].poses["left"][:, :3, :3], truth.axes["left"], atol=1e-6)
    np.testing.assert_allclose(source[0].widths["left"], truth.width["left"] * 88 / 90, atol=1e-6)
    assert "0 open (88 mm)" in source.notes[0]
    swapped = open_source(table, "lerobot", SourceOptions(arms="right-left"))[0]
    np.testing.assert_allclose(swapped.poses["right"][:, :3, 3], truth.position["left"], atol=1e-6)
    np.testing.assert_allclose(swapped.widths["right"], truth.width["left"], atol=1e-6)
    fixed = open_source(table, "lerobot", SourceOptions(gripper_fixed=0.05))
    assert fixed[0].widths["left"].tolist() == [0.05] * 40
    assert "gripper in" not in fixed.notes[0]
    widths = open_source(table, "lerobot", SourceOptions(gripper_unit="mm"))
    np.testing.assert_allclose(widths[0].widths["left"], 0.09 - truth.width["left"], atol=1e-6)
    assert "gripper in action, taken as its width in mm" in widths.notes[0]


def test_without_commands_the_measured_gripper_is_taken(tmp_path):
    folder = write_table(tmp_path / "table_000", [HandMotion(40)], tasks=TASKS, action=None)
    source = open_source(folder, "lerobot")
    np.testing.assert_allclose(source[0].widths["right"], HandMotion(40).width["right"] - 0.0015, atol=1e-6)
    assert "gripper in observation.state" in source.notes[0]


def test_episodes_with_damage_are_named_and_can_be_left_out(tmp_path):
    motions = [HandMotion(40), HandMotion(40, 1), HandMotion(40, 2), HandMotion(40, 3)]
    motions[1].width["left"][7] = np.nan
    motions[2].axes["right"][5] = np.eye(3)
    folder = write_table(tmp_path / "table_000", motions, tasks=TASKS)
    source = open_source(folder, "lerobot")
    with pytest.raises(RDT2Error, match="episode_000001, left gripper: the gripper of frame 7"):
        source[1]
    report = convert(folder, tmp_path / "out", kind="lerobot", on_error="skip")
    assert report.episodes == 3
    assert "episode_000001" in report.skipped[0]


def other_lance(table: Path, features: dict[str, dict] | None = None, **info) -> Path:
    path = table / "meta/info.json"
    values = json.loads(path.read_text()) | info
    values["features"] |= features or {}
    path.write_text(json.dumps(values))
    return table


def test_other_data_in_lance_is_read_by_the_usual_rules(table):
    """ALOHA's cameras and 16 numbers as well, but with the actions of robots: nothing is known of its gripper."""
    other_lance(table, {"action": {"dtype": "float32", "shape": [16]}})
    guessed = {guess.option for guess in open_source(table, "lerobot").guesses}
    assert guessed == {"arms", "rotation", "gripper_unit", "cameras"}
    source = open_source(
        table,
        "lerobot",
        SourceOptions(
            arms="left-right",
            rotation="xyzw",
            gripper_unit="mm",
            cameras=("observation.images.cam_right_wrist", "observation.images.cam_left_wrist"),
        ),
    )
    assert source.notes == []
    np.testing.assert_allclose(source[0].poses["left"][:, :3, :3], HandMotion(40).axes["left"], atol=1e-6)
    measured = 0.0915 - HandMotion(40).width["left"]
    np.testing.assert_allclose(source[0].widths["left"], measured, atol=1e-6)


def test_names_that_say_the_right_arm_first_are_believed(table):
    one = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    names = [f"{arm}_{name}" for arm in ("right", "left") for name in one]
    state = {"dtype": "float32", "shape": [16], "names": names}
    other_lance(table, {"observation.state": state})
    options = SourceOptions(
        gripper_unit="mm", cameras=("observation.images.cam_right_wrist", "observation.images.cam_left_wrist")
    )
    opened = open_source(table, "lerobot", options)
    assert opened.notes == []
    np.testing.assert_allclose(opened[0].poses["right"][:, :3, 3], HandMotion(40).position["left"], atol=1e-6)


def test_without_pylance_it_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ConfigError, match=r"pip install 'rdt2\[lance\]'"):
        open_source(table, "lerobot")


def test_what_is_missing_beside_a_table_is_named(table):
    shutil.rmtree(table / "meta/episodes")
    with pytest.raises(RecordingError, match="episodes: holds no parquet file"):
        open_source(table, "lerobot")
    other_lance(table, codebase_version="v2.1")
    with pytest.raises(RecordingError, match=r"version 'v2\.1'; of Lance tables v3\.x is read"):
        open_source(table, "lerobot")
    shutil.rmtree(table / "meta")
    with pytest.raises(RecordingError, match=r"expected table_000_meta/info\.json or meta/info\.json"):
        open_source(table, "lerobot")


def test_metadata_of_another_version_is_no_silent_shift(table):
    """By one row: each episode would begin with the last frame of the one before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = {"episode_index": [0, 1], "dataset_from_index": [1, 41], "dataset_to_index": [41, 90]}
    pq.write_table(pa.table(places), table / "meta/episodes/chunk-000/file-000.parquet")
    with pytest.raises(
        RecordingError, match=r"rows 1 to 40 should be this episode's .* of episode\(s\) 0, 1"
    ):
        open_source(table, "lerobot")[0]
    places["dataset_to_index"] = [40, 95]
    places["dataset_from_index"] = [0, 40]
    pq.write_table(pa.table(places), table / "meta/episodes/chunk-000/file-000.parquet")
    source = open_source(table, "lerobot")
    with pytest.raises(RecordingError, match="holds 90 rows, episode 1 ends at row 95"):
        source[1]


@pytest.mark.parametrize("cut", [0, 40, -8])
def test_a_damaged_table_is_named(table, cut):
    file = max((table / "table_000.lance/data").iterdir(), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:cut] if cut else b"")
    with pytest.raises(RecordingError, match=r"table_000.lance: is no whole Lance table .*Download it again"):
        list(open_source(table, "lerobot"))


def test_pointers_in_the_place_of_a_table_are_called_that(table):
    for file in (table / "table_000.lance").rglob("*"):
        if file.is_file():
            file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(RecordingError, match="is a pointer of Git LFS"):
        open_source(table, "lerobot")


def test_a_snapshot_of_links_is_read(table, tmp_path):
    snapshot = tmp_path / "my data #1/table_000"
    shutil.copytree(table, snapshot, copy_function=lambda source, target: Path(target).symlink_to(source))
    assert open_source(snapshot, "lerobot").lengths == [40, 50]


@pytest.mark.parametrize(
    ("axes", "fine"),
    [(("forward", "left", "up"), True), (("left", "up", "back"), False), (("left", "right", "up"), False)],
)
def test_tool_axes_have_to_be_a_right_handed_frame(axes, fine):
    if fine:
        SourceOptions(tool_axes=axes)
        return
    with pytest.raises(ConfigError, match="no right-handed frame"):
        SourceOptions(tool_axes=axes)
