"""What is compiled of pairs says what NumPy says of all of them, and never that there is more room than there is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.control import gaps
from rdt2.control.bodies import solids

EXACT, BETWEEN = 1e-4, 2e-3


def sweep(rng, moments, count):
    """Capsules that wander, and how far they get."""
    start = rng.uniform(-0.3, 0.3, (1, 1, count, 3))
    ends = start + rng.uniform(-0.15, 0.15, (2, 1, count, 3))
    steps = rng.normal(scale=0.02, size=(2, moments, count, 3))
    steps[:, 0] = 0.0
    segments = ends + np.cumsum(steps, axis=1)
    return segments, *gaps.motions(segments)


def met_by_all(first, second, shapes, pairs, floors):
    """The pair that `meet` is to find: every gap is computed."""
    found = gaps.distances(first, second, shapes, pairs)
    wrong = (found[1:] < floors - EXACT).any(axis=0)
    if wrong.any():
        return int(np.argmax(wrong))
    moved = np.diff(second[None][:, :, :, pairs[1]] - first[:, None][:, :, :, pairs[0]], axis=2)
    closing = np.linalg.norm(moved, axis=-1).max(axis=(0, 1))
    wrong = (0.5 * (found[:-1] + found[1:] - closing) < floors - BETWEEN).any(axis=0)
    return int(np.argmax(wrong)) if wrong.any() else -1


@pytest.mark.parametrize("boxes", [False, True])
def test_pairs_meet_where_all_gaps_say_so(boxes):
    rng = np.random.default_rng(7)
    seen = set()
    for round_ in range(400):
        moments, count = int(rng.integers(1, 10)), 6
        one, other = sweep(rng, moments, count), sweep(rng, moments, count)
        if boxes:
            other = np.zeros((2, moments, count, 3)), np.zeros((moments - 1, count)), np.zeros(count)
        turns = Rotation.from_rotvec(rng.normal(size=(count, 3))).as_matrix()
        stand = (
            (rng.uniform(-0.4, 0.4, (count, 3)), rng.uniform(0.02, 0.1, (count, 3)), turns) if boxes else None
        )
        shapes = solids(rng.uniform(0.01, 0.05, count), rng.uniform(0.01, 0.05, count), stand)
        pairs = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij")).reshape(2, -1)
        now = gaps.distances(one[0][:, :1], other[0][:, :1], shapes, pairs)[0]
        # What is known of now is a bound; what starts too near may stay so, or be below zero.
        known = now - rng.choice([0.0, 0.05], len(now))
        clearance = 0.02 if round_ % 3 else 0.15
        floors = np.minimum(now, clearance) - rng.choice([0.0, 0.01], len(now))
        found = gaps.meet(one, other, shapes, pairs, known, floors, clearance, EXACT, BETWEEN)
        assert found == met_by_all(one[0], other[0], shapes, pairs, floors)
        seen.add(found < 0)
    assert seen == {True, False}, "some meet, and some do not"


def test_gaps_that_are_not_computed_are_never_more_than_they_are():
    rng = np.random.default_rng(8)
    count = 6
    shapes = solids(rng.uniform(0.01, 0.05, count), rng.uniform(0.01, 0.05, count))
    pairs = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij")).reshape(2, -1)
    one, other = sweep(rng, 60, count)[0], sweep(rng, 60, count)[0]
    known = gaps.distances(one[:, :1], other[:, :1], shapes, pairs)[0]
    floors = np.minimum(known, 0.02)
    for s in range(1, 60):
        old, new = slice(s - 1, s), slice(s, s + 1)
        near, near_gaps, _ = gaps.move(
            one[:, old], other[:, old], one[:, new], other[:, new], shapes, pairs, known, floors, 0.02, 0.1
        )
        true = gaps.distances(one[:, new], other[:, new], shapes, pairs)[0]
        assert (known <= true + 1e-12).all()
        assert set(near) == set(np.flatnonzero(true < 0.1))
        np.testing.assert_allclose(near_gaps, true[near])
