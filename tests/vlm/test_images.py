"""Image processing equals transformers' slow Qwen2VLImageProcessor bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rdt2.errors import CheckpointError, ConfigError, ObservationError
from rdt2.vlm import ImageProcessor
from rdt2.vlm.images import DeviceImages


@pytest.mark.parametrize(
    ("height", "width", "max_pixels"),
    [(384, 768, 12845056), (384, 768, 168 * 336), (72, 144, 12845056), (30, 41, 12845056), (101, 333, 20000)],
)
def test_equals_transformers_slow_processor(height: int, width: int, max_pixels: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    theirs = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=max_pixels)(
        images=[picture], return_tensors="pt"
    )
    pixel_values, grid = ImageProcessor(max_pixels=max_pixels)([picture])
    assert torch.equal(grid, theirs["image_grid_thw"])
    assert torch.equal(pixel_values, theirs["pixel_values"])


@pytest.mark.parametrize(
    ("height", "width", "bounds"),
    [
        (384, 768, {}),
        (384, 768, {"max_pixels": 168 * 336}),
        (392, 756, {}),
        (480, 640, {}),
        (30, 41, {}),
        (101, 333, {"max_pixels": 20000}),
    ],
)
def test_patches_made_on_a_device_are_the_same_bit_for_bit(
    height: int, width: int, bounds: dict[str, int]
) -> None:
    images = ImageProcessor(**bounds)
    device = DeviceImages(images, torch.device("cpu"))
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture[: height // 3] = 255  # edges, where a kernel reaches below 0 and above 255
    picture[height // 3 : height // 2] = 0
    pixel_values, grid = images([picture])
    assert torch.equal(device.patches(torch.from_numpy(picture)), pixel_values)
    assert device.grid(picture) == tuple(grid[0].tolist())


def test_a_pillow_that_resizes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageProcessor, "resize", lambda self, picture: np.zeros((392, 756, 3), np.uint8))
    with pytest.raises(ConfigError, match="Pillow resizes 384 x 768"):
        DeviceImages(ImageProcessor(), torch.device("cpu")).patches(
            torch.zeros(384, 768, 3, dtype=torch.uint8)
        )


def test_sizes() -> None:
    assert ImageProcessor().resized_shape(384, 768) == (392, 756)
    assert ImageProcessor(max_pixels=168 * 336).resized_shape(384, 768) == (168, 336)


def test_a_resized_picture_is_not_resized_again() -> None:
    images = ImageProcessor(max_pixels=168 * 336)
    picture = np.random.default_rng(0).integers(0, 256, (384, 768, 3), dtype=np.uint8)
    once = images.resize(picture)
    assert images.resize(once) is once
    assert torch.equal(images([once])[0], images([picture])[0])


def test_pictures_of_different_sizes_stay_in_order() -> None:
    rng = np.random.default_rng(0)
    images = ImageProcessor()
    pictures = [rng.integers(0, 256, (56, width, 3), dtype=np.uint8) for width in (56, 112, 84)]
    together, grid = images(pictures)
    assert grid.tolist() == [[1, 4, 4], [1, 4, 8], [1, 4, 6]]
    assert torch.equal(together, torch.cat([images([picture])[0] for picture in pictures]))


@pytest.mark.parametrize(
    "picture",
    [np.zeros((384, 768, 3), np.float32), np.zeros((3, 384, 768), np.uint8), np.zeros((384, 768), np.uint8)],
)
def test_other_arrays_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ObservationError, match="uint8 RGB"):
        ImageProcessor()([picture])


def test_settings_survive_saving(tmp_path: Path) -> None:
    images = ImageProcessor(max_pixels=168 * 336)
    images.save_pretrained(tmp_path)
    assert ImageProcessor.from_pretrained(tmp_path) == images


def test_settings_nobody_implements_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        ImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 2}))
    with pytest.raises(CheckpointError, match="resample"):
        ImageProcessor.from_pretrained(tmp_path)


BOUNDS = {"min_pixels": 784, "max_pixels": 56448}
EDGES = {"shortest_edge": 784, "longest_edge": 56448}


@pytest.mark.parametrize(
    "raw",
    [
        BOUNDS,
        {
            **BOUNDS,
            "size": {"shortest_edge": 1, "longest_edge": 2},
        },  # the old names count first, as in transformers
        {"size": EDGES},
        {"size": BOUNDS},
        {"size": EDGES, "min_pixels": None, "max_pixels": None, "do_resize": None, "crop_size": None},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_bounds_of_the_area_under_every_name(tmp_path: Path, raw: dict, nested: bool) -> None:
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"size": {"height": 7}}))
    if nested:  # as transformers 5 saves a processor; what an older one left beside it does not count
        raw = {
            "image_processor": raw,
            "processor_class": "Qwen2_5_VLProcessor",
            "video_processor": {"size": 3},
        }
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 1, "max_pixels": 2}))
    elif "size" in raw:  # as other versions do
        (tmp_path / "processor_config.json").write_text(
            json.dumps({"processor_class": "Qwen2_5_VLProcessor"})
        )
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(raw))
    assert ImageProcessor.from_pretrained(tmp_path) == ImageProcessor(**BOUNDS)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"size": {"height": 384, "width": 384}}, "another model's pictures"),
        ({"size": 384}, "another model's pictures"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"min_pixels": 9, "max_pixels": 3}, "min_pixels is 9"),
    ],
)
def test_pictures_of_another_model_are_refused(tmp_path: Path, raw: dict, match: str) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": raw}))
    with pytest.raises(CheckpointError, match=match):
        ImageProcessor.from_pretrained(tmp_path)
