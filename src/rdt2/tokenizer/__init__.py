"""Residual-VQ action tokenizer: 24 x 20 numbers to 27 integers and back."""

from __future__ import annotations

from rdt2.tokenizer.config import PART_COLUMNS, CNNConfig, TokenizerConfig
from rdt2.tokenizer.loss import geodesic_distance, reconstruction_loss
from rdt2.tokenizer.model import ActionTokenizer, TokenizerOutput
from rdt2.tokenizer.report import (
    ReconstructionReport,
    code_use,
    evaluate_reconstruction,
    outside_range,
    worst_chunks,
)

__all__ = [
    "PART_COLUMNS",
    "ActionTokenizer",
    "CNNConfig",
    "ReconstructionReport",
    "TokenizerConfig",
    "TokenizerOutput",
    "code_use",
    "evaluate_reconstruction",
    "geodesic_distance",
    "outside_range",
    "reconstruction_loss",
    "worst_chunks",
]
