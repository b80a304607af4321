"""Drawn pictures: reproducible, and their places are where the colours are."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from rdt2.demo.drawings import HUES, draw

SIZE = (168, 336)


def test_the_same_seed_draws_the_same() -> None:
    first, second = (draw(np.random.default_rng(3), ["red", "blue"], size=SIZE) for _ in range(2))
    np.testing.assert_array_equal(first.picture, second.picture)
    assert not np.array_equal(
        first.picture, draw(np.random.default_rng(4), ["red", "blue"], size=SIZE).picture
    )


@pytest.mark.parametrize("name", HUES)
def test_a_place_shows_its_colour_in_either_half(name: str) -> None:
    for seed in range(20):
        drawing = draw(np.random.default_rng(seed), [name], size=SIZE)
        for side in (0, 1):
            x, y = drawing.places[name][2 * side : 2 * side + 2]
            column, row = int((x + 0.5 + side) * 168), int((y + 0.5) * 168)
            assert drawing.labels[row, column] == 1 + list(HUES).index(name)
            hue, _, _ = colorsys.rgb_to_hsv(*(drawing.picture[row, column] / 255.0))
            low, high = HUES[name]
            assert low - 0.02 <= (hue + 0.5) % 1 - 0.5 <= high + 0.02 or low - 0.02 <= hue <= high + 0.02


def test_what_is_hidden_has_no_place() -> None:
    """Many large shapes: some colour is covered sooner or later, and says so instead of guessing."""
    hidden = [
        np.isnan(place).any()
        for seed in range(80)
        for place in draw(np.random.default_rng(seed), list(HUES), size=SIZE).places.values()
    ]
    assert 0 < sum(hidden) < len(hidden) / 10
