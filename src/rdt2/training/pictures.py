"""Where the pictures of a batch become the patches that the VLM reads.

A GPU resizes and cuts them itself; for a model on the CPU the processes that decode the pictures do that, too, and
hand over bytes: what they become takes eight times as much.
"""

from __future__ import annotations

import numpy as np
import torch

from rdt2.data import Batch
from rdt2.data.batches import Cut
from rdt2.vlm.images import DeviceImages, ImageProcessor, Patches


class PatchCutter:
    """Patches of batches, on the device of the model.

    Attributes:
        while_loading: what TrainingData cuts pictures with, none where that is done on the device.
    """

    def __init__(self, images: ImageProcessor, device: torch.device) -> None:
        self._images, self._device = images, device
        self._on_device = DeviceImages(images, device) if device.type == "cuda" else None
        self.while_loading: Cut | None = images.cut if self._on_device is None else None

    def __call__(self, batch: Batch) -> Patches:
        """The patches of a batch of TrainingData, loaded with ``cut=while_loading``."""
        if batch.patches is not None:
            return self._images.normalized(*batch.patches)
        assert self._on_device is not None
        assert batch.pictures is not None
        pictures = torch.from_numpy(np.ascontiguousarray(batch.pictures))
        return self._on_device(pictures.to(self._device, non_blocking=True))
