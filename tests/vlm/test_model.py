"""Checkpoints: strict loading, truncated loading, and what plain transformers makes of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt2.errors import CheckpointError
from rdt2.vlm import load_vlm, save_vlm


def _copy(tiny: SimpleNamespace, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_loads_what_was_saved(tiny: SimpleNamespace) -> None:
    loaded = load_vlm(tiny.folder)
    for (name, ours), theirs in zip(
        loaded.state_dict().items(), tiny.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_published_layout_that_plain_transformers_reads(tiny: SimpleNamespace) -> None:
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    names = load_file(tiny.folder / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"visual", "model", "lm_head"}
    assert "model.layers.0.self_attn.q_proj.weight" in names
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny.model.parameters(), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    assert tokenizer.vocab_size == tiny.processor.vocab_size
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Press the button."}]}
    prompt = (
        tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True) + "<|quad_start|>"
    )
    ours = [*tiny.processor._prompt_ids("Press the button.", 1)]
    assert tokenizer(prompt)["input_ids"] == ours


def test_missing_and_unexpected_tensors_are_listed(tiny: SimpleNamespace, tmp_path: Path) -> None:
    # Guards: non-strict loading that leaves missing weights random without a word.
    def change(state: dict[str, torch.Tensor]) -> None:
        state["visual.blocks.0.lora"] = state.pop("visual.blocks.0.norm1.weight")

    with pytest.raises(
        CheckpointError, match=r"Missing: visual\.blocks\.0\.norm1\.weight\. .*blocks\.0\.lora"
    ):
        load_vlm(_copy(tiny, tmp_path, change))


def test_tensors_of_another_shape_are_refused(tiny: SimpleNamespace, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["lm_head.weight"] = state["lm_head.weight"][:-1].clone()

    with pytest.raises(CheckpointError, match=r"lm_head\.weight of shape"):
        load_vlm(_copy(tiny, tmp_path, change))


def test_damaged_absent_and_foreign_files_are_refused(tiny: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_vlm(tmp_path)
    folder = _copy(tiny, tmp_path, lambda state: None)
    (folder / "model.safetensors").write_bytes((tiny.folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_vlm(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        load_vlm(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="llama"):
        load_vlm(folder)


def test_first_layers_only(tiny: SimpleNamespace) -> None:
    model = load_vlm(tiny.folder, layers=2)
    names = {name.removeprefix("model.language_model.") for name, _ in model.named_parameters()}
    assert "layers.0.mlp.down_proj.weight" in names
    assert {name for name in names if name.startswith("layers.1.")} == {
        "layers.1.input_layernorm.weight",
        *(f"layers.1.self_attn.{p}_proj.{kind}" for p in "kv" for kind in ("weight", "bias")),
    }
    assert not any(name.startswith(("layers.2.", "norm.", "lm_head")) for name in names)
    with pytest.raises(CheckpointError, match=r"1\.\.3"):
        load_vlm(tiny.folder, layers=4)


def test_shards_and_half_precision(tiny: SimpleNamespace, tmp_path: Path) -> None:
    state = load_file(tiny.folder / "model.safetensors")
    shutil.copy(tiny.folder / "config.json", tmp_path)
    weight_map = {}
    for part in (0, 1):
        names = sorted(state)[part::2]
        save_file({name: state[name].bfloat16() for name in names}, tmp_path / f"part-{part}.safetensors")
        weight_map |= dict.fromkeys(names, f"part-{part}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    model = load_vlm(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.lm_head.weight, tiny.model.lm_head.weight.bfloat16())


def test_saving_leaves_no_partial_file(tiny: SimpleNamespace, tmp_path: Path) -> None:
    save_vlm(tiny.model, tmp_path, dtype=torch.bfloat16)
    assert not list(tmp_path.glob("*.partial"))
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
