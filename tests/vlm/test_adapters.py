"""Adapters of every origin, added to the VLM's weights, answer as PEFT's own forward does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt2.errors import CheckpointError
from rdt2.vlm import VLMProcessor, load_vlm, prefill
from rdt2.vlm.adapters import base_of

peft = pytest.importorskip("peft")

LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def batch(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    return tiny.processor.prompt(pictures, ["Pick up the red cube.", "Press the blue button."])


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def make(tiny: SimpleNamespace, folder: Path, batch: dict, **settings: Any) -> tuple[Path, torch.Tensor]:
    """Adapters with values in all their weights, as PEFT saves them, and what the model answers with them."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": LANGUAGE, **settings}
    torch.manual_seed(0)
    vlm = load_vlm(tiny.folder)
    model = peft.get_peft_model(vlm, peft.LoraConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    0.2 * torch.randn(parameter.shape) * parameter.std().nan_to_num(1).clamp(min=0.2)
                )
    expected = logits(model, batch)
    model.peft_config["default"].base_model_name_or_path = str(tiny.folder)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    assert (expected - logits(load_vlm(tiny.folder), batch)).abs().max() > 0.02
    return folder, expected


def rename(folder: Path, change: Callable[[str], str]) -> None:
    state = load_file(folder / WEIGHTS)
    renamed = {change(name): value for name, value in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, folder / WEIGHTS)


def edit(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**raw, **changes}))


def old_names(name: str) -> str:
    """As transformers before 4.52 names the modules."""
    return name.replace("model.model.visual", "model.visual").replace("model.language_model", "model")


def untouched(name: str) -> str:
    return name


def wrapped_twice(name: str) -> str:
    """And with the name that PEFT gives adapters in a model still in it."""
    return "base_model.model." + re.sub(r"(lora_[AB])\.weight", r"\1.default.weight", name)


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (untouched, {}),
        (old_names, {}),
        (wrapped_twice, {}),
        (untouched, {"target_modules": "all-linear"}),
        (old_names, {"target_modules": "all-linear"}),
        (untouched, {"target_modules": ["q_proj", "v_proj"]}),
        (old_names, {"target_modules": r".*visual.*(qkv|proj)$"}),  # the convolution of the patches too
        (untouched, {"target_modules": ["lm_head", "embed_tokens", "gate_proj"]}),
        (untouched, {"use_rslora": True}),
        (old_names, {"use_dora": True, "target_modules": "all-linear"}),
        (untouched, {"use_dora": True, "target_modules": ["proj"]}),
        (
            untouched,
            {
                "rank_pattern": {"q_proj": 2},
                "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 20, "up_proj": 9},
            },
        ),
        (old_names, {"modules_to_save": ["lm_head"]}),
        (untouched, {"bias": "all"}),
        (untouched, {"init_lora_weights": "gaussian"}),
    ],
)
def test_the_weights_with_adapters_answer_as_peft_does(
    tiny: SimpleNamespace, tmp_path: Path, batch: dict, names: Callable[[str], str], settings: dict
) -> None:
    folder, expected = make(tiny, tmp_path, batch, **settings)
    if names is not untouched:
        rename(folder, names)
    torch.testing.assert_close(logits(load_vlm(folder), batch), expected, rtol=1e-4, atol=1e-4)


def test_adapters_in_a_pickle_beside_a_copy_of_the_configuration(
    tiny: SimpleNamespace, tmp_path: Path, batch: dict
) -> None:
    folder, expected = make(tiny, tmp_path, batch)
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    shutil.copy(tiny.folder / "config.json", folder)  # some trainers put it there
    torch.testing.assert_close(logits(load_vlm(folder), batch), expected, rtol=1e-4, atol=1e-4)
    shutil.copy(tiny.folder / "model.safetensors", folder)  # and here are whole weights: merged by somebody
    assert torch.equal(logits(load_vlm(folder), batch), logits(tiny.model, batch))


