"""A sample seen in a mirror between the two arms: as good a demonstration as the sample itself.

The left picture becomes the right one, turned round; the arms exchange what they do; and "left" becomes "right"
in the sentence. It holds for a rig that is its own mirror image: the end-effector frames, cameras and grippers
of both arms alike, with the y axis of the frame across each gripper's plane of symmetry, as the jaws open.
Handheld UMI-style grippers are; so is the simulated cell.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ACTION_DIM
from rdt2.errors import ActionError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_SIDES = re.compile(r"\b(left|right)(?=(?:most|hand|handed|ward|wards)?\b)|左|右", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "左": "右", "右": "左"}
# Of one arm: y is turned round. With L = diag(1, -1, 1) the rotation becomes L R L, whose first column is L r1
# and whose second is -L r2.
_SIGNS = np.array([1, -1, 1, 1, -1, 1, -1, 1, -1, 1], np.float32)


def mirrored_picture(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Left | right of the mirrored scene: the whole picture, turned round."""
    return picture[:, ::-1]


def mirrored_actions(values: Float[np.ndarray, "*b 20"]) -> Float[np.ndarray, "*b 20"]:
    """Chunks (right arm, left arm; metres) of the mirrored scene, in the input's dtype.

    Raises:
        ActionError: the last axis is not a chunk's.
    """
    values = np.asarray(values)
    if values.shape[-1] != ACTION_DIM:
        raise ActionError(
            f"actions have shape {values.shape}, expected (..., {ACTION_DIM}): right arm, left arm."
        )
    half = ACTION_DIM // 2
    swapped = np.concatenate([values[..., half:], values[..., :half]], axis=-1)
    return swapped * np.tile(_SIGNS, 2).astype(values.dtype)


def mirrored_sentence(sentence: str) -> str:
    """The instruction with its sides exchanged: "left" and "right", alone and in "leftmost", "lefthand" and the like,
    and 左 and 右. Sentences that name a side in other words must not be mirrored."""

    def exchange(match: re.Match[str]) -> str:
        word = _OTHER[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return _SIDES.sub(exchange, sentence)
