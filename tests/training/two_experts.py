"""What each of two processes runs for test_engines.py: SAMPLES VLM - OUT SETTING=VALUE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch import nn

from rdt2.packed import PackedLinear
from rdt2.training.config import ExpertTraining
from rdt2.training.expert import ExpertStage
from rdt2.training.loop import fit, processes
from rdt2.training.settings import load_settings


def main(samples: str, vlm: str, _: str, out: str, *changes: str) -> None:
    values = dict(
        vlm=vlm, start_from="tiny", steps=2, batch_size=2, warmup_steps=1, precision="fp32", augment="false",
        evaluate_samples=6, log_every=1, trackers="[]",
    )  # fmt: skip
    config = load_settings(
        ExpertTraining, None, [*(f"{key}={value}" for key, value in values.items()), *changes]
    )
    place = processes()
    stage = ExpertStage(config, samples, rank=place.process_index, world_size=place.num_processes)
    fit(stage, config, out)
    frozen = stage.module._vlm._model
    held = [each.weight for each in frozen.modules() if isinstance(each, (nn.Linear, PackedLinear))]
    local = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in held]
    report = {
        "linears": sum(each.numel() for each in local),
        "dtypes": sorted({str(each.dtype) for each in frozen.parameters()}),
    }
    (Path(out) / f"rank{place.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
