"""`prefix` as a setting of `train expert`: what is given, what the run remembers, and the policy that comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toy import batch_of

from rdt2.action import Promise
from rdt2.cli.main import main
from rdt2.errors import ActionError, CheckpointError, ConfigError
from rdt2.observation import Observation
from rdt2.policy import FMPolicy, load_policy
from rdt2.training.config import DistillTraining, ExpertTraining
from rdt2.training.expert import ExpertStage
from rdt2.training.loop import step_generator


def test_rows_are_given_by_chance_and_the_loss_knows(samples, demo_vlm):
    settings = dict(
        start_from="tiny", vlm=str(demo_vlm), batch_size=2, precision="fp32", augment=False, draws=40
    )
    stages = [ExpertStage(ExpertTraining(**settings, prefix=prefix), samples) for prefix in (0, 6)]
    noise = torch.zeros(80, 24, 20)
    assert stages[0].module.given(noise, step_generator(0, 0, 0)) is None
    given = stages[1].module.given(noise, step_generator(0, 0, 0))
    rows = given.sum(1)
    assert sorted(set(rows.tolist())) == list(range(7))
    assert torch.equal(given, torch.arange(24) < rows[:, None])
    losses = [stage.module(batch_of(stage, 0), step_generator(0, 0, 0))[0].item() for stage in stages]
    assert losses[0] != losses[1]


def test_a_run_with_a_prefix_resumes_and_becomes_a_policy_that_uses_it(samples, demo_vlm, tmp_path):
    out = tmp_path / "run"
    base = [
        "batch_size=4", "warmup_steps=1", "save_every=2", "evaluate_samples=4", "trackers=[]", "precision=fp32",
        "augment=false", "start_from=tiny", f"vlm={demo_vlm}",
    ]  # fmt: skip

    def train(*more: str, resume: bool = False) -> None:
        words = [word for setting in (*base, *more) for word in ("--set", setting)]
        main(["train", "expert", "--data", str(samples), "--out", str(out), *(["--resume"] * resume), *words])

    train("prefix=6", "steps=2")
    with pytest.raises((CheckpointError, SystemExit)):
        train("prefix=3", "steps=4", resume=True)
    train("prefix=6", "steps=4", resume=True)
    assert json.loads((out / "model" / "config.json").read_text())["config"]["prefix"] == 6
    again = dict(start_from=str(out / "model"), vlm=str(demo_vlm), batch_size=2, precision="fp32")
    with pytest.raises(ConfigError, match=r"was trained with prefix=6.* Go on with prefix=6"):
        ExpertStage(ExpertTraining(**again), samples)
    ExpertStage(ExpertTraining(**again, prefix=3), samples)
    policy = load_policy(out / "model", vlm=demo_vlm)
    assert isinstance(policy, FMPolicy)
    assert policy.longest_promise == 6
    picture = np.full((384, 384, 3), 90, np.uint8)
    seen = [Observation(picture, picture, "Pick up the red cube.")] * 2
    values = np.tile(np.array([0.01, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2, np.float32), (24, 1))
    promise = Promise(values, fixed=4, known=12)
    steps = []
    policy.expert.model.blocks[0].register_forward_hook(lambda *_: steps.append(torch.is_grad_enabled()))
    kept, free = policy.predict(seen, seed=0, promised=[promise, None])
    assert steps == [False] * 5  # neither gradients nor more work
    assert np.array_equal(kept.values[:4], values[:4])
    (plain,) = policy.predict(seen[:1], seed=0)
    np.testing.assert_allclose(free.values, plain.values, atol=1e-5)
    assert load_policy(out / "model", vlm=demo_vlm, steps=1).keeps_promises
    with pytest.raises(ActionError, match=r"7 steps were promised as driven.* 6 at most"):
        policy.predict(seen[:1], promised=[Promise(values, fixed=7, known=12)])


def test_students_are_not_taught_it():
    with pytest.raises(ConfigError, match="prefix=3 is for 'rdt2 train expert'"):
        DistillTraining(prefix=3)
