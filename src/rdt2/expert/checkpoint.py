"""The expert's files: `config.json` beside `model.safetensors` or `pytorch_model.bin`, read strictly."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rdt2 import hub
from rdt2.errors import CheckpointError
from rdt2.expert.config import ExpertConfig
from rdt2.files import require_file, whole_file, write_whole

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists is read


def locate(path: str | Path) -> tuple[ExpertConfig, Path]:
    """Configuration and weights file of a folder or hub id.

    Raises:
        CheckpointError: neither a folder nor reachable on the hub, or a file is missing or may not be read.
    """
    folder = hub.locate(path, ("config.json",), what="an expert")
    advice = f"An expert's folder holds config.json and {' or '.join(WEIGHTS)}."
    config = ExpertConfig.from_file(require_file(folder / "config.json", advice=advice))
    weights = hub.locate_any(path, ("config.json",), WEIGHTS, what="an expert")
    if weights is None:
        raise CheckpointError(
            f"{folder}: an expert needs {' or '.join(WEIGHTS)}, neither is there{hub.offline_note(path)}"
        )
    return config, require_file(weights)


def read(
    file: Path, expected: Mapping[str, tuple[int, ...]], *, dtype: torch.dtype, device: str | torch.device
) -> dict[str, Tensor]:
    """Read exactly the expected tensors, each cast and moved as it is read.

    Raises:
        CheckpointError: the file cannot be read safely, or its keys or shapes differ from the expected.
    """
    with ExitStack() as stack:
        get: Callable[[str], Tensor]
        try:
            if file.suffix == ".safetensors":
                tensors = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
                found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
                get = tensors.get_tensor
            else:
                pickled = torch.load(file, map_location="cpu", weights_only=True)
                found = {name: tuple(tensor.shape) for name, tensor in pickled.items()}
                get = pickled.pop
        except (
            OSError,
            SafetensorError,
            RuntimeError,
            pickle.UnpicklingError,
            EOFError,
            AttributeError,
        ) as error:
            raise CheckpointError(
                f"{file}: cannot be read as weights ({str(error).splitlines()[0]})"
            ) from error
        compare(file, expected, found)
        return {name: get(name).to(device=device, dtype=dtype) for name in expected}


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
    with whole_file(folder / WEIGHTS[0], error=CheckpointError) as partial:
        save_file(tensors, partial, {"format": "pt"})
    write_whole(folder / "config.json", json.dumps(config.to_dict(), indent=2) + "\n", error=CheckpointError)
    return folder
