"""Lossless speculation: a cheap draft of the whole answer, checked by the VLM many tokens at a time.

Reading a draft of 27 tokens costs the VLM little more than reading one, and tells which token it would write
after each. Up to the first place where it would write another, the draft is the greedy answer; there the
VLM's own token takes its place. What the VLM says behind that place was conditioned on a wrong token, yet it
is a better draft than the old one, so the next pass checks that (Jacobi decoding; Santilli et al. 2023,
arXiv 2305.10427). Every pass settles one token more at least, and whatever the draft, the answer is the greedy one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from rdt2.errors import ActionError
from rdt2.vlm.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from rdt2.vlm.prefill import KVCache
    from rdt2.vlm.processor import VLMProcessor


class Speculation(NamedTuple):
    """An answer and how much of it the draft had right."""

    tokens: Int[Tensor, "b n"]
    """Tokens 0 .. num_embeddings - 1, as ``generate_actions`` gives them."""
    logprobs: Float[Tensor, "b n"]
    """Natural logarithm of each one's probability among the allowed tokens."""
    accepted: Int[Tensor, " b"]
    """Leading tokens of each row's draft that stand in the answer: 0 .. n."""
    passes: int
    """How often the VLM read tokens of the batch; decoding one at a time takes n - 1."""


@torch.no_grad()
def speculate_actions(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    processor: VLMProcessor,
    draft: Callable[[KVCache], Int[Tensor, "b n"]],
    *,
    num_tokens: int = 27,
    num_embeddings: int = 1024,
    noise: Float[Tensor, "b n e"] | None = None,
) -> Speculation:
    """Write the answer of ``generate_actions`` after each prompt, with the help of a draft.

    The same answer is meant up to rounding: several tokens read at once may round differently from one, which decides
    between tokens only where their scores are equal to the last digits.

    Args:
        model: a whole Qwen2.5-VL.
        batch: what ``VLMProcessor.prompt`` gives (left-padded), on the model's device.
        processor: of the same checkpoint.
        draft: given keys and values of all layers over the prompt, tokens 0 .. num_embeddings - 1 for every row.
        num_tokens: length of the answer.
        num_embeddings: how many action tokens there are.
        noise: as for ``generate_actions``; None is greedy.

    Raises:
        ActionError: a draft of another shape or with tokens that do not exist.
        ConfigError: more action tokens than the vocabulary has room for.
    """
    answer = Answer(model, batch, processor, num_tokens=num_tokens, num_embeddings=num_embeddings)
    rows, device = len(answer.first), answer.first.device
    drafted = draft(answer.prompt).to(device)
    if (
        drafted.shape != (rows, num_tokens)
        or bool((drafted < 0).any())
        or bool((drafted >= num_embeddings).any())
    ):
        raise ActionError(
            f"expected a draft of {num_tokens} tokens 0..{num_embeddings - 1} for each of {rows} rows, got "
            f"shape {tuple(drafted.shape)} with {int(drafted.min())}..{int(drafted.max())}"
        )
    tokens = drafted.clone()
    noise = answer.first.new_zeros(()).expand(rows, num_tokens, num_embeddings) if noise is None else noise
    tokens[:, 0] = (answer.first + noise[:, 0]).argmax(-1)
    scores = answer.first.new_zeros(rows, num_tokens)
    scores[:, 0] = answer.first.log_softmax(-1).gather(-1, tokens[:, :1])[:, 0]
    place = torch.arange(num_tokens, device=device)
    settled = torch.ones(rows, 1, dtype=torch.int64, device=device)  # leading tokens known to be the answer's
    passes = 0
    while (start := int(settled.min())) < num_tokens:
        logits = answer.read(tokens[:, start - 1 : -1], start - 1)
        here = slice(start, None)
        wrote = (logits + noise[:, here]).argmax(-1)
        open_ = place[here] >= settled  # settled tokens stay, even where a row waits for another
        wrong = open_ & (wrote != tokens[:, here])
        tokens[:, here] = torch.where(open_, wrote, tokens[:, here])
        logprobs = logits.log_softmax(-1).gather(-1, wrote[..., None])[..., 0]
        scores[:, here] = torch.where(open_, logprobs, scores[:, here])
        first_wrong = torch.where(wrong, place[here], num_tokens - 1).amin(-1, keepdim=True)
        settled = torch.maximum(settled, first_wrong + 1)
        passes += 1
    accepted = (drafted == tokens).long().cumprod(-1).sum(-1)
    return Speculation(tokens, scores, accepted, passes)
