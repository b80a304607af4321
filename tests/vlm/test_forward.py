"""Vision, cache, loss, gradients and decoding equal those of transformers' whole forward."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdt2.errors import ActionError, CheckpointError, ConfigError, ObservationError
from rdt2.vlm import generate_actions, load_vlm, prefill, sampling_noise, text, training_loss
from rdt2.vlm.vision import encode_pictures

TEXTS = ["Pick up the red cube with the left hand.", "Press the blue button."]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def prompt(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    return tiny.processor.prompt(pictures, TEXTS)


@pytest.fixture
def training(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    return tiny.processor.training(pictures, TEXTS, np.random.default_rng(1).integers(0, 1024, (2, 27)))


def test_vision_equals_transformers_for_mixed_sizes(
    tiny: SimpleNamespace, pictures: list[np.ndarray]
) -> None:
    mixed = [pictures[0], pictures[1][:100, :300], pictures[1], pictures[0][:200, :90]]
    pixel_values, grid = tiny.processor.images(mixed)
    with torch.no_grad():
        ours = encode_pictures(tiny.model.model.visual, pixel_values, grid)
        theirs = tiny.model.model.visual(pixel_values, grid_thw=grid).pooler_output
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_vision_never_mixes_pictures(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> None:
    visual, (pixel_values, grid) = tiny.model.model.visual, tiny.processor.images(pictures)
    with torch.no_grad():
        together = encode_pictures(visual, pixel_values, grid)
        pixel_values[288:] = 0
        torch.testing.assert_close(encode_pictures(visual, pixel_values, grid)[:72], together[:72])


def test_patches_must_fit_their_grids(tiny: SimpleNamespace, prompt: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ObservationError, match="patches"):
        encode_pictures(tiny.model.model.visual, prompt["pixel_values"][:-4], prompt["image_grid_thw"])
    with pytest.raises(ObservationError, match="image tokens"):
        text.embed(tiny.model, {**prompt, "input_ids": prompt["input_ids"][:, :50]})


@pytest.mark.parametrize("side", ["prompt", "training"])
def test_positions_equal_transformers(
    tiny: SimpleNamespace, side: str, request: pytest.FixtureRequest
) -> None:
    batch = request.getfixturevalue(side)
    theirs, _ = tiny.model.model.get_rope_index(
        batch["input_ids"], batch["mm_token_type_ids"], batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )  # fmt: skip
    assert torch.equal(text.positions(batch), theirs)


@pytest.mark.parametrize("layers", [[0], [2, 0], [0, 1, 2]])
def test_prefill_equals_the_full_forward(
    tiny: SimpleNamespace, prompt: dict[str, torch.Tensor], layers: list[int]
) -> None:
    with torch.no_grad():
        whole = tiny.model(**prompt, use_cache=True).past_key_values
        cache = prefill(tiny.model, prompt, layers)
    mask = cache.mask[:, None, :, None]
    for i, layer in enumerate(layers):
        torch.testing.assert_close(cache.keys[i] * mask, whole.layers[layer].keys * mask, **CLOSE)
        torch.testing.assert_close(cache.values[i] * mask, whole.layers[layer].values * mask, **CLOSE)


def test_prefill_runs_no_layer_it_does_not_need(
    tiny: SimpleNamespace, prompt: dict[str, torch.Tensor]
) -> None:
    # Guards: all layers and the logits run though only some caches are read.
    ran = []
    named = tiny.model.named_modules()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in named
        if name.endswith(("k_proj", "q_proj", "language_model.layers.1.mlp", "lm_head"))
    ]
    with torch.no_grad():
        prefill(tiny.model, prompt, [0, 1])
    for hook in hooks:
        hook.remove()
    short = [name.removeprefix("model.language_model.layers.") for name in ran]
    assert short == ["0.self_attn.k_proj", "0.self_attn.q_proj", "1.self_attn.k_proj"]


def test_prefill_of_a_truncated_model(tiny: SimpleNamespace, prompt: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        whole, short = (prefill(m, prompt, [0, 1]) for m in (tiny.model, load_vlm(tiny.folder, layers=2)))
    for ours, theirs in zip(short.keys + short.values, whole.keys + whole.values, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match=r"layers of 0\.\.2"):
        prefill(tiny.model, prompt, [3])


@pytest.mark.parametrize("left", [False, True])
def test_loss_and_gradients_equal_the_full_forward(
    tiny: SimpleNamespace, training: dict[str, torch.Tensor], left: bool
) -> None:
    batch = dict(training)
    if left:  # the same rows padded on the left
        short = int((batch["attention_mask"][1] == 0).sum())
        for name in ("input_ids", "attention_mask", "mm_token_type_ids", "labels"):
            batch[name] = torch.stack([batch[name][0], batch[name][1].roll(short)])
    model = load_vlm(tiny.folder)
    loss, stats = training_loss(model, batch)
    loss.backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    theirs = model(**batch).loss
    theirs.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)
    assert stats.correct.shape == stats.predicted.shape == (2, 29)
    assert stats.accuracy.shape == (29,)


def test_rows_without_labels_are_refused(tiny: SimpleNamespace, training: dict[str, torch.Tensor]) -> None:
    training["labels"][1] = -100
    with pytest.raises(ActionError, match=r"\[29, 0\]"):
        training_loss(tiny.model, training)


def test_adapters_take_part(tiny: SimpleNamespace, training: dict[str, torch.Tensor]) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        load_vlm(tiny.folder), LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|down_proj)")
    )
    loss, _ = training_loss(adapted, training)
    loss.backward()
    grads = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(grads) == 6
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def _reference_greedy(
    tiny: SimpleNamespace, prompt: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Without a cache: run transformers over the growing string, choose among action tokens."""
    first, last = tiny.processor.action_token_id(1023), tiny.processor.vocab_size
    batch, tokens, scores = dict(prompt), [], []
    for _ in range(5):
        scored = tiny.model(**batch, use_cache=False).logits[:, -1, first:last].log_softmax(-1)
        score, best = scored.max(-1)
        tokens.append(1023 - best)
        scores.append(score)
        for name, column in {"input_ids": first + best, "attention_mask": best * 0 + 1}.items():
            batch[name] = torch.cat((batch[name], column[:, None]), 1)
        batch["mm_token_type_ids"] = torch.cat((batch["mm_token_type_ids"], best[:, None] * 0), 1)
    return torch.stack(tokens, 1), torch.stack(scores, 1)


