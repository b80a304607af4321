"""The training loss of RDT2-VQ: cross-entropy over the whole vocabulary, computed where it counts.

Some 29 of 450 positions of a sample carry loss. The last layer's queries, attention and MLP, the final norm
and the logits run at those positions alone; the figure is the one transformers computes over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from rdt2.errors import ActionError
from rdt2.vlm import text
from rdt2.vlm.layers import PLAIN, Layers
from rdt2.vlm.ops import recomputed, rms_norm
from rdt2.vlm.processor import IGNORE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn


class LossStats(NamedTuple):
    """What each of the n answer positions (27 action tokens, ``<|quad_end|>``, end of turn) came to.

    Attributes:
        correct: (b, n) whether the likeliest token is the right one.
        predicted: (b, n) vocabulary id of the likeliest token.
    """

    correct: Bool[Tensor, "b n"]
    predicted: Int[Tensor, "b n"]

    @property
    def accuracy(self) -> Float[Tensor, " n"]:
        """Share of right tokens at each answer position, over the batch."""
        return self.correct.float().mean(0)


def training_loss(
    model: nn.Module, batch: Mapping[str, Tensor], *, checkpointing: bool = False, run: Layers = PLAIN
) -> tuple[Tensor, LossStats]:
    """Mean cross-entropy of the labelled tokens in nats, differentiable, and what was predicted.

    Args:
        model: a whole Qwen2.5-VL, with or without adapters.
        batch: what ``VLMProcessor.training`` gives, on the model's device.
        checkpointing: keep only the input of every layer and compute the rest again in the backward pass:
            the same gradients in a fraction of the memory, for a third more time.
        run: how all layers but the last run.

    Raises:
        ActionError: rows with no or different numbers of labels.
    """
    inner = text.base_model(model)
    language = inner.model.language_model
    where, target = _targets(batch["labels"])

    x = text.embed(model, batch, checkpointing=checkpointing, run=run.vision)
    angles = text.rotary(model, text.positions(batch), x.dtype)
    mask = text.causal_mask(batch["attention_mask"])
    for layer in language.layers[:-1]:
        if checkpointing:
            x = recomputed(_layer_output, run, layer, x, angles, mask)
        else:
            x = _layer_output(run, layer, x, angles, mask)

    # Last layer: keys and values everywhere, the rest only at the positions that predict a label.
    last = language.layers[-1]
    normed = rms_norm(last.input_layernorm, x)
    key, value = text.keys_values(last, normed, angles)
    rows = torch.arange(len(x), device=x.device)[:, None]
    here = text.Rotary(*(angle.squeeze(1)[rows, where][:, None] for angle in angles))
    if mask is None:
        seen = torch.arange(x.shape[1], device=x.device) <= where[..., None]  # (b, n, s)
        seen = seen[:, None]
    else:
        seen = mask.squeeze(1)[rows, where][:, None]
    x = x[rows, where] + text.attend(last, normed[rows, where], key, value, here, seen)
    x = x + last.mlp(rms_norm(last.post_attention_layernorm, x))

    logits = inner.lm_head(rms_norm(language.norm, x)).float()
    predicted = logits.detach().argmax(-1)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten()), LossStats(predicted == target, predicted)


def _layer_output(
    run: Layers, layer: nn.Module, x: Tensor, angles: text.Rotary, mask: Tensor | None
) -> Tensor:
    output: Tensor = run.text(layer, x, angles, mask)[0]
    return output


def _targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (b, n) whose logits predict a label, and those labels (b, n)."""
    labelled = labels[:, 1:] != IGNORE
    counts = labelled.sum(-1)
    n = int(counts[0])
    if n == 0 or bool((counts != n).any()):
        raise ActionError(
            f"expected the same number of labels, at least one, in every row, got {counts.tolist()}; "
            "make the batch with VLMProcessor.training"
        )
    where = labelled.nonzero()[:, 1].view(len(labels), n)
    return where, labels[:, 1:].gather(1, where)
