"""One definition of an episode, whoever counts; shards made from shards keep their samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from motion import Motion
from tests.data.test_shards import encode_jpeg, picture

from rdt2.action import ARMS
from rdt2.cli.main import main
from rdt2.data import (
    Episode,
    ShardIndex,
    ShardWriter,
    check_shards,
    cut_chunks,
    read_instructions,
    read_shards,
    write_dataset_yaml,
)
from rdt2.data.convert import convert
from rdt2.data.episode import stored_state
from rdt2.data.sources import open_source
from rdt2.data.stats import action_statistics, magnified, recorded_minutes
from rdt2.errors import ShardError

SENTENCES = ("Pick up the cup.", "拿起苹果。", "pick up the cup")


def write(
    folder: Path,
    motions: list[Motion],
    *,
    left_out: range = range(30, 60),
    stride: int = 1,
    named: bool = True,
    timed: bool = True,
    states: bool = True,
    still: float | None = None,
) -> Path:
    """Episodes as a recorder writes them that leaves out the frames ``left_out``; one sentence each."""
    jpegs = [encode_jpeg(picture(number)) for number in range(3)]
    noise = np.random.default_rng(0)
    with ShardWriter(folder, samples_per_shard=50) as writer:
        for number, motion in enumerate(motions):
            poses, widths = dict(motion.poses), motion.width
            if still is not None:
                poses["left"] = np.tile(np.eye(4), (len(motion.times), 1, 1))
                poses["left"][:, :3, 3] += noise.uniform(-still, still, (len(motion.times), 3))
            frames = [frame for frame in range(0, len(motion.times) - 24, stride) if frame not in left_out]
            for frame, chunk in cut_chunks(poses, widths, motion.times, frames):
                writer.write(
                    picture=jpegs[number],
                    action=chunk,
                    instruction=SENTENCES[number],
                    tokens=np.full(27, frame),
                    meta={
                        **({"episode": f"e{number}"} if named else {}),
                        **({"frame": frame, "timestamp": float(motion.times[frame])} if timed else {}),
                        **({"state": stored_state(poses, widths, frame)} if states else {}),
                        "phase": "reach",
                    },
                )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 100 samples that lack 1 s each: 6 pieces, 210 samples."""
    return write(tmp_path_factory.mktemp("gaps"), [Motion(124, number=number) for number in range(3)])


def test_all_count_the_same_episodes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = check_shards(folder)
    assert (report.counts["episodes"], report.counts["pieces"], report.counts["samples"]) == (3, 6, 210)
    (gap,) = (finding for finding in report.findings if finding.name == "time gap")
    assert gap.count == 3
    assert "1.033 s after the sample before, usual 0.033 s" in gap.examples[0]
    assert "pieces" in gap.text
    source = open_source(folder, "shards")
    assert (source.names, source.lengths) == (["e0", "e1", "e2"], [70, 70, 70])
    done = convert(folder, tmp_path / "again", kind="shards")
    assert (done.episodes, done.samples, done.too_short) == (3, 210, [])
    main(["data", "stats", str(folder), "--json", str(tmp_path / "stats.json")])
    assert json.loads((tmp_path / "stats.json").read_text())["episodes"] == 3
    main(["data", "view", str(folder), "--out", str(tmp_path / "view.html"), "--every", "9"])
    main(["data", "to-lerobot", str(folder), str(tmp_path / "lerobot")])
    told = "".join(capsys.readouterr())
    assert "3 of 3 episodes" in told
    assert "6 episodes written" in told
    assert "the 3 episodes of" in told
    assert "have 6 pieces" in told


def test_shards_of_shards_are_the_same_samples(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "again", kind="shards")
    pairs = list(zip(read_shards(folder), read_shards(tmp_path / "again"), strict=True))
    for old, new in pairs:
        assert (old.jpeg, old.instruction, old.meta) == (new.jpeg, new.instruction, new.meta)
        np.testing.assert_array_equal(old.action, new.action)
    assert [new.tokens for _, new in pairs] == [None] * 210, "they belong to another normalizer"
    convert(folder, tmp_path / "third", kind="shards", stride=3)
    assert [each.meta["frame"] for each in read_shards(tmp_path / "third")][:12] == [*range(0, 30, 3), 60, 63]
    fast = write(tmp_path / "fast", [Motion(124, fps=30.4)], left_out=range(0))
    assert convert(fast, tmp_path / "fast again", kind="shards").samples == ShardIndex(fast).times.size
    assert read_instructions(tmp_path / "again") == read_instructions(folder)


@pytest.mark.parametrize("states", [True, False])
def test_the_path_of_an_episode_with_a_gap(tmp_path: Path, states: bool) -> None:
    motion = Motion(124)
    (episode,) = open_source(write(tmp_path, [motion], states=states), "shards")
    frames = [*range(30), *range(60, 100)]
    np.testing.assert_allclose(episode.timestamps, np.array(frames) / 30, atol=1e-9)
    assert episode.sentences == [SENTENCES[0]]
    for arm in ARMS:
        truth = np.linalg.inv(motion.poses[arm][0]) @ motion.poses[arm][frames]
        if not states:  # only how poses lie to each other within a piece is known
            truth[30:] = episode.poses[arm][30] @ np.linalg.inv(truth[30]) @ truth[30:]
        np.testing.assert_allclose(episode.poses[arm], truth, atol=1e-5)
        np.testing.assert_allclose(episode.widths[arm], motion.width[arm][frames], atol=1e-3)


@pytest.mark.parametrize("timed", [True, False])
def test_samples_without_a_name_are_as_many_episodes_as_fit_together(tmp_path: Path, timed: bool) -> None:
    motions = [Motion(60), Motion(60, number=3)]
    write(tmp_path, motions, left_out=range(0), named=False, timed=timed)
    assert check_shards(tmp_path).counts["episodes"] == len(open_source(tmp_path, "shards")) == 2
    assert not [finding for finding in check_shards(tmp_path).findings if finding.name == "time gap"]


