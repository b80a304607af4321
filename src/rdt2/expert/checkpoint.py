"""The expert's files: `config.json` beside `model.safetensors` or `pytorch_model.bin`, read strictly."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rdt2.errors import CheckpointError
from rdt2.expert.config import ExpertConfig

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists is read


def locate(path: str | Path) -> tuple[ExpertConfig, Path]:
    """Configuration and weights file of a folder or hub id.

    Raises:
        CheckpointError: neither a folder nor reachable on the hub, or a file is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = _download(str(path))
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: an expert needs config.json, which is not there")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return ExpertConfig.from_file(folder / "config.json"), folder / name
    raise CheckpointError(f"{folder}: an expert needs {' or '.join(WEIGHTS)}, neither is there")


def _download(repo: str) -> Path:
    """Fetch an expert from the hub, with one file of weights."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    if Path(repo).is_absolute() or repo.count("/") != 1:
        raise CheckpointError(f"{repo}: no such folder, and not a hub id of the form owner/name")
    try:
        folder = Path(hf_hub_download(repo, "config.json")).parent
        try:
            hf_hub_download(repo, WEIGHTS[0])
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            hf_hub_download(repo, WEIGHTS[1])
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{repo}: no such folder, and the hub did not give it either ({error})"
        ) from error
    return folder


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
    folder.mkdir(parents=True, exist_ok=True)
    weights, text = folder / WEIGHTS[0], folder / "config.json"
    parts = [path.with_name(f".{path.name}.part") for path in (weights, text)]
    try:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in state.items()}, parts[0], {"format": "pt"}
        )
        parts[1].write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        os.replace(parts[0], weights)
        os.replace(parts[1], text)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: could not write the expert ({error}); is the disk full?") from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return folder
