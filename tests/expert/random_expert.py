"""A small expert whose weights are all random, so that nothing is hidden behind a zero gate."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from rdt2.expert import Expert, ExpertConfig

BATCH, LENGTH = 3, 17


def random_expert(seed: int = 0) -> Expert:
    """Two blocks; 4 query heads and 2 key heads of 16."""
    config = ExpertConfig.tiny(hidden_size=64, head_dim=16, selected_layers=(0, 2))
    expert = Expert.from_config(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return expert.eval()


def random_kv(*, batch: int = BATCH, length: int = LENGTH, mask: bool | None = None) -> SimpleNamespace:
    """Keys and values; `mask` True: 0, 1, 2 tokens of padding on the left, False: a mask of ones."""
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(batch, 2, length, 16, generator=generator) for _ in range(4)]
    seen = None
    if mask is not None:
        seen = torch.arange(length)[None] >= (torch.arange(batch) * mask)[:, None]
    return SimpleNamespace(keys=tensors[:2], values=tensors[2:], mask=seen)
