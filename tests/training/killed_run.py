"""What a process runs for test_killed.py: SAMPLES OUT BATCH_SIZE ACCUMULATE SHARD HOW STEP. A small
regression, slowly."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from rdt2.training.config import RunConfig
from rdt2.training.evaluation import mean_over_batches
from rdt2.training.loop import fit, processes
from rdt2.training.samples import Samples
from rdt2.training.stage import Stage

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


def spoil(how: str, step: int) -> None:
    """A checkpoint that is written and never done ("stuck"), or for which process N finds no room ("full-N")."""
    write_data = FileSystemWriter.write_data

    def spoilt(writer: FileSystemWriter, *arguments: Any) -> Any:
        done = write_data(writer, *arguments)
        if f"step-{step:08d}" in str(writer.path):
            if how == "stuck":
                time.sleep(1000)
            if how == f"full-{writer.rank}":
                raise OSError(errno.ENOSPC, "No space left on device")
        return done

    FileSystemWriter.write_data = spoilt


if __name__ == "__main__":
    samples, out, batch_size, accumulate, shard, how, step = sys.argv[1:]
    spoil(how, int(step))
    run(Path(samples), Path(out), int(batch_size), int(accumulate), shard=shard == "True")
