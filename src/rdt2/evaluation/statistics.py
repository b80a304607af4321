"""How sure a success rate is."""

from __future__ import annotations

import math
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
