"""What each of two processes runs for test_engines.py: SAMPLES VLM OUT ENGINE."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from torch import nn
from toy import batch_of

from rdt2.training.config import VQTraining
from rdt2.training.loop import fit, processes
from rdt2.training.vq import VQModule, VQStage

STEPS = 3


def settings(vlm: str, **changes) -> VQTraining:
    """Three steps of all weights in float32, nothing random but the data."""
    values = dict(
        start_from=vlm, steps=STEPS, batch_size=2, learning_rate=1e-3, warmup_steps=1, precision="fp32",
        save_every=2, evaluate_samples=4, log_every=1, trackers=(), accumulate=2,
    )  # fmt: skip
    return VQTraining(**{**values, **changes})


def main(samples: str, vlm: str, out: str, engine: str) -> None:
    place = processes()
    config = settings(vlm)
    stage = VQStage(
        config, Path(samples), Path(out), rank=place.process_index, world_size=place.num_processes
    )
    drawn: list[float] = []

    def record(_: nn.Module, arguments: tuple) -> None:
        if arguments[1] is not None:
            clone = torch.Generator()
            clone.set_state(arguments[1].get_state())
            drawn.append(float(torch.rand((), generator=clone)))

    stage.module.register_forward_pre_hook(record)
    fsdp2 = compare_with_fsdp2(stage.module, batch_of(stage, 0)) if engine == "ddp" else None
    fit(stage, config, out)
    report = {
        "numbers": [
            stage.samples.train.samples_of(step)[0].tolist() for step in range(STEPS * config.accumulate)
        ],
        "drawn": drawn,
        "fsdp2": fsdp2,
    }
    (Path(out) / f"rank{place.process_index}.json").write_text(json.dumps(report))


def compare_with_fsdp2(module: VQModule, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Loss and largest gradient difference with and without the sharding that fsdp2.yaml asks for."""
    from torch.distributed.fsdp import fully_shard

    def gradients(module: nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
        loss, _ = module(batch, None)
        loss.backward()
        return float(loss.detach()), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}

    loss, expected = gradients(copy.deepcopy(module))
    for grad in expected.values():
        torch.distributed.all_reduce(grad, op=torch.distributed.ReduceOp.SUM)
        grad /= torch.distributed.get_world_size()
    sharded = copy.deepcopy(module)
    for each in list(sharded.modules()):
        if type(each) is nn.Linear:
            fully_shard(each)
    fully_shard(sharded)
    sharded_loss, found = gradients(sharded)
    worst = max(float((found[n].full_tensor() - g).abs().max()) for n, g in expected.items())
    return {"loss": loss, "sharded_loss": sharded_loss, "gradient_difference": worst}


if __name__ == "__main__":
    main(*sys.argv[1:])
