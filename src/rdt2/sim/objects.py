"""The things that tasks are about, drawn from a generator; `rdt2.sim.drawing` gives them their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.sim.scene import BOWL_HEIGHT, BOWL_RADIUS, COLOURS, SEEN_SHAPES, UNSEEN_SHAPES, ObjectSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator


def graspable(rng: Generator, colours: Sequence[str], *, unseen_shapes: bool) -> tuple[ObjectSpec, ...]:
    """One thing to grasp in each colour; `unseen_shapes`: of shapes that training never had."""
    shapes = UNSEEN_SHAPES if unseen_shapes else SEEN_SHAPES
    return tuple(draw_object(rng, str(rng.choice(shapes)), colour) for colour in colours)


def draw_object(rng: Generator, shape: str, colour: str) -> ObjectSpec:
    """Something to grasp, in the sizes of its shape and nearly its colour, yet to be given its place."""
    if shape == "cube":
        half = (float(rng.uniform(0.0185, 0.0225)),) * 3
    elif shape == "cylinder":
        radius = float(rng.uniform(0.019, 0.0225))
        half = (radius, radius, float(rng.uniform(0.018, 0.022)))
    elif shape == "brick":
        half = (
            float(rng.uniform(0.016, 0.020)),
            float(rng.uniform(0.028, 0.034)),
            float(rng.uniform(0.016, 0.020)),
        )
    elif shape == "ball":
        half = (float(rng.uniform(0.020, 0.024)),) * 3
    elif shape == "prism":
        radius = float(rng.uniform(0.020, 0.024))
        half = (radius, radius, float(rng.uniform(0.018, 0.026)))
    else:  # a bar
        half = (
            float(rng.uniform(0.013, 0.016)),
            float(rng.uniform(0.042, 0.050)),
            float(rng.uniform(0.013, 0.016)),
        )
    name = f"{colour} {shape}"
    return ObjectSpec(name, "object", shape, colour, _shade(rng, colour), half, (0.0, 0.0), 0.0)


def _shade(rng: Generator, colour: str) -> tuple[float, float, float]:
    shade = np.array(COLOURS[colour]) * rng.uniform(0.9, 1.05) + rng.uniform(-0.02, 0.02, 3)
    r, g, b = np.clip(shade, 0, 1)
    return float(r), float(g), float(b)


def button(colour: str) -> ObjectSpec:
    """A button to be pressed."""
    return ObjectSpec(
        f"{colour} button",
        "button",
        "button",
        colour,
        COLOURS[colour],
        (0.036, 0.036, 0.014),
        (0.0, 0.0),
        0.0,
    )


def bowl() -> ObjectSpec:
    """The bowl that things are put in."""
    half = (BOWL_RADIUS, BOWL_RADIUS, BOWL_HEIGHT / 2)
    return ObjectSpec("bowl", "bowl", "bowl", "pink", (0.95, 0.4, 0.7), half, (0.0, 0.0), 0.0)
