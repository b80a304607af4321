"""Chunks that could have been recorded: what a small data set lacks when an action tokenizer learns from it.

A tokenizer has to know what hands can do, not what they do with which object. So the arms of a chunk are dealt
with one by one: a motion is another arm's, seen in a mirror, run backwards, slower, wider or narrower, or seen
from a frame that is turned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.data.mirror import mirrored_actions
from rdt2.pose import invert, matrix_to_pose9, matrix_to_rot6d, pose9_to_matrix, rot6d_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float

SLOWEST = 0.7  # share of the recorded motion that a chunk still holds
SIZES = (0.8, 1.25)  # of the way and of the turn, drawn for each arm
TURN = 0.15  # rad, standard deviation of a frame's rotation about each axis
_STILL = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0], np.float32)


def varied_chunks(
    chunks: Float[np.ndarray, "n 24 20"], generator: np.random.Generator
) -> Float[np.ndarray, "n 24 20"]:
    """As many new chunks (metres, 6D columns; right arm, left arm), float32."""
    count = len(chunks)
    turned = generator.random((count, 1, 1)) < 0.5
    chunks = np.where(turned, mirrored_actions(chunks), chunks)
    right, left = chunks[..., :10], chunks[generator.permutation(count), :, 10:]
    arms = np.concatenate([right, left])
    backwards = generator.random((len(arms), 1, 1)) < 0.5
    arms = np.where(backwards, _reversed(arms), arms)
    arms = _slower(arms, generator.uniform(SLOWEST, 1, len(arms)))
    position, rotation = arms[..., :3], rot6d_to_matrix(arms[..., 3:9])
    size = generator.uniform(*SIZES, (2, len(arms), 1, 1)).astype(np.float32)
    position = size[0] * position
    rotation = rot6d_to_matrix(_STILL[3:] + size[1] * (matrix_to_rot6d(rotation) - _STILL[3:]))
    frame = _small_rotations(len(arms), generator)[:, None]
    position = (frame @ position[..., None])[..., 0]
    rotation = frame @ rotation @ np.swapaxes(frame, -1, -2)
    arms = np.concatenate([position, matrix_to_rot6d(rotation), arms[..., 9:]], axis=-1)
    return np.concatenate([arms[:count], arms[count:]], axis=-1).astype(np.float32)


def _reversed(arms: Float[np.ndarray, "n t 10"]) -> Float[np.ndarray, "n t 10"]:
    """The way back, seen from where the motion ends."""
    poses = pose9_to_matrix(
        np.concatenate([np.broadcast_to(_STILL, (len(arms), 1, 9)), arms[..., :9]], axis=1)
    )
    back = invert(poses[:, -1:]) @ poses[:, -2::-1]
    width = np.concatenate([arms[:, -2::-1, 9:], arms[:, :1, 9:]], axis=1)
    return np.concatenate([matrix_to_pose9(back), width], axis=-1)


def _slower(arms: Float[np.ndarray, "n t 10"], speed: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n t 10"]:
    """The first part of the motion, in the whole time; poses between steps by linear interpolation."""
    steps = arms.shape[1]
    start = np.concatenate([np.broadcast_to(_STILL, (len(arms), 1, 9)), arms[:, :1, 9:]], axis=-1)
    known = np.concatenate([start, arms], axis=1)
    time = speed[:, None] * np.arange(1, steps + 1)
    before = np.minimum(time.astype(int), steps - 1)
    share = (time - before)[..., None].astype(arms.dtype)
    row = np.arange(len(arms))[:, None]
    return (1 - share) * known[row, before] + share * known[row, before + 1]


def _small_rotations(count: int, generator: np.random.Generator) -> Float[np.ndarray, "n 3 3"]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(generator.normal(0, TURN, (count, 3))).as_matrix()
