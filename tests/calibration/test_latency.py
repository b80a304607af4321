"""Delays between signals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rdt2.calibration.latency import lag, picture_motions
from rdt2.errors import CalibrationError


def way(times: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(2.1 * times) + 0.4 * np.sin(5.3 * times), np.cos(1.3 * times)], axis=1)


def recorded(late: float, *, noise: float = 0.02, seconds: float = 12.0, seed: int = 0):
    random = np.random.default_rng(seed)
    told = np.arange(0, seconds, 1 / 30)
    seen = np.sort(random.uniform(0, seconds, int(125 * seconds)))
    return told, way(told), seen, way(seen - late) + noise * random.normal(size=(len(seen), 2))


@pytest.mark.parametrize("late", [0.0, 0.0313, 0.17, 0.45])
def test_the_delay_is_found(late) -> None:
    found = lag(*recorded(late))
    assert found.seconds == pytest.approx(late, abs=0.003)
    assert found.interval[0] <= found.seconds <= found.interval[1]
    assert found.correlation > 0.95


def test_the_interval_covers_the_truth() -> None:
    hits, widths = 0, []
    for seed in range(10):
        found = lag(*recorded(0.1, noise=0.3, seed=seed))
        hits += found.interval[0] <= 0.1 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    # of 10 draws 9 or 10 are expected
    assert hits >= 8
    assert np.median(widths) < 0.04


def test_one_number_a_moment() -> None:
    times = np.arange(0, 10, 0.02)
    assert lag(times, way(times)[:, 0], times, way(times - 0.05)[:, 0]).seconds == pytest.approx(
        0.05, abs=0.002
    )


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (recorded(0.1, seconds=1.5), "was recorded for 0.8 s"),
        ((np.arange(0, 9, 0.1), np.ones(90), np.arange(0, 9, 0.1), np.ones(90)), "nothing moved"),
        (recorded(-0.03), "seems to come 30 ms before what causes it"),
        ((*recorded(0.1)[:3], np.random.default_rng(0).normal(size=(1500, 2))), "does not follow"),
    ],
)
def test_what_says_nothing(signals, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        lag(*signals)


def test_pictures_move_as_far_as_they_are_shifted() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (160, 160), dtype=np.uint8)
    picture = cv2.cvtColor(cv2.GaussianBlur(noise, (0, 0), 2), cv2.COLOR_GRAY2RGB)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    turn = cv2.getRotationMatrix2D((80, 80), -2, 1.0)
    turned = cv2.warpAffine(picture, turn, (160, 160), borderMode=cv2.BORDER_REFLECT)
    moved = picture_motions(
        [picture, np.roll(picture, (3, 5), axis=(0, 1)), np.zeros_like(picture), picture, turned]
    )
    assert np.isnan(moved[[0, 2, 3]]).all()
    np.testing.assert_allclose(moved[1], [5, 3, 0, 0], atol=0.3)
    np.testing.assert_allclose(moved[4], [0, 0, 80 * np.sin(np.radians(2)), 0], atol=0.3)
