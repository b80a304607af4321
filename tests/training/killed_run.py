"""What a process runs for test_killed.py: SAMPLES OUT BATCH_SIZE ACCUMULATE SHARD. A small regression, slowly."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from rdt2.training.config import RunConfig
from rdt2.training.evaluation import mean_over_batches
from rdt2.training.loop import Stage, fit, processes
from rdt2.training.samples import Samples

STEPS = 40


class Regression(Stage):
    """The end of a chunk from its beginning; writes down the samples of each step."""

    name = "regression"

    def __init__(self, config: RunConfig, data: Path, out: Path, *, rank: int, world_size: int):
        self.samples = Samples(
            config, data, rank=rank, world_size=world_size, pictures=False, evaluation_batch=2
        )
        self.take(self.samples)
        torch.manual_seed(0)
        self.module = Predictor()
        self.accumulate = config.accumulate
        out.mkdir(parents=True, exist_ok=True)
        self.diary = out / f"rank-{rank}.jsonl"
        (out / f"pid-{rank}").write_text(str(os.getpid()))

    def load(self, step):
        batch = self.samples.batch(step)
        with self.diary.open("a") as file:
            line = {"step": step // self.accumulate, "numbers": batch.indices.tolist()}
            file.write(json.dumps(line) + "\n")
        time.sleep(0.03)
        return torch.from_numpy(batch.actions)

    def evaluate(self, module, device):
        count = self.samples.held_out_batches(10)

        def figures(i):
            loss, _ = module(torch.from_numpy(self.samples.held_out_batch(i, count).actions), None)
            return {"loss": loss}

        return mean_over_batches(count, figures)

    def save(self, module, folder):
        torch.save(module.state_dict(), folder / "weights.pt")


class Predictor(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(20, 20), nn.LayerNorm(20)

    def forward(self, chunks, generator):
        return (self.norm(self.linear(chunks[:, 0])) - chunks[:, -1]).square().mean(), {}


def run(samples: Path, out: Path, batch_size: int, accumulate: int, *, shard: bool = False) -> None:
    place = processes()
    config = RunConfig(
        steps=STEPS, batch_size=batch_size, accumulate=accumulate, learning_rate=1e-2, warmup_steps=2, precision="fp32",
        save_every=3, evaluate_every=8, log_every=1, trackers=(), shard=shard,
    )  # fmt: skip
    stage = Regression(config, samples, out, rank=place.process_index, world_size=place.num_processes)
    fit(stage, config, out, resume=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), shard=sys.argv[5] == "True")
