"""Real-time chunking: a chunk is sampled so that it goes on from what the arms will do anyway.

After Black, Galliker and Levine (2025), "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339,
equations 2 to 5 and algorithm 1. At each Euler step the velocity v leads to an estimate of the finished chunk,

    estimate = x + (1 - t) * v                      t = 0 is noise, t = 1 data
    v += strength(t) * (d estimate / d x)^T  W (promised - estimate)

whose distance from the promised rows, weighted by W, is carried back through the expert to the sample.

The paper takes it that a pull moves the estimate by no more than was asked. Small experts answer noise at t = 0 with
up to ten times as much, and five strong steps then end centimetres beside the promise. Here no step is longer than what
moves the estimate, as far as asked for, by all that is missing: |W e|^2 / |J^T W e|^2 with e the distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.expert.conditioning import Conditioning
    from rdt2.expert.model import Expert

STRONGEST = 5.0
"""Most that the pull is multiplied with: beta of the paper, which finds no gain in more for five steps."""


@dataclass(frozen=True)
class Guidance:
    """Where chunks are drawn to while they are sampled."""

    promised: Float[Tensor, "n 24 20"]
    """Normalised actions, float32. What lies in rows of weight zero is not looked at, but finite."""
    weights: Float[Tensor, "n 24"]
    """0 leaves a row to the expert, 1 wants it as promised (see `promise_weights`)."""

    def velocity(
        self,
        expert: Expert,
        x: Float[Tensor, "n 24 20"],
        step: int,
        steps: int,
        modulations: Float[Tensor, "1 m h"],
        cond: Conditioning,
        *,
        run: Callable[..., Tensor],
    ) -> Float[Tensor, "n 24 20"]:
        """`Expert.denoise` at Euler step `step` of `steps`, drawn to what is promised.

        Gradients are those of the sample alone: weights, keys, values and modulations get none.
        """
        t = step / steps
        with torch.inference_mode(False), torch.enable_grad():  # gradients need tensors made outside of it
            x = _ordinary(x).detach().requires_grad_()
            modulations, cond = _ordinary(modulations), cond.mapped(_ordinary)
            velocity = expert.denoise(x, modulations, cond, run=run)
            estimate = x + (1 - t) * velocity
            missing = self.weights[..., None] * (self.promised - estimate.detach())
            (pull,) = torch.autograd.grad(estimate, x, missing)
        enough = _square(missing) / _square(pull).clamp_min(1e-12)
        return velocity.detach() + pull * (steps * enough).clamp_max(strength(t))


def strength(t: float) -> float:
    """What the pull is multiplied with at time t: (1 - t) / (t * r^2), r^2 = (1 - t)^2 / (t^2 + (1 - t)^2)."""
    if t == 0:
        return STRONGEST
    return min(STRONGEST, (t * t + (1 - t) ** 2) / (t * (1 - t)))


def promise_weights(fixed: int, known: int, horizon: int) -> Float[Tensor, " horizon"]:
    """1 for rows that are driven before the chunk is there, then less and less, 0 from row `known` on."""
    rows = torch.arange(horizon, dtype=torch.float32)
    left = ((known - rows) / (known - fixed + 1)).clamp(0, 1)
    soft = left * torch.expm1(left) / torch.expm1(torch.ones(()))
    return torch.where(rows < fixed, 1.0, soft)


def _square(rows: Float[Tensor, "n 24 20"]) -> Float[Tensor, "n 1 1"]:
    return rows.square().sum((1, 2), keepdim=True)


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that gradients can be computed with: not one of `torch.inference_mode`."""
    return tensor.clone() if tensor.is_inference() else tensor
