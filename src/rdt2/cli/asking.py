"""What calibrations ask a person, and what a person gives them as text."""

from __future__ import annotations

import select
import sys
from pathlib import Path
from typing import Any

from rdt2.errors import ConfigError

DONE = "done"
"""What a person types who has nothing more to give."""


def typed(text: str) -> str:
    """What a person types, without spaces; an end of what is typed counts as done."""
    try:
        return input(text).strip()
    except EOFError:
        return DONE


def entered() -> str:
    """A permit between two questions: that a person at a terminal has pressed Enter; "" until then."""
    if not (sys.stdin.isatty() and select.select([sys.stdin], [], [], 0.0)[0]):
        return ""
    sys.stdin.readline()
    return "Enter was pressed."


def caliper(name: str) -> float | None:
    """What a person measured, metres; None where nothing is typed. Raises ConfigError: it is no number."""
    told = typed(f"It is {name}. Opening between the fingers in millimetres (Enter: not measured): ")
    if told in ("", DONE):
        return None
    try:
        return float(told.replace(",", ".")) / 1e3
    except ValueError:
        raise ConfigError(f"{told!r} is no number of millimetres.") from None


def wave_before(side: str | None) -> None:
    """Have a person wave before the camera of a side, or before none. Raises ConfigError: nobody is there."""
    asked = (
        "Hold nothing before either camera"
        if side is None
        else f"Hold a hand close before the {side} camera alone"
    )
    if typed(f"{asked}, and press Enter. ") == DONE:
        raise ConfigError("nobody is there to wave: run it in a terminal, or leave it out with --yes.")


def numbers(path: Path, *, sides: bool = False) -> Any:
    """Points of a JSON file. Raises ConfigError: it is none."""
    import json

    import numpy as np

    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        groups = [told[side] for side in ("left", "right")] if sides else [told]
        arrays = [np.array(points, dtype=np.float64).reshape(-1, 3) for points in groups]
    except (OSError, ValueError, KeyError, TypeError) as error:
        meant = '{"left": [[x, y, z], ...], "right": [...]}' if sides else "[[x, y, z], ...]"
        raise ConfigError(f"{path} has no touched points ({error}). Expected {meant}, metres.") from None
    return dict(zip(("left", "right"), arrays, strict=True)) if sides else arrays[0]


def pairs(options: tuple[str, ...]) -> dict[str, str]:
    """key=value, each. Raises ConfigError for what is not."""
    if wrong := [option for option in options if "=" not in option]:
        raise ConfigError(f"--tracker {wrong[0]}: expected key=value, for example serial=LHR-0123ABCD.")
    return dict(option.split("=", 1) for option in options)


def within(name: str, value: float, low: float, high: float) -> float:
    """`value`, of the option `name`, if it is from `low` to `high`. Raises ConfigError: it is not."""
    if not low <= value <= high:  # nor is anything that is no number
        raise ConfigError(f"{name} is {value:g}, expected {low:g} to {high:g}.")
    return value
