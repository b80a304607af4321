"""LeRobot's own commands train the policy and drive the simulated cell with it. Run by `make test-lerobot`."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.robots import RobotConfig
from lerobot.robots.utils import make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, absolute_rows, state_vector
from rdt2.errors import ConfigError
from rdt2.observation import Observation
from rdt2.policy import load_policy
from rdt2.policy.load import DEMOS

BIN = Path(sys.executable).parent
CAMERAS = {side: f"observation.images.{side}_wrist" for side in ARMS}
FEATURES = {
    **{key: PolicyFeature(FeatureType.VISUAL, (3, 384, 384)) for key in CAMERAS.values()},
    "observation.state": PolicyFeature(FeatureType.STATE, (20,)),
}
ACTION = {"action": PolicyFeature(FeatureType.ACTION, (20,))}
SENTENCE = "Pick up the red cube with the left hand."


@pytest.fixture(scope="session", autouse=True)
def plugins() -> None:
    register_third_party_plugins()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Two episodes of a made-up motion, as `rdt2 data to-lerobot` writes them."""
    from rdt2.data import Episode
    from rdt2.data.lerobot_writer import write_lerobot

    episodes = []
    for number in range(2):
        times = np.arange(36) / 30
        poses, widths, videos = {}, {}, {}
        for index, arm in enumerate(ARMS):
            poses[arm] = np.tile(np.eye(4), (len(times), 1, 1))
            turns = np.stack([0.3 * np.sin(times), 0.2 * times, 0.1 * np.cos(times) + index], 1)
            poses[arm][:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
            poses[arm][:, :3, 3] = np.stack([0.1 * times, 0.1 * np.sin(times + number), 0.3 + 0 * times], 1)
            widths[arm] = 0.04 + 0.03 * np.sin(3 * times)
            videos[arm] = [np.full((384, 384, 3), 40 + 3 * frame, np.uint8) for frame in range(len(times))]
        episodes.append(
            Episode(videos=videos, poses=poses, widths=widths, timestamps=times, instruction=SENTENCE)
        )
    folder = tmp_path_factory.mktemp("lerobot") / "motion"
    write_lerobot(episodes, folder)
    return folder


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory) -> Path:
    """What `lerobot-train` leaves after two steps."""
    out = tmp_path_factory.mktemp("train") / "run"
    run(
        "lerobot-train",
        *(
            "--policy.type=rdt2",
            "--policy.start=demo-fm",
            "--policy.device=cpu",
            "--policy.push_to_hub=false",
        ),
        *("--policy.n_action_steps=6", "--policy.late_rows=4", "--policy.learning_rate=1e-3"),
        *("--dataset.repo_id=local/motion", f"--dataset.root={dataset}", "--dataset.video_backend=pyav"),
        *(f"--output_dir={out}", "--steps=2", "--save_freq=2", "--batch_size=2", "--num_workers=0"),
        *("--log_freq=1", "--wandb.enable=false"),
    )
    return out / "checkpoints" / "last" / "pretrained_model"


@pytest.fixture(scope="module")
def policy():
    return get_policy_class("rdt2")(config())


def config(**options):
    kind = PreTrainedConfig.get_choice_class("rdt2")
    return kind(
        start="demo-fm", device="cpu", input_features=dict(FEATURES), output_features=dict(ACTION), **options
    )


