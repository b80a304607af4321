"""Adapters beside 4-bit weights; skipped where bitsandbytes is not installed, but for its error message."""

from __future__ import annotations

import sys

import pytest
import torch
from toy import batch_of, saved_weights

from rdt2.errors import ConfigError
from rdt2.training.adapters import merge_adapters, quantise
from rdt2.training.config import VQTraining
from rdt2.training.loop import fit
from rdt2.training.vq import VQStage
from rdt2.vlm import load_vlm, training_loss


def test_training_beside_4_bit_weights_and_merging_into_whole_ones(samples, tiny_vlm, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = VQTraining(
        start_from=str(tiny_vlm), adapter="qlora", steps=40, batch_size=2, learning_rate=0.02, warmup_steps=1,
        precision="fp32", evaluate_samples=4, trackers=(), save_every=20, schedule="constant", lora_dropout=0.0,
        augment=False,
    )  # fmt: skip
    stage = VQStage(config, samples, tmp_path)
    batch = batch_of(stage, 0)
    before, whole = loss_of(stage.module.vlm, batch), loss_of(load_vlm(tiny_vlm), batch)
    assert 0 < abs(before - whole) < 0.1  # 4 bits are near, and not the same
    fit(stage, config, tmp_path)

    layer = stage.module.vlm.get_base_model().model.language_model.layers[1]
    packed = layer.mlp.up_proj.base_layer.weight
    assert packed.dtype == torch.uint8
    assert packed.numel() == 64 * 96 / 2
    assert layer.mlp.down_proj.base_layer.weight.dtype == torch.float32  # rows of 96: no whole blocks of 64
    trained = [name for name, p in stage.module.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 3 * 7
    assert all("lora_" in name for name in trained)
    saved = saved_weights(tmp_path / "checkpoints" / "step-00000020")
    assert set(saved) == set(trained)

    after = loss_of(stage.module.vlm.eval(), batch)
    assert after < before - 0.1
    merged = merge_adapters(tmp_path / "model", tmp_path / "merged", dtype=torch.float32)
    assert abs(loss_of(load_vlm(merged), batch) - after) < 0.3 * (before - after)


def loss_of(model, batch) -> float:
    with torch.no_grad():
        return float(training_loss(model, batch)[0])


def test_a_missing_library_is_named(tiny_vlm, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'rdt2\[train,quant\]'"):
        quantise(load_vlm(tiny_vlm), device="cpu", compute=torch.float32)
