"""Training the action tokenizer: chunks in, reconstruction out; the codebooks learn by moving averages.

From scratch it may begin as a linear transform coder of the data (rdt2.tokenizer.start), which is good already.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig, evaluate_reconstruction, worst_chunks
from rdt2.training.config import TokenizerTraining
from rdt2.training.normalizer import find_normalizer
from rdt2.training.samples import Samples, check_actions
from rdt2.training.stage import EXAMPLES, Stage
from rdt2.training.variation import varied_chunks


class TokenizerStage(Stage):
    """Actions need no pictures, so the whole training split is held in memory (1.9 kB a sample)."""

    name = "tokenizer"

    def __init__(self, config: TokenizerTraining, data: str | Path, *, rank: int = 0, world_size: int = 1):
        self.config = config
        samples = Samples(
            config, data, rank=rank, world_size=world_size, pictures=False, instructions="ignore"
        )
        self.take(samples)
        self.source = samples.train
        index = self.source.index
        self.normalizer = find_normalizer(config.normalizer, index, start=config.start_from)
        self._actions = index.all_actions()
        check_actions(self._actions, index.where)  # all of them: they are in memory
        self._held_out = self._actions[samples.held_out.numbers[: config.evaluate_samples]]
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
            chunks = torch.from_numpy(self._chunks(numbers[: config.linear_start], rng))
            generator = torch.Generator().manual_seed(config.seed)
            tokenizer.start_linear(self.normalizer.normalize(chunks), generator=generator)
        return tokenizer

    def load(self, step: int) -> dict[str, Tensor]:
        """Chunks (b, 24, 20) float32, metres."""
        rng = np.random.default_rng([self.config.seed, self.source.rank, step])
        return {"actions": torch.from_numpy(self._chunks(self.source.samples_of(step)[0], rng))}

    def _chunks(self, numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chunks = self._actions[numbers]
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


def encode_in_batches(
    tokenizer: ActionTokenizer, normalizer: LinearNormalizer, actions: np.ndarray, *, batch_size: int = 1024
) -> np.ndarray:
    """Tokens (n, 27) int64 of chunks (n, 24, 20) in metres."""
    rows = [
        tokenizer.encode(normalizer.normalize(torch.from_numpy(actions[i : i + batch_size]))).numpy()
        for i in range(0, len(actions), batch_size)
    ]
    return np.concatenate(rows)
