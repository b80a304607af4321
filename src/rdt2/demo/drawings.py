"""Pictures drawn from a seed, with the place of everything in them: what a VLM from scratch first learns to see.

    drawing = draw(rng, ["red", "blue"], size=(168, 336))
    drawing.picture                 # (168, 336, 3) uint8: left half and right half show the same colours
    drawing.places["red"]           # (x, y) in the left half, (x, y) in the right, -0.5 .. 0.5

Plain shapes, light from above, on a pale ground among things of no named colour. No simulation is involved.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, UInt8
    from numpy import ndarray
    from numpy.random import Generator

HUES = {
    "red": (-0.03, 0.02),
    "orange": (0.05, 0.09),
    "yellow": (0.125, 0.17),
    "green": (0.30, 0.42),
    "blue": (0.58, 0.67),
    "purple": (0.73, 0.81),
    "bowl": (0.875, 0.925),
}
"""Where on the circle of hues (0..1) a word lies. The simulated cell's bowl is known by being pink."""
BRIGHT = ("yellow", "orange", "bowl")  # dark, they would be called brown or wine
PALE = ("bowl",)
VISIBLE = 12  # pixels a shape must still show for its place to count


@dataclass(frozen=True)
class Drawing:
    """A picture and what it shows."""

    picture: UInt8[ndarray, "h w 3"]
    places: dict[str, Float[ndarray, 4]]
    """Middle of what is seen of each colour: x, y in the left half, x, y in the right, in half pictures from the
    middle of the half; NaN where hidden."""
    labels: UInt8[ndarray, "h w"]
    """Colour of every pixel: 0 for none, i + 1 for ``list(HUES)[i]``."""


def draw(rng: Generator, colours: Sequence[str], *, size: tuple[int, int]) -> Drawing:
    """One shape of each colour in each half of a picture of ``size`` (height, width) pixels."""
    height, width = size
    half, known = width // 2, list(HUES)
    image = Image.fromarray(_ground(rng, height, width))
    labels = Image.new("L", (width, height))
    pens = ImageDraw.Draw(image), ImageDraw.Draw(labels)
    for _ in range(rng.integers(2, 9)):
        middle = rng.uniform(0, width), rng.uniform(0, height)
        outline = _outline(rng, *middle, rng.uniform(0.02, 0.3) * height, rng.uniform(0.15, 1.0))
        _fill(pens, outline, _drab(rng), 0)
    sides = np.arange(width) // half
    for side in (0, 1):
        for name in rng.permutation(list(colours)):
            radius = height * math.exp(rng.uniform(math.log(0.024), math.log(0.18)))
            x, y = half * side + rng.uniform(0.03, 0.97) * half, rng.uniform(0.03, 0.97) * height
            hue, saturation = (
                rng.uniform(*HUES[name]),
                rng.uniform(*((0.5, 0.8) if name in PALE else (0.75, 1))),
            )
            value = rng.uniform(0.85 if name in BRIGHT else 0.6, 1)
            outline = _outline(rng, x, y, radius, rng.uniform(0.5, 1))
            lid = [(px, y + 0.8 * (py - y) - 0.3 * radius) for px, py in outline]
            ink = (
                1 + known.index(name) + len(known) * side
            )  # told apart where a shape reaches into the other half
            _fill(pens, outline, _rgb(hue, saturation, value * rng.uniform(0.6, 0.85)), ink)
            _fill(pens, lid, _rgb(hue, saturation * rng.uniform(0.85, 1), value), ink)
    shown = np.asarray(labels)
    places = {}
    for name in colours:
        place = np.full(4, np.nan, np.float32)
        for side in (0, 1):
            rows, columns = np.nonzero((shown == 1 + known.index(name) + len(known) * side) & (sides == side))
            if len(rows) >= VISIBLE:
                place[2 * side : 2 * side + 2] = (
                    columns.mean() / half - side - 0.5,
                    rows.mean() / height - 0.5,
                )
        places[name] = place
    picture = np.clip(np.asarray(image) * rng.uniform(0.75, 1.1), 0, 255).astype(np.uint8)
    return Drawing(picture, places, np.where(shown > len(known), shown - len(known), shown))


def _ground(rng: Generator, height: int, width: int) -> UInt8[ndarray, "h w 3"]:
    """Grey, faintly coloured, or wood, with soft blotches of any size."""
    if rng.random() < 0.4:
        colour = _rgb(rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.4), rng.uniform(0.3, 0.95))
    else:
        colour = _rgb(rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.3, 0.95))
    grid = rng.normal(0, rng.uniform(2, 14), (rng.integers(4, 40), rng.integers(4, 80))).astype(np.float32)
    blotches = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
    return np.clip(np.array(colour, np.float32) + blotches[..., None], 0, 255).astype(np.uint8)


def _drab(rng: Generator) -> tuple[int, int, int]:
    """A colour that no word of HUES names: pale or dark, teal, skin and wood."""
    hue, saturation, value = rng.uniform(), rng.uniform(0, 0.3), rng.uniform()
    kind = rng.random()
    if kind < 0.25:
        hue, saturation, value = rng.uniform(0.46, 0.54), rng.uniform(0.2, 0.7), rng.uniform(0.2, 1)
    elif kind < 0.35:
        hue, saturation, value = rng.uniform(0.04, 0.1), rng.uniform(0.2, 0.55), rng.uniform(0.2, 0.9)
    return _rgb(hue, saturation, value)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def _outline(rng: Generator, x: float, y: float, radius: float, aspect: float) -> list[tuple[float, float]]:
    """An ellipse or a turned rectangle."""
    if rng.random() < 0.5:
        return [
            (x + radius * math.cos(t), y + radius * aspect * math.sin(t))
            for t in np.linspace(0, 2 * math.pi, 13)
        ]
    turn = rng.uniform(0, 2 * math.pi)
    c, s = radius * math.cos(turn), radius * math.sin(turn)
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [(x + u * c - v * aspect * s, y + u * s + v * aspect * c) for u, v in corners]


def _fill(
    pens: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    outline: list[tuple[float, float]],
    colour: tuple[int, int, int],
    ink: int,
) -> None:
    """The same shape in the picture and in the labels."""
    pens[0].polygon(outline, fill=colour)
    pens[1].polygon(outline, fill=ink)
