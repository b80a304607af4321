"""Recordings are the demonstrator's own motion, the same bytes however they were made, and go on when interrupted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.data import check_shards, read_shards
from rdt2.errors import ConfigError, SimulationError
from rdt2.normalizer import LinearNormalizer
from rdt2.sim.cell import Cell
from rdt2.sim.recording import FIRST_SCENE_SEED, demonstrate, draw_frame, open_episode, record_dataset


def test_picture_is_left_then_right() -> None:
    with open_episode("press", FIRST_SCENE_SEED, np.random.default_rng(0)) as (cell, task, manner):
        done = demonstrate(cell, task, manner)
    with Cell("handheld", done.scene) as cell:
        picture = draw_frame(cell, done.states[0])
        np.testing.assert_array_equal(picture[:, :384], cell.render("left"))
        np.testing.assert_array_equal(picture[:, 384:], cell.render("right"))


def test_episodes_differ_by_their_generator() -> None:
    starts = []
    for seed in (0, 0, 1):
        with open_episode("pick", FIRST_SCENE_SEED, np.random.default_rng(seed)) as (_, _, manner):
            starts.append(manner)
    assert starts[0] == starts[1] != starts[2]


def test_record_dataset(tmp_path: Path) -> None:
    """Same bytes whatever the workers; interrupted recordings go on; other settings are refused."""
    options = {"seed": 4, "tasks": {"press": 1.0}, "stride": 10, "episodes_per_shard": 1}
    steps: list[tuple[int, int]] = []
    report = record_dataset(tmp_path / "a", 2, **options, progress=lambda *step: steps.append(step))  # type: ignore[arg-type]
    assert steps == [(1, 2), (2, 2)]
    assert report.successes["press"] == 2
    names = sorted(path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith("."))
    assert names == [
        "dataset.yaml",
        "instructions.json",
        "normalizer.safetensors",
        "recording.json",
        "shard-000000.tar",
        "shard-000000.tar.index",
        "shard-000001.tar",
        "shard-000001.tar.index",
    ]
    samples = list(read_shards(tmp_path / "a"))
    assert len(samples) == report.samples > 4
    assert {sample.meta["episode"] for sample in samples} == {0, 1}
    assert all(sample.meta["seed"] >= FIRST_SCENE_SEED for sample in samples)
    assert all(
        set(seen) == {"left", "right"} for sample in samples for seen in sample.meta["objects"].values()
    )
    normalizer = LinearNormalizer.from_pretrained(tmp_path / "a")
    found = check_shards(tmp_path / "a", normalizer=normalizer)
    # Pressing takes one hand; the other trembles, which the normalizer of so few episodes magnifies.
    assert [finding.name for finding in found.findings] == ["resting arm"]

    steps.clear()
    record_dataset(tmp_path / "b", 2, **options, workers=2, progress=lambda *step: steps.append(step))  # type: ignore[arg-type]
    assert steps[-1] == (2, 2)
    for name in ("shard-000000.tar", "shard-000001.tar", "instructions.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    before = (tmp_path / "a" / "shard-000000.tar").stat().st_mtime_ns
    (tmp_path / "a" / "shard-000001.tar").unlink()
    (tmp_path / "a" / "instructions.json").unlink()
    steps.clear()
    record_dataset(tmp_path / "a", 2, **options, progress=lambda *step: steps.append(step))  # type: ignore[arg-type]
    assert steps == [(1, 2), (2, 2)], "the first is there already"
    assert (tmp_path / "a" / "shard-000000.tar").stat().st_mtime_ns == before
    assert (tmp_path / "a" / "shard-000001.tar").read_bytes() == (
        tmp_path / "b" / "shard-000001.tar"
    ).read_bytes()
    assert len(json.loads((tmp_path / "a" / "instructions.json").read_text())) >= 1
    with pytest.raises(ConfigError, match="recorded with"):
        record_dataset(tmp_path / "a", 2, **(options | {"stride": 3}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tasks"):
        record_dataset(tmp_path / "c", 2, tasks={"juggle": 1.0})


def test_a_hand_that_jumps_is_no_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    """regression: physics that nearly broke down left actions of a hundred standard deviations in the data."""
    from rdt2.sim.handheld import HandheldArm

    rng = np.random.default_rng(0)
    with open_episode("press", FIRST_SCENE_SEED, rng) as (cell, task, manner):
        honest, calls = HandheldArm.state, [0]

        def state(self):
            calls[0] += 1
            now = honest(self)
            if calls[0] < 40:
                return now
            return dataclasses.replace(now, pose=now.pose + np.eye(4, k=3) * 0.2 * (calls[0] % 2))

        monkeypatch.setattr(HandheldArm, "state", state)
        with pytest.raises(SimulationError, match=r"hand jumped by 0\.\d+ m"):
            demonstrate(cell, task, manner)


def test_a_shard_that_is_too_short_is_recorded_again(tmp_path: Path) -> None:
    """Regression: episodes were missing and the report said that all are there: a first call for more had been
    interrupted, a second one for fewer had ended a shard early."""
    options = {"seed": 4, "tasks": {"press": 1.0}, "stride": 20, "episodes_per_shard": 2}
    record_dataset(tmp_path, 3, **options)  # type: ignore[arg-type]
    told = json.loads((tmp_path / "recording.json").read_text())
    (tmp_path / "recording.json").write_text(json.dumps(told | {"episodes": 4}))
    record_dataset(tmp_path, 4, **options)  # type: ignore[arg-type]
    assert {sample.meta["episode"] for sample in read_shards(tmp_path)} == {0, 1, 2, 3}
