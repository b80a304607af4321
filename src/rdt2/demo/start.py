"""The small VLM that training from scratch begins with."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from rdt2.demo.sight import initialize_sight
from rdt2.errors import TrainingError
from rdt2.files import whole_folder
from rdt2.training.loop import processes
from rdt2.vlm import create_tiny_vlm


def tiny_start(folder: Path, sentences: Iterable[str], *, seed: int) -> Path:
    """``folder`` with an untrained small VLM that knows where to look, made by the main process where there is none.

    Args:
        folder: where it lies; a folder of this name is always whole.
        sentences: instructions whose words its tokenizer learns, in any order and number.
        seed: of its weights.

    Raises:
        TrainingError: the disk is full.
    """
    distinct = sorted(set(sentences))
    with processes().main_process_first():
        if not folder.exists():
            with whole_folder(folder, error=TrainingError) as whole:
                create_tiny_vlm(
                    whole, sentences=distinct, seed=seed, structure=partial(initialize_sight, seed=seed)
                )
    return folder
