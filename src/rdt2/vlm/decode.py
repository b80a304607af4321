"""Action tokens from a VLM: one prefill, then one token at a time, choosing among action tokens only.

What follows ``<|quad_start|>`` is known to be 27 action tokens and then ``<|quad_end|>``, so of the head's
rows only those of the 1024 action tokens are ever computed and the result is always a valid string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rdt2.errors import ConfigError
from rdt2.vlm import text
from rdt2.vlm.ops import rms_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from rdt2.vlm.processor import VLMProcessor


@torch.no_grad()
def generate_actions(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    processor: VLMProcessor,
    *,
    num_tokens: int = 27,
    num_embeddings: int = 1024,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Write ``num_tokens`` action tokens after each prompt.

    Args:
        model: a whole Qwen2.5-VL.
        batch: what ``VLMProcessor.prompt`` gives (left-padded), on the model's device.
        processor: of the same checkpoint; knows where the action tokens are in the vocabulary.
        num_tokens: length of the string.
        num_embeddings: action tokens 0 .. num_embeddings - 1 are allowed.
        temperature: 0 takes the likeliest token; above 0 samples.
        generator: of the samples; on the model's device.

    Returns:
        Tokens 0 .. num_embeddings - 1, and the natural logarithm of each one's probability among the allowed
        tokens at temperature 1: a measure of confidence.

    Raises:
        ConfigError: a temperature below 0, or more action tokens than the vocabulary has room for.
    """
    if temperature < 0 or not 0 < num_embeddings <= processor.vocab_size:
        raise ConfigError(
            f"expected temperature >= 0 and 1..{processor.vocab_size} action tokens, got {temperature} and "
            f"{num_embeddings}"
        )
    inner = text.base_model(model)
    language = inner.model.language_model
    first = processor.vocab_size - num_embeddings  # ids run against tokens: the last row is token 0
    head = inner.lm_head.weight[first : processor.vocab_size].flip(0)
    embedding = language.embed_tokens.weight[first : processor.vocab_size].flip(0)

    position = text.positions(batch)
    x = text.embed(model, batch)
    rows, prompt, _ = x.shape
    angles = text.rotary(model, position, x.dtype)
    mask = text.causal_mask(batch["attention_mask"])
    # Static cache: (b, kv, prompt + num_tokens - 1, hd) a layer; the last token is never fed back.
    cache = []
    for layer in language.layers:
        x, *kv = text.run_layer(layer, x, angles, mask)
        cache.append([torch.cat((t, t.new_zeros(*t.shape[:2], num_tokens - 1, t.shape[-1])), 2) for t in kv])
    x = x[:, -1:]

    # Answer token i stands at (last position of the prompt + 1 + i) in time, row and column alike.
    steps = position[..., -1:] + 1 + torch.arange(num_tokens, device=x.device)
    answer = text.rotary(model, steps, x.dtype)
    tail = torch.ones(rows, num_tokens - 1, dtype=torch.bool, device=x.device)
    padded = mask is not None
    readable = torch.cat((batch["attention_mask"].bool(), tail), 1)[:, None, None]
    tokens, scores = [], []
    for i in range(num_tokens):
        logits = F.linear(rms_norm(language.norm, x[:, -1]), head).float()
        token = _choose(logits, temperature, generator)
        tokens.append(token)
        scores.append(logits.log_softmax(-1).gather(-1, token[:, None])[:, 0])
        if i == num_tokens - 1:
            break
        x = F.embedding(token, embedding)[:, None]
        here, end = slice(i, i + 1), prompt + i + 1
        angle = text.Rotary(answer.cos[:, :, here], answer.sin[:, :, here])
        for layer, (keys, values) in zip(language.layers, cache, strict=True):
            normed = rms_norm(layer.input_layernorm, x)
            keys[:, :, end - 1 : end], values[:, :, end - 1 : end] = text.keys_values(layer, normed, angle)
            seen = readable[..., :end] if padded else None
            x = x + text.attend(layer, normed, keys[:, :, :end], values[:, :, :end], angle, seen)
            x = x + layer.mlp(rms_norm(layer.post_attention_layernorm, x))
    return torch.stack(tokens, 1), torch.stack(scores, 1)


def _choose(
    logits: Float[Tensor, "b n"], temperature: float, generator: torch.Generator | None
) -> Int[Tensor, " b"]:
    if temperature == 0:
        return logits.argmax(-1)
    probability = (logits / temperature).softmax(-1)
    return torch.multinomial(probability, 1, generator=generator)[:, 0]
