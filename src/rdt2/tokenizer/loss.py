"""How far a reconstructed chunk is from the one that was tokenised, for each part of the action."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def geodesic_distance(a: Float[Tensor, "*n 6"], b: Float[Tensor, "*n 6"]) -> Float[Tensor, "*n"]:
    """Angle in radians between two rotations given as 6D columns (Gram-Schmidt is applied).

    The cosine is kept 1e-7 away from +-1, where the derivative of acos is infinite; equal rotations
    therefore read about 5e-4 rad and not 0.
    """
    trace = (_rotation(a) * _rotation(b)).sum(dim=(-2, -1))
    return torch.acos(((trace - 1) / 2).clamp(-1 + 1e-7, 1 - 1e-7))


def reconstruction_loss(
    part: str, prediction: Float[Tensor, "*n d"], target: Float[Tensor, "*n d"]
) -> Tensor:
    """Mean square error for ``pos`` and ``grip``; mean geodesic angle / pi over both arms for ``rot``: a scalar ()."""
    if part != "rot":
        return F.mse_loss(prediction, target)
    arms = [rearrange(x, "... (arm six) -> ... arm six", six=6) for x in (prediction, target)]
    return geodesic_distance(*arms).mean() / math.pi


def _rotation(six: Float[Tensor, "*n 6"]) -> Float[Tensor, "*n 3 3"]:
    a, b = six[..., :3], six[..., 3:]
    x = F.normalize(a, dim=-1)
    y = F.normalize(b - (x * b).sum(dim=-1, keepdim=True) * x, dim=-1)
    return torch.stack((x, y, torch.linalg.cross(x, y)), dim=-1)
