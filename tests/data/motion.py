"""A two-handed motion that tests record in many layouts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS
from rdt2.data import Episode
from rdt2.pose import geodesic_angle

SIDE = 48
"""Pictures are small: the readers resize them to 384."""


class Motion:
    """Poses, widths and pictures of both arms at ``count`` frames of a rate; every episode moves otherwise."""

    def __init__(
        self, count: int = 30, fps: float = 30.0, number: int = 0, times: np.ndarray | None = None
    ) -> None:
        self.number = number
        self.times = np.arange(count) / fps if times is None else times
        count = len(self.times)
        self.position, self.rotvec, self.width, self.picture = {}, {}, {}, {}
        for index, arm in enumerate(ARMS):
            t = self.times + number
            self.position[arm] = np.stack(
                [0.3 + 0.1 * np.sin(t), 0.2 * index + 0.05 * t, 0.4 - 0.08 * np.cos(2 * t)], axis=1
            )
            self.rotvec[arm] = np.stack([0.5 * np.sin(t), 0.3 + 0.4 * t, 0.2 * np.cos(t) + index], axis=1)
            self.width[arm] = 0.04 + 0.03 * np.sin(3 * t + index)
            self.picture[arm] = np.zeros((count, SIDE, SIDE, 3), np.uint8)
            # The brightness tells the frame, the colour the arm.
            self.picture[arm][..., index] = (20 + np.arange(count) % 200)[:, None, None]

    @property
    def poses(self) -> dict[str, np.ndarray]:
        out = {}
        for arm in ARMS:
            out[arm] = np.tile(np.eye(4), (len(self.times), 1, 1))
            out[arm][:, :3, :3] = Rotation.from_rotvec(self.rotvec[arm]).as_matrix()
            out[arm][:, :3, 3] = self.position[arm]
        return out

    def quaternion(self, arm: str) -> np.ndarray:
        return Rotation.from_rotvec(self.rotvec[arm]).as_quat()

    def rot6d(self, arm: str, *, rows: bool = False) -> np.ndarray:
        matrix = Rotation.from_rotvec(self.rotvec[arm]).as_matrix()
        matrix = matrix if rows else matrix.swapaxes(1, 2)
        return matrix[:, :2].reshape(-1, 6)

    def table(self, arms: tuple[str, ...], rotation: Callable[[str], np.ndarray]) -> np.ndarray:
        """Position, rotation, width of the arms side by side."""
        return np.concatenate(
            [np.concatenate([self.position[a], rotation(a), self.width[a][:, None]], 1) for a in arms], 1
        )


def same(episode: Episode, motion: Motion, arms: tuple[str, ...] = ARMS) -> None:
    """The episode is the motion, within 1e-6 m and 1e-6 rad."""
    np.testing.assert_allclose(episode.timestamps, motion.times, atol=1e-6)
    for arm in arms:
        np.testing.assert_allclose(episode.poses[arm][:, :3, 3], motion.position[arm], atol=1e-6)
        angle = geodesic_angle(episode.poses[arm][:, :3, :3], motion.poses[arm][:, :3, :3])
        assert angle.max() < 1e-6
        np.testing.assert_allclose(episode.widths[arm], motion.width[arm], atol=1e-6)


def same_pictures(episode: Episode, motion: Motion, *, tolerance: float = 0) -> None:
    """Frame by frame, resized to 384: brightness tells the frame, colour the arm."""
    for arm in ARMS:
        for frame in (0, 7, len(motion.times) - 1, 3):
            picture = episode.videos[arm][frame]
            assert picture.shape == (384, 384, 3)
            expected = motion.picture[arm][frame, 0, 0].astype(float)
            assert np.abs(picture.reshape(-1, 3).mean(0) - expected).max() <= tolerance
