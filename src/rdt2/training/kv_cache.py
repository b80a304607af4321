"""The frozen VLM's keys and values on disk: computed once a sample, read in every later epoch.

The published VLM takes some 12 MB a sample, so this is for small data sets. An entry is found by what it was
computed from, weights, picture and sentence: nothing stale is ever read, and another VLM adds its own entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdt2.errors import CheckpointError, TrainingError
from rdt2.files import require_writable, whole_file
from rdt2.vlm import PLAIN, KVCache, Layers, prefill

if TYPE_CHECKING:
    from jaxtyping import Bool


class DiskCache:
    """Prefills through a folder: ``folder/<weights and layers>/<sample>.safetensors``, a file a sample."""

    def __init__(self, folder: str | Path, vlm: nn.Module, layers: Sequence[int]):
        """
        folder: made if missing; may be shared by runs and processes.
        vlm: the frozen VLM, not yet moved to a GPU: all its weights are hashed.
        layers: whose keys and values are kept.
        """
        self._layers = tuple(layers)
        self._folder = Path(folder) / _fingerprint(vlm, self._layers)
        require_writable(self._folder / "any", error=TrainingError)

    def prefill(self, vlm: nn.Module, batch: Mapping[str, Tensor], *, run: Layers = PLAIN) -> KVCache:
        """As `rdt2.vlm.prefill`; runs the VLM only when a row is not on disk yet.

        Raises:
            CheckpointError: an entry is damaged.
            TrainingError: an entry cannot be written.
        """
        files = [self._folder / f"{name}.safetensors" for name in _names(batch)]
        if all(file.is_file() for file in files):
            return _padded([_read(file) for file in files], batch["input_ids"].device)
        cache = prefill(vlm, batch, self._layers, run=run)
        for row, file in enumerate(files):
            if not file.is_file():
                _write(file, cache, row)
        return cache


def _fingerprint(vlm: nn.Module, layers: tuple[int, ...]) -> str:
    """A name for these weights and layers."""
    digest = hashlib.sha256(repr(layers).encode())
    for name, parameter in vlm.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


def _names(batch: Mapping[str, Tensor]) -> list[str]:
    """A name for each row's tokens and picture; padding, which other rows decide, is left out."""
    pictures = batch["pixel_values"].split(batch["image_grid_thw"].prod(-1).tolist())
    names = []
    for row, picture in enumerate(pictures):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        digest = hashlib.sha256()
        for tensor in (ids, batch["image_grid_thw"][row], picture):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        names.append(digest.hexdigest()[:32])
    return names


def _write(file: Path, cache: KVCache, row: int) -> None:
    from safetensors.torch import save_file

    kept: Bool[Tensor, " s"] = cache.mask[row]
    tensors = {
        name: torch.stack([each[row][:, kept] for each in layers]).cpu()  # (layers, kv, s, hd)
        for name, layers in (("keys", cache.keys), ("values", cache.values))
    }
    advice = "Go on with --resume, or leave kv_cache out."
    with whole_file(file, error=TrainingError, advice=advice) as partial:
        save_file(tensors, partial)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(
            f"{file}: is damaged ({error}). Delete it: it will be computed again."
        ) from error


def _padded(rows: list[dict[str, Tensor]], device: torch.device) -> KVCache:
    """Rows of different length as one batch, padded on the left as prompts are."""
    lengths = [row["keys"].shape[2] for row in rows]
    longest = max(lengths)

    def together(name: str) -> list[Tensor]:
        padded = [F.pad(row[name], (0, 0, longest - row[name].shape[2], 0)) for row in rows]
        return list(torch.stack(padded, 1).to(device))  # a (b, kv, s, hd) for each layer

    seen = torch.arange(longest)[None] >= longest - torch.tensor(lengths)[:, None]
    return KVCache(keys=together("keys"), values=together("values"), mask=seen.to(device))
