"""Where training from scratch begins: a linear transform coder, written into the published architecture.

Drawn at random, the convolutions need hours to pass on a motion to the millimetre. But a motion of 0.8 s is
simple: the main axes of each third of it say nearly everything. So the weights are set, not drawn:

- residual blocks add nothing yet; strided convolutions lay the 8 steps of a third side by side, transposed
  ones lay them out again;
- the encoder's last convolution turns each third into its scores on the main axes of the data;
- the codebooks are the means of clusters of these latents, level by level;
- the decoder's first convolution is the least-squares way back.

The two norms in between divide by the length of what they see. Constant channels, long beside the motion, keep
that length nearly the same for all chunks, and a bias takes SiLU to where it is nearly straight. What is not
quite linear, least squares makes up for; all the rest is learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from rdt2.tokenizer.config import STRIDE
from rdt2.tokenizer.model import Decoder, Downsample, Encoder, PartVQVAE, ResBlock, Upsample

if TYPE_CHECKING:
    from jaxtyping import Float

LONG = 25.0  # a constant channel over the spread of the motion
STRAIGHT = 4.0  # SiLU is nearly straight around it
RIDGE = 1e-8  # of the mean square of a feature: keeps least squares finite where features never vary


@torch.no_grad()
def start_linear(
    part: PartVQVAE, x: Float[Tensor, "n t d"], generator: torch.Generator | None = None
) -> None:
    """Set all weights and codes of a part by what it is to reconstruct: some thousand normalised chunks.

    Nothing is lost before the latent if ``hidden_size`` is at least the part's ``d`` columns (12 for rotation).
    First codes are drawn with ``generator``.
    """
    encoder, decoder = part.encoder, part.decoder
    _lay_side_by_side(encoder, x)
    _lay_out_again(decoder)
    thirds = rearrange(x, "n (t s) d -> n t (s d)", s=STRIDE)
    _fit(encoder.conv_out, encoder.features(x), _scores(thirds, encoder.conv_out.out_channels))
    latent = encoder(x)
    part.vq.start(latent, generator)
    # What the decoder's first convolution has to give: step s of a third in the s-th part of its channels.
    hidden = decoder.conv_out.in_channels
    wanted = F.pad(x, (0, hidden - x.shape[-1]))
    wanted = rearrange(wanted, "n (t s) h -> n t (s h)", s=STRIDE)
    _fit(decoder.conv_in, decoder.features(part.vq.decode(part.vq.encode(latent))), wanted)


def _lay_side_by_side(encoder: Encoder, x: Float[Tensor, "n t d"]) -> None:
    """Features: the steps of each third beside one another, beside a constant of changing sign."""
    mean = x.mean(dim=(0, 1))
    sign = torch.ones(encoder.conv_in.out_channels, device=x.device)
    sign[1::2] = -1
    _identity(encoder.conv_in)
    far = LONG * (x - mean).square().mean().sqrt().clamp_min(1e-6)
    _bias(encoder.conv_in).copy_(far * sign)
    _bias(encoder.conv_in)[: len(mean)] -= mean[: len(sign)]
    _pass_on(encoder)
    _straighten(encoder.norm_out)
    for module in encoder.modules():
        if isinstance(module, Downsample):
            half = module.conv.out_channels // 2
            module.conv.weight.zero_()
            _bias(module.conv).zero_()
            module.conv.weight[:half, :half, 0] = module.conv.weight[half:, :half, 1] = torch.eye(half)


def _lay_out_again(decoder: Decoder) -> None:
    _straighten(decoder.norm_in)
    _pass_on(decoder)
    _identity(decoder.conv_out)
    for module in decoder.modules():
        if isinstance(module, Upsample):
            conv = module.conv_transpose
            half = conv.in_channels // 2
            conv.weight.zero_()
            _bias(conv).zero_()
            conv.weight[:half, :half, 1] = conv.weight[half:, :half, 2] = torch.eye(half)


def _pass_on(module: nn.Module) -> None:
    """Residual blocks add nothing to what their shortcuts pass on."""
    for block in module.modules():
        if isinstance(block, ResBlock):
            block.conv2.weight.zero_()
            _bias(block.conv2).zero_()
            if hasattr(block, "nin_shortcut"):
                _identity(block.nin_shortcut)


def _identity(conv: nn.Conv1d) -> None:
    """As many channels as both sides have, passed on step by step."""
    nn.init.dirac_(conv.weight)
    _bias(conv).zero_()


def _straighten(norm: nn.GroupNorm) -> None:
    norm.weight.fill_(1.0)
    norm.bias.fill_(STRAIGHT)


def _scores(thirds: Float[Tensor, "n t k"], latent: int) -> Float[Tensor, "n t latent"]:
    """Coordinates on the main axes, in the data's unit, and in the last two channels a constant and its negative."""
    rows = thirds.flatten(0, 1)
    centred = rows - rows.mean(dim=0)
    _, axes = torch.linalg.eigh((centred.T @ centred).double())
    axes = axes.flip(-1)[:, : latent - 2].to(rows)
    scores = F.pad(centred @ axes, (0, latent - axes.shape[1]))
    far = LONG * scores.square().sum(dim=-1).mean().sqrt().clamp_min(1e-6)
    scores[:, -2], scores[:, -1] = far, -far
    return scores.unflatten(0, thirds.shape[:2])


def _fit(conv: nn.Conv1d, features: Float[Tensor, "n c t"], wanted: Float[Tensor, "n t o"]) -> None:
    """Least squares, as the convolution sees its input: each step beside its neighbours, zeros at the ends."""
    seen = F.pad(features, (1, 1)).unfold(-1, 3, 1)
    a = F.pad(rearrange(seen, "n c t k -> (n t) (c k)"), (0, 1), value=1.0).double()
    square = a.T @ a
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    solution = torch.linalg.solve(square, a.T @ wanted.flatten(0, 1).double()).T
    conv.weight.copy_(rearrange(solution[:, :-1], "o (c k) -> o c k", k=3))
    _bias(conv).copy_(solution[:, -1])


def _bias(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    assert conv.bias is not None  # all convolutions of the architecture have one
    return conv.bias
