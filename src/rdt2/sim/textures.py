"""Textures painted from a seed: families of patterns, each of two colours."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray
    from numpy.random import Generator

FAMILIES = ("plain", "wood", "speckle", "cloth", "marble", "stripes", "dots")

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A recipe: family, seed of its noise, two colours (RGB 0..1) that it mixes."""

    family: str
    seed: int
    light: Colour
    dark: Colour


def hsv(h: float, s: float, v: float) -> Colour:
    """A colour of hue, saturation and value, each 0..1."""
    r, g, b = colorsys.hsv_to_rgb(h % 1.0, s, v)
    return float(r), float(g), float(b)


def _noise(rng: Generator, size: int, cells: tuple[int, int]) -> Float[ndarray, "n n"]:
    """Smooth noise in 0..1 that wraps around: random values on a grid of `cells`, blended in between."""
    rows, columns = cells
    grid = rng.random((rows, columns))
    grid = np.pad(grid, ((0, 1), (0, 1)), mode="wrap")

    def axis(n: int) -> tuple[np.ndarray, np.ndarray]:
        at = np.arange(size) * n / size
        low = at.astype(int)
        f = at - low
        return low, f * f * (3 - 2 * f)

    r, fr = axis(rows)
    c, fc = axis(columns)
    top = grid[r][:, c] * (1 - fc) + grid[r][:, c + 1] * fc
    bottom = grid[r + 1][:, c] * (1 - fc) + grid[r + 1][:, c + 1] * fc
    return top * (1 - fr[:, None]) + bottom * fr[:, None]


def paint(texture: Texture, size: int) -> UInt8[ndarray, "size size 3"]:
    """The picture of a texture; the same recipe gives the same bytes."""
    rng = np.random.default_rng(texture.seed)
    u, v = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
    cloud = _noise(rng, size, (6, 6))
    if texture.family == "plain":
        mix = 0.35 * cloud
    elif texture.family == "wood":
        planks = int(rng.integers(4, 8))
        shift = rng.random(planks)
        plank = np.floor(v * planks).astype(int) % planks
        grain = _noise(rng, size, (planks * 10, 5)) * 0.6 + _noise(rng, size, (planks * 30, 9)) * 0.4
        seam = ((v * planks) % 1.0) < 0.03
        mix = np.clip(0.6 * grain + 0.4 * shift[plank], 0, 1) + 0.8 * seam
    elif texture.family == "speckle":
        mix = 0.3 * cloud + 0.9 * (_noise(rng, size, (size // 4, size // 4)) > 0.86)
    elif texture.family == "cloth":
        threads = int(rng.integers(40, 70))
        weave = np.sin(2 * np.pi * threads * u) * np.sin(2 * np.pi * threads * v)
        mix = 0.45 + 0.35 * weave + 0.2 * (cloud - 0.5)
    elif texture.family == "marble":
        warp = cloud * 2 + _noise(rng, size, (16, 16)) * 0.8
        mix = np.abs(np.sin(2 * np.pi * (u + v + warp))) ** 0.5
        mix = 1.0 - mix
    elif texture.family == "stripes":
        count = int(rng.integers(6, 14))
        mix = ((u * count) % 1.0 < 0.5).astype(float)
    elif texture.family == "dots":
        count = int(rng.integers(8, 16))
        mix = (np.hypot((u * count) % 1 - 0.5, (v * count) % 1 - 0.5) < 0.28).astype(float)
    else:
        raise ValueError(f"texture family is {texture.family!r}, expected one of {FAMILIES}.")
    mix = np.clip(mix, 0, 1)[..., None]
    colour = (1 - mix) * np.array(texture.light) + mix * np.array(texture.dark)
    return np.round(np.clip(colour, 0, 1) * 255).astype(np.uint8)
