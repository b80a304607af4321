"""A lens, and photographs of a board that it takes."""

from __future__ import annotations

import cv2
import numpy as np

from rdt2.calibration.lens import Board

MATRIX = np.array([[150.0, 0, 195.0], [0, 150.0, 188.0], [0, 0, 1.0]])
DISTORTION = np.array([0.05, -0.01, 0.004, -0.001])


def photographs(count: int) -> list[np.ndarray]:
    """A printed board before the fisheye lens."""
    board, random = Board(), np.random.default_rng(0)
    printed, scale = board.picture(60), 60 / board.square
    pixels = np.stack(np.meshgrid(np.arange(384.0), np.arange(384.0)), axis=-1).reshape(-1, 1, 2)
    rays = cv2.fisheye.undistortPoints(pixels, MATRIX, DISTORTION)[:, 0]
    middle = np.array([board.columns, board.rows, 0]) / 2 * board.square
    found = []
    while len(found) < count:
        turned = cv2.Rodrigues(random.normal(0, 0.3, 3))[0]
        way = np.array([*random.uniform(-0.08, 0.08, 2), random.uniform(0.1, 0.16)]) - turned @ middle
        # a ray (x, y, 1) meets the board's plane where the inverse of (its x axis, its y axis, its origin) says
        home = np.linalg.inv(np.column_stack([turned[:, 0], turned[:, 1], way]))
        met = np.column_stack([rays, np.ones(len(rays))]) @ home.T
        where = (met[:, :2] / met[:, 2:] * scale - 0.5).astype(np.float32).reshape(384, 384, 2)
        seen = cv2.remap(printed, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderValue=255)
        seen[(met[:, 2] <= 0).reshape(384, 384)] = 255
        found.append(cv2.cvtColor(seen, cv2.COLOR_GRAY2RGB))
    return found
