"""Evaluating together: each process looks at its share of the held-out batches, and all get the same figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def mean_over_batches(count: int, figures: Callable[[int], dict[str, Any]]) -> dict[str, float]:
    """Mean of each figure over ``count`` batches of equal size, of which every process computes its share; of how many
    ``samples`` there were, the sum.

    All processes must call it together. Where weights are sharded every forward gathers them, so a process whose
    share is smaller computes its last batch once more, and does not count it.

    Args:
        count: batches, at least one.
        figures: scalars of batch i, the same names for every i.
    """
    from accelerate import PartialState

    place = PartialState()
    sums: dict[str, float] = {}
    for first in range(0, count, place.num_processes):
        number = first + place.process_index
        for key, value in figures(min(number, count - 1)).items():
            sums[key] = sums.get(key, 0.0) + (float(value) if number < count else 0.0)
    if place.num_processes > 1:
        total = torch.tensor([sums[key] for key in sorted(sums)], device=place.device, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        sums = dict(zip(sorted(sums), total.tolist(), strict=True))
    return {key: value if key.endswith("samples") else value / count for key, value in sums.items()}
