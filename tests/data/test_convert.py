"""Conversion: the same bytes whatever the workers, interrupted and gone on with, guesses confirmed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from motion import Motion, same

from rdt2.action import ARMS, ActionChunk
from rdt2.data import Episode, ShardIndex, check_shards, read_shards
from rdt2.data import convert as module
from rdt2.data.convert import convert
from rdt2.data.resample import resample, sample_frames
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError, RDT2Error, RecordingError

OPTIONS = SourceOptions(
    fps=30.0, arms="right-left", gripper_unit="m", instruction="Pick up the cup.", color="rgb"
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


def test_episode_to_shards_to_episode(umi_zarr, motions, tmp_path) -> None:
    report = convert(umi_zarr(motions, dtype="<f8"), tmp_path / "out", kind="umi-zarr", options=OPTIONS)
    assert (report.episodes, report.samples, report.skipped) == (3, 6 + 2 + 10, [])
    samples = list(read_shards(tmp_path / "out"))
    assert samples[0].meta["episode"] == "episode_000000"
    for sample, frame in zip(samples[:6], range(6), strict=True):
        chunk = ActionChunk(sample.action)
        for arm in ARMS:
            found = chunk.absolute_poses(arm, motions[0].poses[arm][frame])
            expected = motions[0].poses[arm][frame + 1 : frame + 25]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            np.testing.assert_allclose(
                chunk.widths(arm), motions[0].width[arm][frame + 1 : frame + 25], atol=1e-6
            )
    index = ShardIndex(tmp_path / "out")
    assert set(index.instruction_counts()) == {"Pick up the cup."}
    assert {path.name for path in (tmp_path / "out").glob("*.*") if path.name[0] != "."} == {
        "shard-000000.tar", "shard-000000.tar.index", "instructions.json", "normalizer.safetensors", "dataset.yaml",
        "conversion.json",
    }  # fmt: skip
    assert check_shards(tmp_path / "out").ok


def test_same_bytes_whatever_the_workers(fastumi, tmp_path) -> None:
    source = fastumi([Motion(28 + n, number=n) for n in range(4)])
    options = SourceOptions(**{**vars(OPTIONS), "arms": "left-right", "rotation": "xyzw"})
    for name, workers in (("a/set", 1), ("b/set", 2)):
        convert(source, tmp_path / name, kind="hdf5", options=options, workers=workers, samples_per_shard=30)
    assert len(list((tmp_path / "a/set").glob("*.tar"))) == 3
    assert contents(tmp_path / "a/set") == contents(tmp_path / "b/set")


def test_ray_gives_the_same_bytes(fastumi, tmp_path, monkeypatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # The tasks find this package, and the tests' modules, where this process does.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    source = fastumi([Motion(28 + n, number=n) for n in range(3)])
    options = SourceOptions(**{**vars(OPTIONS), "arms": "left-right", "rotation": "xyzw"})
    settings = {"kind": "hdf5", "options": options, "samples_per_shard": 1}
    convert(source, tmp_path / "a/set", **settings)
    convert(source, tmp_path / "b/set", engine="ray", workers=2, **settings)
    assert contents(tmp_path / "a/set") == contents(tmp_path / "b/set")
    assert not ray.is_initialized(), "the cluster that was started is stopped"
    (source / "episode_1.hdf5").write_bytes(b"no HDF5 file")
    with pytest.raises(RDT2Error, match=r"episode_1\.hdf5"):
        convert(source, tmp_path / "c/set", engine="ray", workers=2, **settings)


def test_an_engine_that_is_none(umi_zarr, motions, tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected 'processes' or 'ray'"):
        convert(umi_zarr(motions), tmp_path / "out", kind="umi-zarr", options=OPTIONS, engine="slurm")


def test_interrupted_and_gone_on_with(umi_zarr, motions, tmp_path, monkeypatch) -> None:
    source, out = umi_zarr(motions), tmp_path / "out" / "set"
    settings = {"kind": "umi-zarr", "options": OPTIONS, "samples_per_shard": 1}
    whole = tmp_path / "whole" / "set"
    convert(source, whole, **settings)
    worked: list[int] = []
    original = module._convert_group

    def stops(job):
        if job[2] == 1 and not worked.count(99):
            worked.append(99)
            raise KeyboardInterrupt
        worked.append(job[2])
        return original(job)

    monkeypatch.setattr(module, "_convert_group", stops)
    with pytest.raises(KeyboardInterrupt):
        convert(source, out, **settings)
    assert [path.name for path in out.glob("*.tar")] == ["shard-000000.tar"]
    with pytest.raises(ConfigError, match="begun with other settings: tail was 'drop', is 'pad'"):
        convert(source, out, tail="pad", **settings)
    convert(source, out, **settings)
    assert worked == [0, 99, 1, 2]
    assert contents(out) == contents(whole)
    again = convert(source, out, **settings)
    assert again.samples == 18
    assert "holds this conversion already, and nothing was read" in again.notes[-1]
    assert worked == [0, 99, 1, 2]
    with pytest.raises(ConfigError, match=r"another conversion, finished.*stride was 1, is 2\."):
        convert(source, out, stride=2, **settings)


def test_a_refused_conversion_blocks_no_other(umi_zarr, motions, tmp_path) -> None:
    motions[1].position["left"][20] = np.nan
    source, out = umi_zarr(motions), tmp_path / "out"
    wrong = SourceOptions(**{**vars(OPTIONS), "gripper_unit": "mm"})
    with pytest.raises(RDT2Error, match="frame 20"):
        convert(source, out, kind="umi-zarr", options=wrong)
    report = convert(source, out, kind="umi-zarr", options=OPTIONS, on_error="skip")
    assert (report.episodes, len(report.skipped)) == (2, 1)
    # What was written before the refusal is kept where only damage is left out now.
    settings = {"kind": "umi-zarr", "options": OPTIONS, "samples_per_shard": 1}
    with pytest.raises(RDT2Error, match="frame 20"):
        convert(source, tmp_path / "parts", **settings)
    with pytest.raises(ConfigError, match="gripper_unit was 'm', is 'mm'"):
        convert(source, tmp_path / "parts", **{**settings, "options": wrong})
    assert convert(source, tmp_path / "parts", on_error="skip", **settings).samples == report.samples


def test_guesses_have_to_be_confirmed(umi_zarr, motions, tmp_path) -> None:
    source = umi_zarr(motions)
    with pytest.raises(ConfigError, match=r"--arms right-left[\s\S]*--fps 59.94[\s\S]*--accept-guesses"):
        convert(source, tmp_path / "out", kind="umi-zarr", options=SourceOptions(instruction="Go on."))
    assert not (tmp_path / "out").exists()


def test_damaged_episode(umi_zarr, motions, tmp_path) -> None:
    motions[1].position["left"][20] = np.nan
    source = umi_zarr(motions)
    settings = {"kind": "umi-zarr", "options": OPTIONS}
    with pytest.raises(RDT2Error, match="episode_000001, left arm: the pose of frame 20 holds NaN"):
        convert(source, tmp_path / "strict", **settings)
    report = convert(source, tmp_path / "out", on_error="skip", **settings)
    assert report.episodes == 2
    assert len(report.skipped) == 1
    assert "frame 20" in report.skipped[0]
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["report"]["episodes"] == 2


def test_short_episodes_are_listed(umi_zarr, motions, tmp_path) -> None:
    source = umi_zarr([motions[0], Motion(20)])
    report = convert(source, tmp_path / "drop", kind="umi-zarr", options=OPTIONS)
    assert report.too_short == ["episode_000001"]
    report = convert(source, tmp_path / "pad", kind="umi-zarr", options=OPTIONS, tail="pad")
    assert report.samples == 50


def test_nothing_left_is_an_error(umi_zarr, tmp_path) -> None:
    with pytest.raises(RecordingError, match="no sample came of the recording"):
        convert(umi_zarr([Motion(5)]), tmp_path / "out", kind="umi-zarr", options=OPTIONS)


@pytest.mark.parametrize("fps", [15.0, 25.0, 59.94, 60.0, 100.0])
def test_samples_at_30_hz_by_time(fps) -> None:
    """Chunks lie at 1/30 s after a recorded frame, whatever the rate."""
    motion = Motion(int(3 * fps), fps)
    frames = sample_frames(motion.times)
    steps = np.diff(motion.times[frames])
    assert abs(steps.mean() - max(1 / 30, 1 / fps)) < 5e-4
    assert (steps > 0).all()
    assert len(set(frames.tolist())) == len(frames)


def test_even_rate(motions) -> None:
    motion = Motion(90, 59.94)
    pictures = [np.full((384, 384, 3), frame, np.uint8) for frame in range(90)]
    episode = Episode(
        videos={arm: pictures for arm in ARMS},
        poses=motion.poses,
        widths=motion.width,
        timestamps=5 + motion.times,
        instruction="Pick up the cup.",
    )
    (even,) = resample(episode)
    np.testing.assert_allclose(np.diff(even.timestamps), 1 / 30, atol=1e-12)
    expected = Motion(len(even), 30.0)
    for arm in ARMS:
        np.testing.assert_allclose(even.poses[arm][:, :3, 3], expected.position[arm], atol=2e-4)
    assert [int(picture[0, 0, 0]) for picture in even.videos["left"][:4]] == [0, 2, 4, 6]
    with pytest.raises(ConfigError, match="fps"):
        next(resample(episode, fps=0))


def test_thirty_hertz_is_left_alone(umi_zarr, motions) -> None:
    (even,) = resample(open_source(umi_zarr(motions, dtype="<f8"), "umi-zarr", OPTIONS)[0])
    same(even, motions[0])
