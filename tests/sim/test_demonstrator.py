"""The demonstrator does the tasks, corrects what happens to it, and records only its own motion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.action import ARMS, ActionChunk
from rdt2.sim.cell import Cell
from rdt2.sim.drawing import make_scene
from rdt2.sim.manner import Disturbance, draw_manner, perturbed_start, wandered_start
from rdt2.sim.recording import FIRST_SCENE_SEED, Demonstration, demonstrate
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


@pytest.mark.parametrize(
    ("kind", "disturbance"),
    [
        # Closes on nothing beside the object and rises as if it held it.
        ("pick", Disturbance("miss", "reach", 0.1, 1.5, (0.05, 0.0, 0.0), closes=True, rise=0.12)),
        # Goes down beside the object, open, into its side.
        ("pick", Disturbance("miss", "reach", 0.1, 1.5, (0.0, 0.03, -0.01))),
        ("press", Disturbance("miss", "reach", 0.1, 1.5, (0.04, 0.0, -0.01))),
        # Lets go of it beside the bowl.
        ("place", Disturbance("drop", "carry", 0.3, 1.5, (0.0, -0.12, 0.0))),
    ],
)
def test_tries_again_after_a_miss(kind: str, disturbance: Disturbance) -> None:
    done = run(kind, 1, disturbance)
    assert done.success
    last = int(np.flatnonzero(done.disturbed)[-1])
    assert last > 20
    assert done.phases[last + 2] == "reach", "it begins again"
    # As it was when the hand had gone astray, the jaws are closed, which no reaching hand should keep.
    assert (done.widths[done.task.hand][last] < 0.01) == (disturbance.closes or kind == "press")


def test_a_miss_that_holds_the_object_after_all_is_gone_on_with() -> None:
    done = run("pick", 1, Disturbance("miss", "reach", 0.1, 1.5, (0.004, 0.0, 0.0), closes=True, rise=0.05))
    last = int(np.flatnonzero(done.disturbed)[-1])
    assert done.success
    assert "reach" not in done.phases[last + 2 :]


def test_idle_hands_wander_clear_of_objects() -> None:
    rng = np.random.default_rng(0)
    for side, outward in (("right", -1), ("left", 1)):
        scene = make_scene("pick", FIRST_SCENE_SEED)
        places = np.array([wandered_start(rng, scene.starts[side], side).position for _ in range(50)])
        assert (outward * places[:, 1]).min() > 0.21
        assert np.ptp(places, axis=0).min() > 0.1


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
