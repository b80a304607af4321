from __future__ import annotations

import numpy as np
import pytest
import torch

from rdt2.errors import ActionError, ObservationError
from rdt2.observation import Observation
from rdt2.policy.base import draw_noise, finished_chunk
from rdt2.policy.questions import checked_observations


def resting() -> np.ndarray:
    values = np.zeros((24, 20), np.float32)
    values[:, [3, 7, 13, 17]] = 1
    return values


def test_noise_of_a_row_depends_on_its_seed_alone():
    alone = draw_noise(1, 7)
    assert torch.equal(draw_noise(3, 7), alone.expand(3, -1, -1))
    mixed = draw_noise(3, [5, 7, 5])
    assert torch.equal(mixed[1:2], alone)
    assert torch.equal(mixed[0], mixed[2])
    assert not torch.equal(mixed[0], mixed[1])


def test_without_a_seed_every_row_is_fresh():
    first, second = draw_noise(2, None), draw_noise(2, None)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_a_seed_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_noise(4, 11)
    assert torch.equal(torch.rand(3), expected)


def test_wrong_counts_are_refused():
    with pytest.raises(ObservationError, match="2 seeds for 3"):
        draw_noise(3, [1, 2])


@pytest.mark.parametrize(
    "seed", [np.int64(3), np.uint8(3), torch.tensor(3), [np.int32(3)], np.array([3]), torch.tensor([3]), (3,)]
)
def test_seeds_of_any_integer_type_are_the_same_seed(seed):
    """regression: np.int64(3) was a TypeError."""
    assert torch.equal(draw_noise(1, seed), draw_noise(1, 3))


@pytest.mark.parametrize("seed", [-1, True, np.True_, 2.0, np.float32(2), "3", [1.5], 2**63, None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ObservationError, match="the seed is"):
        draw_noise(1, [None] if seed is None else seed)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (Observation(np.zeros((384, 384, 3), np.uint8), np.zeros((384, 384, 3), np.uint8), "Go."), r"\[observation\]"),
        ({"left": 1}, "got dict"),
        (None, "got NoneType"),
        ([{"left": 1}], "observation 0 is of type dict"),
        ([], "at least one"),
    ],
)  # fmt: skip
def test_predict_takes_a_list_of_observations(given, match: str):
    with pytest.raises(ObservationError, match=match):
        checked_observations(given)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (0, np.nan, "NaN"),
        (9, np.inf, "infinite"),
        (slice(3, 9), 0.0, "right arm"),
        (slice(13, 19), 0.0, "left arm"),
    ],
)
def test_unusable_values_are_marked_and_refused(column, value: float, reason: str):
    values = resting()
    values[5, column] = value
    chunk = finished_chunk(values, timing={})
    assert not chunk.valid
    assert reason in chunk.reason
    with pytest.raises(ActionError, match=reason):
        chunk.require_valid()


def test_usable_values_are_valid():
    finished_chunk(resting(), timing={}, confidence=-0.1).require_valid()
    assert not finished_chunk(resting(), timing={}, confidence=float("nan")).valid
