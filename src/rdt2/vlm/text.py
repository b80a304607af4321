"""The language model of Qwen2.5-VL as RDT2 runs it: positions, embeddings and layers.

Same weights and results as transformers' forward. All functions take the loaded transformers model and call
its modules, so adapters (PEFT) work as they do there. Shapes: b batch, s sequence, d hidden, kv key/value
heads, hd head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from rdt2.errors import ObservationError
from rdt2.vlm.ops import rms_norm, rotate
from rdt2.vlm.vision import encode_pictures, run_block

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn


class Rotary(NamedTuple):
    """Cosine and sine of every position, (b, 1, s, hd)."""

    cos: Tensor
    sin: Tensor


def base_model(model: nn.Module) -> Any:
    """The Qwen2.5-VL inside adapters (PEFT) or a data-parallel wrapper, or the model itself."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def embed(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    checkpointing: bool = False,
    run: Callable[..., Tensor] = run_block,
) -> Float[Tensor, "b s d"]:
    """Token embeddings with the pictures' tokens in place.

    With ``checkpointing`` the vision tower's activations are computed again in the backward pass; its blocks go
    through ``run``.

    Raises:
        ObservationError: the number of image tokens in the text is not the pictures'.
    """
    inner, ids = base_model(model).model, batch["input_ids"]
    x = inner.language_model.embed_tokens(ids)
    pictures = encode_pictures(
        inner.visual, batch["pixel_values"], batch["image_grid_thw"], checkpointing=checkpointing, run=run
    )
    is_picture = ids == inner.config.image_token_id
    if int(is_picture.sum()) != len(pictures):
        raise ObservationError(
            f"expected {len(pictures)} image tokens for these pictures, found {int(is_picture.sum())} in "
            "input_ids; make the batch with VLMProcessor"
        )
    return x.masked_scatter(is_picture[..., None], pictures.to(x.dtype))


def positions(batch: Mapping[str, Tensor], *, merge: int = 2) -> Int[Tensor, "3 b s"]:
    """Time, row and column position of every token of rows with one picture each.

    Text counts up in all three. A picture at position p covers (p, p + row, p + column) of its merged grid,
    and the text after it goes on at p + max(rows, columns). Padding gets 0.
    """
    attended, is_picture = batch["attention_mask"].bool(), batch["mm_token_type_ids"].bool()
    rows, columns = (batch["image_grid_thw"][:, 1:] // merge).T[..., None]  # each (b, 1)
    count = attended.cumsum(-1) - 1
    start = torch.where(is_picture, count, count.shape[-1]).amin(-1, keepdim=True)
    cell = count - start
    after = count - rows * columns + torch.maximum(rows, columns)
    text = torch.where(cell >= rows * columns, after, count)
    picture = start + torch.stack([torch.zeros_like(cell), cell // columns, cell % columns])
    return torch.where(is_picture, picture, text) * attended


def rotary(model: nn.Module, position: Int[Tensor, "3 b s"], dtype: torch.dtype) -> Rotary:
    """Angles of the three-part rotary embedding: ``mrope_section`` says whose position turns what."""
    module = base_model(model).model.language_model.rotary_emb
    section = module.mrope_section
    angle = position[..., None].float() * module.inv_freq.to(position.device).float()
    angle = torch.cat([part[i % 3] for i, part in enumerate(angle.split(section, -1))], -1)[:, None]
    angle = torch.cat((angle, angle), -1)
    return Rotary(
        (angle.cos() * module.attention_scaling).to(dtype), (angle.sin() * module.attention_scaling).to(dtype)
    )


def causal_mask(attention_mask: Int[Tensor, "b s"]) -> Bool[Tensor, "b 1 s s"] | None:
    """Who may read whom, or None where plain causality says it all.

    Padding on the right comes after every token that counts, so causality alone keeps it out. Padding on the
    left must be masked; padding itself reads itself, lest its softmax over nothing become NaN.
    """
    attended = attention_mask.bool()
    if bool(attended[:, 0].all()):
        return None
    s = attended.shape[1]
    below = torch.ones(s, s, dtype=torch.bool, device=attended.device).tril()
    itself = torch.eye(s, dtype=torch.bool, device=attended.device)
    return (below & attended[:, None, None]) | itself


def heads(x: Float[Tensor, "b s hxhd"], size: int) -> Float[Tensor, "b h s hd"]:
    """Split the last axis into heads."""
    return x.view(*x.shape[:2], -1, size).transpose(1, 2)


def keys_values(layer: Any, x: Float[Tensor, "b s d"], angles: Rotary) -> tuple[Tensor, Tensor]:
    """Keys (after rotary) and values of a layer from its normed input, both (b, kv, s, hd)."""
    attention = layer.self_attn
    key = rotate(heads(attention.k_proj(x), attention.head_dim), *angles)
    return key, heads(attention.v_proj(x), attention.head_dim)


def queries(layer: Any, x: Float[Tensor, "b q d"], angles: Rotary) -> Float[Tensor, "b h q hd"]:
    """Queries (after rotary) of a layer from its normed input."""
    attention = layer.self_attn
    return rotate(heads(attention.q_proj(x), attention.head_dim), *angles)


def attend(
    layer: Any,
    x: Float[Tensor, "b q d"],
    key: Float[Tensor, "b kv s hd"],
    value: Float[Tensor, "b kv s hd"],
    angles: Rotary,
    mask: Bool[Tensor, "b 1 q s"] | None,
    *,
    causal: bool = False,
) -> Float[Tensor, "b q d"]:
    """Attention of a layer for normed inputs ``x`` over given keys and values."""
    query = queries(layer, x, angles)
    out = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, enable_gqa=True)
    return layer.self_attn.o_proj(out.transpose(1, 2).flatten(2))


def run_layer(
    layer: Any, x: Float[Tensor, "b s d"], angles: Rotary, mask: Bool[Tensor, "b 1 s s"] | None
) -> tuple[Float[Tensor, "b s d"], Tensor, Tensor]:
    """One whole layer over the whole sequence: its output, keys and values. No mask means causal."""
    normed = rms_norm(layer.input_layernorm, x)
    key, value = keys_values(layer, normed, angles)
    x = x + attend(layer, normed, key, value, angles, mask, causal=mask is None)
    x = x + layer.mlp(rms_norm(layer.post_attention_layernorm, x))
    return x, key, value
