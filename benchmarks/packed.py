"""Packed linear layers (rdt2.packed) against PyTorch's own, float32 on the CPU.

    python benchmarks/packed.py --threads 2 --json packed.json

Products of a picture's patches, of a prompt, of the expert's tokens and of one token with matrices of the preset `mid`.
Plain and packed take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from rdt2.packed import PackedLinear

PRODUCTS = {
    "patches": (1512, 320, 960),
    "prompt": (413, 512, 2048),
    "expert": (28, 512, 2048),
    "one token": (1, 512, 2048),
}
"""Rows, inputs, outputs."""


def seconds(function: Callable[[], object], times: int = 5) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times


@torch.inference_mode()
def compare(rows: int, inputs: int, outputs: int, repeats: int) -> dict[str, float]:
    """GFLOP/s of both, and how many times faster packed is."""
    plain = nn.Linear(inputs, outputs, bias=False)
    packed, x = PackedLinear(plain), torch.randn(rows, inputs)
    slow, fast = zip(
        *((seconds(lambda: plain(x)), seconds(lambda: packed(x))) for _ in range(repeats + 1)), strict=True
    )
    times = statistics.median(slow[1:]), statistics.median(fast[1:])  # the first is a warm-up
    operations = 2 * rows * inputs * outputs
    return {
        "plain_gflops": operations / times[0] / 1e9,
        "packed_gflops": operations / times[1] / 1e9,
        "ratio": times[0] / times[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--repeats", type=int, default=21, help="medians are of so many")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    results = {name: compare(*shape, options.repeats) for name, shape in PRODUCTS.items()}
    print(f"{'':12}{'plain GFLOP/s':>15}{'packed':>10}{'ratio':>8}")
    for name, row in results.items():
        print(f"{name:12}{row['plain_gflops']:15.0f}{row['packed_gflops']:10.0f}{row['ratio']:8.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
