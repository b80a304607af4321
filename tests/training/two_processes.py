"""What each of two processes runs for test_engines.py: SAMPLES VLM TOKENIZER OUT [SETTING=VALUE ...]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from rdt2.training.config import VQTraining
from rdt2.training.loop import fit, processes
from rdt2.training.settings import load_settings
from rdt2.training.vq import VQStage

STEPS = 3


def settings(vlm: str, tokenizer: str, *changes: str) -> VQTraining:
    """Three steps of all weights in float32, nothing random but the data."""
    values = dict(
        start_from=vlm, tokenizer=tokenizer, steps=STEPS, batch_size=2, learning_rate=1e-3, warmup_steps=1,
        precision="fp32", save_every=2, evaluate_samples=6, log_every=1, trackers="[]", accumulate=2,
    )  # fmt: skip
    return load_settings(VQTraining, None, [*(f"{key}={value}" for key, value in values.items()), *changes])


def stage_of(config: VQTraining, samples: Path, out: Path, **place: int) -> VQStage:
    """Three batches to be evaluated: no share of two processes."""
    stage = VQStage(config, samples, out, **place)
    stage.samples.held_out.batch_size = 2
    return stage


def main(samples: str, vlm: str, tokenizer: str, out: str, *changes: str) -> None:
    place = processes()
    # Asked for here: when training ends, the group is no more.
    options = torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options
    patience_s = options._timeout.total_seconds()
    config = settings(vlm, tokenizer, *changes)
    stage = stage_of(
        config, Path(samples), Path(out), rank=place.process_index, world_size=place.num_processes
    )
    drawn: list[float] = []

    def record(_: nn.Module, arguments: tuple) -> None:
        if arguments[1] is not None:
            clone = torch.Generator()
            clone.set_state(arguments[1].get_state())
            drawn.append(float(torch.rand((), generator=clone)))

    stage.module.register_forward_pre_hook(record)
    fit(stage, config, out)
    report = {
        "numbers": [
            stage.samples.train.samples_of(step)[0].tolist() for step in range(STEPS * config.accumulate)
        ],
        "drawn": drawn,
        "patience_s": patience_s,
        "held": [len(p.to_local()) if hasattr(p, "to_local") else len(p) for p in stage.module.parameters()],
    }
    (Path(out) / f"rank{place.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
