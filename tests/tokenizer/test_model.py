"""Encoding, decoding, training and files of the action tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdt2.errors import ActionError, CheckpointError, ConfigError
from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import (
    PART_COLUMNS,
    ActionTokenizer,
    CNNConfig,
    TokenizerConfig,
    evaluate_reconstruction,
    geodesic_distance,
)

IDENTITY = [1.0, 0, 0, 0, 1, 0]


def small(**changes: object) -> TokenizerConfig:
    values: dict = {
        "embedding_dim": 4,
        "cnn_config": CNNConfig(hidden_size=2, output_size=8),
        "num_embeddings": 16,
        "codebook_restart_interval": 4,
    }
    return TokenizerConfig(**{**values, **changes})


def chunks(count: int, seed: int = 0) -> Tensor:
    """Smooth motions with plausible rotations, already normalised."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.04, 1, 24)[:, None]
    x = torch.randn(count, 1, 20, generator=generator) * 0.4 * ramp
    for arm in (0, 10):
        x[..., arm + 3 : arm + 9] += torch.tensor(IDENTITY)
    return x


@pytest.fixture
def tokenizer() -> ActionTokenizer:
    torch.manual_seed(0)
    return ActionTokenizer(small()).eval()


@pytest.fixture
def saved(tokenizer: ActionTokenizer, tmp_path: Path) -> Path:
    tokenizer.train()(chunks(16))
    tokenizer.eval().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


# ------------------------------------------------------------------------------------------ encode, decode


def test_layout(tokenizer: ActionTokenizer) -> None:
    assert tokenizer.num_tokens == 27
    assert tokenizer.part_slices == {"pos": slice(0, 18), "rot": slice(18, 24), "grip": slice(24, 27)}
    tokens = tokenizer.encode(chunks(3))
    assert tokens.shape == (3, 27)
    assert tokens.dtype == torch.int64
    assert tokenizer.decode(tokens).shape == (3, 24, 20)
    assert sorted(c for columns in PART_COLUMNS.values() for c in columns) == list(range(20))


def test_number_of_tokens_follows_the_config() -> None:
    model = ActionTokenizer(small(n_codebooks={"pos": 2, "rot": 1, "grip": 1}, action_horizon=16))
    assert model.num_tokens == 2 * 4
    tokens = model.encode(torch.zeros(1, 16, 20))
    assert model.decode(tokens).shape == (1, 16, 20)


def test_tiny_is_small_and_has_27_tokens() -> None:
    model = ActionTokenizer(TokenizerConfig.tiny())
    assert model.num_tokens == 27
    assert sum(t.numel() * t.element_size() for t in model.state_dict().values()) < 5e6


def test_fewer_levels_leave_out_the_fine_codes(tokenizer: ActionTokenizer) -> None:
    tokenizer.train()(chunks(64))
    tokens = tokenizer.eval().encode(chunks(64))
    other = tokens.clone()
    other[:, [c for c in range(18) if c % 6]] = 3  # all position codes behind the first
    other[:, [19, 21, 23]] = 3
    torch.testing.assert_close(tokenizer.decode(other, levels=1), tokenizer.decode(tokens, levels=1))
    assert not torch.allclose(tokenizer.decode(other), tokenizer.decode(tokens))
    assert torch.equal(tokenizer.decode(tokens, levels=6), tokenizer.decode(tokens))


@pytest.mark.parametrize("position", [0, 20, 26])
@pytest.mark.parametrize("value", [-1, 16, 1023])
def test_decode_names_a_token_out_of_range(tokenizer: ActionTokenizer, position: int, value: int) -> None:
    tokens = torch.zeros(2, 27, dtype=torch.int64)
    tokens[1, position] = value
    with pytest.raises(ActionError, match=rf"row 1, position {position} is {value}, expected 0..15"):
        tokenizer.decode(tokens)


@pytest.mark.parametrize("tokens", [torch.zeros(27).long(), torch.zeros(1, 26).long(), torch.zeros(1, 27)])
def test_decode_refuses_other_shapes_and_floats(tokenizer: ActionTokenizer, tokens: Tensor) -> None:
    with pytest.raises(ActionError, match=r"integer tokens of shape \(batch, 27\)"):
        tokenizer.decode(tokens)


def test_encode_refuses_other_shapes_and_nan(tokenizer: ActionTokenizer) -> None:
    with pytest.raises(ActionError, match=r"\(batch, 24, 20\), got \(24, 20\)"):
        tokenizer.encode(torch.zeros(24, 20))
    x = torch.zeros(2, 24, 20)
    x[1, 3, 7] = float("nan")
    with pytest.raises(ActionError, match="chunk 1, step 3, column 7 is nan"):
        tokenizer.encode(x)


def test_stays_in_float32(tokenizer: ActionTokenizer) -> None:
    x = chunks(4).bfloat16()
    tokens = tokenizer.encode(x.float())
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}
    torch.nn.ModuleDict({"tokenizer": tokenizer}).to(torch.bfloat16)
    tokenizer.half()
    assert all(torch.equal(v, before[k]) for k, v in tokenizer.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(x), tokens)
        assert tokenizer.decode(tokens).dtype == torch.float32
        assert tokenizer.train()(x).loss.dtype == torch.float32
    assert tokenizer.to("meta").pos_vqvae.encoder.conv_in.weight.is_meta  # a change of device is followed


