"""Quantized layers stay near the exact ones, take the memory they promise, and say what they lack."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.vlm import load_vlm, memory, prefill, save_vlm
from rdt2.vlm.quantize import Int8Linear

TEXTS = ["Pick up the red cube with the left hand.", "Press the blue button."]


def test_an_int8_layer_is_near_its_original() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40)
    with torch.no_grad():
        linear.weight[3] = 0  # a row of zeros has no scale of its own
        linear.weight[4] *= 1000
    layer = Int8Linear(96, 40, bias=True)
    layer.fill(linear.weight.detach())
    layer.bias = linear.bias
    x = torch.randn(5, 7, 96)
    error = (layer(x) - linear(x)).abs()
    assert layer.weight.dtype == torch.int8
    assert torch.isfinite(error).all()
    # Half a step of each row's 127 times the norm of the input bounds what rounding can do.
    step = linear.weight.abs().amax(1) / 127
    assert (error <= step / 2 * x.abs().sum(-1, keepdim=True) + 1e-5).all()
    assert error[..., :3].max() > 0


# NF4 moves a matrix by 9 % of its norm; a dozen in a row move the deepest keys by a third. Wrong ones: by 1.4.
@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.03), ("int4", 0.5)])
def test_keys_and_values_stay_near(
    tiny: SimpleNamespace, pictures: list[np.ndarray], kind: str, tolerance: float
) -> None:
    if kind == "int4":
        pytest.importorskip("bitsandbytes")
    prompt = tiny.processor.prompt(pictures, TEXTS)
    with torch.no_grad():
        exact = prefill(tiny.model, prompt, [0, 1, 2])
        near = prefill(load_vlm(tiny.folder, layers=3, quantize=kind), prompt, [0, 1, 2])
    for ours, theirs in zip(near.keys + near.values, exact.keys + exact.values, strict=True):
        seen = exact.mask[:, None, :, None]
        error = ((ours - theirs) * seen).norm() / (theirs * seen).norm()
        assert 0 < error < tolerance


def test_all_layers_and_nothing_else_are_quantized(tiny: SimpleNamespace) -> None:
    model = load_vlm(tiny.folder, quantize="int8")
    whole = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.int8}
    assert len(whole) == 3 * 7 + 3 * 5  # q, k, v, o, gate, up, down; qkv, proj, gate, up, down
    assert all(".layers." in name or ".blocks." in name for name in whole)
    assert not any("norm" in name or name.endswith("bias") for name in whole)


def test_a_quantized_model_is_not_written(tiny: SimpleNamespace, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="quantized"):
        save_vlm(load_vlm(tiny.folder, quantize="int8"), tmp_path)


def test_what_is_missing_is_said(tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(ConfigError, match=r"pip install 'rdt2\[quant\]'"):
        load_vlm(tiny.folder, quantize="int4")
    with pytest.raises(ConfigError, match="int8"):
        load_vlm(tiny.folder, quantize="int2")


def test_too_little_memory_is_said_before_weights_are_read(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = memory.resident_bytes(tiny.model, dtype=torch.float32)
    assert needed == sum(p.numel() * 4 for p in tiny.model.parameters())
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    load_vlm(tiny.folder)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed - 1)
    monkeypatch.setattr("rdt2.vlm.model.opened", None)  # reading anything would fail otherwise
    monkeypatch.setattr("rdt2.vlm.model.find_tensors", lambda path: _names(tiny))
    with pytest.raises(ConfigError, match=r"GB free.*int8"):
        load_vlm(tiny.folder)


def _names(tiny: SimpleNamespace) -> dict[str, tuple[str, str]]:
    return {name: ("model.safetensors", name) for name, _ in tiny.model.named_parameters()}


def test_the_machine_says_what_is_free() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or free > 0
