"""The KV cache of chosen layers over the prompt: what RDT2's expert reads, and nothing else.

Layer i's keys and values need the layers before it and layer i's own input norm and K/V projections. The
rest of that last layer, all layers behind it, the final norm and the logits are never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdt2.errors import CheckpointError
from rdt2.vlm import text
from rdt2.vlm.layers import PLAIN, Layers
from rdt2.vlm.ops import rms_norm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor, nn


@dataclass(frozen=True)
class KVCache:
    """Keys (after rotary) and values of chosen layers.

    Attributes:
        keys: one (b, kv, s, hd) a chosen layer, in the order asked for.
        values: as ``keys``.
        mask: (b, s), True where a position is no padding.
    """

    keys: list[Float[Tensor, "b kv s hd"]]
    values: list[Float[Tensor, "b kv s hd"]]
    mask: Bool[Tensor, "b s"]


def prefill(
    model: nn.Module, batch: Mapping[str, Tensor], layers: Sequence[int], *, run: Layers = PLAIN
) -> KVCache:
    """Run the prompt as far as ``layers`` need it, and return their keys and values.

    Args:
        model: a loaded Qwen2.5-VL; one loaded with ``layers=N`` will do if N > max(layers).
        batch: what ``VLMProcessor.prompt`` gives, on the model's device.
        layers: indices of layers, 0 the first.
        run: how layers run.

    Raises:
        CheckpointError: the model does not have such a layer.
    """
    language = text.base_model(model).model.language_model
    available = len(language.layers)
    if not layers or min(layers) < 0 or max(layers) >= available:
        raise CheckpointError(
            f"expected layers of 0..{available - 1}, asked for {list(layers)}; the VLM has, or was loaded "
            f"with, {available} layers: load more, or use the expert that belongs to this VLM"
        )
    x = text.embed(model, batch, run=run.vision)
    angles = text.rotary(model, text.positions(batch), x.dtype)
    mask = text.causal_mask(batch["attention_mask"])
    keys, values = run_prompt(language, x, angles, mask, layers, run=run)
    return KVCache(keys, values, batch["attention_mask"].bool())


def run_prompt(
    language: Any,
    x: Float[Tensor, "b s d"],
    angles: text.Rotary,
    mask: Bool[Tensor, "b 1 s s"] | None,
    layers: Sequence[int],
    *,
    run: Layers = PLAIN,
) -> tuple[list[Float[Tensor, "b kv s hd"]], list[Float[Tensor, "b kv s hd"]]]:
    """Keys and values of ``layers`` of a language model, from embeddings; no layer runs that they do not need."""
    last = max(layers)
    cache: dict[int, tuple[Tensor, Tensor]] = {}
    for index in range(last):
        x, key, value = run.text(language.layers[index], x, angles, mask)
        if index in layers:
            cache[index] = key, value
    layer = language.layers[last]
    cache[last] = text.keys_values(layer, rms_norm(layer.input_layernorm, x), angles)
    return [cache[index][0] for index in layers], [cache[index][1] for index in layers]
