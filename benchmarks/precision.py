"""What half precision, quantization and offloading cost in action error and save in memory.

    python benchmarks/precision.py --json precision.json

The committed demo models, on pictures of the simulated cell: how far an FM policy's chunks, from the same noise, are
from those in bfloat16, and how many of the 27 tokens of a VQ policy are others. Beside it the weights of both policies
at the published 7B shape, counted without loading any; VQ's with its action tokenizer. int4 needs the extra quant.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference import PRESETS, first_views, size
from rdt2.expert import Expert
from rdt2.metrics import action_errors
from rdt2.observation import IMAGE_SIZE, Observation
from rdt2.policy import load_policy
from rdt2.tokenizer import ActionTokenizer
from rdt2.vlm.memory import offloadable, resident_bytes
from rdt2.vlm.model import empty_vlm
from rdt2.vlm.quantize import quantize_layers
from rdt2.vlm.tiny import model_config, train_tokenizer

SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "int8": {"dtype": torch.bfloat16, "quantize": "int8"},
    "int4": {"dtype": torch.bfloat16, "quantize": "int4"},
    "offload 6": {"dtype": torch.bfloat16, "offload": 6},
}
DEMO_LAYERS = 2  # offload so many of the demo's few layers


def observations(count: int) -> list[Observation]:
    """What the wrist cameras of two UR5e see at the start of episodes."""
    half = IMAGE_SIZE
    return [Observation(view[:, :half], view[:, half:], sentence) for view, sentence in first_views(count)]


def answers(seen: list[Observation], settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Chunks (n, 24, 20) of FM from fixed noise, and tokens (n, 27) of VQ."""
    if "offload" in settings:
        settings = {**settings, "offload": DEMO_LAYERS}
    fm = load_policy("demo-fm", draws=1, **settings)
    vq = load_policy("demo-vq", temperature=0, **settings)
    chunks = [fm.predict([each], seed=i)[0].values for i, each in enumerate(seen)]
    tokens = [vq.predict([each])[0].tokens for each in seen]
    return np.stack(chunks), np.stack(tokens)


def published_gb(kind: str, settings: dict[str, Any]) -> float:
    """Weights on the device at the 7B shape, GB of 10^9 bytes: VLM and expert, or VLM and action tokenizer."""
    preset = PRESETS["full"]
    config = model_config(preset.vlm, train_tokenizer(["Pick up the apple."], num_embeddings=1024))
    config.text_config.vocab_size = preset.vocab_size
    layers = max(preset.expert.selected_layers) + 1 if kind == "fm" else None
    model: Any = empty_vlm(config, layers=layers)
    absent = offloadable(model, settings.get("offload", 0))
    quantize, dtype = settings.get("quantize"), settings["dtype"]
    names = quantize_layers(model, quantize) if quantize else ()
    total = resident_bytes(model, dtype=dtype, quantized=names, quantize=quantize, absent=absent)
    with torch.device("meta"):
        if kind == "fm":
            total += size(Expert(preset.expert).freeze_for_inference(), dtype=dtype)
        else:  # which has float32 whatever the VLM has
            total += size(ActionTokenizer(preset.tokenizer))
    return total / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=32, help="observations that are compared")
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="which of them"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.scenes < 1:
        parser.error("--scenes must be 1 or more")
    seen = observations(options.scenes)
    chunks, tokens = answers(seen, SETTINGS["bfloat16"])
    results = {}
    print(f"{'':12}{'FM, GB':>9}{'VQ, GB':>9}{'position, mm':>15}{'rotation, deg':>15}{'other tokens':>14}")
    for name in options.settings:
        settings = SETTINGS[name]
        ours, written = answers(seen, settings)
        errors = action_errors(ours, chunks).as_dict()
        results[name] = {
            "fm_gb": published_gb("fm", settings),
            "vq_gb": published_gb("vq", settings),
            "position_mm": errors["position_mm"],
            "rotation_deg": errors["rotation_deg"],
            "other_tokens": float((written != tokens).mean()),
        }
        row = results[name]
        print(
            f"{name:12}{row['fm_gb']:9.1f}{row['vq_gb']:9.1f}{row['position_mm']:15.2f}"
            f"{row['rotation_deg']:15.2f}{row['other_tokens']:13.1%}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
