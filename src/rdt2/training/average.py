"""A moving average of the weights: steadier than the weights themselves, and what is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of the weights that train.

    The decay rises from 0.2 to its value over the first steps: the start is soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._mean = [p.detach().clone() for p in self._trained]
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after an optimizer step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for mean, parameter in zip(self._mean, self._trained, strict=True):
            mean.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average stands where the weights were, until the end of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for mean, parameter in zip(self._mean, self._trained, strict=True):
            mean.data, parameter.data = parameter.data, mean.data

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the means in the weights' order, and how many updates they saw."""
        return {"mean": {str(i): mean for i, mean in enumerate(self._mean)}, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for i, mean in enumerate(self._mean):
            mean.copy_(state["mean"][str(i)])
        self._updates = state["updates"]
