"""The cell speaks gymnasium."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.utils.env_checker import check_env

import rdt2.sim.gym  # noqa: F401
from rdt2.action import chunk_from_poses
from rdt2.errors import ConfigError, TaskError

SIDES = ("right", "left")
STILL = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.08] * 2, np.float32), (24, 1))


@pytest.fixture
def env():
    made = gymnasium.make("rdt2/Cell-v0", robot="ur5e", task="pick", render_mode="rgb_array")
    yield made
    made.close()


def test_the_checker_has_nothing_to_say(env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_seeds_reproduce_scenes_and_other_seeds_are_other_scenes(env) -> None:
    one, first = env.reset(seed=3)
    _, other = env.reset()
    two, again = env.reset(seed=3)
    assert first == again
    assert other["scene_seed"] != first["scene_seed"]
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    _, chosen = env.reset(options={"scene_seed": 12})
    assert chosen["scene_seed"] == 12
    assert first["scene_seed"] >= 10**9, "never a scene that an evaluation draws"


def test_a_chunk_moves_the_hand_and_the_state_follows(env) -> None:
    """Straight down in the world by 6 cm in one chunk, however the controller's frame is turned."""
    before, info = env.reset(seed=1)
    assert info["instruction"].startswith("Pick up the ")
    inner = env.unwrapped
    cell = inner.cell
    starts = {side: cell.site_pose(cell.names.policy[side]) for side in SIDES}
    goals = {side: starts[side].copy() for side in SIDES}
    goals["left"][2, 3] -= 0.06
    rows = {side: np.repeat(starts[side][None], 24, axis=0) for side in SIDES}
    rows["left"][:, 2, 3] -= 0.06 * np.minimum(1, np.arange(1, 25) / 18)
    chunk = chunk_from_poses(starts, rows, {side: np.full(24, 0.08) for side in SIDES})
    inner.execute_steps = 24
    after, reward, terminated, truncated, info = env.step(chunk)
    assert (reward, terminated, truncated, info["fault"]) == (0.0, False, False, "")
    env.step(STILL)
    assert cell.site_pose(cell.names.policy["left"])[2, 3] == pytest.approx(goals["left"][2, 3], abs=4e-3)
    assert cell.site_pose(cell.names.policy["right"])[2, 3] == pytest.approx(starts["right"][2, 3], abs=2e-3)
    assert after["state"][12] - before["state"][12] == pytest.approx(-0.06, abs=0.012), "left z, a moment ago"
    assert before["state"][9] == pytest.approx(cell.scene.starts["right"].width, abs=2e-3)


def test_a_chunk_that_cannot_be_driven_lets_the_arms_rest(env) -> None:
    env.reset(seed=2)
    _, _, terminated, _, info = env.step(np.full((24, 20), np.nan, np.float32))
    assert not terminated
    assert info["fault"]
    time = env.unwrapped.cell.time
    _, _, _, _, info = env.step(STILL)
    assert info["fault"] == ""
    assert env.unwrapped.cell.time > time


def test_pictures_of_the_camera_in_front_and_the_end_of_an_episode() -> None:
    env = gymnasium.make(
        "rdt2/Cell-v0", robot="handheld", task="press", max_seconds=0.5, render_mode="rgb_array"
    )
    env.reset(seed=0)
    assert env.render().shape == (480, 640, 3)
    ends = [env.step(STILL)[3] for _ in range(4)]
    assert ends[0] is False
    assert ends[-1] is True
    env.close()


def test_success_ends_the_episode_with_a_reward(env) -> None:
    env.reset(seed=0)
    env.unwrapped._monitor.success = True
    _, reward, terminated, truncated, info = env.step(STILL)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["success"]


def test_what_makes_no_sense_is_said_at_once() -> None:
    for wrong, error, told in (
        ({"robot": "ur5"}, ConfigError, "ur5"),
        ({"task": "pikc"}, TaskError, "Did you mean 'pick'"),
        ({"scenery": "dark"}, TaskError, "only seen, unseen"),
        ({"execute_steps": 0}, ConfigError, "1 to 24"),
        ({"max_seconds": 0}, ConfigError, "more than 0"),
        ({"robot": "bimanual_ur5e"}, ConfigError, "kind: cell"),
    ):
        with pytest.raises(error, match=told):
            gymnasium.make("rdt2/Cell-v0", **wrong)
    with pytest.raises(ConfigError, match="reset"):
        gymnasium.make("rdt2/Cell-v0").unwrapped.step(STILL)


@pytest.fixture
def targets():
    made = gymnasium.make("rdt2/CellTargets-v0", robot="ur5e", task="pick")
    yield made
    made.close()


def test_the_cell_of_targets_pleases_the_checker(targets) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")  # targets are metres
        check_env(targets.unwrapped)


def test_targets_lead_both_hands_where_they_say(targets) -> None:
    """A hand goes up by 5 cm in half a second and the other opens; each target is absolute, one every 1/30 s."""
    before, _ = targets.reset(seed=1)
    cell = targets.unwrapped.cell
    began, goal = cell.time, before["state"].copy()
    goal[12] += 0.05
    goal[9] = 0.03
    for step in range(1, 16):
        after, *_, info = targets.step(before["state"] + (goal - before["state"]) * step / 15)
        assert info["fault"] == ""
    assert cell.time - began == pytest.approx(0.5, abs=0.005), "30 of them a second"
    for _ in range(10):
        after, *_ = targets.step(goal)
    np.testing.assert_allclose(after["state"][[0, 1, 2, 10, 11, 12]], goal[[0, 1, 2, 10, 11, 12]], atol=4e-3)
    np.testing.assert_allclose(after["state"][[9, 19]], goal[[9, 19]], atol=3e-3)
    ahead = targets.unwrapped._servo.told.due - cell.time
    assert ahead < 0.0095, "regression: commands came later with every step, by 0.4 s after 9 s"


@pytest.mark.parametrize("target", [np.full(20, np.nan, np.float32), np.zeros(20, np.float32)])
def test_a_target_that_is_no_pose_lets_the_arms_rest(targets, target) -> None:
    before, _ = targets.reset(seed=2)
    after, *_, info = targets.step(target)
    assert "finite" in info["fault"] or "rotation" in info["fault"]
    np.testing.assert_allclose(after["state"][[0, 1, 2]], before["state"][[0, 1, 2]], atol=2e-3)
    assert targets.step(before["state"])[4]["fault"] == ""


def test_late_rows_are_those_between_picture_and_arm(targets) -> None:
    """0.07 s of the camera and 0.05 s of the arms, at 30 rows a second."""
    assert targets.unwrapped.late_rows == 4
