"""The answer of a VLM while it is being written: caches with room for it, and scores of action tokens alone.

What follows ``<|quad_start|>`` is known to be 27 action tokens and then ``<|quad_end|>``, so of the head's
rows only those of the 1024 action tokens are ever computed and the result is always a valid string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rdt2.errors import ConfigError
from rdt2.vlm import text
from rdt2.vlm.layers import PLAIN, Layers
from rdt2.vlm.ops import rms_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from rdt2.vlm.processor import VLMProcessor


class Answer:
    """A prompt that was read, and the tokens read after it. Tokens are 0 .. num_embeddings - 1.

    Attributes:
        first: (b, num_embeddings) float32 logits of token 0, from the prompt alone.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Mapping[str, Tensor],
        processor: VLMProcessor,
        *,
        num_tokens: int,
        num_embeddings: int,
        run: Layers = PLAIN,
    ) -> None:
        """Read the prompt.

        Args:
            model: a whole Qwen2.5-VL.
            batch: what ``VLMProcessor.prompt`` gives (left-padded), on the model's device.
            processor: of the same checkpoint; knows where the action tokens are in the vocabulary.
            num_tokens: length of the answer.
            num_embeddings: how many action tokens there are.
            run: how layers run over the prompt.

        Raises:
            ConfigError: more action tokens than the vocabulary has room for.
        """
        if not 0 < num_embeddings <= processor.vocab_size:
            raise ConfigError(f"expected 1..{processor.vocab_size} action tokens, got {num_embeddings}")
        inner = text.base_model(model)
        self._language = inner.model.language_model
        first = processor.vocab_size - num_embeddings  # ids run against tokens: the last row is token 0
        self._head = inner.lm_head.weight[first : processor.vocab_size].flip(0)
        self._embedding = self._language.embed_tokens.weight[first : processor.vocab_size].flip(0)

        position = text.positions(batch)
        x = text.embed(model, batch, run=run.vision)
        rows, self._prompt, _ = x.shape
        angles = text.rotary(model, position, x.dtype)
        mask = text.causal_mask(batch["attention_mask"])
        # Static cache: (b, kv, prompt + num_tokens - 1, hd) a layer; the last token is never fed back.
        self._cache: list[list[Tensor]] = []
        for layer in self._language.layers:
            x, *kv = run.text(layer, x, angles, mask)
            self._cache.append(
                [torch.cat((t, t.new_zeros(*t.shape[:2], num_tokens - 1, t.shape[-1])), 2) for t in kv]
            )
        self.first = self._scores(x[:, -1])

        # Answer token i stands at (last position of the prompt + 1 + i) in time, row and column alike.
        steps = position[..., -1:] + 1 + torch.arange(num_tokens, device=x.device)
        self._angles = text.rotary(model, steps, x.dtype)
        tail = torch.ones(rows, num_tokens - 1, dtype=torch.bool, device=x.device)
        self._padded = mask is not None
        self._readable = torch.cat((batch["attention_mask"].bool(), tail), 1)[:, None, None]

    def repeat(self, times: int) -> None:
        """Go on with so many answers to each prompt: every row stands ``times`` times, one behind the other."""
        self.first = self.first.repeat_interleave(times, 0)
        self._cache = [[each.repeat_interleave(times, 0) for each in pair] for pair in self._cache]
        self._angles = text.Rotary(*(angle.repeat_interleave(times, 0) for angle in self._angles))
        self._readable = self._readable.repeat_interleave(times, 0)

    def read(self, tokens: Int[Tensor, " b"], place: int) -> Float[Tensor, "b e"]:
        """Read token ``place`` of each answer, those before it being read.

        Returns:
            float32 logits of the token that follows.
        """
        begin, end = self._prompt + place, self._prompt + place + 1
        x = F.embedding(tokens[:, None], self._embedding)
        angles = text.Rotary(*(angle[:, :, place : place + 1] for angle in self._angles))
        seen = self._readable[..., :end] if self._padded else None
        for layer, (keys, values) in zip(self._language.layers, self._cache, strict=True):
            normed = rms_norm(layer.input_layernorm, x)
            keys[:, :, begin:end], values[:, :, begin:end] = text.keys_values(layer, normed, angles)
            x = x + text.attend(layer, normed, keys[:, :, :end], values[:, :, :end], angles, seen)
            x = x + layer.mlp(rms_norm(layer.post_attention_layernorm, x))
        return self._scores(x[:, 0])

    def _scores(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        return F.linear(rms_norm(self._language.norm, x), self._head).float()