def batch(rows: int = 1, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    poses = {arm: np.tile(np.eye(4), (rows, 1, 1)) for arm in ARMS}
    for arm in ARMS:
        poses[arm][:, :3, :3] = Rotation.random(rows, random_state=seed).as_matrix()
        poses[arm][:, :3, 3] = rng.uniform(-0.3, 0.3, (rows, 3))
    state = state_vector(poses, {arm: np.full(rows, 0.05) for arm in ARMS}).astype(np.float32)
    pictures = {
        key: torch.from_numpy(rng.random((rows, 3, 384, 384), np.float32)) for key in CAMERAS.values()
    }
    return {**pictures, "observation.state": torch.from_numpy(state), "task": [SENTENCE] * rows}


def run(command: str, *options: str) -> str:
    done = subprocess.run([BIN / command, *options], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def test_both_plugins_are_found_by_name() -> None:
    assert "rdt2" in PreTrainedConfig.get_known_choices()
    assert "rdt2sim" in RobotConfig.get_known_choices()
    assert get_policy_class("rdt2").name == "rdt2"


def test_two_steps_of_training_change_the_expert_and_every_command_takes_it(trained) -> None:
    kind = get_policy_class("rdt2")
    loaded = kind.from_pretrained(trained)
    begun = dict(load_policy("demo-fm").expert.named_parameters())
    changed = [
        n for n, p in loaded.rdt2.expert.named_parameters() if n in begun and not torch.equal(p, begun[n])
    ]
    assert changed
    given = batch()
    torch.manual_seed(1)
    chunk = loaded.predict_action_chunk(given)
    assert (chunk.shape, chunk.dtype) == ((1, 20, 20), torch.float32), "24 rows but the 4 that are over"
    # The same expert, loaded as `rdt2 predict --policy` loads it, says the same.
    plain = load_policy(trained / "expert", vlm=DEMOS / "vlm", draws=loaded.rdt2.draws)
    sides = {
        side: (given[key][0].permute(1, 2, 0) * 255).round().to(torch.uint8) for side, key in CAMERAS.items()
    }
    state = given["observation.state"][0].numpy()
    torch.manual_seed(1)
    (expected,) = plain.predict([Observation(**sides, instruction=SENTENCE, state=state)])
    np.testing.assert_allclose(chunk[0], absolute_rows(expected.values, state)[4:], atol=1e-4)


def test_saved_processors_are_found_again(trained) -> None:
    before, behind = make_pre_post_processors(
        PreTrainedConfig.from_pretrained(trained), pretrained_path=str(trained)
    )
    made = before(batch(2))
    assert made["observation.state"].shape == (2, 20)
    np.testing.assert_array_equal(behind(torch.ones(2, 20)), np.ones((2, 20)))


def test_rows_of_a_batch_have_their_own_state_and_sentence(policy) -> None:
    chunk = policy.predict_action_chunk(batch(2))
    assert chunk.shape == (2, 24, 20)
    states = batch(2)["observation.state"]
    assert torch.linalg.norm(chunk[:, 0, :3] - states[:, :3], dim=1).max() < 0.1, "motion begins at the state"


def test_select_action_walks_through_a_chunk(policy) -> None:
    policy.reset()
    given = batch()
    steps = [policy.select_action(given) for _ in range(9)]
    assert all(step.shape == (1, 20) for step in steps)
    torch.manual_seed(0)
    assert not torch.equal(steps[0], steps[1])


@pytest.mark.parametrize("late", [0, 3])
def test_real_time_chunking_goes_on_from_what_is_left(late) -> None:
    """Rows that are driven meanwhile come back as they were, seen from another pose, and padding is not driven."""
    policy = get_policy_class("rdt2")(config(late_rows=late))
    assert policy.supports_rtc()
    first = policy.predict_action_chunk(batch())[0]
    left = torch.cat([first[6:14], torch.zeros(2, 20)])
    second = batch(seed=0)
    second["observation.state"] = first[5 - late if late else 5][None]
    chunk = policy.predict_action_chunk(second, inference_delay=3, prev_chunk_left_over=left)[0]
    assert chunk.shape == (24 - late, 20)
    np.testing.assert_allclose(chunk[:3], left[:3], atol=1e-4)
    free = policy.predict_action_chunk(second)[0]
    assert (chunk[3] - left[3]).abs().max() <= (free[3] - left[3]).abs().max() + 1e-3


def test_data_sets_of_another_form_are_refused_with_what_to_do() -> None:
    kind = get_policy_class("rdt2")
    for features, told in (
        (
            {**FEATURES, "observation.state": PolicyFeature(FeatureType.STATE, (14,))},
            r"\(14,\).*rdt2 data to-lerobot",
        ),
        ({"observation.state": FEATURES["observation.state"]}, "no pictures .*left_camera"),
    ):
        made = config()
        made.input_features = features
        with pytest.raises(ConfigError, match=told):
            kind(made)
    with pytest.raises(ConfigError, match="no FM expert"):
        kind(PreTrainedConfig.get_choice_class("rdt2")(start="demo-vq", device="cpu")).get_optim_params()


def test_the_cell_is_a_robot() -> None:
    robot = make_robot_from_config(RobotConfig.get_choice_class("rdt2sim")(scene_seed=1))
    robot.connect()
    seen = robot.get_observation()
    assert set(seen) == set(robot.observation_features)
    assert seen["right_wrist"].shape == (384, 384, 3)
    goal = {name: seen[name] for name in robot.action_features}
    goal["left_z.pos"] += 0.03
    for _ in range(20):
        robot.send_action(goal)
    assert robot.get_observation()["left_z.pos"] == pytest.approx(goal["left_z.pos"], abs=4e-3)
    robot.disconnect()
    assert not robot.is_connected


@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_lerobot_rollout_drives_the_cell(inference, tmp_path) -> None:
    """Scene 0, which the policy solves when it is driven without LeRobot."""
    from lerobot_robot_rdt2sim import RDT2Sim, RDT2SimConfig

    policy = get_policy_class("rdt2")(config(late_rows=4, n_action_steps=6))
    policy.save_pretrained(tmp_path / "policy")
    for each in make_pre_post_processors(policy.config):
        each.save_pretrained(tmp_path / "policy")
    robot = RDT2Sim(RDT2SimConfig(scene_seed=0))
    robot.connect()
    sentence = robot.instruction
    robot.disconnect()
    told = run(
        "lerobot-rollout",
        *(f"--policy.path={tmp_path / 'policy'}", "--robot.type=rdt2sim", "--robot.scene_seed=0"),
        *(f"--task={sentence}", "--duration=40", "--return_to_initial_position=false", "--fps=30"),
        *(f"--inference.type={inference}", "--play_sounds=false"),
    )
    logging.info(told)
    assert "Rollout finished" in told
    assert "not driven" not in told
    assert f"success: {sentence}" in told or inference == "rtc", told[-1500:]
