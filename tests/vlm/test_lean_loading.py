"""Only what is needed is read, nothing stays in memory twice, and the published sizes fit their budgets."""

from __future__ import annotations

import json
import shutil
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt2.errors import CheckpointError
from rdt2.expert import Expert, ExpertConfig
from rdt2.vlm import load_vlm
from rdt2.vlm.memory import resident_bytes
from rdt2.vlm.model import empty_vlm
from rdt2.vlm.quantize import quantize_layers


@pytest.fixture
def sharded(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    """The tiny VLM, with what the first two layers' keys need in one shard, and the rest in another."""
    state = load_file(tiny.folder / "model.safetensors")
    for file in tiny.folder.glob("*.json"):
        shutil.copy(file, tmp_path)
    needed = ("visual.", "model.embed_tokens", "model.layers.0.", "model.layers.1.")
    places = {name: f"{'first' if name.startswith(needed) else 'second'}.safetensors" for name in state}
    for file in set(places.values()):
        save_file({n: v for n, v in state.items() if places[n] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return tmp_path


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Counts what is read, and watches how many tensors as read are alive at once."""
    import safetensors

    log = SimpleNamespace(files=set(), names=Counter(), alive=[], most_alive=0)
    genuine = safetensors.safe_open

    class Counting:
        def __init__(self, file: Any, **options: Any) -> None:
            log.files.add(Path(file).name)
            self._handle = genuine(file, **options)

        def __enter__(self) -> Counting:
            self._handle.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self._handle.__exit__(*error)

        def keys(self) -> list[str]:
            return self._handle.keys()

        def get_tensor(self, name: str) -> torch.Tensor:
            log.names[name] += 1
            value = self._handle.get_tensor(name)
            log.alive.append(weakref.ref(value))
            log.most_alive = max(log.most_alive, sum(ref() is not None for ref in log.alive))
            return value

    monkeypatch.setattr(safetensors, "safe_open", Counting)
    return log


def test_layers_that_no_one_reads_are_never_read(sharded: Path, reader: SimpleNamespace) -> None:
    load_vlm(sharded, layers=2)
    assert reader.files == {"first.safetensors"}
    unused = ("model.layers.1.mlp", "model.layers.1.post", "model.layers.1.self_attn.q", "lm_head")
    assert not [name for name in reader.names if name.startswith((*unused, "model.layers.2", "model.norm"))]
    assert set(reader.names.values()) == {1}
    assert "model.layers.1.self_attn.k_proj.weight" in reader.names


def test_files_that_hold_nothing_needed_need_not_be_there(sharded: Path) -> None:
    (sharded / "second.safetensors").unlink()
    load_vlm(sharded, layers=2)
    with pytest.raises(CheckpointError, match=r"expected second\.safetensors"):
        load_vlm(sharded)


def test_from_the_hub_only_needed_files_are_asked_for(
    sharded: Path, reader: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("owner/vlm", None)
        asked.extend(allow_patterns)
        return str(sharded)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    load_vlm("owner/vlm", layers=2)
    assert set(asked) == {
        "config.json", "generation_config.json", "adapter_config.json",
        "model.safetensors", "model.safetensors.index.json",  # whichever there is
        "first.safetensors",
    }  # fmt: skip


def test_one_tensor_at_a_time_is_in_memory_twice(tiny: SimpleNamespace, reader: SimpleNamespace) -> None:
    load_vlm(tiny.folder, dtype=torch.bfloat16)
    assert len(reader.alive) > 50
    assert reader.most_alive == 1


def test_a_damaged_index_is_said(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="index"):
        load_vlm(sharded)


# ---------------------------------------------------------------------------------------------- published sizes


def published_config() -> Any:
    """Qwen2.5-VL-7B."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        tie_word_embeddings=False,
    )


def fm_bytes(quantize: str | None) -> int:
    model = empty_vlm(published_config(), layers=14)
    names = quantize_layers(model, quantize) if quantize is not None else ()
    with torch.device("meta"):
        expert = Expert(ExpertConfig()).freeze_for_inference()
    tables = sum(buffer.numel() for buffer in expert.buffers())
    assert tables == 5 * (14 * 9 + 2) * 1024
    return (
        resident_bytes(model, dtype=torch.bfloat16, quantized=names, quantize=quantize)
        + resident_bytes(expert, dtype=torch.bfloat16)
        + 2 * tables
    )


def test_published_fm_fits_its_budget() -> None:
    assert 8.5e9 < fm_bytes(None) <= 9.5e9
    assert 5.0e9 < fm_bytes("int8") < 6.0e9


def test_published_fm_in_4_bits_fits_its_budget() -> None:
    pytest.importorskip("bitsandbytes")
    assert 3.0e9 < fm_bytes("int4") <= 4.5e9


def test_published_whole_model_has_the_known_size() -> None:
    count = sum(parameter.numel() for parameter in empty_vlm(published_config()).parameters())
    assert count == 8_292_166_656
