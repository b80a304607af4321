"""The loop on a toy stage: what it promises about resuming, files and failures."""

from __future__ import annotations

import contextlib
import importlib.util
import json

import pytest
import torch
from toy import ToyStage, batch_of, config, rows

from rdt2.errors import CheckpointError, ConfigError, TrainingError
from rdt2.training import loop
from rdt2.training.loop import fit, learning_rate, step_generator


def test_same_seed_same_losses_bit_for_bit(tmp_path):
    fit(ToyStage(), config(), tmp_path / "a")
    fit(ToyStage(), config(), tmp_path / "b")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a")[0]["loss"] > rows(tmp_path / "a")[-2]["loss"]


def test_trainings_of_other_precisions_follow_each_other_in_one_process(tmp_path):
    """Regression: the second, in a notebook, was told to restart its runtime."""
    for number, precision in enumerate(("fp32", "bf16", "fp32")):
        fit(ToyStage(), config(precision=precision), tmp_path / str(number))
    assert rows(tmp_path / "0") == rows(tmp_path / "2") != rows(tmp_path / "1")


@pytest.mark.parametrize("interrupt_at", [3, 6, 10])
def test_an_interrupted_run_resumes_as_if_nothing_had_happened(tmp_path, interrupt_at):
    whole = fit(ToyStage(), config(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(ToyStage(interrupt_at=interrupt_at), config(), tmp_path / "cut")
    resumed = fit(ToyStage(), config(), tmp_path / "cut", resume=True)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    weights = [torch.load(run.model / "weights.pt") for run in (whole, resumed)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_average_of_the_weights_is_evaluated_and_saved(tmp_path):
    class Watched(ToyStage):
        def __init__(self):
            super().__init__()
            self.weights = []
            self.module.register_forward_pre_hook(
                lambda module, _: self.weights.append(module.linear.weight.detach().clone())
            )

    stage, plain = Watched(), Watched()
    result = fit(stage, config(ema=0.8, evaluate_every=0), tmp_path / "average")
    fit(plain, config(evaluate_every=0), tmp_path / "plain")
    last = torch.load(tmp_path / "plain" / "model" / "weights.pt")["linear.weight"]
    assert all(torch.equal(a, b) for a, b in zip(stage.weights, plain.weights, strict=True))

    mean, *after = [*stage.weights, last]
    for update, weight in enumerate(after, start=1):
        mean = torch.lerp(mean, weight, 1 - min(0.8, (1 + update) / (10 + update)))
    saved = torch.load(result.model / "weights.pt")["linear.weight"]
    torch.testing.assert_close(saved, mean)
    assert not torch.allclose(saved, last, rtol=1e-3)
    assert result.metrics["eval/loss"] == pytest.approx(float(mean.square().sum()))


def test_the_average_resumes_too(tmp_path):
    settings = config(ema=0.8)
    whole = fit(ToyStage(), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(ToyStage(interrupt_at=10), settings, tmp_path / "cut")
    resumed = fit(ToyStage(), settings, tmp_path / "cut", resume=True)
    weights = [torch.load(run.model / "weights.pt") for run in (whole, resumed)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_gradients_of_several_batches_are_added(tmp_path):
    fit(ToyStage(), config(accumulate=3, clip_norm=1e9, weight_decay=0.0, steps=1, warmup_steps=0), tmp_path)
    row = rows(tmp_path)[0]
    stage, losses = ToyStage(), []
    module = stage.module
    for part in range(3):
        generator = step_generator(0, part, 0)
        torch.manual_seed(generator.initial_seed())
        loss, _ = module(batch_of(stage, part), generator)
        (loss / 3).backward()
        losses.append(float(loss.detach()))
    assert row["loss"] == pytest.approx(sum(losses) / 3)
    norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_tensorboard_gets_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    fit(ToyStage(), config(steps=2, trackers=("tensorboard",)), tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_trackers_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="expected one of tensorboard, wandb, trackio"):
        config(trackers=("tensorbord",))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else found(name, *more)
    )
    with pytest.raises(ConfigError, match=r"pip install 'rdt2\[wandb\]'"):
        fit(ToyStage(), config(trackers=("wandb",)), tmp_path / "b")


def test_settings_newer_than_a_run_do_not_stop_its_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(ToyStage(interrupt_at=6), config(), tmp_path)
    path = tmp_path / "config.json"
    found = json.loads(path.read_text())
    del found["config"]["ema"]
    path.write_text(json.dumps(found))
    fit(ToyStage(), config(), tmp_path, resume=True)


def test_old_checkpoints_are_removed(tmp_path):
    fit(ToyStage(), config(save_every=2, keep_checkpoints=2), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000012"]


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(tmp_path):
    with pytest.raises(TrainingError, match="step 5: the loss is nan") as error:
        fit(ToyStage(fail_at=5), config(), tmp_path)
    saved = tmp_path / "failed-batch-step-5.pt"
    assert str(saved) in str(error.value)
    assert torch.load(saved).shape == (8, 4)


def test_gradients_that_are_not_finite_change_no_weight(tmp_path):
    """Though the loss is finite: they would have been saved with the next checkpoint."""
    stage = ToyStage()
    weight, steps = stage.module.linear.weight, []

    def spoil(gradient):
        steps.append(weight.detach().clone())
        return gradient * float("nan") if len(steps) == 4 else gradient

    weight.register_hook(spoil)
    with pytest.raises(
        TrainingError, match="step 3: the norm of the gradients is nan, expected a finite value"
    ) as error:
        fit(stage, config(), tmp_path)
    assert torch.equal(weight.detach(), steps[-1])
    assert not (tmp_path / "checkpoints" / "step-00000004").exists()
    assert str(tmp_path / "failed-batch-step-3.pt") in str(error.value)


class Several:
    """One of two processes, as far as the claim of a folder asks."""

    num_processes = 2

    def __init__(self, main: bool):
        self.is_main_process = main

    def wait_for_everyone(self) -> None:
        pass


@pytest.mark.parametrize("main", [True, False])
def test_processes_that_do_not_see_the_same_folder_are_told(tmp_path, monkeypatch, main):
    """Of two machines without a disk that both see, each would save its part where the other does not look."""
    monkeypatch.setattr(loop.engines, "from_main_process", lambda _, value: value)
    monkeypatch.setattr(loop.engines, "all_agree", lambda _, well: well)

    def claim():
        with contextlib.ExitStack() as held:
            return loop._claim_folder(tmp_path, ToyStage(), config(), False, Several(main), held)

    if main:
        claim()
    else:
        with pytest.raises(ConfigError, match="every machine must see the same --out"):
            claim()
    assert (tmp_path / "config.json").exists() is main
    assert not list(tmp_path.glob(".seen*"))


def test_a_run_is_not_overwritten_or_mixed(tmp_path):
    fit(ToyStage(), config(), tmp_path)
    with pytest.raises(ConfigError, match="holds a training run already"):
        fit(ToyStage(), config(), tmp_path)
    with pytest.raises(CheckpointError, match=r"held_out was 0.05, is 0.1; seed was 0, is 1"):
        fit(ToyStage(), config(seed=1, held_out=0.1), tmp_path, resume=True)
    other = ToyStage()
    other.name = "expert"
    with pytest.raises(CheckpointError, match="holds a run of 'toy', expected 'expert'"):
        fit(other, config(), tmp_path, resume=True)


def test_learning_rate_warms_up_and_decays():
    run = config(steps=100, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(run, 0) == pytest.approx(0.1)
    assert learning_rate(run, 10) == 1.0
    assert learning_rate(run, 55) == pytest.approx(0.5)
    assert learning_rate(run, 100) == pytest.approx(0.0)
    assert learning_rate(config(schedule="constant", steps=100), 99) == 0.05


def test_a_warm_up_that_never_ends_is_said(tmp_path, capsys):
    fit(ToyStage(), config(steps=3, warmup_steps=100), tmp_path)
    assert (
        "warmup_steps=100 is no shorter than the run of 3 steps: the learning rate only comes to 0.0015"
        in (capsys.readouterr().err)
    )


def test_ranks_draw_different_noise():
    draws = {
        float(torch.rand((), generator=step_generator(0, step, rank)))
        for step in range(4)
        for rank in range(4)
    }
    assert len(draws) == 16


def test_an_exploding_loss_is_told_from_a_bad_start(tmp_path):
    recent = loop.deque([1.0] * 100, maxlen=100)
    run, path = config(), tmp_path / "batch.pt"
    loop._check_loss(50.0, recent, 3, None, path, run)
    loop._check_loss(1e6, loop.deque([1.0] * 5, maxlen=100), 3, None, path, run)
    with pytest.raises(TrainingError):
        loop._check_loss(1e6, recent, 3, None, path, run)
