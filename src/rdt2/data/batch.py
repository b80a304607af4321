"""What one training step sees, however its samples were found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.shards.sample import decode_jpeg

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

Corruption = Callable[..., np.ndarray]
"""``corruption(picture, sample=number, epoch=number)`` gives the picture as training sees it: an
:class:`~rdt2.data.augmentation.ImageCorruption`, or anything called the same way."""


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    pictures: uint8 (b, 384, 768, 3) or None when not asked for; actions: float32 (b, 24, 20)
    metres; tokens: int64 (b, 27) or None; indices: int64 (b,) numbers that stand for the samples (of a
    ShardIndex: their place in it); state: where the data stands after this batch, for ``load_state``; mirrored:
    bool (b,), which samples are seen in a mirror (see rdt2.data.mirror); states: float32 (b, 20), where the arms were
    (see rdt2.action.state_vector), or None when not asked for.
    """

    pictures: UInt8[np.ndarray, "b 384 768 3"] | None
    actions: Float[np.ndarray, "b 24 20"]
    tokens: Int[np.ndarray, "b 27"] | None
    instructions: list[str]
    indices: Int[np.ndarray, " b"]
    state: dict[str, Any]
    mirrored: Bool[np.ndarray, " b"]
    states: Float[np.ndarray, "b 20"] | None = None


def fill_picture(
    out: UInt8[np.ndarray, "384 768 3"],
    jpeg: bytes,
    *,
    where: str,
    corruption: Corruption | None = None,
    sample: int = 0,
    epoch: int = 0,
) -> None:
    """Decode a picture into a row of a batch, and corrupt it if there is a corruption. Raises ShardError."""
    decode_jpeg(jpeg, where=where, out=out)
    if corruption is not None:
        out[...] = corruption(out, sample=sample, epoch=epoch)
