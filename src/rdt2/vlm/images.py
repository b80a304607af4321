"""Pictures to Qwen2.5-VL patches, bit for bit what transformers' slow ``Qwen2VLImageProcessor`` gives.

    uint8 (h, w, 3) --resize--> multiples of 28 --table--> float32 --patchify--> (patches, 1176)

Two things make it fast: a pixel is one of 256 values, so rescaling and normalising is one table of 256
floats a channel, filled with exactly the arithmetic of transformers; and the patches are cut out of the
uint8 picture, before it grows fourfold into floats.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from rdt2.errors import CheckpointError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int, UInt8
    from torch import Tensor

CONFIG_NAME = "preprocessor_config.json"


@dataclass(frozen=True)
class ImageProcessor:
    """Image processing as ``preprocessor_config.json`` describes it; the defaults are Qwen2.5-VL's.

    ``min_pixels`` and ``max_pixels`` bound the area of the resized picture, which decides how many image
    tokens the language model reads: 384 x 768 gives 378 with Qwen's own bounds.
    """

    min_pixels: int = 3136
    max_pixels: int = 12845056
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageProcessor:
        """Read ``preprocessor_config.json`` of a local folder.

        Raises:
            CheckpointError: the file is missing, is no JSON, or asks for steps that are not implemented.
        """
        path = Path(folder) / CONFIG_NAME
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise CheckpointError(
                f"expected {CONFIG_NAME} in {folder}, found none; copy it from Qwen/Qwen2.5-VL-7B-Instruct"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{path} is not valid JSON ({error}); download it again") from error
        for key, only in {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}.items():
            if raw.get(key, only) != only:
                raise CheckpointError(
                    f"{path}: expected {key} = {only}, got {raw[key]}; no other is implemented"
                )
        size = raw.get("size") or {}
        values = {
            "min_pixels": raw.get("min_pixels") or size.get("shortest_edge"),
            "max_pixels": raw.get("max_pixels") or size.get("longest_edge"),
            **{
                key: raw.get(key)
                for key in ("patch_size", "temporal_patch_size", "merge_size", "rescale_factor")
            },
            **{key: tuple(raw[key]) for key in ("image_mean", "image_std") if raw.get(key)},
        }
        return cls(**{key: value for key, value in values.items() if value is not None})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json`` in the layout transformers reads."""
        raw = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "resample": 3,
            "rescale_factor": self.rescale_factor,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.merge_size,
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(raw, indent=2) + "\n")

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing: multiples of patch x merge, area within the bounds, aspect kept.

        The formula is Qwen's ``smart_resize``.
        """
        factor = self.patch_size * self.merge_size
        h, w = (round(side / factor) * factor for side in (height, width))
        if h * w > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            h, w = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif h * w < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            h, w = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return h, w

    def resize(self, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "rh rw 3"]:
        """Bicubic resize with PIL; a picture that already has the size comes back as it is.

        Raises:
            ObservationError: the picture is not a uint8 array of shape (height, width, 3).
        """
        picture = check_picture(picture)
        height, width = self.resized_shape(*picture.shape[:2])
        if (height, width) == picture.shape[:2]:
            return picture
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))

    def __call__(
        self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> tuple[Float[Tensor, "patches 1176"], Int[Tensor, "b 3"]]:
        """Patches of all pictures one after the other, and each picture's grid (1, rows, columns) of patches.

        Patches come in blocks of merge x merge, so that four neighbours become one image token; inside a
        patch the order is channel, time (the still picture twice), row, column.
        """
        resized = [self.resize(picture) for picture in pictures]
        p, m = self.patch_size, self.merge_size
        grid = torch.tensor([(1, r.shape[0] // p, r.shape[1] // p) for r in resized], dtype=torch.int64)
        out = np.empty((int(grid.prod(-1).sum()), 3, self.temporal_patch_size, p * p), np.float32)
        start = 0
        for picture, (_, rows, columns) in zip(resized, grid.tolist(), strict=True):
            blocks = picture.reshape(rows // m, m, p, columns // m, m, p, 3).transpose(6, 0, 3, 1, 4, 2, 5)
            patches = out[start : start + rows * columns]
            for channel in range(3):
                values = blocks[channel].reshape(rows * columns, p * p)
                patches[:, channel] = self._table[channel].take(values)[:, None]
            start += rows * columns
        return torch.from_numpy(out.reshape(len(out), -1)), grid

    @cached_property
    def _table(self) -> Float[np.ndarray, "3 256"]:
        # transformers' arithmetic: rescale in float64, round to float32, then normalise in float32.
        scaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = (np.asarray(values, np.float32)[:, None] for values in (self.image_mean, self.image_std))
        return (scaled - mean) / std


def check_picture(picture: np.ndarray) -> np.ndarray:
    """Return the picture as a numpy array.

    Raises:
        ObservationError: it is not uint8 of shape (height, width, 3).
    """
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise ObservationError(
            f"expected a uint8 RGB picture of shape (height, width, 3), got {picture.dtype} {picture.shape}; "
            "convert with (x * 255).astype('uint8') or move channels last"
        )
    return picture