def test_times_that_are_not_told_follow_from_the_chunks(tmp_path: Path) -> None:
    motion = Motion(124)
    (episode,) = open_source(write(tmp_path, [motion], stride=3, timed=False), "shards")
    frames = [*range(0, 30, 3), *range(60, 100, 3)]
    np.testing.assert_allclose(episode.timestamps[:10], np.array(frames[:10]) / 30, atol=1e-9)
    assert episode.timestamps[10] - episode.timestamps[9] == pytest.approx(0.8 + 1 / 30, abs=1e-5)
    for arm in ARMS:
        truth = np.linalg.inv(motion.poses[arm][0]) @ motion.poses[arm][frames]
        np.testing.assert_allclose(episode.poses[arm], truth, atol=1e-5)


def test_two_recordings_in_one_folder_are_named(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / str(number), [Motion(40, number=number)])
    (tmp_path / "1" / "shard-000000.tar").rename(tmp_path / "0" / "shard-000001.tar")
    with pytest.raises(ShardError, match=r"the other is shard-000000.tar, sample 0\. Were two recordings"):
        open_source(tmp_path / "0", "shards")


def test_two_sentences_in_one_episode_are_one_episode(tmp_path: Path) -> None:
    motion = Motion(60)
    with ShardWriter(tmp_path) as writer:
        for part, sentence in ((range(10), SENTENCES[0]), (range(10, 36), SENTENCES[1])):
            for frame, chunk in cut_chunks(motion.poses, motion.width, motion.times, part):
                meta = {"episode": 0, "frame": frame}
                writer.write(picture=picture(frame), action=chunk, instruction=sentence, meta=meta)
    (episode,) = open_source(tmp_path, "shards")
    assert isinstance(episode, Episode)
    assert [episode.sentence(frame) for frame in (9, 10)] == list(SENTENCES[:2])
    assert check_shards(tmp_path).counts["episodes"] == 1


def test_minutes_follow_the_recorded_times(tmp_path: Path) -> None:
    motion = [Motion(324)]
    third = ShardIndex(write(tmp_path / "third", motion, left_out=range(0), stride=3))
    assert len(third) == 100
    assert recorded_minutes(third) == (pytest.approx(10 / 60), True)
    gap = ShardIndex(write(tmp_path / "gap", motion, left_out=range(150, 210), stride=3))
    assert recorded_minutes(gap) == (pytest.approx(8 / 60), True)
    unnamed = ShardIndex(write(tmp_path / "unnamed", motion * 2, left_out=range(0), stride=3, named=False))
    assert recorded_minutes(unnamed) == (pytest.approx(20 / 60), True)
    for name in ("third", "gap"):
        write_dataset_yaml(tmp_path / name, name=name)
    (tmp_path / "both.yaml").write_text(
        "name: both\ntype: blend\ntrain:\n"
        "  third: {config_path: third/dataset.yaml, weight: 1}\n  gap: {config_path: gap/dataset.yaml, weight: 1}\n"
    )
    both = ShardIndex(tmp_path / "both.yaml")  # whose episodes have the same names
    assert recorded_minutes(both) == (pytest.approx(18 / 60), True)
    untimed = ShardIndex(write(tmp_path / "untimed", motion, left_out=range(0), stride=3, timed=False))
    assert recorded_minutes(untimed) == (pytest.approx(100 / 30 / 60), False)


def test_tokens_are_missed_only_where_some_are_there(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "without", kind="shards")
    report = check_shards(tmp_path / "without")
    assert report.counts["with tokens"] == 0
    assert "tokens missing" not in [finding.name for finding in report.findings]
    motion = Motion(60)
    with ShardWriter(tmp_path / "without", first_shard=7) as writer:
        ((_, chunk),) = cut_chunks(motion.poses, motion.width, motion.times, [0])
        writer.write(picture=picture(), action=chunk, instruction=SENTENCES[0], tokens=np.zeros(27))
    counts = {finding.name: finding.count for finding in check_shards(tmp_path / "without").findings}
    assert counts["tokens missing"] == 210


@pytest.mark.parametrize("noise", [1e-4, 1e-3])
def test_a_resting_arm_is_not_fitted_in_silence(tmp_path: Path, noise: float, capsys) -> None:
    data = write(tmp_path / "data", [Motion(124)], still=noise, left_out=range(0))
    report = check_shards(data)
    (finding,) = (each for each in report.findings if each.name == "resting arm")
    assert report.ok
    assert finding.count == 1
    assert finding.examples[0].startswith("left arm: x ")
    main(["data", "stats", str(data), "--fit", str(tmp_path / "n")])
    assert "left arm hardly moves" in " ".join("".join(capsys.readouterr()).split())
    main(["data", "convert", str(data), str(tmp_path / "again"), "--from", "shards"])
    assert "left arm hardly moves" in " ".join("".join(capsys.readouterr()).split())
    ranges = action_statistics(data)
    scale = ranges.normalizer().scale
    assert scale[10:13].min() > 5 * scale[:3].max()
    # What the advice says helps.
    assert magnified(ranges.minimum, ranges.maximum, ranges.normalizer("mean_std")) == {}
    assert "resting arm" not in [
        each.name for each in check_shards(data, normalizer=ranges.normalizer("mean_std")).findings
    ]


def test_arms_that_move_or_stand_still_exactly_are_not_magnified(folder: Path, tmp_path: Path) -> None:
    for data in (folder, write(tmp_path, [Motion(124)], still=0.0, left_out=range(0))):
        assert "resting arm" not in [finding.name for finding in check_shards(data).findings]