# ------------------------------------------------------------------------------------------ training


def test_loss_is_the_sum_of_its_parts(tokenizer: ActionTokenizer) -> None:
    out = tokenizer(chunks(16))
    total = sum(p["reconstruction"] + 0.25 * p["commitment"] for p in out.parts.values())
    torch.testing.assert_close(out.loss, total)
    assert [p["perplexity"].shape for p in out.parts.values()] == [(6,), (2,), (1,)]
    assert all(1 <= v <= 16 for p in out.parts.values() for v in p["perplexity"])
    assert torch.equal(out.tokens, tokenizer.encode(chunks(16)))
    torch.testing.assert_close(out.reconstruction, tokenizer.decode(out.tokens), atol=1e-5, rtol=1e-5)


def test_evaluation_mode_changes_nothing(tokenizer: ActionTokenizer) -> None:
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}
    tokenizer(chunks(8))
    assert all(torch.equal(v, before[k]) for k, v in tokenizer.state_dict().items())


def test_every_weight_learns(tokenizer: ActionTokenizer) -> None:
    tokenizer.train()(chunks(16)).loss.backward()
    assert not [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]


def _train(
    config: TokenizerConfig, steps: int, *, seed: int, batch: int = 64
) -> tuple[ActionTokenizer, list[float]]:
    torch.manual_seed(seed)
    model = ActionTokenizer(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        loss = model(chunks(batch, seed=step), generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def test_training_reconstructs_and_repeats_bit_for_bit() -> None:
    config = small(cnn_config=CNNConfig(hidden_size=4, output_size=8))
    model, losses = _train(config, 15, seed=1, batch=16)
    assert losses[-1] < 0.9 * losses[0]
    assert _train(config, 15, seed=1, batch=16)[1] == losses
    x = chunks(64, seed=999)
    report = evaluate_reconstruction(model, LinearNormalizer.fit(x), x)
    assert report.position_mm.shape == (24, 2)


def test_geodesic_distance_of_a_known_turn() -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    turned = torch.tensor([[c, s, 0, -s, c, 0]], dtype=torch.float32)
    torch.testing.assert_close(
        geodesic_distance(turned, torch.tensor([IDENTITY])), torch.tensor([0.3]), atol=1e-5, rtol=0
    )
    same = torch.tensor([IDENTITY], requires_grad=True)
    geodesic_distance(same, torch.tensor([IDENTITY])).sum().backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


# ------------------------------------------------------------------------------------------ files


def test_save_and_load_give_the_same_model(tokenizer: ActionTokenizer, saved: Path) -> None:
    loaded = ActionTokenizer.from_pretrained(saved)
    assert loaded.config == tokenizer.config
    ours, theirs = tokenizer.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)
    assert not loaded.training
    assert {p.name for p in saved.iterdir()} == {"config.json", "model.safetensors"}  # nothing half-written


def test_unknown_config_keys_are_kept(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, "local_rank": 3}))
    loaded = ActionTokenizer.from_pretrained(saved)
    assert loaded.config.extra == {"local_rank": 3}
    loaded.save_pretrained(saved)
    assert json.loads((saved / "config.json").read_text())["local_rank"] == 3


def test_wrong_keys_are_listed(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["pos_vqvae.encoder.conv_in.bias"]
    tensors["pos_vqvae.surplus"] = torch.zeros(1)
    tensors["grip_vqvae.decoder.conv_out.bias"] = torch.zeros(3)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        ActionTokenizer.from_pretrained(saved)
    message = str(error.value)
    assert "missing: pos_vqvae.encoder.conv_in.bias" in message
    assert "unexpected: pos_vqvae.surplus" in message
    assert "grip_vqvae.decoder.conv_out.bias is (3,), config.json means (2,)" in message
    assert "3 differences" in message


def test_tied_names_are_accepted_when_equal(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    name = "rot_vqvae.vq.quantizers.1"
    tensors[f"{name}.weight"] = tensors[f"{name}.codebook.weight"].clone()
    save_file(tensors, saved / "model.safetensors")
    ActionTokenizer.from_pretrained(saved)
    tensors[f"{name}.weight"] += 1
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name}.weight must equal"):
        ActionTokenizer.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(saved: Path, name: str) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:50])
    with pytest.raises(CheckpointError, match=name):
        ActionTokenizer.from_pretrained(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"expected {name} in .*, found none"):
        ActionTokenizer.from_pretrained(saved)


def test_another_models_config_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(CheckpointError, match=r"needs \['input_dim'"):
        ActionTokenizer.from_pretrained(saved)


def test_no_such_folder() -> None:
    with pytest.raises(CheckpointError, match="no such folder, expected that of an action tokenizer"):
        ActionTokenizer.from_pretrained("./not/here")


def test_an_unwritable_folder_is_named(tokenizer: ActionTokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: could not be written"):
        tokenizer.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    "changes",
    [
        {"input_dim": {"pos": 6, "rot": 6, "grip": 2}},
        {"n_codebooks": {"pos": 6, "rot": 2}},
        {"n_codebooks": {"pos": 6, "rot": 2, "grip": 0}},
        {"action_horizon": 20},
        {"num_embeddings": 0},
    ],
)
def test_impossible_sizes_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        small(**changes)
