"""What a lens and a sensor make of a drawn picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

    from rdt2.robot.world import CameraWorld

_POOL = 512
"""Noise is drawn once, in a square of so many pixels, and looked at from another corner in every picture."""


class Optics:
    """Lens and sensor: distortion by a table computed once, noise from a pool.

    Args:
        world: of the camera.
        seed: of its noise.
    """

    def __init__(self, world: CameraWorld, *, seed: list[int]) -> None:
        self._world, self._seed = world, seed
        self._table: tuple[ndarray, ndarray] | None = None
        self._noise: ndarray | None = None

    def __call__(self, picture: UInt8[ndarray, "h w 3"], number: int) -> UInt8[ndarray, "h w 3"]:
        """What comes out of the camera; the same for the same picture and `number`."""
        import cv2

        if self._world.fisheye:
            if self._table is None:
                self._table = _barrel(picture.shape[0], picture.shape[1], self._world.fisheye)
            picture = cv2.remap(picture, *self._table, cv2.INTER_LINEAR)
        if self._world.noise:
            if self._noise is None:
                rng = np.random.default_rng([*self._seed, 1])
                self._noise = np.round(rng.normal(0, self._world.noise, (_POOL, _POOL, 3))).astype(np.int16)
            height, width = picture.shape[:2]
            rng = np.random.default_rng([*self._seed, 2, abs(number)])
            y, x = rng.integers(0, (_POOL - height + 1, _POOL - width + 1))
            noisy = picture + self._noise[y : y + height, x : x + width]
            picture = np.clip(noisy, 0, 255).astype(np.uint8)
        return picture


def _barrel(height: int, width: int, strength: float) -> tuple[ndarray, ndarray]:
    """For every pixel (x, y) of a distorted picture where it lies in the straight one; the corners stay."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = 2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1
    inwards = (1 + strength * (u * u + v * v) / 2) / (1 + strength)
    return (u * inwards + 1) * (width - 1) / 2, (v * inwards + 1) * (height - 1) / 2
