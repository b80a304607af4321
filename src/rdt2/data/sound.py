"""Whether a sample can be learnt from: its numbers are finite, its rotations are some, its tokens are of a codebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ARMS, arm_slice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CODES = 1024
_TOLERANCE = 1e-2  # of the columns' lengths and their product
_LEAVE_OUT = "max_damaged=N leaves out N such samples"


def unsound(actions: Float[np.ndarray, "n 24 20"]) -> Bool[np.ndarray, " n"]:
    """Which chunks (metres and 6D columns) hold numbers that are not finite, or rotations that are none."""
    return ~np.isfinite(actions).all(axis=(1, 2)) | np.any(
        [_off(actions, a).any(axis=1) for a in ARMS], axis=0
    )


def action_problem(action: Float[np.ndarray, "24 20"]) -> str:
    """Why a chunk cannot be learnt from, and what to do; empty where it can."""
    if not unsound(action[None])[0]:
        return ""
    if not np.isfinite(action).all():
        return (
            "action.npy holds NaN or infinity. Drop or record that sample again, or leave it out "
            f"({_LEAVE_OUT}); 'rdt2 data check' names all of them."
        )
    arm = next(arm for arm in ARMS if _off(action[None], arm).any())
    step = int(np.argmax(_off(action[None], arm)[0]))
    columns = action[step, arm_slice(arm)][3:9]
    why = (
        "Quaternions, Euler angles or rows of a matrix may be stored."
        if columns.any()
        else "An arm that is not there or rests has the identity [1, 0, 0, 0, 1, 0], not zeros."
    )
    return (
        f"the 6D rotation of the {arm} arm at step {step} is {np.round(columns, 3).tolist()}, expected two columns of "
        f"length 1 at a right angle. {why} Convert the recording again with 'rdt2 data convert' ({_LEAVE_OUT}); "
        "'rdt2 data check' names all of them."
    )


def tokens_problem(tokens: Int[np.ndarray, " 27"]) -> str:
    """Why action tokens cannot be learnt, and what to do; empty where they can."""
    low, high = int(tokens.min()), int(tokens.max())
    if low >= 0 and high < CODES:
        return ""
    return (
        f"action_token.npy holds {low} to {high}, expected 0 to {CODES - 1}. Write the tokens again with "
        f"'rdt2 data tokenize' ({_LEAVE_OUT})."
    )


def _off(actions: Float[np.ndarray, "n 24 20"], arm: str) -> Bool[np.ndarray, "n 24"]:
    """Where an arm's two columns are not of length 1 at a right angle."""
    columns = actions[..., arm_slice(arm)][..., 3:9]
    first, second = columns[..., :3], columns[..., 3:]
    with np.errstate(invalid="ignore", over="ignore"):  # of numbers that are not finite
        wrong = [(first**2).sum(-1) - 1, (second**2).sum(-1) - 1, (first * second).sum(-1)]
        return np.any([np.abs(each) > _TOLERANCE for each in wrong], axis=0)
