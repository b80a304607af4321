"""What one training step sees, however its samples were found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

Corruption = Callable[..., np.ndarray]
"""``corruption(picture, sample=number, epoch=number)`` gives the picture as training sees it: an
:class:`~rdt2.data.augmentation.ImageCorruption`, or anything called the same way."""


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    pictures: uint8 (b, 384, 768, 3), or None when not asked for or cut already; patches: what they were cut
    into while loading (rdt2.vlm.images), uint8 (3, patches, 196) and grids int64 (b, 3); actions: float32 (b, 24, 20)
    metres; tokens: int64 (b, 27) or None; indices: int64 (b,), the samples' numbers in the ShardIndex; mirrored:
    bool (b,), which samples are seen in a mirror (see rdt2.data.mirror); states: float32 (b, 20), where the arms were
    (see rdt2.action.state_vector), or None when not asked for; damaged: what other samples of the batch stand in for.
    """

    pictures: UInt8[np.ndarray, "b 384 768 3"] | None
    actions: Float[np.ndarray, "b 24 20"]
    tokens: Int[np.ndarray, "b 27"] | None
    instructions: list[str]
    indices: Int[np.ndarray, " b"]
    mirrored: Bool[np.ndarray, " b"]
    states: Float[np.ndarray, "b 20"] | None = None
    patches: tuple[UInt8[np.ndarray, "3 patches 196"], Int[np.ndarray, "b 3"]] | None = None
    damaged: tuple[str, ...] = ()
