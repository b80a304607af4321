"""The frozen VLM's keys and values on disk, and gradient checkpointing of the expert."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from toy import batch_of

from rdt2.errors import CheckpointError, ConfigError
from rdt2.training import expert as expert_training
from rdt2.training import kv_cache
from rdt2.training.config import ExpertTraining
from rdt2.training.expert import ExpertStage
from rdt2.training.kv_cache import DiskCache
from rdt2.training.loop import step_generator
from rdt2.vlm import VLMProcessor, compile_layers, load_vlm, prefill


@pytest.fixture
def prompts(samples, tiny_vlm):
    """Two samples whose sentences are of unequal length, together and each alone."""
    from rdt2.data import ShardIndex

    index, processor = ShardIndex(samples), VLMProcessor.from_pretrained(tiny_vlm)
    pictures = [index.picture(0), index.picture(1)]
    sentences = ["Press the blue button.", "Pick up the red cube with the left hand."]
    alone = [processor.prompt([p], [s]) for p, s in zip(pictures, sentences, strict=True)]
    return processor.prompt(pictures, sentences), alone


def test_what_is_read_is_what_the_vlm_says(prompts, tiny_vlm, tmp_path, monkeypatch):
    together, alone = prompts
    vlm, layers = load_vlm(tiny_vlm, layers=2), [0, 1]
    cache = DiskCache(tmp_path, vlm, layers)
    with torch.no_grad():
        expected = prefill(vlm, together, layers)
        cache.prefill(vlm, alone[0])
        first = cache.prefill(vlm, together)  # one row is new: the VLM runs
    assert torch.equal(first.keys[1], expected.keys[1])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2

    def never(*_, **__):
        raise AssertionError("the VLM was run again")

    monkeypatch.setattr(kv_cache, "prefill", never)
    again = DiskCache(tmp_path, vlm, layers).prefill(vlm, together)
    assert torch.equal(again.mask, expected.mask)
    seen = expected.mask[:, None, :, None]
    for ours, theirs in zip(again.keys + again.values, expected.keys + expected.values, strict=True):
        torch.testing.assert_close(ours * seen, theirs * seen, rtol=1e-4, atol=1e-5)

    # Another picture, other layers or other weights are other entries.
    changed = {**together, "pixel_values": together["pixel_values"] + 0.01}
    with pytest.raises(AssertionError, match="run again"):
        cache.prefill(vlm, changed)
    with pytest.raises(AssertionError, match="run again"):
        DiskCache(tmp_path, vlm, [1]).prefill(vlm, together)
    with torch.no_grad():
        vlm.model.visual.merger.ln_q.weight[0] += 1e-3
    with pytest.raises(AssertionError, match="run again"):
        DiskCache(tmp_path, vlm, layers).prefill(vlm, together)


def test_a_damaged_entry_is_named(prompts, tiny_vlm, tmp_path):
    _, (alone, _) = prompts
    vlm = load_vlm(tiny_vlm, layers=1)
    with torch.no_grad():
        DiskCache(tmp_path, vlm, [0]).prefill(vlm, alone)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{file.name}: is damaged"):
        DiskCache(tmp_path, vlm, [0]).prefill(vlm, alone)


def config(vlm, **changes) -> ExpertTraining:
    settings = dict(start_from="tiny", vlm=str(vlm), batch_size=2, precision="fp32", augment=False)
    return ExpertTraining(**{**settings, **changes})


def test_a_cached_expert_stage_has_the_same_loss(samples, demo_vlm, tmp_path):
    plain = ExpertStage(config(demo_vlm), samples)
    cached = ExpertStage(config(demo_vlm, kv_cache=str(tmp_path)), samples)
    losses = []
    for stage in (plain, cached, cached):  # written, then read
        with torch.no_grad():
            losses.append(stage.module(batch_of(stage, 0), step_generator(0, 0, 0))[0])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])
    with pytest.raises(ConfigError, match="does not go with augment"):
        ExpertStage(config(demo_vlm, kv_cache=str(tmp_path), augment=True), samples)


def test_checkpointing_changes_no_gradient(samples, demo_vlm):
    gradients = []
    for flag in (False, True):
        stage = ExpertStage(config(demo_vlm, gradient_checkpointing=flag), samples)
        expert, ran = stage.module.expert, []
        with torch.no_grad():  # past the zero gates of a new expert
            for parameter in expert.parameters():
                parameter.add_(0.02)
        expert.model.blocks[0].attn.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        stage.module.train()(batch_of(stage, 0), step_generator(0, 0, 0))[0].backward()
        assert len(ran) == 1 + flag
        gradients.append([p.grad for p in expert.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_only_the_stage_that_asked_runs_compiled_layers(samples, demo_vlm, monkeypatch):
    """Regression: one stage that compiled made all models of the process run compiled layers."""
    backend = CompileCounter()
    monkeypatch.setattr(expert_training, "compile_layers", lambda: compile_layers(backend))
    losses = []
    for flag in (True, False):
        backend.clear()
        stage = ExpertStage(config(demo_vlm, compile=flag), samples)
        with torch.no_grad():
            losses.append(stage.module(batch_of(stage, 0), step_generator(0, 0, 0))[0])
        assert (backend.op_count > 0) == flag
    torch.testing.assert_close(*losses)
