"""What checkpoints bring: tied heads, pickled and sharded files, old and new names, flat and nested configurations."""

from __future__ import annotations

import json
import logging
import os
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
from rdt2.vlm import load_vlm, save_vlm, training_loss
from rdt2.vlm.layout import published_config, read_config

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# config.json and generation_config.json of Qwen/Qwen2.5-VL-7B-Instruct.
PUBLISHED: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152064,
}
GENERATION = {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.000001,
    "transformers_version": "4.49.0",
}


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (folder / "config.json").write_text(json.dumps(raw))


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def nest(raw: dict[str, Any]) -> None:
    """The nested form that transformers 4.52 and later write."""
    ours = ("architectures", "model_type", "vision_config", "image_token_id", "video_token_id", "torch_dtype",
            "vision_start_token_id", "vision_end_token_id", "transformers_version")  # fmt: skip
    raw["text_config"] = {key: raw.pop(key) for key in list(raw) if key not in ours}


@pytest.fixture
def folder(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    shutil.copytree(tiny.folder, tmp_path / "vlm")
    return tmp_path / "vlm"


@pytest.fixture
def batch(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    tokens = torch.arange(27).repeat(2, 1)
    return tiny.processor.training(pictures, ["Pick up the red cube.", "Press."], tokens)


def loss(folder: Path | str, batch: dict[str, torch.Tensor]) -> float:
    return measured(load_vlm(folder), batch)


def measured(model: Any, batch: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float(training_loss(model, batch)[0])


# ------------------------------------------------------------------------------------------- one head or two


@pytest.mark.parametrize("place", ["flat", "nested", "both", "text only"])
def test_a_head_of_its_own_stays_one_though_config_ties(
    folder: Path, tmp_path: Path, batch: dict, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: it was read and trained, and left out on saving: the saved model was another one."""
    expected = loss(folder, batch)
    if place != "flat":
        edit(folder, nest)
    edit(
        folder,
        lambda raw: (
            place != "text only" and raw.update(tie_word_embeddings=True),
            place in ("both", "text only") and raw["text_config"].update(tie_word_embeddings=True),
        ),
    )
    with caplog.at_level(logging.WARNING):
        model = load_vlm(folder)
    assert "a head of its own" in caplog.text
    assert measured(model, batch) == expected
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    trained = measured(model, batch)
    assert trained != expected
    save_vlm(model, tmp_path / "saved")
    assert HEAD in load_file(tmp_path / "saved" / "model.safetensors")
    assert written(tmp_path / "saved")["tie_word_embeddings"] is False
    assert loss(tmp_path / "saved", batch) == trained


@pytest.mark.parametrize("kept", ["both, equal", "embedding", "head"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_tied_head_is_one_weight_and_stays_tied(
    folder: Path, tmp_path: Path, batch: dict, kept: str, nested: bool
) -> None:
    state = load_file(folder / "model.safetensors")
    state[HEAD] = state[EMBEDDING].clone()
    save_file(state, folder / "model.safetensors")
    expected = loss(folder, batch)
    if kept != "both, equal":
        del state[HEAD if kept == "embedding" else EMBEDDING]
    save_file(state, folder / "model.safetensors")
    if nested:
        edit(folder, nest)
    edit(folder, lambda raw: raw.get("text_config", raw).update(tie_word_embeddings=True))
    model = load_vlm(folder)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert measured(model, batch) == expected
    load_vlm(folder, layers=2)

    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    trained = measured(model, batch)
    save_vlm(model, tmp_path / "saved")
    assert HEAD not in load_file(tmp_path / "saved" / "model.safetensors")
    assert written(tmp_path / "saved")["tie_word_embeddings"] is True
    again = load_vlm(tmp_path / "saved")
    assert measured(again, batch) == trained
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight


def test_no_head_and_no_tie_is_an_incomplete_file(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state[HEAD]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"Missing: lm_head\.weight"):
        load_vlm(folder)


# ------------------------------------------------------------------------------------------- files and names


def new_names(name: str) -> str:
    name = re.sub(r"^model\.", "model.language_model.", name)
    return re.sub(r"^visual\.", "model.visual.", name)


@pytest.mark.parametrize("rename", [str, new_names, lambda name: f"module.{name}", "_orig_mod.{}".format])
@pytest.mark.parametrize("form", ["safetensors", "pickled", "pickled shards", "legacy pickle"])
def test_every_form_of_weights_is_read(
    folder: Path, tiny: SimpleNamespace, rename: Callable[[str], str], form: str
) -> None:
    state = {rename(name): value for name, value in load_file(folder / "model.safetensors").items()}
    state[rename("model.rotary_emb.inv_freq")] = torch.zeros(8)  # what is computed was saved by old versions
    (folder / "model.safetensors").unlink()
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif form == "pickled shards":
        files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(sorted(state))}
        for file in set(files.values()):
            torch.save({name: v for name, v in state.items() if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    else:
        legacy = form == "legacy pickle"
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    loaded = load_vlm(folder)
    for (name, ours), theirs in zip(
        loaded.state_dict().items(), tiny.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_pickle_that_runs_code_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({HEAD: Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="Nothing in it was executed"):
        load_vlm(folder)
    assert not (tmp_path / "ran").exists()


def test_one_whole_file_counts_before_an_index_left_beside_it(folder: Path, batch: dict) -> None:
    """As transformers reads it: an index may be left over from the model that was trained further."""
    expected = loss(folder, batch)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {HEAD: "old.safetensors"}})
    )
    assert loss(folder, batch) == expected


def test_pointers_quantized_weights_and_other_contents_are_named(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_vlm(folder)
    edit(folder, lambda raw: raw.update(quantization_config={"quant_method": "awq"}))
    with pytest.raises(CheckpointError, match=r"quantized \(awq\)"):
        load_vlm(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        load_vlm(folder)


# ------------------------------------------------------------------------------------------- the published layout


def test_the_published_configuration_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    config = read_config(tmp_path)
    again = published_config(config, tied=False, dtype=torch.bfloat16)
    assert {**again, "transformers_version": "4.41.2"} == PUBLISHED


def test_long_context_by_yarn_is_written_as_it_was_read(tmp_path: Path) -> None:
    yarn = {
        "type": "yarn",
        "mrope_section": [16, 24, 24],
        "factor": 4,
        "original_max_position_embeddings": 32768,
    }
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, "rope_scaling": yarn}))
    config = read_config(tmp_path)
    again = published_config(config, tied=False, dtype=torch.bfloat16)
    assert again["rope_scaling"] == {**yarn, "rope_type": "yarn"}
    (tmp_path / "config.json").write_text(json.dumps(again))
    assert read_config(tmp_path).text_config.rope_parameters == config.text_config.rope_parameters


def test_what_is_saved_has_the_published_form(folder: Path, tmp_path: Path) -> None:
    """Regression: transformers 4.51 and 4.57 did not read the nested form, and an answer had one end of two."""
    save_vlm(load_vlm(folder), tmp_path / "a", dtype=torch.bfloat16)
    raw = written(tmp_path / "a")
    assert set(raw) - {"pad_token_id"} == set(PUBLISHED) - {"vision_token_id"}
    assert set(raw["vision_config"]) == set(PUBLISHED["vision_config"])
    assert set(raw["rope_scaling"]) == {"type", "mrope_section"}
    assert raw["torch_dtype"] == "bfloat16"
    generation = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [raw["eos_token_id"], raw["bos_token_id"]]

    edit(folder, nest)
    save_vlm(load_vlm(folder), tmp_path / "b", dtype=torch.bfloat16)
    assert written(tmp_path / "b") == raw


@pytest.mark.parametrize("drawn", [True, False])
def test_how_text_is_drawn_is_handed_on(folder: Path, tmp_path: Path, drawn: bool) -> None:
    settings = GENERATION if drawn else {**GENERATION, "do_sample": False}  # contradictory, and no matter
    (folder / "generation_config.json").write_text(json.dumps(settings))
    save_vlm(load_vlm(folder), tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    for key in ("eos_token_id", "bos_token_id", "pad_token_id", "repetition_penalty", "temperature"):
        assert saved[key] == settings[key]
    assert saved.get("do_sample", False) is drawn


def test_others_may_read_what_is_saved(folder: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_vlm(load_vlm(folder), tmp_path / "saved")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "saved").iterdir()} == {"0o644"}


def test_the_first_layers_alone_are_not_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without layers="):
        save_vlm(load_vlm(folder, layers=2), tmp_path / "part")
