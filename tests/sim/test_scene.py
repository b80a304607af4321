"""Scenes are drawn from a seed, stored as plain data, and built exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdt2.errors import TaskError
from rdt2.sim.scene import (
    COLOURS,
    REACH_X,
    REACH_Y,
    SEEN_SHAPES,
    TASK_KINDS,
    UNSEEN_SHAPES,
    Scene,
    build_scene,
    make_scene,
)
from rdt2.sim.textures import SEEN_FAMILIES, UNSEEN_FAMILIES, Texture, paint


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_objects_are_apart_and_within_reach(kind: str) -> None:
    for seed in range(100):
        scene = make_scene(kind, seed)
        assert len(scene.objects) == (4 if kind == "place" else 3)
        for i, one in enumerate(scene.objects):
            assert abs(one.position[0]) <= REACH_X
            assert abs(one.position[1]) <= REACH_Y
            for other in scene.objects[:i]:
                distance = np.hypot(*np.subtract(one.position, other.position))
                assert distance >= (0.11 if "bowl" in (one.kind, other.kind) else 0.08) - 0.003


def test_the_sentence_matters() -> None:
    """No other object has the target's colour, and all hands, colours and shapes occur."""
    scenes = [make_scene("pick", seed) for seed in range(200)]
    for scene in scenes:
        assert len({o.colour for o in scene.objects}) == len(scene.objects)
    assert {s.hand for s in scenes} == {"right", "left"}
    assert {s.object(s.target).colour for s in scenes} == set(COLOURS)
    assert {s.object(s.target).shape for s in scenes} == set(SEEN_SHAPES)


def test_the_same_seed_is_the_same_scene() -> None:
    assert make_scene("place", 3, unseen_scene=True) == make_scene("place", 3, unseen_scene=True)
    assert make_scene("place", 3) != make_scene("place", 4)
    assert make_scene("place", 3).objects != make_scene("pick", 3).objects


def test_seen_and_unseen_share_nothing_they_are_named_for() -> None:
    seen = [make_scene("pick", seed) for seed in range(60)]
    unseen = [make_scene("pick", seed, unseen_scene=True, unseen_shapes=True) for seed in range(60)]
    assert {s.look.table.family for s in seen} == set(SEEN_FAMILIES)
    assert {s.look.table.family for s in unseen} == set(UNSEEN_FAMILIES)
    assert {o.shape for s in unseen for o in s.objects} == set(UNSEEN_SHAPES)
    assert max(abs(s.table_height) for s in seen) <= 0.015
    heights = [s.table_height for s in unseen]
    assert -0.03 <= min(heights) < -0.01
    assert 0.01 < max(heights) <= 0.03


def test_what_holds_a_gripper_varies_and_is_as_drab_as_the_room() -> None:
    scenes = [make_scene("pick", seed) for seed in range(60)]
    sleeves = [scene.sleeves[side] for scene in scenes for side in ("left", "right")]
    assert 0 < sum(not tubes for tubes in sleeves) < len(sleeves) / 3
    assert len({tubes for tubes in sleeves if tubes}) == sum(bool(tubes) for tubes in sleeves)
    for tube in (t for scene in scenes for t in (*scene.posts, *scene.sleeves["left"])):
        assert max(tube.rgb) - min(tube.rgb) <= 0.5


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_stored_as_json(kind: str) -> None:
    scene = make_scene(kind, 7, unseen_scene=True)
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_a_stored_scene_of_another_kind_is_refused() -> None:
    data = make_scene("pick", 0).to_dict()
    del data["look"]
    with pytest.raises(TaskError, match="look"):
        Scene.from_dict(data)


def test_bad_requests() -> None:
    with pytest.raises(TaskError, match=r"'wash'.*pick"):
        make_scene("wash", 0)
    with pytest.raises(TaskError, match="pink cube"):
        make_scene("pick", 0).object("pink cube")


def test_building_is_deterministic() -> None:
    pytest.importorskip("mujoco")
    scene = make_scene("place", 2, unseen_scene=True, unseen_shapes=True)
    one, two = build_scene(scene).compile(), build_scene(scene).compile()
    np.testing.assert_array_equal(one.qpos0, two.qpos0)
    np.testing.assert_array_equal(one.tex_data, two.tex_data)
    np.testing.assert_array_equal(one.geom_size, two.geom_size)


@pytest.mark.parametrize("shape", SEEN_SHAPES + UNSEEN_SHAPES)
def test_objects_rest_where_they_are_put(shape: str) -> None:
    mujoco = pytest.importorskip("mujoco")
    unseen = shape in UNSEEN_SHAPES
    scenes = (make_scene("pick", seed, unseen_shapes=unseen, unseen_scene=True) for seed in range(100))
    scene = next(s for s in scenes if s.object(s.target).shape == shape)
    model = build_scene(scene).compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    body = model.body(scene.target).id
    before = data.xpos[body].copy()
    assert before[2] == pytest.approx(scene.table_height + scene.object(scene.target).half_size[2], abs=0.001)
    mujoco.mj_step(model, data, 500)
    np.testing.assert_allclose(data.xpos[body], before, atol=0.001)


@pytest.mark.parametrize("family", SEEN_FAMILIES + UNSEEN_FAMILIES)
def test_textures_are_calm(family: str) -> None:
    """Pale enough that no texture looks like an object."""
    picture = paint(Texture(family, 5, (0.7, 0.7, 0.75), (0.55, 0.55, 0.6)), 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert 135 <= picture.min() <= picture.max() <= 195


def test_an_unknown_texture_is_refused() -> None:
    with pytest.raises(ValueError, match="lava"):
        paint(Texture("lava", 0, (1, 1, 1), (0, 0, 0)), 8)
