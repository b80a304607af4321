"""How much memory a model takes and a device has, asked before gigabytes are read; and what waits elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rdt2.errors import ConfigError
from rdt2.vlm.quantize import BYTES

if TYPE_CHECKING:
    from rdt2.vlm.quantize import Quantization

_log = logging.getLogger(__name__)
LARGE = 4e9
"""Bytes of a model that nobody wants on a CPU beside a GPU."""


def resident_bytes(
    model: nn.Module,
    *,
    dtype: torch.dtype,
    quantized: Collection[str] = (),
    quantize: Quantization | None = None,
    absent: Collection[str] = (),
) -> int:
    """Bytes of a model's parameters once they are loaded in ``dtype``, its ``quantized`` weights as ``quantize``, those
    that stay ``absent`` from the device left out.
    """
    packed = BYTES[quantize] if quantize is not None else dtype.itemsize
    return round(
        sum(
            parameter.numel() * (packed if name in quantized else dtype.itemsize)
            for name, parameter in model.named_parameters()
            if name not in absent
        )
    )


def offloadable(model: Any, layers: int) -> frozenset[str]:
    """The names of the weights and biases of all linear layers in the first language layers.

    Raises:
        ConfigError: the model does not have so many layers.
    """
    available = model.model.language_model.layers
    if not 0 <= layers <= len(available):
        raise ConfigError(f"offload is {layers}, expected 0..{len(available)} language layers.")
    return frozenset(
        f"model.language_model.layers.{index}.{name}.{leaf}"
        for index in range(layers)
        for name, module in available[index].named_modules()
        if isinstance(module, nn.Linear)
        for leaf, _ in module.named_parameters()
    )


def offload_linears(model: nn.Module, names: Collection[str], device: torch.device) -> None:
    """Keep these parameters in CPU memory; each linear layer gets its own on the device only while it runs."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for name in {name.rpartition(".")[0] for name in names}:
        add_hook_to_module(model.get_submodule(name), AlignDevicesHook(device, offload=True))


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Refuse to begin what cannot end well; say so where a large model goes to the CPU and a GPU is there.

    Raises:
        ConfigError: the device has less than ``needed`` bytes free.
    """
    if device.type == "cpu" and needed > LARGE and torch.cuda.is_available():
        _log.warning(
            "%s takes %.1f GB on the CPU, though there is a GPU: device='cuda' (--device cuda)",
            what,
            needed / 1e9,
        )
    free = free_bytes(device) if device.type in ("cpu", "cuda") else None
    if free is not None and needed > free:
        raise ConfigError(
            f"{what} needs {needed / 1e9:.1f} GB on {device}, which has {free / 1e9:.1f} GB free. Use "
            "dtype='bfloat16', quantize='int8' or quantize='int4', offload=<language layers>, another device, or end "
            "what fills this one."
        )
