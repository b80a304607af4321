"""The action tokenizer against tensors computed with the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rdt2.tokenizer import ActionTokenizer, TokenizerConfig, geodesic_distance, reconstruction_loss
from rdt2.tokenizer.model import _split

PARTS = {"pos": 6, "rot": 2, "grip": 1}


@pytest.fixture(scope="module")
def rvq(golden: Path) -> Path:
    return golden / "rvq"


@pytest.fixture(scope="module")
def tokenizer(rvq: Path) -> ActionTokenizer:
    return ActionTokenizer.from_pretrained(rvq / "hf_saved")


@pytest.fixture(scope="module")
def pairs(rvq: Path) -> dict[str, Tensor]:
    return load_file(rvq / "encode_decode.safetensors")


@pytest.mark.parametrize("kind", ["smooth", "randn"])
def test_encode(tokenizer: ActionTokenizer, pairs: dict[str, Tensor], kind: str) -> None:
    for part in PARTS:
        assert torch.equal(_split(pairs[f"{kind}.x"], part), pairs[f"{kind}.select.{part}"])
        latent = tokenizer._part(part).encoder(pairs[f"{kind}.select.{part}"])
        torch.testing.assert_close(latent.mT, pairs[f"{kind}.enc_z.{part}"], atol=1e-5, rtol=1e-5)
    assert torch.equal(tokenizer.encode(pairs[f"{kind}.x"]), pairs[f"{kind}.ids"])


@pytest.mark.parametrize("kind", ["smooth", "randn", "rand"])
def test_decode(tokenizer: ActionTokenizer, pairs: dict[str, Tensor], kind: str) -> None:
    torch.testing.assert_close(
        tokenizer.decode(pairs[f"{kind}.ids"]), pairs[f"{kind}.decoded"], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["smooth", "randn"])
def test_reconstruction_loss_of_decoded_chunks(pairs: dict[str, Tensor], kind: str) -> None:
    for part in PARTS:
        loss = reconstruction_loss(part, pairs[f"{kind}.decoded_dict.{part}"], pairs[f"{kind}.select.{part}"])
        torch.testing.assert_close(loss, pairs[f"{kind}.calculate_loss.{part}"][0], atol=1e-5, rtol=1e-5)


def test_loss_helpers(rvq: Path) -> None:
    helpers = load_file(rvq / "loss_helpers.safetensors")
    a, b = helpers["a"], helpers["b"]
    angle = geodesic_distance(a[..., :6], b[..., :6]) / torch.pi
    torch.testing.assert_close(angle, helpers["geodesic_left_unreduced"], atol=1e-5, rtol=0)
    for name, part, width, target in (
        ("pos", "pos", 6, b),
        ("rot", "rot", 12, b),
        ("rot_self", "rot", 12, a),
    ):
        loss = reconstruction_loss(part, a[..., :width], target[..., :width])
        torch.testing.assert_close(loss, helpers[f"calc_{name}"][0], atol=1e-5, rtol=0)


def test_saved_files_have_the_published_form(tokenizer: ActionTokenizer, rvq: Path, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    ours, theirs = (safe_open(folder / "model.safetensors", "pt") for folder in (tmp_path, rvq / "hf_saved"))
    info = json.loads((rvq / "info.json").read_text())
    assert ours.metadata() == theirs.metadata() == info["safetensors_metadata"]
    dropped = info["keys_dropped_by_safetensors_save_model"]
    assert set(ours.keys()) == set(info["all_state_dict_keys"]) - set(dropped)
    for key in theirs.keys():  # noqa: SIM118  (not a dictionary)
        assert torch.equal(ours.get_tensor(key), theirs.get_tensor(key)), key
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        (rvq / "hf_saved" / "config.json").read_text()
    )


def test_published_sizes(rvq: Path) -> None:
    published = json.loads((rvq / "published_keys_candidate.json").read_text())["keys"]
    with torch.device("meta"):
        state = ActionTokenizer(TokenizerConfig()).state_dict()
    for key, (shape, dtype) in published.items():
        ours = state[key.replace(".weight", ".codebook.weight") if _is_tied(key) else key]
        assert (list(ours.shape), str(ours.dtype)) == (shape, f"torch.{dtype}"), key
    extra = {key for key in state.keys() - published.keys() if not key.endswith((".initialised", ".steps"))}
    assert not extra


def _is_tied(key: str) -> bool:
    return key.split(".")[-3] == "quantizers" and key.endswith(".weight")


# ---------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(rvq: Path) -> dict[str, Tensor]:
    return load_file(rvq / "train_enough.safetensors")


def _before(rvq: Path, trained: dict[str, Tensor], part: str, step: int) -> ActionTokenizer:
    """The reference's training tokenizer as it stood before ``step``, with codes already drawn."""
    config = TokenizerConfig.from_dict(json.loads((rvq / "train_enough.json").read_text())["config"])
    model = ActionTokenizer(config)
    state = load_file(rvq / "train_init_state.safetensors")
    model.load_state_dict({k: v for k, v in state.items() if not _is_tied(k)}, strict=False)
    for c, codebook in enumerate(model._part(part).vq.quantizers):
        previous = f"{part}.step{step - 1}.after.q{c}."
        for name in ("ema_w", "ema_cluster_size", "entry_hits"):
            getattr(codebook, name).copy_(trained[previous + name])
        codebook.codebook.weight.copy_(trained[previous + "weight"])
        codebook.initialised.fill_(True)
        codebook.steps.fill_(step)
    return model.train()


# Step 0 draws the first codes and step 4 restarts dead ones: there we differ from the reference on purpose.
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("part", PARTS)
def test_training_step(rvq: Path, trained: dict[str, Tensor], part: str, step: int) -> None:
    part_model = _before(rvq, trained, part, step)._part(part)
    prefix = f"{part}.step{step}."
    want = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
    latent, ids, commitment, _ = part_model.vq(part_model.encoder(want["x"]))
    reconstruction = part_model.decoder(latent)
    error = reconstruction_loss(part, reconstruction, want["x"])

    assert torch.equal(ids.flatten(0, 1), want["indices"])
    for got, name in ((error, "recon"), (commitment, "encoder"), (0.25 * commitment, "vq")):
        torch.testing.assert_close(got, want[f"loss.{name}"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reconstruction, want["x_recon"], atol=1e-5, rtol=2e-5)
    for c, codebook in enumerate(part_model.vq.quantizers):
        for name in ("ema_w", "ema_cluster_size", "entry_hits"):
            torch.testing.assert_close(
                getattr(codebook, name), want[f"after.q{c}.{name}"], atol=1e-5, rtol=1e-5
            )
        torch.testing.assert_close(codebook.codebook.weight, want[f"after.q{c}.weight"], atol=1e-5, rtol=1e-5)

    (error + 0.25 * commitment).backward()
    gradients = {k.removeprefix("grad."): v for k, v in want.items() if k.startswith("grad.")}
    assert gradients
    parameters = dict(part_model.named_parameters())
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            parameters[name].grad,
            gradient,
            atol=5e-5 * max(scale, 1),
            rtol=1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )
