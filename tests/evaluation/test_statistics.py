from __future__ import annotations

from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt2.errors import ConfigError
from rdt2.evaluation.statistics import Paired, Rate, wilson_interval


@pytest.mark.parametrize(
    ("success", "n", "low", "high"),
    [
        (90, 100, 0.8256, 0.9448),
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_tabulated_values(success, n, low, high):
    assert wilson_interval(success, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_bounds_are_the_rates_a_score_test_just_accepts(n, share, confidence):
    """The definition: |p - bound| is z standard errors of the bound itself."""
    success = round(share * n)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    for bound in wilson_interval(success, n, confidence):
        assert (success / n - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n, abs=1e-9)


def test_bounds_hold_the_rate_and_shrink_with_more_trials():
    widths = []
    for n in (10, 100, 1000):
        low, high = wilson_interval(n * 7 // 10, n)
        assert 0 <= low < 0.7 < high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_without_trials_nothing_is_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert str(Rate.of(0, 0)) == "no trials"


@pytest.mark.parametrize(
    ("success", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 95)]
)
def test_impossible_counts_are_refused(success, n, confidence):
    with pytest.raises(ConfigError):
        wilson_interval(success, n, confidence)


def test_rate_says_it_in_percent():
    assert str(Rate.of(9, 10)) == "90 %  [60, 98]"
    assert Rate.of(9, 10).as_dict()["count"] == 9


def test_paired_trials_are_compared_by_those_that_differ():
    from scipy.stats import binomtest

    first = [True] * 9 + [False] * 2 + [True] * 40 + [False] * 9
    second = [False] * 9 + [True] * 2 + [True] * 40 + [False] * 9
    told = Paired.of(first, second)
    assert (told.trials, told.both, told.only_first, told.only_second) == (60, 40, 9, 2)
    assert told.p == pytest.approx(binomtest(2, 11).pvalue)
    assert told.difference == pytest.approx(7 / 60)
    assert told.low < 7 / 60 < told.high


def test_intervals_of_paired_differences_hold_the_truth_as_often_as_they_say():
    import numpy as np

    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        both, one, other = rng.multinomial(60, [0.7, 0.15, 0.05, 0.10])[:3]
        first = [True] * (both + one) + [False] * (60 - both - one)
        second = [True] * both + [False] * one + [True] * other + [False] * (60 - both - one - other)
        told = Paired.of(first, second)
        held += told.low <= 0.10 <= told.high
    assert 0.93 <= held / 2000 <= 0.985


def test_many_pairs_that_differ_overflow_nothing():
    assert Paired.of([True] * 1200, [False] * 1200).p == pytest.approx(0, abs=1e-300)


def test_the_same_outcomes_differ_by_nothing():
    told = Paired.of([True, False], [True, False])
    assert (told.difference, told.p) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="same scenes"):
        Paired.of([True], [])
