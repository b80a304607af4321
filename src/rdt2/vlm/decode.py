"""Action tokens from a VLM: one prefill, then one token at a time, choosing among action tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rdt2.errors import ConfigError
from rdt2.vlm.answer import Answer

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
    if temperature < 0:
        raise ConfigError(f"expected temperature >= 0, got {temperature}")
    answer = Answer(model, batch, processor, num_tokens=num_tokens, num_embeddings=num_embeddings)
    logits = answer.first
    tokens: list[Tensor] = []
    scores: list[Tensor] = []
    for i in range(num_tokens):
        if i > 0:
            logits = answer.read(tokens[-1][:, None], i - 1)[:, 0]
        tokens.append(_choose(logits, temperature, generator))
        scores.append(logits.log_softmax(-1).gather(-1, tokens[-1][:, None])[:, 0])
    return torch.stack(tokens, 1), torch.stack(scores, 1)


def _choose(
    logits: Float[Tensor, "b n"], temperature: float, generator: torch.Generator | None
) -> Int[Tensor, " b"]:
    if temperature == 0:
        return logits.argmax(-1)
    probability = (logits / temperature).softmax(-1)
    return torch.multinomial(probability, 1, generator=generator)[:, 0]
