"""A stage that trains in milliseconds, for the tests of what the loop does around it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemReader

from rdt2.training.config import RunConfig
from rdt2.training.loop import step_generator
from rdt2.training.stage import Stage


class ToyStage(Stage):
    """Linear regression with dropout and noise from the generator, so that every kind of randomness counts."""

    name = "toy"

    def __init__(self, fail_at: int | None = None, interrupt_at: int | None = None):
        torch.manual_seed(0)
        self.fail_at, self.interrupt_at = fail_at, interrupt_at
        self.module = Toy()

    def load(self, step: int) -> torch.Tensor:
        if step == self.interrupt_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=step_generator(1, step, 0))
        return x * float("nan") if step == self.fail_at else x

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        return {"loss": float(module.linear.weight.square().sum())}

    def save(self, module: nn.Module, folder: Path) -> None:
        torch.save(module.state_dict(), folder / "weights.pt")


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 1), nn.Dropout(0.3)

    def forward(self, x, generator):
        noise = torch.randn(x.shape, generator=generator)
        loss = (self.linear(self.dropout(x + 0.1 * noise)) - x.sum(-1, keepdim=True)).square().mean()
        return loss, {"half": loss.detach() / 2}


def batch_of(stage: Stage, step: int):
    """The batch of a step as the module takes it."""
    return stage.ready(stage.load(step), torch.device("cpu"))


def config(**changes) -> RunConfig:
    settings = dict(
        steps=12, batch_size=8, learning_rate=0.05, warmup_steps=2, schedule="cosine", precision="fp32",
        save_every=4, evaluate_every=6, log_every=1, trackers=(),
    )  # fmt: skip
    return RunConfig(**{**settings, **changes})


def saved_weights(checkpoint: Path) -> list[str]:
    """Names of the weights that a checkpoint holds."""
    content = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return [name.removeprefix("model.inner.") for name in content if name.startswith("model.")]


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
