"""Linear layers whose weights oneDNN has laid out for its own float32 products on a CPU.

PyTorch hands float32 products to MKL, which uses no AVX-512 on processors that are not Intel's: there the product of a
prompt with a matrix takes more than twice as long as with oneDNN, which PyTorch brings as well (benchmarks/packed.py).
oneDNN wants weights in an order of its own; a packed layer holds them so, in place of the plain ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, library, nn

from rdt2.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float

_WEIGHTS: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
"""Packed weights by their key: ``torch.compile`` cannot handle tensors in oneDNN's order, but their keys."""


class PackedLinear(nn.Module):
    """A linear layer for inference, on the CPU in float32; gradients reach its input, never its weights."""

    weight: Tensor  # (out, in), in oneDNN's order
    key: Tensor  # ()

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("key", torch.tensor(id(self)), persistent=False)
        self.bias = linear.bias
        self.pack(linear.weight.detach())

    def pack(self, weight: Float[Tensor, "out in"]) -> None:
        """Take plain weights."""
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.register_buffer("weight", weight, persistent=False)
        _WEIGHTS[id(self)] = weight
        self._transposed: Tensor | None = None

    def forward(self, x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        """The product with the weights, plus the bias."""
        if torch.compiler.is_compiling():
            return _product_by_key(x, self.key, self.bias, self.out_features)
        if x.requires_grad and torch.is_grad_enabled():
            return _Differentiable.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]
        return _product(x, self.weight, self.bias)

    @property
    def transposed(self) -> Tensor:
        """What gradients are multiplied with, (in, out), in oneDNN's order; made when first asked for."""
        if self._transposed is None:
            plain = self.weight.to_dense().T.contiguous()
            self._transposed = torch.ops.mkldnn._reorder_linear_weight(plain)
        return self._transposed

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return self  # nothing in it ever changes

    def _save_to_state_dict(self, *_: Any) -> None:
        raise CheckpointError(
            "this model's weights were packed for inference on a CPU and cannot be written; load the checkpoint again, "
            "with load_vlm or Expert.from_pretrained, and save that."
        )


def pack_linears(model: nn.Module) -> None:
    """Pack the float32 linear layers of a model on a CPU, in place; results stay the same up to rounding.

    Others stay as they are, and so do all where PyTorch comes without MKL or oneDNN (on ARM, say). Each layer's plain
    weights are let go before the next is packed. A packed model can be neither trained nor saved.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and child.weight.dtype == torch.float32 and child.weight.is_cpu:
                setattr(parent, name, PackedLinear(child))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Differentiable(torch.autograd.Function):
    """The product, with the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return _product(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _product(gradient, ctx.layer.transposed, None), None


@library.custom_op(
    "rdt2::packed_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor key, Tensor? bias, SymInt outputs) -> Tensor",
)
def _product_by_key(x: Tensor, key: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return _product(x, _WEIGHTS[int(key)], bias)


@_product_by_key.register_fake
def _(x: Tensor, key: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)
