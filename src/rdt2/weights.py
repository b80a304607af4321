"""Files of weights, safetensors or pickled: tensor after tensor, nothing executed, nothing in memory twice."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch

from rdt2.errors import CheckpointError
from rdt2.files import require_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"


@contextmanager
def opened(file: Path, device: str | torch.device = "cpu") -> Iterator[Any]:
    """A file of weights whose tensors are read one by one, by ``keys()``, ``shape(name)`` and ``get_tensor(name)``.

    Those of safetensors come to ``device`` as they are read; pickled ones are mapped into the CPU's memory.

    Raises:
        CheckpointError: the file is not there, is damaged, or holds something other than tensors.
    """
    from safetensors import SafetensorError, safe_open

    require_file(file, advice="Download the checkpoint again.")
    if file.suffix != ".safetensors":
        yield _Pickled(file)
        return
    device = torch.device(device)
    place = (
        "cpu" if device.type in ("cpu", "meta") else str(device)
    )  # safetensors knows neither cpu:0 nor meta
    try:
        with safe_open(file, framework="pt", device=place) as handle:
            yield _Safe(handle)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); download it again") from error


class _Safe:
    def __init__(self, handle: Any) -> None:
        self.keys, self.get_tensor = handle.keys, handle.get_tensor
        self._handle = handle

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle.get_slice(name).get_shape())


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

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]
