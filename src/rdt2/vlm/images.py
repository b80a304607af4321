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
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from rdt2.errors import CheckpointError, ConfigError, ObservationError
from rdt2.vlm.layout import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int, UInt8
    from torch import Tensor

CONFIG_NAME = "preprocessor_config.json"
PROCESSOR_NAME = "processor_config.json"
_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "resample": 3}
PRECISION_BITS = 22  # of the shares with which PIL mixes pixels
_AT_A_TIME = 512
"""Patches that become numbers at once: what they are on the way stays in a core's cache."""


def has_settings(folder: Path) -> bool:
    """Whether a local folder says how pictures are processed."""
    return (folder / CONFIG_NAME).is_file() or (folder / PROCESSOR_NAME).is_file()


class Patches(NamedTuple):
    """Pictures that are cut already: patches (n, 1176) float32 of all, one picture after the other, and each picture's
    grid (1, rows, columns), int64 (b, 3)."""

    values: Tensor
    grid: Tensor


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
        """Read the picture settings of a local folder.

        They are the entry ``image_processor`` of ``processor_config.json`` where there is one (transformers 5), else
        ``preprocessor_config.json``. The bounds of the area are ``min_pixels`` and ``max_pixels``, or are in ``size``
        under these names or as ``shortest_edge`` and ``longest_edge``.

        Raises:
            CheckpointError: neither file is there, one is no JSON, or asks for steps that are not implemented.
        """
        path = Path(folder) / PROCESSOR_NAME
        raw = read_json(path, advice="Copy it again.").get("image_processor") if path.is_file() else None
        if raw is None:
            path = Path(folder) / CONFIG_NAME
            raw = read_json(path, advice="Copy it from Qwen/Qwen2.5-VL-7B-Instruct.")
        for key, only in _STEPS.items():
            if raw.get(key) not in (None, only):
                raise CheckpointError(
                    f"{path}: expected {key} = {only}, got {raw[key]}; no other is implemented"
                )
        size = raw.get("size") or {}
        bounds = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
        if not isinstance(size, dict) or set(size) - {*bounds, *bounds.values()}:
            raise CheckpointError(
                f"{path}: size is {size}, expected bounds of the area: shortest_edge and longest_edge, or min_pixels "
                "and max_pixels. These are the settings of another model's pictures."
            )
        values: dict[str, Any] = {
            **{key: raw.get(key) or size.get(key) or size.get(edge) for key, edge in bounds.items()},
            **{key: raw.get(key) for key in ("patch_size", "temporal_patch_size", "merge_size")},
            "rescale_factor": raw.get("rescale_factor"),
            **{key: tuple(raw[key]) for key in ("image_mean", "image_std") if raw.get(key)},
        }
        found = cls(**{key: value for key, value in values.items() if value is not None})
        if not 0 < found.min_pixels <= found.max_pixels:
            raise CheckpointError(
                f"{path}: min_pixels is {found.min_pixels} and max_pixels {found.max_pixels}, expected 0 < min <= max."
            )
        return found

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

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Patches:
        """Patches of all pictures one after the other, and each picture's grid (1, rows, columns) of patches.

        Patches come in blocks of merge x merge, so that four neighbours become one image token; inside a
        patch the order is channel, time (the still picture twice), row, column.
        """
        return self.normalized(*self.cut(pictures))

    def cut(
        self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> tuple[UInt8[np.ndarray, "3 patches pp"], Int[np.ndarray, "b 3"]]:
        """The first half of a call: patches as bytes, each once, an eighth of what they become, one colour after the
        other; and the grids."""
        resized = [self.resize(picture) for picture in pictures]
        p, m = self.patch_size, self.merge_size
        grid = np.array([(1, r.shape[0] // p, r.shape[1] // p) for r in resized], np.int64)
        out = np.empty((3, int(grid.prod(-1).sum()), p * p), np.uint8)
        start = 0
        for picture, (_, rows, columns) in zip(resized, grid.tolist(), strict=True):
            blocks = picture.reshape(rows // m, m, p, columns // m, m, p, 3).transpose(6, 0, 3, 1, 4, 2, 5)
            out[:, start : start + rows * columns].reshape(blocks.shape)[...] = blocks
            start += rows * columns
        return out, grid

    def normalized(self, patches: UInt8[np.ndarray, "3 patches pp"], grid: Int[np.ndarray, "b 3"]) -> Patches:
        """The second half of a call."""
        import cv2

        count, pixels = patches.shape[1:]
        out = torch.empty(count, 3 * self.temporal_patch_size * pixels)
        for begin in range(0, count, _AT_A_TIME):
            some = slice(begin, begin + _AT_A_TIME)
            colours = [
                torch.from_numpy(cv2.LUT(colour[some], values[None]))
                for colour, values in zip(patches, self._table, strict=True)
            ]
            # torch joins rows several times as fast as numpy copies them.
            torch.cat([c for c in colours for _ in range(self.temporal_patch_size)], 1, out=out[some])
        return Patches(out, torch.from_numpy(grid))

    @cached_property
    def _table(self) -> Float[np.ndarray, "3 256"]:
        # transformers' arithmetic: rescale in float64, round to float32, then normalise in float32.
        scaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = (np.asarray(values, np.float32)[:, None] for values in (self.image_mean, self.image_std))
        return (scaled - mean) / std


class DeviceImages:
    """An :class:`ImageProcessor` whose work is done on a GPU, with the same result bit for bit.

    PIL resizes in whole numbers, one axis after the other (Pillow, src/libImaging/Resample.c), which any device can
    repeat exactly. Which axis comes first depends on Pillow's version: a picture of noise tells.
    """

    def __init__(self, images: ImageProcessor, device: torch.device) -> None:
        self._images, self._device = images, device
        self._values = torch.from_numpy(images._table).to(device)
        self._weights = lru_cache(maxsize=16)(self._make_weights)
        self._axes = lru_cache(maxsize=16)(self._find_axes)

    def patches(self, picture: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "patches 1176"]:
        """Patches of one picture that lies on the device, in the order of :class:`ImageProcessor`."""
        p, m = self._images.patch_size, self._images.merge_size
        height, width = self._images.resized_shape(*picture.shape[:2])
        x = picture
        for axis in self._axes(*picture.shape[:2]):
            x = self._resized(x, axis, (height, width)[axis])
        rows, columns = height // p, width // p
        blocks = x.view(rows // m, m, p, columns // m, m, p, 3).permute(0, 3, 1, 4, 6, 2, 5)
        blocks = blocks.reshape(rows * columns, 3, 1, p * p).long()
        channel = torch.arange(3, device=x.device)[:, None, None]
        values = self._values[channel, blocks]
        return values.expand(-1, -1, self._images.temporal_patch_size, -1).reshape(rows * columns, -1)

    def __call__(self, pictures: UInt8[Tensor, "b h w 3"]) -> Patches:
        """Patches of pictures of one size that lie on the device; the grids on the CPU."""
        height, width = self._images.resized_shape(*pictures.shape[1:3])
        rows, columns = height // self._images.patch_size, width // self._images.patch_size
        grid = torch.tensor([(1, rows, columns)] * len(pictures), dtype=torch.int64)
        return Patches(torch.cat([self.patches(picture) for picture in pictures]), grid)

    def grid(self, picture: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int, int]:
        """(1, rows, columns) of the patches of a picture."""
        height, width = self._images.resized_shape(*check_picture(picture).shape[:2])
        return 1, height // self._images.patch_size, width // self._images.patch_size

    def _find_axes(self, height: int, width: int) -> tuple[int, int]:
        """The axes in the order in which PIL resizes pictures of this size.

        Raises:
            ConfigError: PIL does something else.
        """
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = self._images.resize(noise)
        for axes in ((1, 0), (0, 1)):
            x = torch.from_numpy(noise).to(self._device)
            for axis in axes:
                x = self._resized(x, axis, expected.shape[axis])
            if np.array_equal(x.cpu().numpy(), expected):
                return axes
        raise ConfigError(
            f"this version of Pillow resizes {height} x {width} pictures in a way that is not known. Install "
            "pillow<=13.0, or leave out compile=True."
        )

    def _resized(self, x: UInt8[Tensor, "h w 3"], axis: int, size: int) -> UInt8[Tensor, "h w 3"]:
        if x.shape[axis] == size:
            return x
        places, weights = self._weights(x.shape[axis], size)
        taken = x.index_select(axis, places.flatten()).unflatten(axis, places.shape).int()
        shape = [1] * taken.ndim
        shape[axis : axis + 2] = weights.shape
        total = (taken * weights.view(shape)).sum(axis + 1, dtype=torch.int32)
        return ((total + (1 << PRECISION_BITS - 1)) >> PRECISION_BITS).clamp(0, 255).to(torch.uint8)

    def _make_weights(self, before: int, after: int) -> tuple[Int[Tensor, "after k"], Int[Tensor, "after k"]]:
        """Which pixels a resized pixel is made of, and in which shares of 2^22."""
        scale = before / after
        stretch = max(scale, 1.0)
        reach = 2.0 * stretch  # of the bicubic kernel
        count = 2 * math.ceil(reach) + 1
        places, shares = np.zeros((after, count), np.int64), np.zeros((after, count))
        for i in range(after):
            middle = (i + 0.5) * scale
            first, last = max(int(middle - reach + 0.5), 0), min(int(middle + reach + 0.5), before)
            here = np.arange(first, last)
            share = _bicubic((here - middle + 0.5) / stretch)
            places[i, : len(here)], shares[i, : len(here)] = here, share * (1.0 / sum(share))  # as PIL rounds
        whole = np.trunc(shares * (1 << PRECISION_BITS) + np.copysign(0.5, shares)).astype(np.int32)
        return torch.from_numpy(places).to(self._device), torch.from_numpy(whole).to(self._device)


def _bicubic(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Keys' kernel with a = -0.5, as PIL has it."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


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
