"""Training the action tokenizer: chunks in, reconstruction out; the codebooks learn by moving averages.

From scratch it may begin as a linear transform coder of the data (rdt2.tokenizer.start), which is good already.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig, evaluate_reconstruction, worst_chunks
from rdt2.training.config import TokenizerTraining
from rdt2.training.normalizer import find_normalizer, of_another
from rdt2.training.samples import Samples, evenly, sound_actions
from rdt2.training.stage import EXAMPLES, Stage
from rdt2.training.variation import varied_chunks

IN_MEMORY = 1 << 20
"""Samples whose actions are kept in the memory of each process: 2 GB of them."""


class TokenizerStage(Stage):
    """Actions need no pictures: those of all but large data sets are held in memory."""

    name = "tokenizer"

    def __init__(self, config: TokenizerTraining, data: str | Path, *, rank: int = 0, world_size: int = 1):
        self.config = config
        samples = Samples(
            config, data, rank=rank, world_size=world_size, pictures=False, instructions="ignore"
        )
        self.take(samples)
        self.samples, self.source = samples, samples.train
        index = self.source.index
        self.normalizer = find_normalizer(config.normalizer, index, start=config.start_from)
        self.notes = [*self.notes, *of_another(self.normalizer, config.start_from)]
        in_memory = len(index) <= IN_MEMORY
        self._actions = sound_actions(self.source, np.arange(len(index)))[0] if in_memory else None
        evaluated = samples.held_out
        chosen = evenly(len(evaluated), config.evaluate_samples)
        self._held_out, _ = sound_actions(evaluated, evaluated.numbers[chosen])
        if config.start_from is not None:
            tokenizer = ActionTokenizer.from_pretrained(config.start_from)
        else:
            tokenizer = self._from_scratch()
        self.module = _TokenizerModule(tokenizer, self.normalizer)

    def _from_scratch(self) -> ActionTokenizer:
        """A function of the settings and the data: the same on every process."""
        config = self.config
        layout = TokenizerConfig.tiny() if config.size == "tiny" else TokenizerConfig()
        if config.num_embeddings is not None:
            layout = replace(layout, num_embeddings=config.num_embeddings)
        torch.manual_seed(config.seed)
        tokenizer = ActionTokenizer(layout)
        if config.linear_start:
            rng = np.random.default_rng(config.seed)
            numbers = rng.permutation(self.source.numbers)
            if config.augment:  # every chunk as often as it takes, each time another one
                numbers = np.resize(numbers, config.linear_start)
            chunks = torch.from_numpy(self._varied(self._recorded(numbers[: config.linear_start]), rng))
            generator = torch.Generator().manual_seed(config.seed)
            tokenizer.start_linear(self.normalizer.normalize(chunks), generator=generator)
        return tokenizer

    def load(self, step: int) -> dict[str, Any]:
        """Chunks (b, 24, 20) float32, metres; and what was left out."""
        rng = np.random.default_rng([self.config.seed, self.source.rank, step])
        damaged: tuple[str, ...] = ()
        if self._actions is None:
            batch = self.samples.batch(step)
            chunks, damaged = batch.actions, batch.damaged
        else:
            chunks = self._actions[self.source.samples_of(step)[0]]
        return {"actions": torch.from_numpy(self._varied(chunks, rng)), "damaged": damaged}

    def count_damage(self, loaded: dict[str, Any]) -> None:
        """Hand on which samples were left out."""
        self.source.leave_out(loaded["damaged"])

    def ready(self, loaded: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
        """The chunks (b, 24, 20), on the device."""
        return {"actions": loaded["actions"].to(device, non_blocking=True)}

    def _recorded(self, numbers: np.ndarray) -> np.ndarray:
        """The chunks of samples."""
        if self._actions is not None:
            return self._actions[numbers]
        return sound_actions(self.source, numbers)[0]

    def _varied(self, chunks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return varied_chunks(chunks, rng) if self.config.augment else chunks

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Loss on the held-out chunks, mean position error (mm), rotation error (degrees), width error (mm)."""
        assert isinstance(module, _TokenizerModule)
        held_out = torch.from_numpy(self._held_out).to(device)
        loss, _ = module({"actions": held_out}, None)
        report = evaluate_reconstruction(module.tokenizer, self.normalizer, self._held_out)
        self.examples = worst_chunks(module.tokenizer, self.normalizer, self._held_out, report, EXAMPLES)
        return {"loss": float(loss), **report.summary()}

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the tokenizer and its normalizer, and what held-out chunks lose by it."""
        assert isinstance(module, _TokenizerModule)
        module.tokenizer.save_pretrained(folder)
        self.normalizer.save_pretrained(folder)
        if not self.evaluates:
            return
        report = evaluate_reconstruction(module.tokenizer, self.normalizer, self._held_out)
        (folder / "reconstruction.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n")


class _TokenizerModule(nn.Module):
    def __init__(self, tokenizer: ActionTokenizer, normalizer: LinearNormalizer):
        super().__init__()
        self.tokenizer, self.normalizer = tokenizer, normalizer

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        actions = self.normalizer.normalize(batch["actions"])
        output = self.tokenizer(actions, generator=generator)
        metrics = {
            f"{part}/{name}": value.mean()
            for part, values in output.parts.items()
            for name, value in values.items()
        }
        return output.loss, metrics
