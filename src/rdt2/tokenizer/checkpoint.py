"""Files of the action tokenizer: ``config.json`` and ``model.safetensors`` in the published layout.

The published model ties ``quantizers.i.weight`` to ``quantizers.i.codebook.weight``; its file holds the
second name only and names the first in its metadata. We keep one tensor and write the same file.

What the published layout has no key for (whether codes were drawn from data, steps into the restart window)
goes into the metadata too, and only when it differs from what a file without it means: codes drawn, window
at its start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import require_file, whole_file, write_whole
from rdt2.hub import locate
from rdt2.tokenizer.codebook import Codebook
from rdt2.tokenizer.config import TokenizerConfig

if TYPE_CHECKING:
    from rdt2.tokenizer.model import ActionTokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
STATE_KEY = "rdt2.training_state"


def load(path: str | Path) -> ActionTokenizer:
    """Read a tokenizer from a folder or a hub id, strictly.

    Raises:
        CheckpointError: if a file is absent or unreadable, or a key is missing, unexpected or mis-shaped.
    """
    from rdt2.tokenizer.model import ActionTokenizer

    folder = _folder(path)
    config = _read_config(folder / CONFIG_FILE)
    tensors, metadata = _read_weights(folder / WEIGHTS_FILE)
    with torch.device("meta"):
        model = ActionTokenizer(config)
    expected = model.state_dict()
    codebooks = _codebooks(model)

    problems = []
    for name in codebooks:
        tied, codes = tensors.pop(f"{name}.weight", None), tensors.get(f"{name}.codebook.weight")
        if tied is not None and codes is not None and not torch.equal(tied, codes):
            problems.append(f"different: {name}.weight must equal {name}.codebook.weight")
        state = _training_state(metadata, folder).get(name, {"initialised": True, "steps": 0})
        for key, value in state.items():
            tensors[f"{name}.{key}"] = torch.tensor(value, dtype=expected[f"{name}.{key}"].dtype)
    problems += [f"missing: {key}" for key in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected: {key}" for key in sorted(tensors.keys() - expected.keys())]
    for key in sorted(expected.keys() & tensors.keys()):
        if expected[key].shape != tensors[key].shape:
            shapes = f"{tuple(tensors[key].shape)}, config.json means {tuple(expected[key].shape)}"
            problems.append(f"shape: {key} is {shapes}")
    if problems:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} does not fit its config.json ({len(problems)} differences). "
            "Use the two files of one and the same action tokenizer.\n  " + "\n  ".join(problems)
        )
    model.load_state_dict({key: tensors[key].to(expected[key].dtype) for key in expected}, assign=True)
    return model.eval()


def save(model: ActionTokenizer, path: str | Path) -> None:
    """Write both files; each appears under its name only when it is whole.

    Raises:
        CheckpointError: if the folder cannot be written (no room, no permission).
    """
    tensors = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    metadata, state = {}, {}
    for name in _codebooks(model):
        metadata[f"{name}.weight"] = f"{name}.codebook.weight"
        initialised, steps = tensors.pop(f"{name}.initialised"), tensors.pop(f"{name}.steps")
        if not initialised or steps:
            state[name] = {"initialised": bool(initialised), "steps": int(steps)}
    if state:
        metadata[STATE_KEY] = json.dumps(state, sort_keys=True)
    folder = Path(path)
    text = json.dumps(model.config.to_dict(), indent=2, sort_keys=True)
    with whole_file(folder / WEIGHTS_FILE, error=CheckpointError) as partial:
        save_file(tensors, partial, metadata=metadata)
    write_whole(folder / CONFIG_FILE, text + "\n", error=CheckpointError)


def _folder(path: str | Path) -> Path:
    """The local folder, or the hub repository's snapshot, that holds both files."""
    folder = locate(path, (CONFIG_FILE, WEIGHTS_FILE), what="an action tokenizer")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        require_file(
            folder / name,
            advice=f"Point at the folder of an action tokenizer, with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}, or at a hub id 'owner/name'.",
        )
    return folder


def _read_config(file: Path) -> TokenizerConfig:
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise ConfigError(f"expected a JSON object, got {type(values).__name__}")
        return TokenizerConfig.from_dict(values)
    except (ValueError, TypeError) as error:  # not JSON, not text, or a size that is no number
        raise CheckpointError(f"{file} is not the config of an action tokenizer: {error}") from error


def _read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        message = f"{file} is not a readable safetensors file: {error}. Fetch it again."
        raise CheckpointError(message) from error


def _training_state(metadata: dict[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    try:
        state = json.loads(metadata.get(STATE_KEY, "{}"))
        return {
            name: {"initialised": bool(entry["initialised"]), "steps": int(entry["steps"])}
            for name, entry in state.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{folder / WEIGHTS_FILE}: metadata '{STATE_KEY}' is damaged ({error}). Fetch it again."
        raise CheckpointError(message) from error


def _codebooks(model: ActionTokenizer) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Codebook)]
