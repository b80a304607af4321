"""What goes into the expert as vectors: actions and state through their adaptors, the flow time through a sinusoid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from rdt2.expert.config import ExpertConfig, adaptor_layers

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FREQUENCIES = 256  # width of the sinusoid in which t is given to the network
PERIOD = 10_000.0


class Linear(nn.Linear):
    """A linear layer that leaves its weights to `from_config` or `from_pretrained`, which fill them all."""

    def reset_parameters(self) -> None:
        """Draw nothing: 0.5 billion numbers only to overwrite them take longer than reading a checkpoint."""
        pass  # drawing 0.5 billion numbers only to overwrite them takes longer than reading a checkpoint


class TimestepEmbedder(nn.Module):
    """The flow time, as a vector."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        width = config.hidden_size
        self.mlp = nn.Sequential(Linear(FREQUENCIES, width), nn.SiLU(), Linear(width, width))

    def forward(self, t: Float[Tensor, " n"]) -> Float[Tensor, "n h"]:
        """Embed flow times in 0..1."""
        return self.mlp(timestep_embedding(t).to(next(self.parameters()).dtype))


def timestep_embedding(t: Float[Tensor, " n"]) -> Float[Tensor, "n 256"]:
    """Cosines, then sines, of t at periods from 2 pi to 2 pi * 10000. float32, whatever the model's dtype."""
    half = FREQUENCIES // 2
    frequencies = torch.exp(
        -math.log(PERIOD) / half * torch.arange(half, dtype=torch.float32, device=t.device)
    )
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def adaptor(kind: str, inputs: int, width: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = [Linear(inputs, width)]
    for _ in range(adaptor_layers(kind) - 1):
        layers += [nn.SiLU(), Linear(width, width)]
    return nn.Sequential(*layers)
