"""Weights in 8 or 4 bits, arithmetic as before: for cards that a VLM in half precision does not fit on.

Quantized are the matrices of all layers, of vision and of language; embedding, head, norms and biases stay. 8 bits
are whole numbers with a scale for every row; 4 bits are NF4 of bitsandbytes, with a scale for every 64 weights, for
matrices whose rows are so many whole blocks: all but one in each block of the published vision tower.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# It works without the package that it would have installed for a faster product on some CPUs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

Quantization = Literal["int8", "int4"]
BYTES: dict[str, float] = {"int8": 1.0, "int4": 0.5 + 1 / 64}  # of one weight with its share of the scales
BLOCK = 64
"""Weights that share a scale in 4 bits. On CPUs bitsandbytes fails where such a block reaches into the next row."""
LAYERS = re.compile(r"model\.(visual\.blocks|language_model\.layers)\.")


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers -127 .. 127 times a scale for every row."""

    weight: Tensor  # (out, in) int8
    scale: Tensor  # (out,)

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device="meta"), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, device="meta")) if bias else None

    def fill(self, weight: Float[Tensor, "out in"]) -> None:
        """Take weights, rounded."""
        scale = weight.abs().amax(1).float().clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.weight = nn.Parameter((weight / scale[:, None]).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale.to(weight.dtype), persistent=False)

    def forward(self, x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        """The product with the weights as they were rounded, plus the bias."""
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


def quantize_layers(model: nn.Module, kind: Quantization) -> frozenset[str]:
    """Put quantized layers, still without weights, in the place of a model's that is on the meta device.

    Returns:
        The names of their weights, each to be given to :func:`fill_layer`.

    Raises:
        ConfigError: another kind, or "int4" without bitsandbytes.
    """
    make = {"int8": _int8, "int4": _int4}.get(kind)
    if make is None:
        raise ConfigError(f"expected quantize to be one of {list(BYTES)} or None, got {kind!r}")
    whole = BLOCK if kind == "int4" else 1
    names = [
        name
        for name, module in model.named_modules()
        if LAYERS.match(name) and isinstance(module, nn.Linear) and module.in_features % whole == 0
    ]
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, make(model.get_submodule(name)))
    return frozenset(f"{name}.weight" for name in names)


def fill_layer(layer: Any, weight: Float[Tensor, "out in"]) -> None:
    """Quantize a weight into a layer of :func:`quantize_layers`, on the device it is on."""
    if isinstance(layer, Int8Linear):
        layer.fill(weight)
        return
    from bitsandbytes.nn import Params4bit

    quantized: Any = Params4bit(weight, requires_grad=False, quant_type="nf4", module=layer)
    layer.weight = quantized.to(weight.device)  # bitsandbytes quantizes when it moves


def _int8(linear: Any) -> Int8Linear:
    return Int8Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)


def _int4(linear: Any) -> nn.Module:
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError as error:
        raise ConfigError(
            "quantize='int4' needs bitsandbytes, which is not installed: pip install 'rdt2[quant]'. "
            "quantize='int8' works without."
        ) from error
    return Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        quant_type="nf4",
        device="meta",
    )
