"""An expert says which VLM it learnt on, whatever dtype that lies in and whether its adapters are merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt2.errors import CheckpointError, ConfigError
from rdt2.vlm import load_vlm, save_vlm
from rdt2.vlm.mark import FILE, hand_on, mark_of, require_learnt_on, write_mark

LAYERS = (0, 2)
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture
def vlm(tiny, tmp_path: Path) -> Path:
    folder = tmp_path / "vlm"
    shutil.copytree(tiny.folder, folder)
    return folder


def copied(vlm: Path, name: str, *dtypes: torch.dtype) -> Path:
    """The same weights, rounded to one dtype after another."""
    folder = vlm.with_name(name)
    shutil.copytree(vlm, folder)
    for dtype in dtypes:
        save_vlm(load_vlm(folder, dtype=dtype), folder)
    return folder


def changed(vlm: Path, name: str, by: float) -> Path:
    """Every weight of a V projection moved at random, by a share of what they are on average."""
    folder = copied(vlm, name)
    weights = load_file(folder / "model.safetensors")
    values = weights["model.layers.2.self_attn.v_proj.weight"]
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    values += by * values.square().mean().sqrt() * noise
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def expert_of(vlm: Path) -> Path:
    folder = vlm.with_name("expert")
    folder.mkdir()
    write_mark(folder, mark_of(vlm, LAYERS))
    return folder


def test_rounding_makes_no_other_vlm(vlm: Path) -> None:
    expert = expert_of(vlm)
    for number, dtypes in enumerate(((), HALVES, HALVES[::-1])):
        require_learnt_on(expert, copied(vlm, f"again{number}", *dtypes))
    shutil.rmtree(expert)
    half = copied(vlm, "half", torch.bfloat16)
    require_learnt_on(expert_of(half), vlm)


def test_training_makes_another_one(vlm: Path) -> None:
    expert = expert_of(vlm)
    for by in (0.005, 0.5):
        other = changed(vlm, f"trained{by}", by)
        with pytest.raises(
            ConfigError, match=f"learnt on the VLM {vlm}, and {other} has other weights.*vlm=FOLDER"
        ):
            require_learnt_on(expert, other)


def test_adapters_are_looked_at_merged_or_not(vlm: Path) -> None:
    adapters, merged = vlm.with_name("adapters"), vlm.with_name("merged")
    adapters.mkdir()
    name = "base_model.model.model.language_model.layers.2.self_attn.v_proj.lora_{}.weight"
    shape = load_file(vlm / "model.safetensors")["model.layers.2.self_attn.v_proj.weight"].shape
    generator = torch.Generator().manual_seed(0)
    pairs = {"A": (4, shape[1]), "B": (shape[0], 4)}
    low = {name.format(side): 0.1 * torch.randn(size, generator=generator) for side, size in pairs.items()}
    save_file(low, adapters / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(vlm), "r": 4, "lora_alpha": 4}
    (adapters / "adapter_config.json").write_text(json.dumps(settings))
    save_vlm(load_vlm(adapters, dtype=torch.bfloat16), merged)

    expert = expert_of(adapters)
    require_learnt_on(expert, adapters)
    require_learnt_on(expert, merged)
    with pytest.raises(ConfigError, match="has other weights"):
        require_learnt_on(expert, vlm)


def test_published_experts_say_nothing_and_a_damaged_file_is_named(vlm: Path) -> None:
    silent, copy = vlm.with_name("silent"), vlm.with_name("copy")
    silent.mkdir()
    copy.mkdir()
    require_learnt_on(silent, vlm)
    hand_on(silent, copy)
    assert not list(copy.iterdir())
    hand_on(expert_of(vlm), copy)
    require_learnt_on(copy, vlm)
    (copy / FILE).write_text('{"vlm": "x"}')
    with pytest.raises(CheckpointError, match=r"vlm.json: does not say which VLM"):
        require_learnt_on(copy, vlm)
