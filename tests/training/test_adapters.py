"""Adapters: they alone train, resume exactly, and merge into a model that answers the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import batch_of, saved_weights

from rdt2.cli.main import main
from rdt2.errors import CheckpointError, ConfigError
from rdt2.expert import Expert, ExpertConfig
from rdt2.normalizer import LinearNormalizer
from rdt2.policy import load_policy
from rdt2.training.adapters import merge_adapters
from rdt2.training.config import ExpertTraining, VQTraining
from rdt2.training.expert import ExpertStage
from rdt2.training.loop import fit
from rdt2.training.settings import load_settings
from rdt2.training.vq import VQStage
from rdt2.vlm import load_vlm, training_loss

LAYERS, PROJECTIONS = 3, 7


def config(tiny_vlm, **changes) -> VQTraining:
    settings = dict(
        start_from=str(tiny_vlm), adapter="lora", steps=4, batch_size=2, learning_rate=0.05, warmup_steps=1,
        precision="fp32", save_every=2, evaluate_samples=4, log_every=1, trackers=(),
    )  # fmt: skip
    return VQTraining(**{**settings, **changes})


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(samples, tiny_vlm, tmp_path_factory):
    """Four steps with adapters: the stage, its settings and its folder."""
    out, settings = tmp_path_factory.mktemp("lora"), config(tiny_vlm)
    stage = VQStage(settings, samples, out)
    fit(stage, settings, out)
    return stage, settings, out


def test_only_adapters_of_the_language_model_train(run, tiny_vlm):
    stage, _, _ = run
    trained = {n: p for n, p in stage.module.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * LAYERS * PROJECTIONS
    assert all("language_model.layers" in name and "lora_" in name for name in trained)
    assert all(p.grad is None for p in stage.module.parameters() if not p.requires_grad)
    assert sum(bool(p.abs().sum() > 0) for n, p in trained.items() if "lora_B" in n) == LAYERS * PROJECTIONS

    frozen = {
        n.replace("base_layer.", ""): p for n, p in stage.module.vlm.get_base_model().named_parameters()
    }
    for name, parameter in load_vlm(tiny_vlm).named_parameters():
        assert torch.equal(parameter, frozen[name]), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_the_plain_forward_with_adapters(run, checkpointing):
    stage, _, _ = run
    model, batch = stage.module.vlm.eval(), batch_of(stage, 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    theirs = model(**batch).loss
    expected = torch.autograd.grad(theirs, trained)
    ran = []
    hook = (
        model.get_base_model()
        .model.language_model.layers[0]
        .mlp.register_forward_pre_hook(lambda *_: ran.append(1))
    )
    ours, _ = training_loss(model, batch, checkpointing=checkpointing)
    gradients = torch.autograd.grad(ours, trained)
    hook.remove()
    assert len(ran) == (2 if checkpointing else 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for ours_, theirs_ in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-3, atol=1e-6)


def test_checkpointing_of_all_weights_changes_no_gradient(samples, tiny_vlm, tmp_path):
    stage = VQStage(config(tiny_vlm, adapter="none"), samples, tmp_path)
    gradients = []
    for checkpointing in (False, True):
        stage.module.checkpointing = checkpointing
        stage.module.zero_grad()
        stage.module.train()(batch_of(stage, 0), None)[0].backward()
        gradients.append([p.grad for p in stage.module.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_an_interrupted_run_resumes_exactly_from_adapters_alone(run, samples, tiny_vlm, tmp_path):
    _, settings, whole = run

    class Interrupted(VQStage):
        def load(self, step):
            if step == 3:
                raise KeyboardInterrupt
            return super().load(step)

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(settings, samples, tmp_path), settings, tmp_path)
    (saved,) = (tmp_path / "checkpoints").glob("step-*")
    assert len(saved_weights(saved)) == 2 * LAYERS * PROJECTIONS
    fit(VQStage(settings, samples, tmp_path), settings, tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)


def test_the_merged_model_answers_as_the_adapters_do(run, tiny_vlm, tmp_path):
    stage, _, out = run
    merged = tmp_path / "merged"
    main(["export", "merge", str(out / "model"), str(merged), "--dtype", "float32"])
    batch = batch_of(stage, 7)
    losses = [
        training_loss(model, batch)[0]
        for model in (stage.module.vlm.eval(), load_vlm(merged), load_vlm(tiny_vlm))
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    assert (losses[2] - losses[0]).abs() > 1e-3
    assert (merged / "tokenizer.json").is_file()


def test_adapters_are_read_by_peft_alone(run, tiny_vlm):
    from peft import PeftModel

    stage, _, out = run
    model = PeftModel.from_pretrained(load_vlm(tiny_vlm), str(out / "model"))
    batch = batch_of(stage, 1)
    loss, expected = (training_loss(m, batch)[0] for m in (model, stage.module.vlm.eval()))
    torch.testing.assert_close(loss, expected)


def test_training_goes_on_from_adapters(run, samples, tiny_vlm, tmp_path):
    before, _, out = run
    stage = VQStage(config(tiny_vlm, start_from=str(out / "model"), evaluate_samples=2), samples, tmp_path)
    batch = batch_of(before, 5)
    losses = [training_loss(s.module.vlm.eval(), batch)[0] for s in (stage, before)]
    torch.testing.assert_close(*losses)
    stage.save(stage.module, tmp_path / "model")
    merged = load_vlm(tmp_path / "model")  # they are beside the same VLM still
    torch.testing.assert_close(training_loss(merged, batch)[0], losses[1], rtol=1e-5, atol=1e-5)


def test_all_weights_train_from_merged_adapters(run, samples, tiny_vlm, tmp_path):
    before, _, out = run
    settings = config(tiny_vlm, start_from=str(out / "model"), adapter="none")
    stage, batch = VQStage(settings, samples, tmp_path), batch_of(before, 5)
    losses = [training_loss(s.module.vlm.eval(), batch)[0] for s in (stage, before)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


def test_adapters_of_another_rank_scale_or_place_are_named(run, samples, tiny_vlm, tmp_path):
    _, _, out = run
    start = {"start_from": str(out / "model")}
    for changes, match in (
        (
            {"lora_rank": 4},
            "of rank 8 and alpha 8, but lora_rank is 4 .*lora_rank=8 and lora_alpha=8.*export merge",
        ),
        ({"lora_alpha": 16}, "of rank 8 and alpha 8, but .* lora_alpha 16"),
    ):
        with pytest.raises(ConfigError, match=match):
            VQStage(config(tiny_vlm, **start, **changes), samples, tmp_path)
    fewer = tmp_path / "fewer"
    shutil.copytree(out / "model", fewer)
    state = load_file(fewer / "adapter_model.safetensors")
    kept = {name: value for name, value in state.items() if "up_proj" not in name}
    save_file(kept, fewer / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"expected plain adapters on the 21 .*got 18.* rdt2 export merge"):
        VQStage(config(tiny_vlm, start_from=str(fewer)), samples, tmp_path)


def test_a_policy_and_the_expert_take_adapters_as_their_vlm(run, samples, tiny_vlm, tmp_path):
    _, _, out = run
    adapters, merged = out / "model", merge_adapters(out / "model", tmp_path / "merged", dtype=torch.float32)
    shape = ExpertConfig.tiny(hidden_size=32, head_dim=32, num_kv_heads=1, selected_layers=(1, 2))
    expert = Expert.from_config(shape).save_pretrained(tmp_path / "expert")
    LinearNormalizer.from_pretrained(samples).save_pretrained(expert)

    policies = [
        load_policy(expert, vlm=vlm, normalizer=samples, dtype=torch.float32) for vlm in (adapters, merged)
    ]
    settings = {"start_from": str(expert), "batch_size": 2, "precision": "fp32", "evaluate_samples": 2}
    stages = [ExpertStage(ExpertTraining(vlm=str(vlm), **settings), samples) for vlm in (adapters, merged)]
    for first, second in (
        [policy.vlm for policy in policies],
        [stage.module._vlm.on(torch.device("cpu")) for stage in stages],
    ):
        for (name, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
            assert torch.equal(ours, theirs), name
    with pytest.raises(CheckpointError, match=r"RDT2-VQ model alone.*tokenizer="):
        load_policy(adapters)


def test_wrong_adapters_are_named(run, samples, tiny_vlm, tmp_path):
    _, _, out = run
    with pytest.raises(CheckpointError, match=r"expected adapter_config\.json"):
        merge_adapters(tiny_vlm, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="not empty"):
        merge_adapters(out / "model", tiny_vlm)

    from rdt2.vlm import TinyConfig, create_tiny_vlm

    other = TinyConfig(hidden_size=64, num_layers=1, num_heads=2, num_kv_heads=1, vision_depth=1)
    create_tiny_vlm(tmp_path / "other", sentences=["Pick."], config=other)
    with pytest.raises(CheckpointError, match="do not fit"):
        merge_adapters(out / "model", tmp_path / "merged", base=tmp_path / "other")
    assert not (tmp_path / "merged").exists()


def test_corrupted_pictures_are_for_training_only(samples, tiny_vlm, tmp_path):
    pytest.importorskip("cv2")
    plain, augmented = (VQStage(config(tiny_vlm, augment=flag), samples, tmp_path) for flag in (False, True))
    pixels = [batch_of(stage, 0)["pixel_values"] for stage in (plain, augmented, augmented)]
    assert not torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[1], pixels[2])
    held_out = plain.samples.held_out.load(plain.samples.held_out.numbers[:2])
    assert torch.equal(*(s.ready(held_out, torch.device("cpu"))["pixel_values"] for s in (plain, augmented)))


def test_the_lora_preset_is_the_published_recipe(request):
    preset = load_settings(VQTraining, request.config.rootpath / "configs" / "training" / "vq_lora.yaml")
    assert (preset.lora_rank, preset.lora_alpha, preset.lora_dropout) == (8, 8, 0.1)
    assert (preset.learning_rate, preset.batch_size * preset.accumulate) == (1e-4, 96)
