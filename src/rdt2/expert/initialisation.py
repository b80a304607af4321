"""Weights of an expert that has learnt nothing yet.

Every gate of adaLN and the last projection are zero, so the first velocity is zero and the first loss is
that of predicting nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.expert.model import Expert


def sincos(width: int, positions: Float[Tensor, " n"]) -> Float[Tensor, "n w"]:
    """Sines, then cosines, of positions (of tokens) at `width` / 2 frequencies falling from 1 towards 1/10000."""
    frequencies = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64, device="cpu") / (width // 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def token_positions(width: int, lengths: tuple[int, ...]) -> Float[Tensor, "n w"]:
    """Code of the place of each token among its kind, plus the code of its kind, for kinds in a row."""
    kinds = sincos(width, torch.arange(len(lengths), device="cpu"))
    rows = [
        kind + sincos(width, torch.arange(length, device="cpu"))
        for kind, length in zip(kinds, lengths, strict=True)
    ]
    return torch.cat(rows).float()


@torch.no_grad()
def initialise(expert: Expert) -> None:
    """Fill a new expert: Xavier for linear layers, small normal for registers and time, sin-cos positions."""
    config, core = expert.config, expert.model
    for module in expert.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
    nn.init.normal_(core.register_tokens, std=0.02)
    for name, parameter in core.t_embedder.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
    core.x_pos_emb.copy_(token_positions(config.hidden_size, (config.horizon, config.num_register_tokens)))
    nn.init.zeros_(core.state_pos_emb)
    for name, parameter in core.named_parameters():
        if "adaLN_modulation" in name:
            nn.init.zeros_(parameter)
    nn.init.zeros_(core.final_layer.ffn.fc2.weight)
    nn.init.zeros_(core.final_layer.ffn.fc2.bias)
