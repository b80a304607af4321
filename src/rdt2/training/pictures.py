"""Where the pictures of a batch become the patches that the VLM reads.

A GPU cuts them faster than patches, eight times as many bytes, travel there; for a model on the CPU the processes that
decode the pictures cut them, too.
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
        self._on_device = DeviceImages(images, device) if device.type == "cuda" else None
        self._device = device
        self.while_loading: Cut | None = images if self._on_device is None else None

    def __call__(self, batch: Batch) -> Patches:
        """The patches of a batch of TrainingData, loaded with ``cut=while_loading``."""
        if batch.patches is not None:
            values, grid = (torch.from_numpy(part) for part in batch.patches)
            return Patches(values, grid)
        assert self._on_device is not None
        assert batch.pictures is not None
        pictures = torch.from_numpy(np.ascontiguousarray(batch.pictures))
        return self._on_device(pictures.to(self._device, non_blocking=True))
