"""Layers whose matrices wait in CPU memory change no result, and take no room on the device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdt2.errors import ConfigError
from rdt2.vlm import generate_actions, load_vlm, memory, prefill

TEXTS = ["Pick up the red cube with the left hand.", "Press the blue button."]


def test_no_result_changes(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> None:
    prompt = tiny.processor.prompt(pictures, TEXTS)
    model = load_vlm(tiny.folder, offload=2)
    absent = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    assert absent == memory.offloadable(tiny.model, 2)
    assert len(absent) == 2 * (7 + 3)  # seven matrices a layer, three of them with a bias
    with torch.no_grad():
        ours = prefill(load_vlm(tiny.folder, layers=3, offload=3), prompt, [0, 1, 2])
        expected = prefill(tiny.model, prompt, [0, 1, 2])
        for one, other in zip(ours.keys + ours.values, expected.keys + expected.values, strict=True):
            assert torch.equal(one, other)
        tokens, _ = generate_actions(model, prompt, tiny.processor, num_embeddings=16)
        assert torch.equal(tokens, generate_actions(tiny.model, prompt, tiny.processor, num_embeddings=16)[0])
    assert {name for name, parameter in model.named_parameters() if parameter.is_meta} == absent  # again


def test_only_the_rest_has_to_fit(tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = memory.offloadable(tiny.model, 2)
    rest = sum(4 * p.numel() for name, p in tiny.model.named_parameters() if name not in absent)
    monkeypatch.setattr(memory, "free_bytes", lambda device: rest)
    load_vlm(tiny.folder, offload=2)
    with pytest.raises(ConfigError, match="offload=<language layers>"):
        load_vlm(tiny.folder, offload=1)


def test_settings_that_make_no_sense(tiny: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match=r"offload is 99, expected 0\.\.3"):
        load_vlm(tiny.folder, offload=99)
    with pytest.raises(ConfigError, match="choose one"):
        load_vlm(tiny.folder, offload=1, quantize="int8")


def test_a_large_model_on_the_cpu_beside_a_gpu_is_said(monkeypatch, caplog):
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    for there, needed, said in ((True, 17e9, True), (True, 1e8, False), (False, 17e9, False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        caplog.clear()
        memory.require_memory(int(needed), torch.device("cpu"), "the VLM rdt2")
        assert ("the VLM rdt2 takes 17.0 GB on the CPU, though there is a GPU" in caplog.text) == said
