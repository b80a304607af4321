"""How good a policy is: open-loop errors on shards, closed-loop success in the cell, and reports."""

from __future__ import annotations

from rdt2.evaluation.statistics import Rate, wilson_interval
from rdt2.metrics import ActionErrors, action_errors, per_sample_errors, rotation_error, valid_rate

__all__ = [
    "ActionErrors",
    "Rate",
    "action_errors",
    "per_sample_errors",
    "rotation_error",
    "valid_rate",
    "wilson_interval",
]
