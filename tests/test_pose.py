from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdt2 import pose
from rdt2.errors import PoseError

NUMBERS = st.floats(-3, 3, allow_nan=False, width=32)


def random_poses(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return pose.pose_to_matrix(np.concatenate([rng.normal(size=(n, 3)), rng.normal(size=(n, 3))], axis=1))


def test_identity_of_6d_is_two_columns():
    assert np.array_equal(pose.rot6d_to_matrix(np.array([1.0, 0, 0, 0, 1, 0])), np.eye(3))


def test_6d_is_columns_and_rows_convert_explicitly():
    rotation = random_poses(5)[:, :3, :3]
    columns = np.concatenate([rotation[..., 0], rotation[..., 1]], axis=-1)
    assert np.array_equal(pose.matrix_to_rot6d(rotation), columns)
    rows = rotation[:, :2, :].reshape(5, 6)
    assert np.allclose(pose.rot6d_to_matrix(pose.rot6d_from_rows(rows)), rotation, atol=1e-12)
    # regression: rows read as columns give the transposed rotation without a word
    assert np.allclose(pose.rot6d_to_matrix(rows), np.swapaxes(rotation, -1, -2), atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, (6,), elements=NUMBERS))
def test_gram_schmidt_always_gives_a_rotation_or_an_error(rot6d: np.ndarray):
    try:
        rotation = pose.rot6d_to_matrix(rot6d)
    except PoseError:
        assert np.linalg.norm(np.cross(rot6d[:3], rot6d[3:])) < 1e-4
        return
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) > 0


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, (2, 6), elements=NUMBERS))
def test_relative_and_absolute_are_inverse(vectors: np.ndarray):
    observed, step = pose.pose_to_matrix(vectors)
    assert np.allclose(pose.absolute(observed, pose.relative(observed, step)), step, atol=1e-9)
    assert np.allclose(pose.relative(observed, observed), np.eye(4), atol=1e-9)


def test_deltas_add_up():
    poses = random_poses(6)
    assert np.allclose(pose.from_delta(poses[0], pose.to_delta(poses[0], poses[1:])), poses[1:], atol=1e-12)


def test_float32_stays_float32():
    vector = np.zeros((2, 6), np.float32)
    matrix = pose.pose_to_matrix(vector)
    assert matrix.dtype == np.float32
    for result in (
        pose.matrix_to_pose(matrix),
        pose.matrix_to_pose9(matrix),
        pose.invert(matrix),
        pose.relative(matrix, matrix),
        pose.rot6d_to_matrix(np.array([1, 0, 0, 0, 1, 0], np.float32)),
        pose.interpolate(np.array([0.0, 1.0]), matrix, np.array([0.3])),
        pose.to_delta(matrix[0], matrix),
        pose.from_delta(matrix[0], matrix),
    ):
        assert result.dtype == np.float32


def test_conjugation_is_the_motion_of_a_rigid_body():
    """The TCP's motion computed through the policy frame equals the TCP's motion measured directly."""
    tracker_to_tcp, tracker_to_policy, before, after = random_poses(4)
    change = pose.policy_to_tcp_transform(tracker_to_tcp, tracker_to_policy)
    policy_motion = pose.relative(before @ tracker_to_policy, after @ tracker_to_policy)
    tcp_motion = pose.relative(before @ tracker_to_tcp, after @ tracker_to_tcp)
    assert np.allclose(pose.conjugate(policy_motion, change), tcp_motion, atol=1e-12)
    assert np.allclose(pose.conjugate(tcp_motion, pose.invert(change)), policy_motion, atol=1e-12)


def test_interpolation_is_linear_and_spherical_and_holds_its_ends():
    start, end = np.eye(4), np.eye(4)
    end[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    end[:3, 3] = [0.2, 0.4, 0.0]
    query = np.array([2.0, 0.0, 9.0])
    middle, before, late = pose.interpolate(np.array([1.0, 3.0]), np.stack([start, end]), query)
    assert np.allclose(middle[:3, 3], [0.1, 0.2, 0.0])
    assert np.isclose(np.degrees(pose.geodesic_angle(np.eye(3), middle[:3, :3])), 45.0)
    assert np.allclose(before, start)
    assert np.allclose(late, end)
    assert np.allclose(pose.interpolate(np.array([1.0]), start[None], np.array([5.0])), start)


def test_angle_is_exact_near_zero_and_pi():
    rotation = random_poses(3)[:, :3, :3].astype(np.float32)
    assert pose.geodesic_angle(rotation, rotation).max() < 1e-6  # an arc cosine gives 5e-4 here
    for angle in (0.0, 1e-7, 0.5, np.pi - 1e-7, np.pi):
        turn = pose.pose_to_matrix(np.array([0, 0, 0, 0, angle, 0]))[:3, :3]
        assert np.isclose(pose.geodesic_angle(np.eye(3), turn), angle, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pose.rot6d_to_matrix(np.zeros(6)), "length zero"),
        (lambda: pose.rot6d_to_matrix(np.array([1.0, 0, 0, 2, 0, 0])), "parallel"),
        (lambda: pose.rot6d_to_matrix(np.zeros(5)), r"\(5,\)"),
        (lambda: pose.pose_to_matrix(np.full(6, np.nan)), "NaN"),
        (lambda: pose.invert(np.eye(3)), "expected"),
        (lambda: pose.invert(2 * np.eye(4)), "last row"),
        (lambda: pose.invert(np.diag([1.0, 1, 2, 1])), "not a rotation"),
        (lambda: pose.matrix_to_pose(np.diag([1.0, 1, -1, 1])), "mirrors"),
        (lambda: pose.interpolate(np.zeros(2), np.stack([np.eye(4)] * 2), np.zeros(1)), "increase"),
        (lambda: pose.interpolate(np.zeros(1), np.stack([np.eye(4)] * 2), np.zeros(1)), "one time a pose"),
    ],
)
def test_what_is_no_pose_is_refused(call, match: str):
    with pytest.raises(PoseError, match=match):
        call()
