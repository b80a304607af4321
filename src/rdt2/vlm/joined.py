"""Matrices of a VLM laid out as the fastest products want them: joined where they read the same, and padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from rdt2.vlm import text

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BLOCK = 64  # widths of the vision tower are padded to multiples of this


def align_vision(vlm: Any) -> None:
    """Pad the MLPs of the vision tower with zeros to a width of whole blocks, in place; results stay the same.

    The published 3420 is no multiple of 8, which leaves the GPU's matrix products to slower kernels.
    Quantised layers stay as they are.
    """
    for block in text.base_model(vlm).model.visual.blocks:
        gate, up, down = block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj
        more = -gate.out_features % BLOCK
        if more == 0 or not _plain(gate, up, down):
            continue
        for linear, padding in ((gate, (0, 0, 0, more)), (up, (0, 0, 0, more)), (down, (0, more))):
            linear.weight = torch.nn.Parameter(F.pad(linear.weight.detach(), padding), requires_grad=False)
            if linear is not down and linear.bias is not None:
                linear.bias = torch.nn.Parameter(F.pad(linear.bias.detach(), (0, more)), requires_grad=False)
            linear.out_features, linear.in_features = linear.weight.shape


class JoinedMLP(torch.nn.Module):
    """A language layer's MLP with the matrices of gate and up one below the other in memory.

    Over a prompt they are one product.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            mlp.gate_proj, mlp.up_proj, mlp.down_proj, mlp.act_fn
        )  # fmt: skip
        self._joined = _join(self.gate_proj, self.up_proj)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Each token of width d for itself, as the layer it stands for."""
        gate, up = F.linear(x, self._joined).chunk(2, -1)
        return self.down_proj(self.act_fn(gate) * up)


def join_projections(vlm: Any) -> None:
    """Join gate and up of each whole language layer, and query, key and value, in place; results stay the same.

    The attention gets an attribute ``joined``, (weight, bias) of the three as one. Quantised layers and adapters are
    left alone.
    """
    for layer in text.base_model(vlm).model.language_model.layers:
        if not hasattr(layer, "mlp"):
            continue  # the last that an expert reads gives keys and values alone
        mlp, attention = layer.mlp, layer.self_attn
        if _plain(mlp.gate_proj, mlp.up_proj) and not isinstance(mlp, JoinedMLP):
            layer.mlp = JoinedMLP(mlp)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        if _plain(*projections) and not hasattr(attention, "joined"):
            bias = torch.cat([part.bias.detach() for part in projections])
            attention.joined = _join(*projections), bias


def _plain(*linears: Any) -> bool:
    return all(type(linear) is torch.nn.Linear for linear in linears)


def _join(*linears: Any) -> Tensor:
    """Their weights, one below the other; each becomes a view of its rows."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    for linear, rows in zip(linears, weight.split([linear.out_features for linear in linears]), strict=True):
        linear.weight = torch.nn.Parameter(rows, requires_grad=False)
    return weight
