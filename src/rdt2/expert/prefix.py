"""Chunks whose first rows are given: they enter without noise, and the network is told so.

After Black, Ren, Equi and Levine (2025), "Training-Time Action Conditioning for Efficient Real-Time Chunking", arXiv
2512.05964: in training the first rows of each chunk, a number drawn anew each time, are clean and have the time t = 1,
and the loss is that of the others. Such an expert goes on from what the arms will do anyway at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Prefix:
    """Rows that are given."""

    actions: Float[Tensor, "n 24 20"]
    """Normalised, float32; rows that are not given do not count, but are finite."""
    given: Bool[Tensor, "n 24"]

    @classmethod
    def of(cls, actions: Float[Tensor, "n 24 20"], rows: Int[Tensor, " n"]) -> Prefix:
        """The first `rows` of each chunk."""
        return cls(actions, torch.arange(actions.shape[1], device=actions.device) < rows[:, None])

    def over(self, x: Float[Tensor, "n 24 20"]) -> Float[Tensor, "n 24 20"]:
        """x with the rows that are given."""
        return torch.where(self.given[..., None], self.actions, x)


class Clean(NamedTuple):
    """Which tokens have the time t = 1, and shift, scale and gate for them."""

    given: Bool[Tensor, "n 24"]
    modulations: Float[Tensor, "n m h"]

    def over(self, modulations: Float[Tensor, "n m h"], first: int, tokens: int) -> Float[Tensor, "n m l h"]:
        """Modulations of each token: `modulations`, which begin at row `first`, and those of t = 1 where given."""
        theirs = self.modulations[:, first : first + modulations.shape[1]]
        given = torch.nn.functional.pad(self.given, (0, tokens - self.given.shape[1]))[:, None, :, None]
        return torch.where(given, theirs[:, :, None], modulations[:, :, None])
