"""Image corruption: deterministic, each half by itself, as strong as the recipe says and no stronger."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.data.augmentation import COLOURS, HEAD, CorruptionConfig, ImageCorruption, contact_sheet
from rdt2.errors import ConfigError, ObservationError

NOTHING = CorruptionConfig(
    brightness=0, contrast=0, saturation=0, hue=0, affine_probability=0, noise=0, blur_probability=0,
    jpeg_probability=0,
)  # fmt: skip


def only(**values: object) -> ImageCorruption:
    return ImageCorruption(seed=3, config=CorruptionConfig(**{**vars(NOTHING), **values}))


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth colours, a white dot in the middle of each half."""
    y, x = np.mgrid[:96, :192]
    out = np.stack([60 + x // 3, 60 + y, 200 - x // 2], axis=-1).astype(np.uint8)
    for centre in (48, 144):
        out[44:52, centre - 4 : centre + 4] = 255
    return out


def test_a_function_of_seed_sample_and_epoch(picture) -> None:
    corrupt = ImageCorruption(seed=1)
    first = corrupt(picture, sample=4, epoch=2)
    kept = picture.copy()
    np.testing.assert_array_equal(first, ImageCorruption(seed=1)(picture, sample=4, epoch=2))
    np.testing.assert_array_equal(picture, kept)
    for other in (
        corrupt(picture, sample=5, epoch=2),
        corrupt(picture, sample=4, epoch=3),
        ImageCorruption(seed=2)(picture, sample=4, epoch=2),
    ):
        assert (first != other).mean() > 0.1


def test_nothing_switched_on_changes_nothing(picture) -> None:
    for sample in range(5):
        np.testing.assert_array_equal(
            ImageCorruption(config=NOTHING)(picture, sample=sample, epoch=0), picture
        )


def test_affine_is_drawn_for_each_half(picture) -> None:
    corrupt = only(affine_probability=1.0, shift=0.02, rotation=2.0)
    shifts = []
    for sample in range(20):
        out = corrupt(picture, sample=sample, epoch=0)
        for start in (0, 96):
            dot = np.argwhere(out[:, start : start + 96].min(-1) > 240).mean(0)
            shifts.append(dot - 47.5)
            assert np.abs(dot - 47.5).max() < 0.02 * 96 + 0.5
    shifts = np.array(shifts).reshape(20, 2, 2)
    assert np.abs(shifts[:, 0] - shifts[:, 1]).max(1).mean() > 0.5


def test_half_the_pictures_are_moved(picture) -> None:
    corrupt = only(affine_probability=0.5)
    moved = [(corrupt(picture, sample=s, epoch=0) != picture).any() for s in range(200)]
    assert 0.38 < np.mean(moved) < 0.62


def test_blur_does_not_cross_the_seam() -> None:
    halves = np.zeros((96, 192, 3), np.uint8)
    halves[:, 96:] = 255
    np.testing.assert_array_equal(only(blur_probability=1.0)(halves, sample=0, epoch=0), halves)


def test_noise_is_at_most_two_percent() -> None:
    grey = np.full((96, 192, 3), 128, np.uint8)
    sigmas = []
    for sample in range(60):
        noise = only(noise=0.02)(grey, sample=sample, epoch=0).astype(float) - 128
        sigmas.append(noise.std() / 255)
        assert abs(noise.mean()) < 0.3
    assert max(sigmas) < 0.0215
    assert np.mean(sigmas) == pytest.approx(0.01, abs=0.002)


def test_jitter_ranges(picture) -> None:
    grey = np.full((96, 192, 3), 100, np.uint8)
    levels = [only(brightness=0.3)(grey, sample=s, epoch=0).mean() for s in range(100)]
    assert 69 < min(levels) < 76
    assert 124 < max(levels) < 131
    # Saturation, contrast and hue leave an even grey as it is.
    for strength in ({"saturation": 0.5}, {"contrast": 0.4}, {"hue": 0.03}):
        for sample in range(8):
            np.testing.assert_allclose(only(**strength)(grey, sample=sample, epoch=0), grey, atol=1)
        changed = [(only(**strength)(picture, sample=s, epoch=0) != picture).mean() for s in range(8)]
        assert max(changed) > 0.5


def test_saturation_mixes_with_grey(picture) -> None:
    """As ColorJitter defines it: a blend with the picture's own grey."""
    grey = picture @ np.array([0.299, 0.587, 0.114])
    out = only(saturation=0.5)(picture, sample=9, epoch=0).astype(float)
    inside = (picture.max(-1) < 200) & (out.max(-1) < 255) & (out.min(-1) > 0)
    spread = np.abs(picture - grey[..., None]).sum(-1)
    inside &= spread > 60
    factors = np.abs(out - grey[..., None]).sum(-1)[inside] / spread[inside]
    assert factors.std() < 0.03
    assert 0.5 <= factors.mean() <= 1.5


def test_colours_only_leaves_half_the_pictures_and_moves_nothing(picture) -> None:
    corrupt = ImageCorruption(seed=0, config=COLOURS)
    seen = [corrupt(picture, sample=number, epoch=0) for number in range(200)]
    kept = [np.array_equal(each, picture) for each in seen]
    assert 70 < sum(kept) < 130
    assert all(each is not picture for each in seen)
    edge = np.zeros_like(picture)
    edge[:, : picture.shape[1] // 4] = (200, 40, 40)
    for number in range(20):  # one colour stays one colour, where it was
        changed = corrupt(edge, sample=number, epoch=0)
        assert np.unique(changed[:, : picture.shape[1] // 4].reshape(-1, 3), axis=0).shape[0] == 1
        red, green, blue = changed[0, 0].astype(int)
        assert red > max(green, blue)


def test_wrong_pictures_and_settings(picture) -> None:
    with pytest.raises(ObservationError, match="two halves"):
        ImageCorruption()(picture[:, :-1], sample=0, epoch=0)
    with pytest.raises(ObservationError, match="float32"):
        ImageCorruption()(picture.astype(np.float32), sample=0, epoch=0)
    with pytest.raises(ConfigError, match="probabilities"):
        CorruptionConfig(blur_probability=1.5)


def test_contact_sheet(picture) -> None:
    sheet = contact_sheet([picture, picture], ImageCorruption(), samples=[0, 7], epochs=3)
    assert sheet.shape == (HEAD + 2 * (48 + 8), 4 * (96 + 8), 3)
    assert sheet[:HEAD].max() > 200  # says which is left and right, and which epoch
    np.testing.assert_array_equal(sheet[HEAD + 4 : HEAD + 52, 4:100], picture[::2, ::2])
