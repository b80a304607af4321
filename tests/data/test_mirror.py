"""Samples seen in a mirror between the two arms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, ActionChunk, chunk_from_poses, state_vector
from rdt2.data import ShardWriter, TrainingData
from rdt2.data.mirror import mirrored_actions, mirrored_picture, mirrored_sentence
from rdt2.errors import ActionError

MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def poses() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for arm in ARMS:
        pose = np.tile(np.eye(4), (25, 1, 1))
        pose[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.5, (25, 3))).as_matrix()
        pose[:, :3, 3] = rng.normal(0, 0.2, (25, 3))
        made[arm] = pose
    return made


def _chunk(poses: dict[str, np.ndarray], widths: dict[str, np.ndarray]) -> np.ndarray:
    return chunk_from_poses(
        {arm: poses[arm][0] for arm in ARMS}, {arm: poses[arm][1:] for arm in ARMS}, widths
    )


def test_the_mirrored_chunk_is_that_of_mirrored_poses(poses: dict[str, np.ndarray]) -> None:
    widths = {"right": np.linspace(0, 0.08, 24), "left": np.full(24, 0.03)}
    other = {"right": "left", "left": "right"}
    # The world behind the mirror; each gripper's own frame has its y turned round as well.
    seen = {arm: MIRROR @ poses[other[arm]] @ MIRROR for arm in ARMS}
    expected = _chunk(seen, {arm: widths[other[arm]] for arm in ARMS})
    np.testing.assert_allclose(mirrored_actions(_chunk(poses, widths)), expected, atol=1e-6)


def test_the_mirrored_state_is_that_of_mirrored_poses(poses: dict[str, np.ndarray]) -> None:
    first = {arm: path[0] for arm, path in poses.items()}
    state = state_vector(first, {"right": np.array(0.02), "left": np.array(0.07)})

    expected = state_vector(
        {"right": MIRROR @ first["left"] @ MIRROR, "left": MIRROR @ first["right"] @ MIRROR},
        {"right": np.array(0.07), "left": np.array(0.02)},
    )
    np.testing.assert_allclose(mirrored_actions(state), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("told", "mirrored"),
    [
        ("Pick up the leftmost cup.", "Pick up the rightmost cup."),
        ("Use the right-hand gripper.", "Use the left-hand gripper."),
        ("用左手拿起杯子，放到右边。", "用右手拿起杯子，放到左边。"),
        ("Turn it upright, brightly, with the Left arm.", "Turn it upright, brightly, with the Right arm."),
    ],
)
def test_sides_in_sentences(told: str, mirrored: str) -> None:
    assert mirrored_sentence(told) == mirrored
    assert mirrored_sentence(mirrored) == told


def test_a_mirror_in_a_mirror_shows_the_thing_itself(poses: dict[str, np.ndarray]) -> None:
    chunk = _chunk(poses, dict.fromkeys(ARMS, np.zeros(24)))
    twice = mirrored_actions(mirrored_actions(chunk))
    np.testing.assert_array_equal(twice, chunk)
    assert ActionChunk(mirrored_actions(chunk)).relative_poses("left").shape == (24, 4, 4)


def test_pictures_and_sentences_change_sides() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (4, 8, 3), np.uint8)
    np.testing.assert_array_equal(mirrored_picture(picture)[:, :4], picture[:, 4:][:, ::-1])
    sentence = "Right after that, pick up the bright cube with the left hand."
    assert mirrored_sentence(sentence) == "Left after that, pick up the bright cube with the right hand."


def test_actions_of_another_layout_are_refused() -> None:
    with pytest.raises(ActionError, match="expected"):
        mirrored_actions(np.zeros((24, 14)))


def test_an_epoch_mirrors_half_of_the_samples_and_the_next_one_the_others(tmp_path, poses) -> None:
    rng = np.random.default_rng(0)
    chunk = _chunk(poses, {"right": np.full(24, 0.01), "left": np.full(24, 0.03)}).astype(np.float32)
    with ShardWriter(tmp_path) as writer:
        for number in range(20):
            writer.write(
                picture=rng.integers(0, 255, (384, 768, 3), np.uint8),
                action=np.roll(chunk, number, axis=0),
                instruction="Pick up the red cube with the left hand.",
                tokens=np.zeros(27, np.int16),
            )
    data = TrainingData(tmp_path, split="all", batch_size=20, mirror=True)
    plain = data.load(np.arange(20))
    assert plain.tokens is None
    assert not plain.mirrored.any()
    first, second = (data.load(np.arange(20), np.full(20, epoch)) for epoch in (0, 1))
    assert 0 < first.mirrored.sum() < 20
    np.testing.assert_array_equal(first.mirrored, ~second.mirrored)
    for batch in (first, second):
        for row, turned in enumerate(batch.mirrored):
            assert batch.instructions[row].endswith("right hand." if turned else "left hand.")
            expected = mirrored_actions(plain.actions[row]) if turned else plain.actions[row]
            np.testing.assert_array_equal(batch.actions[row], expected)
            picture = mirrored_picture(plain.pictures[row]) if turned else plain.pictures[row]
            np.testing.assert_array_equal(batch.pictures[row], picture)
