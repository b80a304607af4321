"""Clocks as recorders write them: the unit is recognised or refused by name, and no motion is made up in a pause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from motion import Motion

from rdt2.action import ARMS, ActionChunk
from rdt2.data import Episode, ShardWriter
from rdt2.data.clock import at_rate, pieces, to_seconds, usual_step
from rdt2.data.convert import convert, episode_samples
from rdt2.data.lerobot_writer import write_lerobot
from rdt2.data.resample import resample, sample_frames
from rdt2.data.shards import read_shards
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError, RDT2Error, RecordingError

EVEN = np.arange(45) / 30
OPTIONS = SourceOptions(
    gripper_unit="m", color="rgb", arms="left-right", rotation="xyzw", instruction="Fold."
)


@pytest.mark.parametrize(
    "stamps",
    [
        EVEN,
        EVEN[:, None],
        EVEN[None],
        EVEN.astype(np.float32),
        1.7e9 + EVEN,
        np.round(EVEN * 1e3),
        np.round(EVEN * 1e3).astype(np.int32),
        1.7e12 + np.round(EVEN * 1e3),
        np.round(EVEN * 1e6).astype(np.uint64),
        1_700_000_000_000_000_123 + np.round(EVEN * 1e9).astype(np.int64),
        np.datetime64("2026-03-01T10:00:00", "us") + np.round(EVEN * 1e6).astype("m8[us]"),
    ],
    ids=["s", "column", "row", "s32", "wall", "ms", "int-ms", "wall-ms", "us", "wall-ns", "datetime"],
)
def test_every_unit_gives_the_seconds(stamps: np.ndarray) -> None:
    np.testing.assert_allclose(to_seconds(stamps, where="x"), EVEN, atol=6e-4)


@pytest.mark.parametrize("rate", [2.5, 15.0, 29.97, 59.94, 120.0, 240.0, 400.0])
@pytest.mark.parametrize("per", [1, 1e3, 1e6, 1e9])
def test_usual_rates_are_recognised_in_every_unit(rate: float, per: float) -> None:
    times = np.arange(50) / rate
    np.testing.assert_allclose(to_seconds(times * per, where="x"), times, atol=1e-9)


def test_a_unit_that_cannot_be_told_is_settled_by_the_flag_the_wall_clock_or_the_rate() -> None:
    stamps = np.arange(50)
    with pytest.raises(
        ConfigError, match=r"1 frames a second in s, 1000 frames a second in ms.*--time-unit.*--fps"
    ):
        to_seconds(stamps, where="x")
    np.testing.assert_allclose(to_seconds(stamps, where="x", unit="ms"), stamps / 1e3)
    np.testing.assert_allclose(to_seconds(stamps, where="x", unit="s"), stamps)
    np.testing.assert_allclose(to_seconds(1_700_000_000_000 + stamps, where="x"), stamps / 1e3)
    np.testing.assert_allclose(to_seconds(stamps, where="x", rate=1000), stamps / 1e3)


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        ((1.7e9 + EVEN).astype(np.float32), "float32.*resolve 128.*--fps"),
        ((1.7e9 + EVEN).astype(np.float32).astype(np.float64), "float32.*resolve 128.*--fps"),
        (np.where(np.arange(45) == 7, np.nan, EVEN), "frame 7 is no number of a clock"),
        (np.where(np.arange(45) == 7, EVEN[6], EVEN), "frame 7 is the same as that of frame 6.*--fps"),
        (np.where(np.arange(45) > 20, EVEN - 0.6, EVEN), "frame 21 lies before that of frame 20"),
        (np.arange(45, dtype=np.uint64)[::-1] * 33, "frame 1 lies before"),
        (np.repeat(np.arange(15) / 10, 3) + np.tile([0, 1e-3, 2e-3], 15), r"come in bursts.*--fps 3\d"),
        (EVEN * 1e-6, "no rate of a recording"),
        (EVEN * 1e12, "no rate of a recording"),
        (np.zeros((45, 2)), r"\(45, 2\), expected one number a frame"),
        (np.array(["0.1"] * 45), "expected one number a frame"),
    ],
)
def test_broken_clocks_are_named(stamps: np.ndarray, message: str) -> None:
    with pytest.raises(RDT2Error, match=message):
        to_seconds(stamps, where="x")


def test_a_rate_that_contradicts_the_clock() -> None:
    with pytest.raises(
        ConfigError, match=r"make 30 frames a second, the recording says 10.*--fps 30 or --fps 10"
    ):
        to_seconds(EVEN, where="x", rate=10)
    np.testing.assert_allclose(to_seconds(EVEN, where="x", rate=29.97), EVEN)
    with pytest.raises(ConfigError, match=r"3e\+04 frames a second, which no recording has.*--time-unit"):
        to_seconds(np.arange(9) * 33, where="x", unit="us")


def test_one_or_two_missing_frames_are_no_pause() -> None:
    missing = [np.delete(EVEN, slice(20, 20 + count)) for count in (1, 2, 3)]
    assert [len(pieces(times)) for times in missing] == [1, 1, 2]
    assert pieces(missing[2]) == [slice(0, 20), slice(20, 42)]
    # A slow recording is bridged at its own step, not over a frame that it lacks.
    assert len(pieces(np.arange(20) / 5)) == 1
    assert len(pieces(np.delete(np.arange(20) / 5, 9))) == 2
    assert pieces(np.zeros(1)) == [slice(0, 1)]
    assert usual_step(np.array([0, 0.03, 3.0])) == pytest.approx(0.03)


def test_a_given_rate_takes_the_place_of_the_clock_but_keeps_its_pauses() -> None:
    for stamps in (None, EVEN * 1e3, np.zeros(45), EVEN.astype("f2"), np.full(45, np.nan), np.arange(3)):
        np.testing.assert_allclose(at_rate(15, 45, stamps), np.arange(45) / 15)
    assert at_rate(15, 0).shape == (0,)
    paused = np.concatenate([np.arange(20) * 33, 3000 + np.arange(20, 40) * 33])
    times = at_rate(30, 40, paused)
    assert pieces(times) == [slice(0, 20), slice(20, 40)]
    np.testing.assert_allclose(np.diff(times)[19], 3033 / 33 / 30, rtol=1e-6)
    np.testing.assert_allclose(np.delete(np.diff(times), 19), 1 / 30, atol=1e-9)
    twice = paused.copy()
    twice[7] = twice[6]  # a camera that stamped two pictures alike
    assert pieces(at_rate(30, 40, twice)) == [slice(0, 20), slice(20, 40)]


# ------------------------------------------------------------------------------------------------- recordings


def paused_motion(count: int = 40, pause: float = 3.0) -> Motion:
    """The frames of an even motion, with ``pause`` seconds left out in the middle."""
    motion = Motion(2 * count + round(30 * pause))
    keep = np.r_[:count, len(motion.times) - count : len(motion.times)]
    motion.times = motion.times[keep]
    for values in (motion.position, motion.rotvec, motion.width, motion.picture):
        for arm in ARMS:
            values[arm] = values[arm][keep]
    return motion


def as_episode(motion: Motion, **replaced: object) -> Episode:
    values: dict[str, object] = {
        "videos": {
            arm: [np.full((384, 384, 3), n, np.uint8) for n in range(len(motion.times))] for arm in ARMS
        },
        "poses": motion.poses,
        "widths": motion.width,
        "timestamps": motion.times,
        "instruction": "Fold.",
    }
    return Episode(**(values | replaced))  # type: ignore[arg-type]


def test_no_chunk_crosses_a_pause() -> None:
    motion = paused_motion()
    episode = as_episode(motion)
    frames = {frame: chunk for frame, chunk, _ in episode_samples(episode)}
    assert sorted(frames) == [*range(16), *range(40, 56)]
    for frame, chunk in frames.items():
        truth = Motion(240)
        start = round(motion.times[frame] * 30)
        for arm in ARMS:
            found = ActionChunk(values=chunk).absolute_poses(arm, episode.poses[arm][frame])
            expected = truth.position[arm][start + 1 : start + 25]
            np.testing.assert_allclose(found[:, :3, 3], expected, atol=1e-5)
    # Padded, the motion ends with the last pose before the pause.
    padded = dict(episode.chunks(tail="pad"))
    assert sorted(padded) == list(range(80))
    np.testing.assert_allclose(padded[39][:, :3], 0, atol=1e-6)
    assert [len(piece) for piece in resample(episode)] == [40, 40]


def test_a_clock_that_jumps_by_years_takes_no_memory() -> None:
    motion = paused_motion()
    motion.times[40:] += 1.7e9
    assert sample_frames(motion.times).tolist() == list(range(80))
    assert [len(piece) for piece in resample(as_episode(motion))] == [40, 40]


def test_an_episode_in_milliseconds_is_refused() -> None:
    with pytest.raises(RecordingError, match=r"33\.33 apart, expected seconds"):
        as_episode(Motion(30), timestamps=EVEN[:30] * 1e3)


def test_a_pause_becomes_two_lerobot_episodes_and_each_frame_keeps_its_sentence(tmp_path: Path) -> None:
    motion = paused_motion()
    sentences = ["Pick it up."] * 10 + ["Put it down."] * 70
    assert write_lerobot([as_episode(motion, instruction=sentences)], tmp_path / "set") == 2
    first, second = open_source(tmp_path / "set", "lerobot")
    assert [len(first), len(second)] == [40, 40]
    np.testing.assert_allclose(second.poses["left"][:, :3, 3], motion.position["left"][40:], atol=1e-6)


@pytest.mark.parametrize("per", [1, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("fps", [None, 30.0])
def test_hdf5_clocks(fastumi: Callable[..., Path], tmp_path: Path, per: float, fps: float | None) -> None:
    motion, truth = paused_motion(), paused_motion()
    motion.times = np.round((1.7e9 * (per > 1) + motion.times) * per)[:, None] if per > 1 else motion.times
    options = SourceOptions(**{**vars(OPTIONS), "fps": fps})
    report = convert(fastumi([motion], times=True), tmp_path / "out", kind="hdf5", options=options)
    assert report.samples == 32
    chunks = {sample.meta["frame"]: sample.action for sample in read_shards(tmp_path / "out")}
    reference = {frame: chunk for frame, chunk in as_episode(truth).chunks()}
    assert sorted(chunks) == [*range(16), *range(40, 56)]
    for frame, chunk in chunks.items():
        np.testing.assert_allclose(chunk, reference[frame], atol=2e-3)


def test_hdf5_without_a_clock_in_a_later_file(fastumi: Callable[..., Path]) -> None:
    import h5py

    folder = fastumi([Motion(30), Motion(30)], times=True)
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        del file["timestamps"]
    source = open_source(folder, "hdf5", OPTIONS)
    assert len(source[0]) == 30
    with pytest.raises(RecordingError, match=r"episode_1.hdf5: has neither timestamps nor a rate.*--fps 30"):
        source[1]


# -------------------------------------------------------------------------------------------------- sentences


def test_blank_sentences_are_filled_and_each_frame_keeps_its_own(
    fastumi: Callable[..., Path], tmp_path: Path
) -> None:
    import h5py

    folder = fastumi([Motion(30), Motion(30), Motion(30)], times=True)
    each = ["Pick it up."] * 3 + [" "] * 27
    for number, text in enumerate(["", " Pick it up. ", each]):
        with h5py.File(folder / f"episode_{number}.hdf5", "a") as file:
            if isinstance(text, str):
                file.attrs["instruction"] = text
            else:
                file["language_instruction"] = np.array(text, dtype="S")
    source = open_source(folder, "hdf5", OPTIONS)
    assert [source[number].sentences for number in range(3)] == [
        ["Fold."],
        ["Pick it up."],
        ["Pick it up.", "Fold."],
    ]
    convert(folder, tmp_path / "out", kind="hdf5", options=OPTIONS)
    keys = [
        s.meta["sub_task_instruction_key"]
        for s in read_shards(tmp_path / "out")
        if s.meta["episode"] == "episode_2"
    ]
    assert keys == ["pick_it_up"] * 3 + ["fold"] * 3
    with pytest.raises(ConfigError, match=r"no instruction is recorded in 2 of 3 episodes.*--instruction"):
        open_source(folder, "hdf5", SourceOptions(**{**vars(OPTIONS), "instruction": " "}))


def test_sentences_are_one_or_one_a_frame() -> None:
    with pytest.raises(RecordingError, match="2 sentences for 30 frames"):
        as_episode(Motion(30), instruction=["Fold.", "Lift."])
    with pytest.raises(RecordingError, match="instruction is empty"):
        as_episode(Motion(30), instruction=["Fold."] * 29 + [" "])


def test_shards_keep_their_sentences_and_have_missing_ones_filled(tmp_path: Path) -> None:
    import json

    with ShardWriter(tmp_path / "in") as writer:
        sentences = ["Pick it up."] * 2 + ["Lift it."] * 2 + ["Put it down."] * 26
        as_episode(Motion(30), instruction=sentences, meta={"episode": "e"}).write(writer)
    table = tmp_path / "in/instructions.json"
    table.write_text(json.dumps({"pick_it_up": "Pick it up.", "lift_it": " "}))
    with pytest.raises(RDT2Error, match="no sentence for 'lift_it'"):
        open_source(tmp_path / "in", "shards")
    options = SourceOptions(instruction="Fold.")
    (episode,) = open_source(tmp_path / "in", "shards", options)
    assert [episode.sentence(frame) for frame in range(6)] == ["Pick it up."] * 2 + ["Fold."] * 4
    convert(tmp_path / "in", tmp_path / "out", kind="shards", options=options)
    assert json.loads((tmp_path / "out/instructions.json").read_text()) == {
        "pick_it_up": "Pick it up.",
        "fold": "Fold.",
    }
    table.unlink()
    assert open_source(tmp_path / "in", "shards", options)[0].sentences == ["Fold."]
