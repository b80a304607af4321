from __future__ import annotations

import numpy as np
import pytest

from rdt2 import pose
from rdt2.action import (
    ARMS,
    HORIZON,
    POSITION_DIMS,
    ROTATION_DIMS,
    WIDTH_DIMS,
    ActionChunk,
    absolute_rows,
    arm_slice,
    chunk_from_poses,
    deployed_width,
    relative_rows,
    state_vector,
)
from rdt2.errors import ActionError, PoseError


def poses(seed: int, n: int) -> np.ndarray:
    return pose.pose_to_matrix(np.random.default_rng(seed).normal(size=(n, 6)))


def resting() -> np.ndarray:
    values = np.zeros((24, 20), np.float32)
    values[:, [3, 7, 13, 17]] = 1.0
    return values


def test_layout():
    assert arm_slice("right") == slice(0, 10)
    assert arm_slice("left") == slice(10, 20)
    assert sorted(POSITION_DIMS + ROTATION_DIMS + WIDTH_DIMS) == list(range(20))
    with pytest.raises(ActionError, match="middle"):
        arm_slice("middle")


def test_recorded_poses_go_in_and_come_out():
    obs = {"right": poses(1, 1)[0], "left": poses(2, 1)[0]}
    steps = {"right": poses(3, HORIZON), "left": poses(4, HORIZON)}
    widths = {"right": np.linspace(0, 0.08, HORIZON), "left": np.full(HORIZON, 0.05)}
    values = chunk_from_poses(obs, steps, widths)
    assert values.shape == (24, 20)
    assert values.dtype == np.float32
    chunk = ActionChunk(values)
    for arm in ARMS:
        assert np.allclose(chunk.absolute_poses(arm, obs[arm]), steps[arm], atol=1e-5)
        assert np.allclose(chunk.widths(arm), widths[arm], atol=1e-7)
    # the right arm comes first, and row 0 is the next step
    assert np.allclose(values[0, :3], pose.relative(obs["right"], steps["right"][0])[:3, 3], atol=1e-6)
    assert np.allclose(values[:, 19], 0.05)


def test_no_motion_is_the_identity():
    still = np.repeat(poses(5, 1), HORIZON, axis=0)
    both = {arm: still for arm in ARMS}
    values = chunk_from_poses({arm: still[0] for arm in ARMS}, both, {arm: np.zeros(HORIZON) for arm in ARMS})
    assert np.allclose(values, resting(), atol=1e-6)


def test_predicted_rotations_become_orthonormal_poses_but_values_stay_as_predicted():
    values = resting()
    values[:, 3] = 2.5
    values[:, 6] = 0.3
    chunk = ActionChunk(values)
    rotation = chunk.relative_poses("right")[:, :3, :3]
    assert np.allclose(rotation, np.eye(3), atol=1e-6)
    assert np.array_equal(chunk.values, values)


def test_an_invalid_chunk_is_never_turned_into_motion():
    chunk = ActionChunk(np.full((24, 20), np.nan), valid=False, reason="token 3 is 1024")
    for use in (
        chunk.require_valid,
        lambda: chunk.relative_poses("left"),
        lambda: chunk.absolute_poses("left", np.eye(4)),
        lambda: chunk.widths("left"),
    ):
        with pytest.raises(ActionError, match="token 3 is 1024"):
            use()


def test_a_chunk_is_checked_and_cannot_be_changed():
    with pytest.raises(ActionError, match=r"\(23, 20\)"):
        ActionChunk(np.zeros((23, 20)))
    with pytest.raises(ActionError, match="marked valid"):
        ActionChunk(np.full((24, 20), np.inf))
    with pytest.raises(ActionError, match="why"):
        ActionChunk(np.zeros((24, 20)), valid=False)
    with pytest.raises(ActionError, match="length zero"):
        ActionChunk(np.zeros((24, 20))).relative_poses("left")
    source = resting()
    chunk = ActionChunk(source)
    source[:] = 7
    assert np.array_equal(chunk.values, resting())
    with pytest.raises(ValueError, match="read-only"):
        chunk.values[0] = 1


def test_gripper_width_is_scaled_once():
    assert np.isclose(deployed_width(0.088), 0.1)
    assert np.allclose(deployed_width(np.array([0.0, 0.044])), [0.0, 0.05])


def test_missing_arms_and_wrong_shapes_are_named():
    step = np.repeat(np.eye(4)[None], HORIZON, axis=0)
    full = ({a: np.eye(4) for a in ARMS}, {a: step for a in ARMS}, {a: np.zeros(HORIZON) for a in ARMS})
    with pytest.raises(ActionError, match="'left'"):
        chunk_from_poses({"right": np.eye(4)}, full[1], full[2])
    with pytest.raises(ActionError, match=r"\(5, 4, 4\)"):
        chunk_from_poses(full[0], {a: step[:5] for a in ARMS}, full[2])
    with pytest.raises(ActionError, match="NaN"):
        chunk_from_poses(full[0], full[1], {a: np.full(HORIZON, np.nan) for a in ARMS})
    with pytest.raises(PoseError, match="NaN"):
        chunk_from_poses({a: np.full((4, 4), np.nan) for a in ARMS}, full[1], full[2])


def test_rows_become_poses_in_the_frame_of_the_state_and_back():
    """T_step = T_obs @ T_rel of each arm, also for a batch; widths stay."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)

    def poses(*shape):
        made = np.tile(np.eye(4), (*shape, 1, 1))
        made[..., :3, :3] = (
            Rotation.random(int(np.prod(shape)), random_state=1).as_matrix().reshape(*shape, 3, 3)
        )
        made[..., :3, 3] = rng.normal(size=(*shape, 3))
        return made

    observed = {arm: poses(2) for arm in ARMS}
    moved = {arm: poses(2, 5) for arm in ARMS}
    widths = {arm: rng.uniform(0, 0.08, (2, 5)) for arm in ARMS}
    state, rows = state_vector(observed, {arm: np.zeros(2) for arm in ARMS}), state_vector(moved, widths)
    absolute = absolute_rows(rows, state)
    wanted = state_vector({arm: observed[arm][:, None] @ moved[arm] for arm in ARMS}, widths)
    np.testing.assert_allclose(absolute, wanted, atol=1e-6)
    np.testing.assert_allclose(relative_rows(absolute, state), rows, atol=1e-5)
    np.testing.assert_allclose(absolute_rows(rows[0], state[0]), wanted[0], atol=1e-6)
    assert absolute.dtype == np.float32


def test_rows_and_states_that_do_not_fit_are_refused():
    rows, state = resting(), resting()[0]
    with pytest.raises(ActionError, match=r"\(24, 19\)"):
        absolute_rows(rows[:, :19], state)
    with pytest.raises(ActionError, match=r"\(2, 20\)"):
        absolute_rows(rows, np.stack([state, state]))
    with pytest.raises(ActionError, match="right arm of actions or state"):
        relative_rows(rows, np.zeros(20))
