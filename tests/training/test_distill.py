"""One-step distillation: what is trained, against what, and the policy that comes out."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from toy import batch_of

from rdt2.cli.main import main
from rdt2.errors import ConfigError
from rdt2.expert import Expert, ExpertConfig
from rdt2.normalizer import LinearNormalizer
from rdt2.observation import Observation
from rdt2.policy import FMPolicy, load_policy
from rdt2.training.config import DistillTraining, ExpertTraining
from rdt2.training.distill import DistillStage
from rdt2.training.expert import ExpertStage
from rdt2.training.loop import step_generator
from rdt2.vlm import create_tiny_vlm

SHORT = ("steps=12", "batch_size=4", "warmup_steps=1", "log_every=1", "evaluate_samples=4", "trackers=[]")


@pytest.fixture(scope="module")
def teacher(samples, tmp_path_factory):
    """An expert whose weights are all random: one step and five lead to different places."""
    folder = tmp_path_factory.mktemp("teacher")
    expert = Expert.from_config(ExpertConfig.tiny(), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))
    expert.save_pretrained(folder)
    LinearNormalizer.from_pretrained(samples).save_pretrained(folder)  # what its numbers mean
    return folder


def config(teacher, vlm, **changes) -> DistillTraining:
    return DistillTraining(
        start_from=str(teacher), vlm=str(vlm), batch_size=2, precision="fp32", trackers=(), **changes
    )


def test_the_loss_is_the_distance_of_one_step_from_the_teachers_five(samples, teacher, demo_vlm):
    stage = DistillStage(config(teacher, demo_vlm), samples)
    batch = batch_of(stage, 0)
    loss, _ = stage.module(batch, step_generator(0, 0, 0))

    same = Expert.from_pretrained(teacher)
    cond = stage.module.condition(batch)
    noise = torch.randn(2, 24, 20, generator=step_generator(0, 0, 0))
    with torch.no_grad():
        walked = noise
        for k in range(5):
            walked = walked + same.velocity(walked, torch.full((2,), k / 5), cond) / 5
        jumped = noise + same.velocity(noise, torch.zeros(2), cond)
    assert float((walked - jumped).square().mean()) > 0.1
    torch.testing.assert_close(loss.detach(), (walked - jumped).square().mean(), rtol=1e-4, atol=1e-7)

    loss.backward()
    assert stage.module.expert.model.x_pos_emb.grad.abs().sum() > 0
    names = [name for name, _ in stage.module.named_parameters()]
    assert all(name.startswith("expert.") for name in names)  # neither teacher nor VLM


def test_a_student_that_deepspeed_rounds_beside_its_teacher(samples, teacher, demo_vlm):
    """Regression: the teacher was given keys in the student's bfloat16, and attention takes no two dtypes."""
    stage = DistillStage(dataclasses.replace(config(teacher, demo_vlm), precision="bf16"), samples)
    batch = batch_of(stage, 0)
    exact, _ = stage.module(batch, step_generator(0, 0, 0))
    stage.module.expert.to(torch.bfloat16)
    loss, _ = stage.module(batch, step_generator(0, 0, 0))
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.1)
    assert stage.module.expert.model.x_pos_emb.grad.isfinite().all()
    with torch.no_grad():
        chunks = stage.module.eval().samples(stage.module.condition(batch), torch.randn(2, 24, 20), None)
    assert all(each.isfinite().all() for each in chunks.values())


@pytest.fixture(scope="module")
def student(samples, teacher, demo_vlm, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "distill"
    settings = (*SHORT, "precision=fp32", "learning_rate=1e-4", f"start_from={teacher}", f"vlm={demo_vlm}")
    command = ["train", "distill", "--data", str(samples), "--out", str(out)]
    main([*command, *(word for setting in settings for word in ("--set", setting))])
    return out


def test_the_student_comes_nearer_and_the_teacher_stays(student):
    rows = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    assert {"eval/position_mm", "eval/teacher/position_mm"} <= set(rows[-1])
    assert (student / "plots" / "step-00000012.png").stat().st_size > 10_000


def test_the_result_is_a_policy_of_one_step(student, demo_vlm):
    policy = load_policy(student / "model", vlm=demo_vlm)
    assert isinstance(policy, FMPolicy)
    assert policy.steps == 1
    calls = []
    policy.expert.model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    picture = np.full((384, 384, 3), 90, np.uint8)
    (chunk,) = policy.predict([Observation(picture, picture, "Pick up the red cube.")], seed=0)
    assert chunk.valid
    assert len(calls) == 1


def test_the_student_has_the_normalizer_of_its_teacher(student, teacher):
    digests = [LinearNormalizer.from_pretrained(folder).digest for folder in (student / "model", teacher)]
    assert digests[0] == digests[1]


def test_a_student_needs_a_teacher_of_several_steps(samples, student, demo_vlm):
    with pytest.raises(ConfigError, match="needs a teacher"):
        DistillStage(config("scratch", demo_vlm), samples)
    with pytest.raises(ConfigError, match="takes 1 step"):
        DistillStage(config(student / "model", demo_vlm), samples)
    with pytest.raises(ConfigError, match=r"was distilled to one step.*distil that again"):
        ExpertStage(ExpertTraining(start_from=str(student / "model"), vlm=str(demo_vlm)), samples)


def test_a_teacher_of_another_vlm_is_refused(samples, student, demo_vlm, tmp_path):
    create_tiny_vlm(tmp_path, sentences=["Pick up the red cube."], seed=1)
    with pytest.raises(ConfigError, match=f"learnt on the VLM {demo_vlm}, and {tmp_path} has other weights"):
        DistillStage(config(student / "model", tmp_path, teacher_steps=5), samples)
