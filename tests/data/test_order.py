"""The order of training: each sample once an epoch, a function of seed and position, mixtures by weight."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.data.order import _DRAWS, Order

PARTS = [np.arange(10, dtype=np.int32), np.arange(100, 107, dtype=np.int32)]


def test_epochs_are_permutations_of_numpy() -> None:
    """The order of earlier versions, so that their losses are found again."""
    numbers, epochs = Order(PARTS[:1], seed=3)(0, 20)
    np.testing.assert_array_equal(numbers[:10], np.random.default_rng([3, 0]).permutation(10))
    np.testing.assert_array_equal(numbers[10:], np.random.default_rng([3, 1]).permutation(10))
    assert epochs.tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("parts", [PARTS[:1], PARTS])
def test_any_cut_gives_the_same_stream(parts: list[np.ndarray], window: int) -> None:
    def order() -> Order:
        return Order(parts, weights=[3, 1][: len(parts)], seed=7, window=window)

    whole, epochs = order()(0, 400)
    pieces = order()
    for first, count in ((395, 5), (0, 1), (1, 63), (64, 300), (364, 31)):
        numbers, of = pieces(first, count)
        np.testing.assert_array_equal(numbers, whole[first : first + count])
        np.testing.assert_array_equal(of, epochs[first : first + count])


def test_mixture_by_weight_each_part_in_its_own_epochs() -> None:
    numbers, epochs = Order(PARTS, weights=[3, 1], seed=1)(_DRAWS - 2000, 4000)
    few = numbers >= 100
    assert few.mean() == pytest.approx(0.25, abs=0.03)
    for mine in (few, ~few):
        for epoch in np.unique(epochs[mine])[1:-1]:
            seen = numbers[mine & (epochs == epoch)]
            assert len(seen) == len(set(seen.tolist())) == (7 if seen[0] >= 100 else 10)


def test_a_window_keeps_samples_near_their_place() -> None:
    numbers, _ = Order([np.arange(1000, dtype=np.int32)], window=50)(0, 1000)
    assert sorted(numbers) == list(range(1000))
    assert 0 < np.abs(numbers - np.arange(1000)).max() <= 60
    assert (numbers != np.arange(1000)).mean() > 0.9


def test_without_shuffling() -> None:
    numbers, _ = Order([np.arange(5, dtype=np.int32)], shuffle=False)(3, 6)
    assert numbers.tolist() == [3, 4, 0, 1, 2, 3]
