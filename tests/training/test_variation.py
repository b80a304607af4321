"""Chunks that could have been recorded."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.pose import matrix_to_pose9, pose9_to_matrix, rot6d_to_matrix
from rdt2.training.variation import _reversed, _slower, varied_chunks

STILL = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0], np.float32)


@pytest.fixture
def chunks():
    """Both hands turn about an axis of their own and go on a curve; jaws close."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)
    time = np.linspace(1 / 24, 1, 24)[:, None]
    arms = []
    for _ in range(2 * 16):
        matrix = np.tile(np.eye(4), (24, 1, 1))
        matrix[:, :3, :3] = Rotation.from_rotvec(time * rng.normal(0, 0.3, 3)).as_matrix()
        matrix[:, :3, 3] = time * rng.normal(0, 0.1, 3) + time**2 * rng.normal(0, 0.1, 3)
        arms.append(np.concatenate([matrix_to_pose9(matrix), 0.08 - 0.05 * time * rng.random()], axis=-1))
    return np.concatenate([arms[:16], arms[16:]], axis=-1).astype(np.float32)


def test_they_are_chunks_and_the_generator_decides_them(chunks):
    varied = varied_chunks(chunks, np.random.default_rng(1))
    assert varied.shape == chunks.shape
    assert varied.dtype == np.float32
    assert np.array_equal(varied, varied_chunks(chunks, np.random.default_rng(1)))
    assert not np.allclose(varied, varied_chunks(chunks, np.random.default_rng(2)))
    for first in (3, 13):
        columns = np.swapaxes(rot6d_to_matrix(varied[..., first : first + 6])[..., :2], -1, -2)
        np.testing.assert_allclose(columns.reshape(16, 24, 6), varied[..., first : first + 6], atol=1e-5)


def test_a_motion_still_begins_where_the_hand_is(chunks):
    varied = varied_chunks(chunks, np.random.default_rng(1)).reshape(16, 24, 2, 10)
    first_step = np.linalg.norm(varied[:, 0, :, :3], axis=-1)
    whole = np.linalg.norm(np.diff(varied[..., :3], axis=1), axis=-1).sum(axis=1)
    assert (first_step < 0.15 * whole).all()
    assert varied[..., 9].min() >= 0.03 - 1e-6  # widths are recorded ones
    assert varied[..., 9].max() <= 0.08 + 1e-6


def test_the_way_back_of_the_way_back_is_the_way(chunks):
    arms = chunks[..., :10]
    back = _reversed(arms)
    np.testing.assert_allclose(_reversed(back)[..., :9], arms[..., :9], atol=1e-5)
    end = pose9_to_matrix(arms[:, -1, :9])
    np.testing.assert_allclose(
        end @ pose9_to_matrix(back[:, -1, :9]), np.tile(np.eye(4), (16, 1, 1)), atol=1e-5
    )


def test_slower_holds_the_first_part(chunks):
    arms = chunks[..., :10]
    np.testing.assert_allclose(_slower(arms, np.ones(16)), arms, atol=1e-6)
    half = _slower(arms, np.full(16, 0.5))
    np.testing.assert_allclose(half[:, 1::2], arms[:, :12], atol=1e-6)
    np.testing.assert_allclose(half[:, 0, :9], (STILL + arms[:, 0, :9]) / 2, atol=1e-6)
