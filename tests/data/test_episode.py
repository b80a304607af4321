"""Chunks cut from an episode: relative, row 0 the next step, 30 Hz by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, ActionChunk
from rdt2.data import Episode, ShardWriter, TrainingData, read_shards
from rdt2.errors import PoseError, RDT2Error, RecordingError
from rdt2.pose import geodesic_angle


def path(times: np.ndarray, phase: float) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, 3] = np.stack([0.1 * times, phase + 0.02 * times, 0.3 - 0.05 * times], axis=1)
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(times + phase, [0.1, 0.4, 0.2])).as_matrix()
    return poses


def episode(count: int = 60, fps: float = 30.0, **replaced: object) -> Episode:
    times = 5.0 + np.arange(count) / fps
    values: dict[str, object] = {
        "videos": {arm: [np.full((384, 384, 3), 90, np.uint8)] * count for arm in ARMS},
        "poses": {arm: path(times, number) for number, arm in enumerate(ARMS)},
        "widths": {arm: 0.01 * times for arm in ARMS},
        "timestamps": times,
        "instruction": "Pick up the apple.",
    }
    return Episode(**(values | replaced))  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [30.0, 60.0, 20.0, 15.0])
def test_chunks_give_the_path_back(fps: float) -> None:
    """Row 0 is the next step of 1/30 s whatever the rate of the recording."""
    recorded = episode(int(3 * fps), fps)
    chunks = dict(recorded.chunks())
    frame = 5
    chunk = ActionChunk(values=chunks[frame])
    query = recorded.timestamps[frame] + np.arange(1, 25) / 30
    for number, arm in enumerate(ARMS):
        expected = path(query, number)
        found = chunk.absolute_poses(arm, recorded.poses[arm][frame])
        np.testing.assert_allclose(found[:, :3, 3], expected[:, :3, 3], atol=1e-6)
        assert np.max(geodesic_angle(found[:, :3, :3], expected[:, :3, :3])) < 2e-3 if fps < 30 else 1e-6
        np.testing.assert_allclose(chunk.widths(arm), 0.01 * query, atol=1e-6)


def test_tail() -> None:
    recorded = episode(60)
    assert [frame for frame, _ in recorded.chunks(tail="drop")] == list(range(36))
    padded = dict(recorded.chunks(tail="pad"))
    assert len(padded) == 60
    np.testing.assert_allclose(padded[58][1:], padded[58][:1].repeat(23, axis=0), atol=1e-7)
    np.testing.assert_allclose(padded[59][:, :3], 0, atol=1e-7)
    assert [frame for frame, _ in recorded.chunks(stride=10)] == [0, 10, 20, 30]
    assert list(episode(24).chunks()) == []
    assert len(list(episode(25).chunks())) == 1
    with pytest.raises(RDT2Error, match="tail"):
        list(recorded.chunks(tail="repeat"))  # type: ignore[arg-type]


def test_written_and_read(tmp_path: Path) -> None:
    recorded = episode(30)
    with ShardWriter(tmp_path) as writer:
        assert recorded.write(writer, stride=2) == 3
    samples = list(read_shards(tmp_path))
    assert [sample.meta["frame"] for sample in samples] == [0, 2, 4]
    np.testing.assert_array_equal(samples[1].action, dict(recorded.chunks())[2])


def test_samples_tell_where_the_arms_are(tmp_path: Path) -> None:
    recorded = episode(30)
    with ShardWriter(tmp_path) as writer:
        recorded.write(writer, stride=2)
    batch = TrainingData(tmp_path, split="all", batch_size=3, shuffle=False, states=True).batch(0)
    assert batch.states is not None
    for row, frame in enumerate((0, 2, 4)):
        for arm, first in (("right", 0), ("left", 10)):
            pose = recorded.poses[arm][frame]
            np.testing.assert_allclose(batch.states[row, first : first + 3], pose[:3, 3], atol=1e-6)
            np.testing.assert_allclose(batch.states[row, first + 3 : first + 6], pose[:3, 0], atol=1e-6)
            np.testing.assert_allclose(batch.states[row, first + 6 : first + 9], pose[:3, 1], atol=1e-6)
            assert batch.states[row, first + 9] == pytest.approx(recorded.widths[arm][frame], abs=1e-6)


def test_left_picture_is_on_the_left(tmp_path: Path) -> None:
    dark, light = np.full((384, 384, 3), 20, np.uint8), np.full((384, 384, 3), 220, np.uint8)
    recorded = episode(25, videos={"left": [dark] * 25, "right": [light] * 25})
    with ShardWriter(tmp_path) as writer:
        recorded.write(writer)
    picture = next(read_shards(tmp_path)).picture()
    assert picture[:, :380].mean() < 30 < 200 < picture[:, 388:].mean()


def test_bad_episodes() -> None:
    times = episode().timestamps.copy()
    times[7] = times[6]
    broken = path(times, 0)
    broken[3, 0, 3] = np.nan
    for error, replaced in (
        (RecordingError, {"timestamps": times}),
        (RecordingError, {"instruction": " "}),
        (RecordingError, {"timestamps": np.zeros(0)}),
        (RecordingError, {"widths": {"right": np.zeros(60)}}),
        (RecordingError, {"videos": {arm: [b""] * 59 for arm in ARMS}}),
        (PoseError, {"poses": {arm: broken for arm in ARMS}}),
    ):
        with pytest.raises(error):
            episode(**replaced)  # type: ignore[arg-type]
