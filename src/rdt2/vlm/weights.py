"""Files of weights, safetensors or pickled, whole or in shards: what is in them, and tensor after tensor."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch

from rdt2.errors import CheckpointError
from rdt2.files import require_file
from rdt2.hub import locate, locate_any, offline_note
from rdt2.vlm.layout import CONFIG, internal, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
FILES = (
    WEIGHTS,
    f"{WEIGHTS}.index.json",
    PICKLED,
    f"{PICKLED}.index.json",
)  # the first that is there is read


def find_tensors(path: str | Path) -> dict[str, tuple[str, str]]:
    """Our name of every tensor of the checkpoint -> (file, name in the file)."""
    file = locate_any(path, (CONFIG,), FILES, what="a Qwen2.5-VL")
    if file is None:
        folder = locate(path, (CONFIG,))
        raise CheckpointError(
            f"expected {WEIGHTS} or {FILES[1]} in {folder}, found neither{offline_note(path)}. Download the checkpoint "
            "again"
        )
    if file.name in (WEIGHTS, PICKLED):
        with opened(file, "cpu") as handle:
            places = dict.fromkeys(handle.keys(), file.name)
    else:
        places = read_json(file, advice="Download it again.").get("weight_map", {})
        if not isinstance(places, dict) or not places:
            raise CheckpointError(f"{file} is no index of weights (no weight_map); download it again")
    return {ours: (place, name) for name, place in places.items() if (ours := internal(name)) is not None}


@contextmanager
def opened(file: Path, device: str) -> Iterator[Any]:
    """A file of weights whose tensors are read one by one, by ``keys()`` and ``get_tensor(name)``."""
    from safetensors import SafetensorError, safe_open

    require_file(file, advice="Download the checkpoint again.")
    if file.suffix != ".safetensors":
        yield _Pickled(file)
        return
    try:
        with safe_open(file, framework="pt", device=device) as handle:
            yield handle
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); download it again") from error


class _Pickled:
    """A ``pytorch_model.bin``: nothing in it is executed, and tensors are read when they are asked for."""

    def __init__(self, file: Path) -> None:
        try:
            self._tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
        except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{file} was refused: it is damaged, or holds something other than tensors ({reason:.200}). Nothing in "
                "it was executed; download it again"
            ) from error
        if not isinstance(self._tensors, dict) or not all(
            isinstance(value, torch.Tensor) for value in self._tensors.values()
        ):
            raise CheckpointError(f"{file}: expected tensors by their names, got something else")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]
