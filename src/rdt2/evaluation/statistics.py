"""How sure a success rate is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rdt2.errors import ConfigError


@dataclass(frozen=True)
class Rate:
    """A count out of a number of trials, with its Wilson interval."""

    count: int
    trials: int
    rate: float
    """count / trials; 0 when there were no trials."""
    low: float
    high: float
    confidence: float = 0.95

    @classmethod
    def of(cls, count: int, trials: int, confidence: float = 0.95) -> Rate:
        """The rate of `count` successes in `trials`. Raises ConfigError as `wilson_interval` does."""
        low, high = wilson_interval(count, trials, confidence)
        return cls(count, trials, count / trials if trials else 0.0, low, high, confidence)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.trials:
            return "no trials"
        return f"{100 * self.rate:.0f} %  [{100 * self.low:.0f}, {100 * self.high:.0f}]"


def wilson_interval(success: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate.

    It stays inside [0, 1] and is sensible at 0 and at n successes and for small n, where the normal
    approximation is not (Wilson 1927; Brown, Cai and DasGupta 2001).

    Args:
        success: how many of the trials succeeded.
        n: how many trials there were; with none, nothing is known and the interval is (0, 1).
        confidence: two-sided, between 0 and 1.

    Returns:
        Lower and upper bound, each in [0, 1].

    Raises:
        ConfigError: counts that cannot be, or a confidence outside (0, 1).
    """
    if not 0 <= success <= n:
        raise ConfigError(f"{success} successes in {n} trials: expected 0 <= success <= n.")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}, expected a number between 0 and 1, for example 0.95.")
    if n == 0:
        return 0.0, 1.0
    z = _normal_quantile(0.5 + confidence / 2)
    p, z2 = success / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17 there.
    low = 0.0 if success == 0 else max(0.0, centre - half)
    high = 1.0 if success == n else min(1.0, centre + half)
    return low, high


def _normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


@dataclass(frozen=True)
class Paired:
    """Two ways of doing the same trials: does one succeed more often?"""

    trials: int
    both: int
    only_first: int
    only_second: int
    difference: float
    """Success rate of the first less that of the second."""
    low: float
    high: float
    p: float
    """Of McNemar's exact test: how likely so unequal a split is if neither is better."""
    confidence: float = 0.95

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95) -> Paired:
        """Compare two outcomes of each trial, in the same order.

        The interval is the adjusted Wald interval for paired proportions (Agresti and Min 2005, "Simple improved
        confidence intervals for comparing matched proportions", section 3: half a pair is added to each of the four
        cells). Trials that both or neither did say nothing about which is better (McNemar 1947).

        Raises:
            ConfigError: not as many of one as of the other, or none.
        """
        if len(first) != len(second) or not first:
            raise ConfigError(
                f"{len(first)} trials against {len(second)}: expected the same scenes, at least one."
            )
        pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
        n = len(pairs)
        b, c = pairs.count((True, False)), pairs.count((False, True))
        z = _normal_quantile(0.5 + confidence / 2)
        m, more, less = n + 2.0, b + 0.5, c + 0.5
        centre = (more - less) / m
        half = z * math.sqrt(max(0.0, more + less - (more - less) ** 2 / m)) / m
        tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / (1 << (b + c))
        return cls(
            n, pairs.count((True, True)), b, c, (b - c) / n,
            max(-1.0, centre - half), min(1.0, centre + half), min(1.0, 2 * tail), confidence,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        points = [100 * value for value in (self.difference, self.low, self.high)]
        return "{:+.0f} points  [{:+.0f}, {:+.0f}]".format(*points) + f", p = {self.p:.2g}"
