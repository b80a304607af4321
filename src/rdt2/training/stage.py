"""What the training loop must be told of a model: its data, its loss, how it is evaluated and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rdt2.data import Batch

if TYPE_CHECKING:
    from rdt2.training.samples import Samples

EXAMPLES = 4  # held-out samples that an evaluation draws


class Stage(ABC):
    """What is particular to training one model.

    Attributes:
        name: "tokenizer", "vq", "expert", "distill".
        module: maps (batch, generator) to (scalar loss, dict of scalar metrics); holds exactly the
            modules that are trained.
        evaluates: whether samples are held out to be evaluated.
        data: a name for what the shards hold, that a resumed run must find again; none for no shards.
        notes: lines to tell when the run begins.
        examples: predicted and recorded chunks, both (n, 24, 20) metres, that the last evaluation leaves to
            be drawn.
    """

    name: str
    module: nn.Module
    evaluates: bool = True
    data: str | None = None
    notes: Sequence[str] = ()
    examples: tuple[np.ndarray, np.ndarray] | None = None

    _samples: Samples | None = None

    def take(self, samples: Samples) -> None:
        """Train on these."""
        self._samples = samples
        self.data, self.notes, self.evaluates = samples.data, samples.notes, len(samples.held_out) > 0

    def count_damage(self, loaded: Any) -> None:
        """Raises ShardError where more was left out than the settings allow."""
        if self._samples is not None and isinstance(loaded, Batch):
            self._samples.train.count_damage(loaded)

    def seen(self, step: int) -> int:
        """Samples of the stream that all processes together have seen before a call of ``load``."""
        return 0 if self._samples is None else self._samples.train.position(step)

    def go_on(self, step: int, samples: int) -> None:
        """Let ``load(step)`` be the first after so many samples, whichever processes saw them."""
        if self._samples is not None:
            self._samples.train.go_on(step, samples)

    @abstractmethod
    def load(self, step: int) -> Any:
        """What this process sees in a step, as it is read: a pure function of seed, rank and step. Other processes
        call it ahead of time, so it touches no GPU.
        """

    def ready(self, loaded: Any, device: torch.device) -> Any:
        """The batch as the module takes it, on its device."""
        from accelerate.utils import send_to_device

        return send_to_device(loaded, device, non_blocking=True)

    @abstractmethod
    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on the held-out samples, without augmentation: all processes call it at once, and get the same
        (see rdt2.training.evaluation)."""

    @abstractmethod
    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the trained model in its published layout."""
