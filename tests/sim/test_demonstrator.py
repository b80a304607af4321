"""The demonstrator does the tasks, corrects what happens to it, and records only its own motion."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.action import ARMS, ActionChunk
from rdt2.data import check_shards, read_shards
from rdt2.errors import ConfigError
from rdt2.normalizer import LinearNormalizer
from rdt2.sim.cell import Cell
from rdt2.sim.demonstrator import (
    FIRST_SCENE_SEED,
    Demonstration,
    Disturbance,
    demonstrate,
    draw_frame,
    draw_manner,
    open_episode,
    perturbed_start,
    record_dataset,
)
from rdt2.sim.scene import make_scene
from rdt2.sim.tasks import task_for


def run(kind: str, seed: int, *disturbances: Disturbance, closed: bool = False) -> Demonstration:
    scene = make_scene(kind, FIRST_SCENE_SEED + seed)
    task = task_for(scene)
    manner = draw_manner(np.random.default_rng(seed), kind=kind, open_width=scene.starts[task.hand].width)
    if closed:
        start = dataclasses.replace(scene.starts[task.hand], width=0.0)
        scene = dataclasses.replace(scene, starts={**scene.starts, task.hand: start})
    with Cell("handheld", scene) as cell:
        return demonstrate(cell, task, dataclasses.replace(manner, disturbances=disturbances))


@pytest.fixture(scope="module")
def pick() -> Demonstration:
    return run("pick", 1)


@pytest.mark.parametrize("kind", ["place", "press"])
def test_does_the_task(kind: str) -> None:
    done = run(kind, 1)
    assert done.success
    assert done.phases[-1] == "still"


def test_pick_is_direct_and_ends_still(pick: Demonstration) -> None:
    assert pick.success
    order = list(dict.fromkeys(pick.phases))
    assert order == ["reach", "close", "lift", "still"]
    hand = pick.task.hand
    speed = np.linalg.norm(np.diff(pick.poses[hand][:, :3, 3], axis=0), axis=1) * 30
    assert speed.max() < 0.6
    reaching = speed[5 : pick.phases.index("close") - 2]
    assert reaching.min() > 0.02, "the approach never pauses"
    assert speed[-25:].max() < 1e-3
    assert pick.widths[hand][0] > 0.07
    assert pick.widths[hand][-1] == 0.0
    other = pick.poses["left" if hand == "right" else "right"]
    assert np.abs(other[:, :3, 3] - other[0, :3, 3]).max() < 1e-3


def test_chunks_are_the_recorded_motion(pick: Demonstration) -> None:
    frames = pick.usable(10)
    assert frames == list(range(0, len(pick), 10))
    for frame, values in pick.chunks(frames):
        chunk = ActionChunk(values=values)
        later = np.minimum(np.arange(frame + 1, frame + 25), len(pick) - 1)
        for arm in ARMS:
            found = chunk.absolute_poses(arm, pick.poses[arm][frame])
            # The physics steps every 2 ms, so a tick is up to 1 ms early or late.
            np.testing.assert_allclose(found[:, :3, 3], pick.poses[arm][later][:, :3, 3], atol=1e-3)
            np.testing.assert_allclose(chunk.widths(arm), pick.widths[arm][later], atol=1e-3)


@pytest.mark.parametrize("kind", ["push", "close"])
def test_corrects_and_leaves_out_what_was_done_to_it(kind: str) -> None:
    disturbance = Disturbance(
        kind=kind, phase="reach", distance=0.03, seconds=0.3, shift=(0.05, -0.05, 0.04), turn=(0.0, 0.1, 0.1)
    )  # type: ignore[arg-type]
    done = run("pick", 1, disturbance)
    assert done.success
    ticks = np.flatnonzero(done.disturbed)
    assert len(ticks) == 9
    usable = done.usable()
    first, last = ticks[0], ticks[-1]
    assert usable == [*range(first - 23), *range(last + 1, len(done))]
    assert done.phases[last + 1] == "reach"


def test_opens_closed_jaws_before_it_goes_down() -> None:
    assert run("pick", 2, closed=True).success


def test_perturbed_starts_are_clear_of_objects() -> None:
    rng = np.random.default_rng(0)
    heights = []
    for seed in range(60):
        scene = make_scene("pick", FIRST_SCENE_SEED + seed)
        start = perturbed_start(rng, scene, scene.hand)
        x, y, z = start.position
        z -= scene.table_height
        heights.append(z)
        if z < 0.1:
            for item in scene.objects:
                assert np.hypot(x - item.position[0], y - item.position[1]) > item.radius + 0.05
    assert min(heights) < 0.06 < 0.2 < max(heights)


def test_picture_is_left_then_right(pick: Demonstration) -> None:
    with Cell("handheld", pick.scene) as cell:
        picture = draw_frame(cell, pick.states[0])
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
    options = {"seed": 4, "tasks": {"press": 1.0}, "stride": 20, "episodes_per_shard": 1}
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
        "shard-000001.tar",
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
    assert [finding.name for finding in found.findings] == ["tokens missing"]

    record_dataset(tmp_path / "b", 2, **options, workers=2)  # type: ignore[arg-type]
    for name in ("shard-000000.tar", "shard-000001.tar", "instructions.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    before = (tmp_path / "a" / "shard-000000.tar").stat().st_mtime_ns
    (tmp_path / "a" / "shard-000001.tar").unlink()
    (tmp_path / "a" / "instructions.json").unlink()
    record_dataset(tmp_path / "a", 2, **options)  # type: ignore[arg-type]
    assert (tmp_path / "a" / "shard-000000.tar").stat().st_mtime_ns == before
    assert (tmp_path / "a" / "shard-000001.tar").read_bytes() == (
        tmp_path / "b" / "shard-000001.tar"
    ).read_bytes()
    assert len(json.loads((tmp_path / "a" / "instructions.json").read_text())) >= 1
    with pytest.raises(ConfigError, match="recorded with"):
        record_dataset(tmp_path / "a", 2, **(options | {"stride": 3}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tasks"):
        record_dataset(tmp_path / "c", 2, tasks={"juggle": 1.0})
