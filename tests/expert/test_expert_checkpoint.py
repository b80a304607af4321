"""Reading and writing the published layout, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_expert import BATCH, random_expert, random_kv
from safetensors.torch import load_file, save_file

from rdt2.errors import CheckpointError, ConfigError
from rdt2.expert import Expert, ExpertConfig
from rdt2.expert import checkpoint as checkpoint_module


@pytest.fixture
def folder(expert: Expert, tmp_path: Path) -> Path:
    return expert.save_pretrained(tmp_path / "expert")


def edit_config(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **changes}))


def test_round_trip(expert: Expert, folder: Path) -> None:
    loaded = Expert.from_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert loaded.config == expert.config
    assert not loaded.training
    for (name, a), (_, b) in zip(expert.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.requires_grad == b.requires_grad, name


def test_missing_unexpected_and_misshaped_tensors_are_all_listed(folder: Path) -> None:
    """Regression: a lenient load left missing weights random, without a word."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.blocks.0.attn.wq.weight"], tensors["model.x_pos_emb"]
    tensors["lang_adaptor.weight"] = torch.zeros(2)
    tensors["act_adaptor.0.weight"] = torch.zeros(64, 7)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        Expert.from_pretrained(folder)
    message = str(error.value)
    assert "missing: model.blocks.0.attn.wq.weight (64, 64)" in message
    assert "missing: model.x_pos_emb (1, 28, 64)" in message
    assert "unexpected: lang_adaptor.weight (2,)" in message
    assert "act_adaptor.0.weight is (64, 7), expected (64, 20)" in message
    assert str(folder / "model.safetensors") in message


def test_bfloat16_files_run_in_float32(expert: Expert, folder: Path) -> None:
    """Regression: adaptors in float32 beside a bfloat16 core failed at the first product."""
    tensors = load_file(folder / "model.safetensors")
    mixed = {k: v if "adaptor" in k else v.bfloat16() for k, v in tensors.items()}
    save_file(mixed, folder / "model.safetensors")
    noise = torch.zeros(BATCH, 24, 20)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = Expert.from_pretrained(folder, dtype=dtype)
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        cond = loaded.prepare(random_kv())
        assert cond.keys[0].dtype == dtype
        assert loaded.sample(cond, noise=noise).dtype == torch.float32
    weight = Expert.from_pretrained(folder).model.stack[0].attn.wq.weight
    assert torch.equal(weight, expert.model.stack[0].attn.wq.weight.bfloat16().float())


def test_pytorch_bin(expert: Expert, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(expert.state_dict(), folder / "pytorch_model.bin")
    loaded = Expert.from_pretrained(folder)
    for a, b in zip(expert.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_hostile_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    for save in (lambda x, f: torch.save(x, f), lambda x, f: f.write_bytes(pickle.dumps(x, protocol=2))):
        save({"weight": Hostile(tmp_path / "pwned")}, folder / "pytorch_model.bin")
        with pytest.raises(
            CheckpointError, match=r"pytorch_model\.bin was refused: .* Nothing in it was executed"
        ):
            Expert.from_pretrained(folder)
        assert not (tmp_path / "pwned").exists()


def test_bin_that_holds_something_else(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for content in ([1, 2], {"model": {"weight": torch.zeros(1)}}, torch.zeros(3)):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="expected tensors by their names"):
            Expert.from_pretrained(folder)


def test_half_a_file_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        Expert.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Expert.from_pretrained(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        Expert.from_pretrained(tmp_path / "nowhere")


def test_config_of_another_model_and_of_other_sizes(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}))
    with pytest.raises(CheckpointError, match="not the configuration of an expert, it lacks action_dim"):
        Expert.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        Expert.from_pretrained(folder)


def test_contradicting_config(folder: Path) -> None:
    edit_config(folder, pred_horizon=16)
    with pytest.raises(CheckpointError, match="act_pos_emb_config"):
        Expert.from_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())["config"]
    edit_config(folder, pred_horizon=24, config={**raw, "selected_layers": [0, 1, 2]})
    with pytest.raises(CheckpointError, match="selected_layers has 3 entries"):
        Expert.from_pretrained(folder)
    edit_config(folder, config={**raw, "act_adaptor": "transformer"})
    with pytest.raises(CheckpointError, match="adaptor 'transformer' is not known"):
        Expert.from_pretrained(folder)


@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 1001}, {"num_kv_heads": 3}, {"depth": 0}, {"selected_layers": (0,)}, {"steps": 0}],
)
def test_impossible_sizes(sizes: dict) -> None:
    with pytest.raises(ConfigError):
        ExpertConfig(**sizes)


def test_full_disk_leaves_the_last_checkpoint_whole(
    folder: Path, expert: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        random_expert(seed=9).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_pickled_expert_in_the_cache_is_found_without_a_network(
    folder: Path, expert: Expert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: asked for model.safetensors first, the cache was said not to hold the expert at all."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--owner--expert"
    snapshot = repo / "snapshots" / commit
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"neither is there.*HF_HUB_OFFLINE"):
        Expert.from_pretrained("owner/expert")
    torch.save(load_file(folder / "model.safetensors"), snapshot / "pytorch_model.bin")
    loaded = Expert.from_pretrained("owner/expert")
    for ours, theirs in zip(loaded.parameters(), expert.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_others_may_read_what_is_saved(expert: Expert, tmp_path: Path) -> None:
    """Regression: safetensors makes files that only their owner may read."""
    before = os.umask(0o022)
    try:
        saved = expert.save_pretrained(tmp_path / "shared")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in saved.iterdir()} == {"0o644"}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_are_read_once_and_straight_to_their_device(
    expert: Expert, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: all of them came to the CPU first."""
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(expert.state_dict(), folder / name)
    read, devices, opened = [], [], checkpoint_module.opened

    @contextmanager
    def watched(file: Path, device: torch.device) -> Iterator[SimpleNamespace]:
        devices.append(str(device))
        with opened(file, device) as tensors:
            yield SimpleNamespace(
                keys=tensors.keys,
                shape=tensors.shape,
                get_tensor=lambda key: (read.append(key), tensors.get_tensor(key))[1],
            )

    monkeypatch.setattr(checkpoint_module, "opened", watched)
    loaded = Expert.from_pretrained(folder, dtype=torch.bfloat16, device="meta")
    assert devices == ["meta"]
    assert sorted(read) == sorted(expert.state_dict())
    assert {(str(p.device), p.dtype) for p in loaded.parameters()} == {("meta", torch.bfloat16)}
    assert {str(p.device) for p in Expert.from_pretrained(folder, device="cpu:0").parameters()} == {"cpu"}
