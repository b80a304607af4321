"""The image corruption RDT2 was trained with, on the left | right picture of a sample.

Colour jitter always. Then, in random order: half the time a small affine drawn for EACH half; one noise
(gaussian, laplace or poisson, up to 2 %); 17 % a blur of 3..5 pixels; 40 % JPEG compression. (`COLOURS`: jitter half
the time, and nothing else.) What is drawn is a function of (seed, sample, epoch) alone, so a run that goes on sees what
it would have seen.

    corrupt = ImageCorruption(seed=0)
    picture = corrupt(picture, sample=17, epoch=2)

Noise is taken from a pool drawn once, at a random place and sign: drawing it anew for every picture costs
more than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import ConfigError, ObservationError

if TYPE_CHECKING:
    from jaxtyping import UInt8

NOISES = ("gaussian", "laplace", "poisson")
_POOL = 1 << 20
"""Values a noise pool holds beyond one picture: so many places a picture's noise can begin at."""
_POOL_SIGMA = 32.0
_ROOTS = np.sqrt(np.arange(256, dtype=np.float32) / 127.5)


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How strong each corruption is. The defaults are the recipe of the released models."""

    jitter_probability: float = 1.0
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    hue: float = 0.03
    affine_probability: float = 0.5
    shift: float = 0.02
    """Largest shift, as a share of the side."""
    rotation: float = 2.0
    """Largest rotation (degrees)."""
    scale: tuple[float, float] = (0.98, 1.02)
    noise: float = 0.02
    """Largest sigma, as a share of 255; its actual value is uniform from 0."""
    blur_probability: float = 0.17
    blur: tuple[int, int] = (3, 5)
    """Side of the blurring square (pixels)."""
    jpeg_probability: float = 0.4
    jpeg_quality: tuple[int, int] = (50, 95)

    def __post_init__(self) -> None:
        chances = (
            self.jitter_probability,
            self.affine_probability,
            self.blur_probability,
            self.jpeg_probability,
        )
        if not all(0 <= chance <= 1 for chance in chances):
            raise ConfigError(f"probabilities are {chances}, each has to be in 0..1.")
        strengths = (self.brightness, self.contrast, self.saturation, self.shift, self.noise)
        if min(strengths) < 0 or max(strengths) >= 1 or not 0 <= self.hue <= 0.5:
            raise ConfigError("brightness, contrast, saturation, shift, noise are in 0..1, hue in 0..0.5.")


COLOURS = CorruptionConfig(
    jitter_probability=0.5,
    contrast=0.3,
    saturation=0.6,
    hue=0.01,
    affine_probability=0,
    noise=0,
    blur_probability=0,
    jpeg_probability=0,
)
"""Other light and other colours, with everything where it is: for small models, and where the place of things in the
picture is learnt. Hues hardly turn: red stays red."""


class ImageCorruption:
    """Corrupts pictures, the same way for the same (seed, sample, epoch)."""

    def __init__(self, *, seed: int = 0, config: CorruptionConfig | None = None) -> None:
        import cv2

        # Pictures are corrupted by several processes: each is to use one core, and where they are made by fork,
        # threads that OpenCV began before would be waited for in vain.
        cv2.setNumThreads(0)
        self.seed, self.config = seed, config or CorruptionConfig()

    def __call__(
        self, picture: UInt8[np.ndarray, "h w 3"], *, sample: int, epoch: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The corrupted picture, a new array. picture: uint8 RGB, left | right.

        Raises:
            ObservationError: not uint8 (h, w, 3) with an even width.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.shape[1] % 2:
            raise ObservationError(
                f"picture is {picture.dtype} {picture.shape}, expected uint8 (h, w, 3) of two halves."
            )
        random = np.random.default_rng([self.seed, epoch, sample])
        picture = _jitter(picture, random, self.config)
        steps = (_affine, _noise, _blur, _jpeg)
        for number in random.permutation(len(steps)):
            picture = steps[number](picture, random, self.config)
        return picture


HEAD = 20
"""Height of the writing above a contact sheet, pixels."""


def contact_sheet(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
    corruption: ImageCorruption,
    *,
    samples: Sequence[int],
    epochs: int,
    shrink: int = 2,
) -> UInt8[np.ndarray, "H W 3"]:
    """A row for each picture: as recorded, then as ``epochs`` epochs of training would see it. Above: what is what."""
    import cv2

    width = pictures[0][:, ::shrink].shape[1]
    head = np.zeros((HEAD, (1 + epochs) * (width + 8), 3), np.uint8)
    for column, name in enumerate(("recorded", *(f"epoch {epoch}" for epoch in range(epochs)))):
        for side, text in enumerate((f"left, {name}", f"right, {name}")):
            place = (column * (width + 8) + 4 + side * width // 2, HEAD - 6)
            cv2.putText(head, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    rows = [head]
    for picture, sample in zip(pictures, samples, strict=True):
        versions = [picture, *(corruption(picture, sample=sample, epoch=epoch) for epoch in range(epochs))]
        rows.append(
            np.concatenate([np.pad(v[::shrink, ::shrink], ((4, 4), (4, 4), (0, 0))) for v in versions], 1)
        )
    return np.concatenate(rows)


# ---------------------------------------------------------------------------------------------------- steps


def _jitter(picture: np.ndarray, random: np.random.Generator, config: CorruptionConfig) -> np.ndarray:
    """Brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter defines them.

    The first three are affine maps of a pixel's colour and the hue is, for the small angles meant here, a
    rotation about the grey axis: all four become ONE 3 x 4 matrix, applied in one pass.
    """
    if config.jitter_probability < 1 and random.random() >= config.jitter_probability:
        return picture.copy()
    import cv2

    grey = np.array([0.299, 0.587, 0.114])
    matrix = np.eye(4)  # acts on (r, g, b, 1)
    mean = np.append(picture.reshape(-1, 3)[::16].mean(axis=0), 1.0)
    factors = {
        "brightness": random.uniform(1 - config.brightness, 1 + config.brightness),
        "contrast": random.uniform(1 - config.contrast, 1 + config.contrast),
        "saturation": random.uniform(1 - config.saturation, 1 + config.saturation),
        "hue": random.uniform(-config.hue, config.hue),
    }
    for number in random.permutation(4):
        name = tuple(factors)[number]
        factor, step = factors[name], np.eye(4)
        if name == "brightness":
            step[:3, :3] *= factor
        elif name == "contrast":
            step[:3, :3] *= factor
            step[:3, 3] = (1 - factor) * (grey @ (matrix @ mean)[:3])
        elif name == "saturation":
            step[:3, :3] = factor * np.eye(3) + (1 - factor) * grey[None, :]
        else:
            step[:3, :3] = cv2.Rodrigues(np.full(3, 2 * np.pi * factor / np.sqrt(3)))[0]
        matrix = step @ matrix
    return cv2.transform(picture, matrix[:3])


def _affine(picture: np.ndarray, random: np.random.Generator, config: CorruptionConfig) -> np.ndarray:
    import cv2

    if random.random() >= config.affine_probability:
        return picture
    half = picture.shape[1] // 2
    out = np.empty_like(picture)
    for start in (0, half):
        height, width = picture.shape[0], half
        matrix = cv2.getRotationMatrix2D(
            ((width - 1) / 2, (height - 1) / 2),
            random.uniform(-config.rotation, config.rotation),
            random.uniform(*config.scale),
        )
        matrix[:, 2] += random.uniform(-config.shift, config.shift, 2) * (width, height)
        out[:, start : start + half] = cv2.warpAffine(
            np.ascontiguousarray(picture[:, start : start + half]), matrix, (width, height)
        )
    return out


def _noise(picture: np.ndarray, random: np.random.Generator, config: CorruptionConfig) -> np.ndarray:
    if not config.noise:
        return picture
    import cv2

    kind = NOISES[random.integers(len(NOISES))]
    sigma = 255 * random.uniform(0, config.noise)
    start, sign = int(random.integers(_POOL)), 1 if random.random() < 0.5 else -1
    pool = _noise_pool(picture.size)[kind][start : start + picture.size].reshape(picture.shape)
    if kind == "poisson":
        # Shot noise grows with the root of the light; at mean grey it has the sigma of the other kinds.
        pool = cv2.multiply(pool, cv2.LUT(picture, _ROOTS))
    return cv2.addWeighted(picture, 1.0, pool, sign * sigma / _POOL_SIGMA, 0.0, dtype=cv2.CV_8U)


@lru_cache(maxsize=4)
def _noise_pool(size: int) -> dict[str, np.ndarray]:
    """Zero-mean noise of one sigma for each kind, the same in every process: 8 MB a kind."""
    random = np.random.default_rng(20260203)
    count = size + _POOL
    drawn = {
        "gaussian": random.standard_normal(count),
        "laplace": random.laplace(scale=np.sqrt(0.5), size=count),
        "poisson": (random.poisson(16.0, count) - 16.0) / 4.0,
    }
    return {kind: (_POOL_SIGMA * values).astype(np.float32) for kind, values in drawn.items()}


def _blur(picture: np.ndarray, random: np.random.Generator, config: CorruptionConfig) -> np.ndarray:
    import cv2

    if random.random() >= config.blur_probability:
        return picture
    side = int(random.integers(config.blur[0], config.blur[1] + 1))
    half = picture.shape[1] // 2
    # Each half for itself: no colour crosses the seam.
    return np.concatenate(
        [
            cv2.blur(np.ascontiguousarray(part), (side, side))
            for part in (picture[:, :half], picture[:, half:])
        ],
        axis=1,
    )


def _jpeg(picture: np.ndarray, random: np.random.Generator, config: CorruptionConfig) -> np.ndarray:
    import simplejpeg

    if random.random() >= config.jpeg_probability:
        return picture
    quality = int(random.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality, colorspace="RGB")
    return simplejpeg.decode_jpeg(data, colorspace="RGB")
