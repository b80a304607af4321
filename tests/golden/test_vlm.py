"""The VLM agrees with the reference: ids and labels exactly, tensors to float32 rounding."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rdt2.vlm import VLMProcessor, generate_actions, load_vlm, prefill, text, training_loss
from rdt2.vlm.vision import encode_pictures


@pytest.fixture(scope="module")
def vla(golden: Path) -> SimpleNamespace:
    """The tiny Qwen2.5-VL of the goldens, its three samples and the reference's tensors."""
    folder = golden / "vla"
    samples = np.load(folder / "samples.npz")
    return SimpleNamespace(
        folder=folder,
        processor=VLMProcessor.from_pretrained(folder / "processor"),
        model=load_vlm(folder / "model"),
        pictures=[np.concatenate(pair, 1) for pair in zip(samples["left"], samples["right"], strict=True)],
        instructions=list(json.loads((folder / "samples.json").read_text())["instructions"].values()),
        tokens=samples["action_token"],
        collate=load_file(folder / "vq_collate.safetensors"),
        predict=load_file(folder / "predict.safetensors"),
        fm=load_file(folder / "fm.safetensors"),
    )


@pytest.fixture(scope="module")
def fm_batch(vla: SimpleNamespace) -> dict[str, torch.Tensor]:
    """The prompt of the reference's flow-matching run, with its pixel values (fast image processor)."""
    batch = vla.processor.prompt(vla.pictures, vla.instructions)
    return {**batch, "pixel_values": vla.fm["fm_collate.pixel_values"]}


def test_full_size_picture_equals_slow_processor(vla: SimpleNamespace) -> None:
    stored = np.load(vla.folder / "preprocess_fullsize.npz")
    pixel_values, grid = vla.processor.images([stored["image"]])
    rows = range(0, 1512, 97)
    assert grid.tolist() == [[1, 28, 54]]
    np.testing.assert_array_equal(vla.processor.images.resize(stored["image"]), stored["resized_slow"])
    np.testing.assert_array_equal(pixel_values.numpy()[rows], stored["pixel_values_slow_rows"])


def test_prompt_equals_reference(vla: SimpleNamespace) -> None:
    batch = vla.processor.prompt(vla.pictures, vla.instructions)
    for name in ("input_ids", "attention_mask", "image_grid_thw", "pixel_values"):
        assert torch.equal(batch[name], vla.predict[f"predict.batch.slow.{name}"]), name


def test_training_batch_equals_reference_but_for_its_prompt_labels(vla: SimpleNamespace) -> None:
    batch = vla.processor.training(vla.pictures, vla.instructions, vla.tokens)
    for name in ("input_ids", "attention_mask", "image_grid_thw"):
        assert torch.equal(batch[name], vla.collate[f"vq_collate.right.valid.{name}"]), name
    reference, ours = vla.collate["vq_collate.right.valid.labels"], batch["labels"]
    # The reference's loss also covers "<|im_start|>assistant\n<|quad_start|>", which is always given.
    differ = reference != ours
    assert (ours[differ] == -100).all()
    assert reference[differ].view(3, 4).tolist() == [[2049, 277, 198, 2055]] * 3


def test_image_tokens_and_positions(vla: SimpleNamespace, fm_batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        tokens = encode_pictures(vla.model.model.visual, fm_batch["pixel_values"], fm_batch["image_grid_thw"])
    torch.testing.assert_close(tokens, vla.fm["vlm.image_embeds"], rtol=1e-5, atol=1e-5)
    mask = fm_batch["attention_mask"].bool()
    assert torch.equal(text.positions(fm_batch)[:, mask], vla.fm["vlm.position_ids"][:, mask])


@pytest.mark.parametrize("layers", [None, 3])
def test_kv_cache_equals_reference(
    vla: SimpleNamespace, fm_batch: dict[str, torch.Tensor], layers: int | None
) -> None:
    model = vla.model if layers is None else load_vlm(vla.folder / "model", layers=layers)
    with torch.no_grad():
        cache = prefill(model, fm_batch, [0, 1, 2])
    mask = cache.mask[:, None, :, None]
    for i in range(3):
        for kind, ours in (("k", cache.keys[i]), ("v", cache.values[i])):
            theirs = vla.fm[f"vlm.{kind}{i}"]
            torch.testing.assert_close(ours * mask, theirs * mask, rtol=1e-5, atol=1e-5)


def test_greedy_ids_equal_reference(vla: SimpleNamespace) -> None:
    batch = vla.processor.prompt(vla.pictures, vla.instructions)
    tokens, scores = generate_actions(vla.model, batch, vla.processor)
    generated = vla.predict["predict.batch.slow.generated"]
    assert torch.equal(vla.processor.action_token_id(tokens), generated[:, :27])
    assert (generated[:, 27] == vla.processor.quad_end_id).all()
    assert scores.shape == (3, 27)
    assert (scores > -0.01).all(), "an overfitted model is certain"


@pytest.mark.parametrize("row", range(3))
def test_batch_of_different_instructions_equals_one_by_one(vla: SimpleNamespace, row: int) -> None:
    # Guards: every row got row 0's instruction; right padding corrupted the shorter rows.
    batch = vla.processor.prompt(vla.pictures, vla.instructions)
    together, _ = generate_actions(vla.model, batch, vla.processor)
    alone = vla.processor.prompt(vla.pictures[row : row + 1], vla.instructions[row : row + 1])
    tokens, _ = generate_actions(vla.model, alone, vla.processor)
    assert torch.equal(tokens[0], together[row])


def test_loss_equals_reference_on_its_labels(vla: SimpleNamespace) -> None:
    batch = vla.processor.training(vla.pictures, vla.instructions, vla.tokens)
    batch |= {
        "labels": vla.collate["vq_collate.right.valid.labels"],
        "pixel_values": vla.collate["vq_collate.pixel_values"],
    }
    with torch.no_grad():
        loss, _ = training_loss(vla.model, batch)
    torch.testing.assert_close(loss, vla.collate["vq_forward.right.loss"][0], rtol=0, atol=1e-6)
