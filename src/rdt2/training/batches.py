"""What the stages do to a batch of recorded samples before the models see it."""

from __future__ import annotations

import dataclasses

import numpy as np

from rdt2.data.augmentation import ImageCorruption
from rdt2.data.dataset import Batch


def corrupted(batch: Batch, corruption: ImageCorruption) -> Batch:
    """The batch with other pictures: what is drawn depends on the sample and its epoch alone."""
    assert batch.pictures is not None
    pictures = [
        corruption(picture, sample=int(number), epoch=batch.state["epoch"])
        for picture, number in zip(batch.pictures, batch.indices, strict=True)
    ]
    return dataclasses.replace(batch, pictures=np.stack(pictures))
