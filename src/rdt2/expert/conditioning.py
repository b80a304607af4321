"""What the expert attends to: the VLM's keys and values, checked and laid out once a chunk.

The published expert reads the keys (after rotary) and values of the VLM as they are. Its file also holds a
projection for condition tokens (`cond_norm`, `cross_attn.wkv`, `cross_attn.norm_k`), through which no path
leads to an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rdt2.errors import CheckpointError
from rdt2.expert.config import ExpertConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class KeyValues(Protocol):
    """Keys and values of the VLM's selected layers, as a prefill returns them; one entry a layer."""

    @property
    def keys(self) -> Sequence[Float[Tensor, "b kv s d"]]:
        """Of kv heads, at s tokens."""
        ...

    @property
    def values(self) -> Sequence[Float[Tensor, "b kv s d"]]:
        """Beside the keys."""
        ...

    @property
    def mask(self) -> Bool[Tensor, "b s"] | None:
        """False at padding; None where there is none."""
        ...


@dataclass(frozen=True)
class Conditioning:
    """What every step of a chunk attends to, made once by `Expert.prepare`.

    It may be shared by several noise draws: the expert takes k*b chunks with a conditioning of b rows, where
    chunk j*b + i is draw j of row i (as `Tensor.repeat` orders them), and nothing is copied.
    """

    keys: tuple[Float[Tensor, "b kv s d"], ...]  # one entry a block
    values: tuple[Float[Tensor, "b kv s d"], ...]
    mask: Bool[Tensor, "b 1 1 s"] | None  # True = attend; None when nothing is masked

    @property
    def batch(self) -> int:
        """Number of observations b."""
        return self.keys[0].shape[0]

    def rows(self, index: slice | Tensor) -> Conditioning:
        """The conditioning of some of the b observations: by numbers (n,), a mask (b,) or a slice."""
        return self.mapped(lambda tensor: tensor[index])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """All tensors changed alike."""
        return Conditioning(
            tuple(change(k) for k in self.keys),
            tuple(change(v) for v in self.values),
            None if self.mask is None else change(self.mask),
        )


def prepare(kv: KeyValues, config: ExpertConfig, *, dtype: torch.dtype, device: torch.device) -> Conditioning:
    """Check, cast and lay out keys and values.

    Entry i of `kv.keys` and `kv.values` is (b, kv, s, d) of VLM layer `config.selected_layers[i]`, keys
    after rotary; `kv.mask` is (b, s) bool, True = attend. A mask that masks nothing is dropped: the fastest
    attention kernels take none.

    Raises:
        CheckpointError: the VLM's layers or head sizes are not those this expert was made for, or a row of
            the mask hides everything.
    """
    layers = config.selected_layers
    if not len(kv.keys) == len(kv.values) == config.depth:
        raise CheckpointError(
            f"the expert attends to {config.depth} layers of the VLM ({list(layers)}), but keys of "
            f"{len(kv.keys)} and values of {len(kv.values)} came. "
            "Prefill with layers=expert.config.selected_layers."
        )
    shape = tuple(kv.keys[0].shape)
    if shape[1::2] != (config.num_kv_heads, config.head_dim):
        raise CheckpointError(
            f"the VLM's keys have {shape[1]} heads of {shape[-1]}, the expert attends to "
            f"{config.num_kv_heads} heads of {config.head_dim} "
            f"(hidden size {config.hidden_size}, {config.num_heads} query heads). "
            "Use the VLM this expert was trained on."
        )
    for name, tensors in (("keys", kv.keys), ("values", kv.values)):
        for layer, tensor in zip(layers, tensors, strict=True):
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{name} of VLM layer {layer} are {tuple(tensor.shape)}, keys of layer {layers[0]} are "
                    f"{shape}; all must be from one prefill"
                )
    return Conditioning(
        tuple(k.to(device=device, dtype=dtype).contiguous() for k in kv.keys),
        tuple(v.to(device=device, dtype=dtype).contiguous() for v in kv.values),
        _attention_mask(kv.mask, shape[0], shape[2], device),
    )


def _attention_mask(mask: Tensor | None, rows: int, length: int, device: torch.device) -> Tensor | None:
    """The mask broadcast over heads and queries, or None when it masks nothing."""
    if mask is None:
        return None
    if tuple(mask.shape) != (rows, length):
        raise CheckpointError(f"the mask is {tuple(mask.shape)}, the keys ask for {(rows, length)}")
    mask = mask.bool()
    fewest = int(mask.sum(-1).min())
    if fewest == 0:
        raise CheckpointError("a row of the mask hides every token: the expert has nothing to attend to")
    return None if fewest == length else mask.to(device)[:, None, None, :]
