"""Numbers at an axis, as people write them."""

from __future__ import annotations

import math

LEAST = 1e-9
"""A shorter axis is of numbers that stand still: what lies between them is rounding, and is not told."""


def ticks(low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    """Round numbers from `low` to `high`, about `count`, with as many digits as tell them apart.

    Where nothing varies: the one number that all are.
    """
    if not high - low > LEAST * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2
        return [(middle, _written(middle, 3))]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * unit for factor in (1, 2, 2.5, 5, 10)), key=lambda each: abs(each - rough))
    digits = max(0, math.ceil(-math.log10(step) - 1e-9) + (abs(step / unit - 2.5) < 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, _written(number * step, digits)) for number in range(first, last + 1)]


def spread(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: as they are, or a little apart where nothing varies."""
    if high - low > LEAST * max(1.0, abs(low), abs(high)):
        return low, high
    half = max(abs(low) / 2, 0.5)
    return low - half, high + half


def _written(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text