def test_greedy_equals_transformers_without_a_cache(
    tiny: SimpleNamespace, prompt: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        expected, scores = _reference_greedy(tiny, prompt)
    tokens, ours = generate_actions(tiny.model, prompt, tiny.processor, num_tokens=5)
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(ours, scores, **CLOSE)


def test_noise_makes_samples_of_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.5])
    for temperature in (0.5, 2.0):
        noise = sampling_noise((20_000, 4), temperature, generator=torch.Generator().manual_seed(0))
        drawn = torch.bincount((logits + noise).argmax(-1), minlength=4) / 20_000
        torch.testing.assert_close(drawn, (logits / temperature).softmax(-1), atol=0.012, rtol=0)
    assert not sampling_noise((3, 4), 0.0).any()
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="temperature"):
            sampling_noise((3, 4), temperature)


def test_sampled_tokens_are_allowed_and_depend_on_their_noise_alone(
    tiny: SimpleNamespace, prompt: dict[str, torch.Tensor]
) -> None:
    def draw(seed: int) -> torch.Tensor:
        shape = (len(prompt["input_ids"]), 6, 50)
        noise = sampling_noise(shape, 1.0, generator=torch.Generator().manual_seed(seed))
        return generate_actions(
            tiny.model, prompt, tiny.processor, num_tokens=6, num_embeddings=50, noise=noise
        )[0]

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert int(draw(0).max()) < 50
