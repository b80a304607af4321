"""Which VLM an expert learnt on, in a small file beside the expert: some numbers of the weights that it reads from.

An expert reads keys and values, which mean something else in every VLM, also where all shapes are the same. Compared
are single weights and not a digest of them: adapters are added before they are looked at, and another dtype on disk
rounds each by a little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import write_whole
from rdt2.hub import locate
from rdt2.vlm.adapters import Delta, read_adapters
from rdt2.vlm.layout import find_tensors, read_json
from rdt2.weights import opened

FILE = "vlm.json"
OPTION = "vlm=FOLDER"
"""As Python writes it; the command line says how it is typed there (rdt2.cli.usage.typeable)."""
NUMBERS = 32
"""Weights of a tensor that are looked at, evenly over it."""
ROUNDING = 2**-7
"""Relative to a weight: bfloat16, rounded twice."""
SMALL = 2**-11
"""Relative to the weights' root mean square: adapters that were merged in half precision."""
READ = ("input_layernorm.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")


class Mark(NamedTuple):
    """What is told of a VLM."""

    vlm: str
    """Its folder or hub id, for messages."""
    weights: dict[str, list[float]]
    """By the name of the tensor."""


def mark_of(vlm: str | Path, layers: Sequence[int]) -> Mark:
    """What an expert is to say of the VLM it learns on.

    Args:
        vlm: folder or hub id, perhaps of adapters.
        layers: whose keys and values it reads.

    Raises:
        CheckpointError: the VLM cannot be read.
    """
    names = [f"model.language_model.layers.{layer}.{part}" for layer in layers for part in READ]
    return Mark(str(vlm), _numbers(vlm, names))


def write_mark(expert: str | Path, mark: Mark) -> None:
    """Write it into an expert's folder. Raises CheckpointError."""
    write_whole(Path(expert) / FILE, json.dumps(mark._asdict()) + "\n", error=CheckpointError)


def hand_on(expert: str | Path, folder: str | Path) -> None:
    """Copy into a folder what an expert says of its VLM, if that is anything. Raises CheckpointError."""
    file = locate(expert, (FILE,)) / FILE
    if file.is_file():
        write_whole(Path(folder) / FILE, file.read_bytes(), error=CheckpointError)


def require_learnt_on(expert: str | Path, vlm: str | Path) -> None:
    """See that an expert is used with the VLM it learnt on, where it says which one that was.

    Args:
        expert: its folder or hub id; published ones say nothing.
        vlm: folder or hub id, perhaps of adapters; however it will be loaded, its files are what is compared.

    Raises:
        ConfigError: it is another one.
        CheckpointError: the file is damaged, or the VLM cannot be read.
    """
    file = locate(expert, (FILE,)) / FILE
    if not file.is_file():
        return
    said = read_json(file, advice="Copy it again.")
    try:
        rows = {name: [float(value) for value in row] for name, row in said["weights"].items()}
        learnt = Mark(str(said["vlm"]), rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: does not say which VLM ({error!r}). Copy it again.") from None
    found = _numbers(vlm, learnt.weights)
    if all(_alike(numbers, found.get(name, [])) for name, numbers in learnt.weights.items()):
        return
    raise ConfigError(
        f"the expert {expert} learnt on the VLM {learnt.vlm}, and {vlm} has other weights: its keys and values would "
        f"mean something else to it. Name the VLM that it learnt on with {OPTION}, or delete {file} to use the two "
        "together all the same."
    )


def _alike(one: list[float], other: list[float]) -> bool:
    """Whether two rows of weights differ by no more than rounding."""
    if len(one) != len(other):
        return False
    small = SMALL * math.sqrt(sum(value**2 for value in one) / max(1, len(one)))
    return all(abs(a - b) <= ROUNDING * abs(a) + small for a, b in zip(one, other, strict=True))


def _numbers(vlm: str | Path, names: Iterable[str]) -> dict[str, list[float]]:
    """Some weights of each of these tensors, with adapters, in float32; what a VLM does not have is left out."""
    adapters = read_adapters(vlm)
    path = vlm if adapters is None else adapters.base
    found, deltas = find_tensors(path), dict[str, Delta]()
    if adapters is not None:
        found |= adapters.whole
        deltas = adapters.deltas
    wanted = [name for name in names if name in found]
    files = sorted({found[name][0] for name in wanted})
    folder = locate(path, [file for file in files if not Path(file).is_absolute()])
    numbers = {}
    for file in files:
        with opened(folder / file) as handle:
            for name in (name for name in wanted if found[name][0] == file):
                value = handle.get_tensor(found[name][1])
                if name in deltas:
                    value = deltas[name].added_to(value, f"{vlm}, {name}")
                value = value.flatten()
                at = torch.linspace(0, len(value) - 1, NUMBERS, dtype=torch.float64).long()
                numbers[name] = [float(f"{v:.6g}") for v in value[at].float().tolist()]
    return numbers
