"""Action tokens from a VLM: one prefill, then one token at a time, choosing among action tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rdt2.errors import ConfigError
from rdt2.vlm.answer import Answer
from rdt2.vlm.layers import PLAIN, Layers

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
    noise: Float[Tensor, "bxdraws n e"] | None = None,
    run: Layers = PLAIN,
) -> tuple[Int[Tensor, "bxdraws n"], Float[Tensor, "bxdraws n"]]:
    """Write ``num_tokens`` action tokens after each prompt, once or several times.

    Args:
        model: a whole Qwen2.5-VL.
        batch: what ``VLMProcessor.prompt`` gives (left-padded), on the model's device.
        processor: of the same checkpoint; knows where the action tokens are in the vocabulary.
        num_tokens: length of the string.
        num_embeddings: action tokens 0 .. num_embeddings - 1 are allowed.
        noise: added to the logits before the largest is taken (see :func:`sampling_noise`); None is greedy. With
            several rows for each prompt, each is another answer to it; prompts are read once all the same.
        run: how layers run over the prompt.

    Returns:
        Tokens 0 .. num_embeddings - 1, and the natural logarithm of each one's probability among the allowed
        tokens at temperature 1: a measure of confidence.

    Raises:
        ConfigError: more action tokens than the vocabulary has room for.
    """
    answer = Answer(model, batch, processor, num_tokens=num_tokens, num_embeddings=num_embeddings, run=run)
    if noise is not None and len(noise) != len(answer.first):
        answer.repeat(len(noise) // len(answer.first))
    logits = answer.first
    tokens: list[Tensor] = []
    scores: list[Tensor] = []
    for i in range(num_tokens):
        if i > 0:
            logits = answer.read(tokens[-1], i - 1)
        tokens.append((logits if noise is None else logits + noise[:, i]).argmax(-1))
        scores.append(logits.log_softmax(-1).gather(-1, tokens[-1][:, None])[:, 0])
    return torch.stack(tokens, 1), torch.stack(scores, 1)


def sampling_noise(
    shape: tuple[int, ...], temperature: float, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """Noise that makes the largest of logits plus noise a sample of softmax(logits / temperature).

    Drawn beforehand, it leaves decoding a plain search for the largest, and a row of a batch depends on its own draw
    alone. (The Gumbel-max trick; Maddison et al. 2014, arXiv 1411.0030.)

    Raises:
        ConfigError: a temperature that is not a finite number of 0 or more.
    """
    check_temperature(temperature)
    smallest = torch.finfo(torch.float32).tiny
    uniform = torch.rand(shape, generator=generator).clamp(min=smallest)
    return -temperature * (-uniform.log()).clamp(min=smallest).log()


def check_temperature(temperature: float) -> None:
    """Refuse what is no temperature.

    Raises:
        ConfigError: it is not a finite number of 0 or more.
    """
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature is {temperature}, expected a finite number of 0 or more.")
