"""The expert's files: `config.json` beside `model.safetensors` or `pytorch_model.bin`, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rdt2 import hub
from rdt2.errors import CheckpointError
from rdt2.expert.config import ExpertConfig
from rdt2.files import require_file, whole_file, write_whole
from rdt2.weights import PICKLED, WEIGHTS, opened

FILES = (WEIGHTS, PICKLED)  # the first that exists is read


def locate(path: str | Path) -> tuple[ExpertConfig, Path]:
    """Configuration and weights file of a folder or hub id.

    Raises:
        CheckpointError: neither a folder nor reachable on the hub, or a file is missing or may not be read.
    """
    folder = hub.locate(path, ("config.json",), what="an expert")
    advice = f"An expert's folder holds config.json and {' or '.join(FILES)}."
    config = ExpertConfig.from_file(require_file(folder / "config.json", advice=advice))
    weights = hub.locate_any(path, ("config.json",), FILES, what="an expert")
    if weights is None:
        raise CheckpointError(
            f"{folder}: an expert needs {' or '.join(FILES)}, neither is there{hub.offline_note(path)}"
        )
    return config, require_file(weights)


def read(
    file: Path, expected: Mapping[str, tuple[int, ...]], *, dtype: torch.dtype, device: str | torch.device
) -> dict[str, Tensor]:
    """Read exactly the expected tensors, each once, straight to the device, and cast there.

    Raises:
        CheckpointError: the file cannot be read safely, or its keys or shapes differ from the expected.
    """
    with opened(file, device) as tensors:
        compare(file, expected, {name: tensors.shape(name) for name in tensors.keys()})  # noqa: SIM118
        return {name: tensors.get_tensor(name).to(device=device, dtype=dtype) for name in expected}


def compare(
    file: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Every key and shape must be as expected.

    Raises:
        CheckpointError: lists all that differ.
    """
    lines = [f"  missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    lines += [f"  unexpected: {name} {shape}" for name, shape in found.items() if name not in expected]
    lines += [
        f"  of another shape: {name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if lines:
        raise CheckpointError(
            f"{file}: not the weights its config.json describes ({len(expected)} tensors); these differ:\n"
            + "\n".join(lines)
            + "\nPoint at the checkpoint of an RDT2-FM expert, with its own config.json."
        )


def write(config: ExpertConfig, state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write both files; each appears under its name only when whole, `config.json` last."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    with whole_file(folder / WEIGHTS, error=CheckpointError) as partial:
        save_file(tensors, partial, {"format": "pt"})
    write_whole(folder / "config.json", json.dumps(config.to_dict(), indent=2) + "\n", error=CheckpointError)
    return folder