def test_first_layers_and_quantized_weights_have_the_adapters_too(
    tiny: SimpleNamespace, tmp_path: Path, batch: dict
) -> None:
    folder, _ = make(tiny, tmp_path, batch, target_modules="all-linear")
    whole, part = (prefill(load_vlm(folder, layers=layers), batch, (0, 1)) for layers in (3, 2))
    torch.testing.assert_close(part.keys, whole.keys)
    torch.testing.assert_close(part.values, whole.values)
    exact, rounded = (
        load_vlm(folder, quantize=kind).model.language_model.layers[0].mlp.up_proj for kind in (None, "int8")
    )
    values = rounded.weight * rounded.scale[:, None]
    assert (values - exact.weight).abs().max() <= 0.51 * rounded.scale.max()


def test_a_tied_head_with_adapters_of_its_own_is_untied(
    tiny: SimpleNamespace, tmp_path: Path, batch: dict
) -> None:
    base = SimpleNamespace(folder=tmp_path / "tied")
    shutil.copytree(tiny.folder, base.folder)
    raw = json.loads((base.folder / "config.json").read_text())
    (base.folder / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": True}))
    state = load_file(base.folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, base.folder / "model.safetensors")
    folder, expected = make(base, tmp_path / "lora", batch, target_modules=["lm_head"])
    model = load_vlm(folder)
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-4)
    assert not model.config.tie_word_embeddings


def test_the_processor_is_that_of_the_vlm_unless_adapters_bring_one(
    tiny: SimpleNamespace, tmp_path: Path, batch: dict
) -> None:
    folder, _ = make(tiny, tmp_path, batch)
    assert base_of(folder) == str(tiny.folder)
    assert base_of(tiny.folder) == str(tiny.folder)
    assert VLMProcessor.beside(folder).source == tiny.folder
    shutil.copy(tiny.folder / "tokenizer.json", folder)  # as some trainers do, without the picture settings
    assert VLMProcessor.beside(folder).source == tiny.folder
    tiny.processor.save_pretrained(folder)
    assert VLMProcessor.beside(folder).source == folder


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "IA3"}, "of kind IA3.*merge_and_unload"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*changed the VLM's own weights"),
        ({"use_dora": True}, "with DoRA a magnitude"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"base_model_name_or_path": None}, "does not say which VLM.*--base VLM"),
        (
            {"base_model_name_or_path": "/gone/vlm"},
            "adapters of /gone/vlm, which is not to be had.*--base VLM",
        ),
    ],
)
def test_what_is_no_plain_sum_is_refused_by_name(
    tiny: SimpleNamespace, tmp_path: Path, batch: dict, changes: dict, match: str
) -> None:
    folder, _ = make(tiny, tmp_path, batch)
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=match):
        load_vlm(folder)


def test_damaged_and_foreign_adapters_are_refused(tiny: SimpleNamespace, tmp_path: Path, batch: dict) -> None:
    folder, _ = make(tiny, tmp_path, batch)
    state = load_file(folder / WEIGHTS)
    first = next(name for name in state if name.endswith("q_proj.lora_A.weight"))
    for change, match in (
        ({first: None}, "expected two matrices"),
        (
            {first: None, first.replace("lora_A", "lora_B"): None},
            r"1 more weights .*layers\.0\.self_attn\.q_proj",
        ),
        ({first.replace("layers.0", "layers.9"): state[first].clone()}, "expected two matrices|do not fit"),
        ({first: torch.zeros(4, 7)}, r"do not fit: \(4, 7\) and .* weight is \(64, 64\)"),
        ({first: torch.full_like(state[first], torch.nan)}, "not finite"),
        ({first.replace("lora_A", "lora_B").replace("weight", "bias"): torch.zeros(3)}, "not known here"),
    ):
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        save_file(changed, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=match):
            load_vlm(folder)
    save_file(state, folder / WEIGHTS)
    edit(folder, base_model_name_or_path=str(folder))
    with pytest.raises(CheckpointError, match="which is adapters itself"):
        load_vlm(folder)
