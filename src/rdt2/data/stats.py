"""The normalizer of a data set: fitted to the limits of its actions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rdt2.data.dataset import ShardIndex

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.normalizer import LinearNormalizer


def action_limits(
    source: str | Path | Iterable[str | Path],
) -> tuple[Float[np.ndarray, " 20"], Float[np.ndarray, " 20"]]:
    """Smallest and largest value of every action dimension over all steps of all samples, metres.

    Raises:
        ShardError: a damaged shard, or a value that is not finite.
    """
    index = ShardIndex(source, instructions="ignore")
    low = np.full(20, np.inf, dtype=np.float32)
    high = np.full(20, -np.inf, dtype=np.float32)
    for number in range(len(index)):
        action = index.action(number)
        if not np.isfinite(action).all():
            from rdt2.errors import ShardError

            raise ShardError(
                f"{index.where(number)}: action.npy holds NaN or infinity. Drop or record that sample again."
            )
        low = np.minimum(low, action.min(axis=0))
        high = np.maximum(high, action.max(axis=0))
    return low, high


def fit_normalizer(source: str | Path | Iterable[str | Path]) -> LinearNormalizer:
    """A normalizer that maps the data's limits to -1..1 and leaves rotation as it is.

    Only two rows are kept in memory: limits need no more.

    Raises:
        ShardError: a damaged shard, or a value that is not finite.
    """
    from rdt2.normalizer import LinearNormalizer

    return LinearNormalizer.fit(np.stack(action_limits(source)))
