"""What a scene's surroundings are drawn from: how high the table stands, textures, light. A file each.

A file of this folder is a scenery of its name and says so in one variable, `SCENERY`, which holds ranges and nothing
else: `rdt2 evaluate cell --scene NAME` draws from it, and what two sceneries share can be read off. *seen* is what
training sees; *unseen* lies outside of it in every range. The bowl and the six colours of objects are the same in all:
they are what the sentences name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import TaskError
from rdt2.registry import Registry
from rdt2.sim import textures
from rdt2.sim.scene import Look, triple

if TYPE_CHECKING:
    from numpy.random import Generator

Ranges = tuple[tuple[float, float], ...]
"""One or more intervals; every place in them is equally likely."""

HEIGHT_UNIT = 0.015
"""Metres: how far the table of training stands above or below its nominal height at most."""
FLOOR_SHADE = 0.75
"""A floor is so much darker than a table of the same colours."""


@dataclass(frozen=True)
class Tint:
    """Where a colour's hue, saturation and value lie, each 0..1."""

    hue: Ranges
    saturation: Ranges
    value: Ranges


@dataclass(frozen=True)
class Scenery:
    """Ranges that a scene's surroundings are drawn from."""

    stream: int
    """A number that no other scenery has: part of the seed of its scenes."""
    table_height: Ranges
    """Of the table top above z = 0, in units of `HEIGHT_UNIT`."""
    surfaces: Mapping[str, Tint]
    """Families of textures (`rdt2.sim.textures`) of table and floor, each with its lighter colour."""
    wall: Tint
    elevation: Ranges
    """Degrees of the light above the horizon; it comes from any side."""
    level: Ranges
    """Brightness of the light, 0..1."""
    warmth: Ranges
    """How much more red and less blue the light has than green, as a share."""
    ambient: Ranges
    """Light from everywhere, 0..1."""
    cloth: Ranges
    """Hues of sleeves and of what stands behind the table."""

    def draw_height(self, rng: Generator) -> float:
        """Height of the table top above z = 0, metres."""
        return _draw(rng, self.table_height) * HEIGHT_UNIT

    def draw_look(self, rng: Generator) -> Look:
        """Textures and light."""
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(_draw(rng, self.elevation))
        light = np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        level = _draw(rng, self.level)
        warmth = _draw(rng, self.warmth)
        colour = level * np.array([1 + warmth, 1.0, 1 - warmth])
        return Look(
            table=self._surface(rng),
            floor=self._surface(rng, shade=FLOOR_SHADE),
            wall=_colour(rng, self.wall),
            light_direction=triple(-light),
            light_colour=triple(colour),
            ambient=_draw(rng, self.ambient),
            # The one thing without a colour in its name always looks alike.
            bowl=textures.hsv(rng.uniform(0.885, 0.915), rng.uniform(0.55, 0.75), rng.uniform(0.85, 0.98)),
        )

    def draw_cloth(self, rng: Generator) -> textures.Colour:
        """Greys from black to white, and hues of `cloth`: nothing as saturated as an object."""
        hue = rng.choice([rng.uniform(*interval) for interval in self.cloth])
        saturation = rng.choice([0.04, rng.uniform(0.1, 0.5)])
        return textures.hsv(hue, saturation, rng.uniform(0.12, 0.9))

    def _surface(self, rng: Generator, *, shade: float = 1.0) -> textures.Texture:
        """Colours stay pale against the saturated objects."""
        family = str(rng.choice(list(self.surfaces)))
        tint = self.surfaces[family]
        hue, saturation = _draw(rng, tint.hue), _draw(rng, tint.saturation)
        value = _draw(rng, tint.value) * shade
        contrast = rng.uniform(0.78, 0.90)
        light = textures.hsv(hue, saturation, value)
        dark = textures.hsv(hue, min(1.0, saturation * 1.1), value * contrast)
        return textures.Texture(family, int(rng.integers(2**31)), light, dark)


def _draw(rng: Generator, ranges: Ranges) -> float:
    if len(ranges) == 1:
        return float(rng.uniform(*ranges[0]))
    lengths = np.diff(ranges)[:, 0]
    low, high = ranges[int(rng.choice(len(ranges), p=lengths / lengths.sum()))]
    return float(rng.uniform(low, high))


def _colour(rng: Generator, tint: Tint) -> textures.Colour:
    return textures.hsv(_draw(rng, tint.hue), _draw(rng, tint.saturation), _draw(rng, tint.value))


SCENERIES = Registry("scenery", "rdt2.sim.sceneries", variable="SCENERY", kind=Scenery, error=TaskError)
"""All sceneries by name."""
