"""The action chunk: what a policy predicts, in what layout, units and frames.

A chunk is float32 ``(24, 20)`` at 30 Hz (0.8 s). Row 0 is the NEXT step. Columns are the right arm, then the
left arm; each arm has position (3, m), column-6D rotation (6) and gripper width (1, m, absolute):

    right: 0..2 position   3..8 rotation    9 width
    left: 10..12 position 13..18 rotation  19 width

Poses are relative to that arm's end-effector pose at the observation: ``T_step = T_obs @ T_rel``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rdt2 import pose
from rdt2.errors import ActionError, PoseError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

HORIZON = 24
"""Rows of a chunk."""
ACTION_DIM = 20
"""Columns of a chunk."""
NUM_TOKENS = 27
"""Tokens that say a chunk."""
FPS = 30.0
"""Rows of a chunk a second."""
ARMS: tuple[str, str] = ("right", "left")
"""In the order of an action's columns."""
SIDES: tuple[str, str] = ("left", "right")
"""In the order in which people see them, in tables, drawings and films: that of the picture."""
MODEL_WIDTH_MAX = 0.088
"""Largest gripper width in the models' space (m)."""
ZHIXING_WIDTH_MAX = 0.1
"""What the deployed Zhixing gripper opens to when the models ask for :data:`MODEL_WIDTH_MAX` (m)."""

POSITION_DIMS = (0, 1, 2, 10, 11, 12)
ROTATION_DIMS = (3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 17, 18)
WIDTH_DIMS = (9, 19)


def arm_slice(arm: str) -> slice:
    """The ten columns of one arm, "right" or "left". Raises ActionError for another name."""
    if arm not in ARMS:
        raise ActionError(f"unknown arm {arm!r}; expected one of {ARMS}.")
    start = 10 * ARMS.index(arm)
    return slice(start, start + 10)


def state_vector(
    poses: Mapping[str, Float[ndarray, "*b 4 4"]], widths: Mapping[str, Float[ndarray, "*b"]]
) -> Float[ndarray, "*b 20"]:
    """Absolute poses (metres) and widths (metres) of both arms in the columns of an action: proprioception.

    Poses are of the policy's frame, in a frame that both arms share and that is the same whenever the vector is made.
    """
    parts = []
    for arm in ARMS:
        parts += [pose.matrix_to_pose9(np.asarray(poses[arm], np.float64))]
        parts += [np.asarray(widths[arm], np.float64)[..., None]]
    return np.concatenate(parts, axis=-1)


def absolute_rows(
    rows: Float[ndarray, "*b n 20"], state: Float[ndarray, "*b 20"]
) -> Float[ndarray, "*b n 20"]:
    """Rows of chunks as poses in the frame of a :func:`state_vector`, float32: what tools without our frames drive.

    Args:
        rows: relative to where the arms were at the observation.
        state: where they were.

    Raises:
        ActionError: a shape that cannot be, or rotations that name no orientation.
    """
    return _moved(rows, state, pose.absolute)


def relative_rows(
    rows: Float[ndarray, "*b n 20"], state: Float[ndarray, "*b 20"]
) -> Float[ndarray, "*b n 20"]:
    """The inverse of :func:`absolute_rows`: from poses in the frame of the state to motion since the state."""
    return _moved(rows, state, pose.relative)


def _moved(rows: ndarray, state: ndarray, motion: Callable[[ndarray, ndarray], ndarray]) -> ndarray:
    rows, state = np.array(rows, np.float64), np.asarray(state, np.float64)
    if rows.shape[-1:] != (ACTION_DIM,) or state.shape != (*rows.shape[:-2], ACTION_DIM):
        raise ActionError(
            f"rows of actions {rows.shape} and a state {state.shape}; expected (..., n, {ACTION_DIM}) and "
            f"(..., {ACTION_DIM})."
        )
    for arm in ARMS:
        columns = slice(arm_slice(arm).start, arm_slice(arm).start + 9)
        try:
            observed = pose.pose9_to_matrix(state[..., None, columns])
            poses = motion(observed, pose.pose9_to_matrix(rows[..., columns]))
        except PoseError as error:
            raise ActionError(f"{arm} arm of actions or state: {error}") from error
        rows[..., columns] = pose.matrix_to_pose9(poses)
    return rows.astype(np.float32)


def deployed_width(width: Float[ndarray, "*b"]) -> Float[ndarray, "*b"]:
    """Model gripper width (m, 0..0.088) to the Zhixing gripper's (m, 0..0.1). Apply exactly once."""
    return np.asarray(width) * (ZHIXING_WIDTH_MAX / MODEL_WIDTH_MAX)


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """One predicted chunk, de-normalised (metres), and whether it may be executed."""

    values: Float[ndarray, "24 20"]
    """float32; the 6D rotations are as predicted, not yet orthonormal."""
    valid: bool = True
    """False if the tokens or values were unusable. Nothing executes an invalid chunk."""
    reason: str = ""
    """Why the chunk is invalid."""
    tokens: Int[ndarray, " 27"] | None = None
    """int64 action tokens, for policies that predict tokens."""
    confidence: float | None = None
    """Mean log-probability of the tokens, for policies that predict tokens."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent in each stage of the batch this chunk came from."""

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float32)  # a copy: the caller may reuse its buffer
        if values.shape != (HORIZON, ACTION_DIM):
            raise ActionError(f"a chunk has shape {values.shape}, expected ({HORIZON}, {ACTION_DIM}).")
        if self.valid and not np.isfinite(values).all():
            raise ActionError("a chunk with NaN or infinite values was marked valid; mark it invalid.")
        if not self.valid and not self.reason:
            raise ActionError("an invalid action chunk must say why: pass reason=...")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        if self.tokens is not None:
            tokens = np.array(self.tokens, dtype=np.int64)
            tokens.setflags(write=False)
            object.__setattr__(self, "tokens", tokens)

    def require_valid(self) -> None:
        """Raises ActionError if this chunk must not be executed. Call it before any command leaves."""
        if not self.valid:
            raise ActionError(f"this action chunk is not valid and must not be executed: {self.reason}")

    def relative_poses(self, arm: str) -> Float[ndarray, "24 4 4"]:
        """End-effector poses relative to the pose at the observation; rotations orthonormal.

        Raises:
            ActionError: if the chunk is not valid, or its rotations name no orientation.
        """
        self.require_valid()
        try:
            return pose.pose9_to_matrix(self.values[:, arm_slice(arm)][:, :9])
        except PoseError as error:
            raise ActionError(f"{arm} arm of an action chunk: {error}") from error

    def absolute_poses(self, arm: str, observed: Float[ndarray, "4 4"]) -> Float[ndarray, "24 4 4"]:
        """End-effector poses in the frame of ``observed``, the arm's pose at the observation."""
        return pose.absolute(observed, self.relative_poses(arm))

    def widths(self, arm: str) -> Float[ndarray, " 24"]:
        """Gripper widths in the models' space (m); see :func:`deployed_width`."""
        self.require_valid()
        return self.values[:, arm_slice(arm)][:, 9]


@dataclass(frozen=True, eq=False)
class Promise:
    """What the arms will do anyway, as the first rows of a chunk that is still to be predicted.

    While a policy thinks, the arms drive on along the chunk before. Its remaining steps, written as motion relative
    to the NEW observation, are what the new chunk has to begin with, and what it should go on from.

    Raises:
        ActionError: a shape, a count or a number that cannot be, or rotations that name no orientation.
    """

    actions: Float[ndarray, "24 20"]
    """float32, metres, as the values of a chunk. Rows behind `known` are not read, and zero from here on."""
    fixed: int
    """So many of the first rows are driven before the new chunk can be there: it begins with exactly these."""
    known: int
    """So many of the first rows are planned; from `fixed` on the new chunk stays near them, less and less."""

    def __post_init__(self) -> None:
        for name in ("fixed", "known"):
            value = getattr(self, name)
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
                raise ActionError(f"{name} of a promise is {value!r}, expected a whole number of rows.")
            object.__setattr__(self, name, int(value))
        if not 0 <= self.fixed <= self.known <= HORIZON:
            raise ActionError(
                f"a promise has {self.fixed} fixed of {self.known} known rows, expected "
                f"0 <= fixed <= known <= {HORIZON}."
            )
        actions = np.array(self.actions, dtype=np.float32)
        if actions.shape != (HORIZON, ACTION_DIM):
            raise ActionError(
                f"the actions of a promise have shape {actions.shape}, expected ({HORIZON}, {ACTION_DIM}): a whole "
                "chunk, of which the first `known` rows count."
            )
        actions[self.known :] = 0
        if not np.isfinite(actions).all():
            raise ActionError(f"the {self.known} known rows of a promise hold NaN or infinite values.")
        for arm in ARMS:
            try:
                pose.rot6d_to_matrix(actions[: self.known, arm_slice(arm)][:, 3:9])
            except PoseError as error:
                raise ActionError(f"{arm} arm of a promise: {error}") from error
        actions.setflags(write=False)
        object.__setattr__(self, "actions", actions)


def chunk_from_poses(
    obs_poses: Mapping[str, Float[ndarray, "4 4"]],
    step_poses: Mapping[str, Float[ndarray, "24 4 4"]],
    widths: Mapping[str, Float[ndarray, " 24"]],
) -> Float[ndarray, "24 20"]:
    """Builds the values of a chunk, float32, from recorded poses of both arms.

    Args:
        obs_poses: end-effector pose of each arm at the observation.
        step_poses: the 24 poses that follow, in the same frame; row 0 is the next step.
        widths: gripper widths (m) at those steps.

    Raises:
        ActionError: if an arm is missing, a shape is wrong or a value is not finite.
    """
    values = np.empty((HORIZON, ACTION_DIM), np.float64)
    for arm in ARMS:
        for name, given in (("obs_poses", obs_poses), ("step_poses", step_poses), ("widths", widths)):
            if arm not in given:
                raise ActionError(f"{name} lacks the {arm!r} arm; a chunk needs both {ARMS}.")
        steps, width = np.asarray(step_poses[arm]), np.asarray(widths[arm], np.float64)
        if steps.shape != (HORIZON, 4, 4) or width.shape != (HORIZON,):
            raise ActionError(
                f"{arm} arm: step_poses {steps.shape} and widths {width.shape}, "
                f"expected ({HORIZON}, 4, 4) and ({HORIZON},)."
            )
        if not np.isfinite(width).all():
            raise ActionError(f"{arm} arm: gripper widths hold NaN or infinite values.")
        columns = values[:, arm_slice(arm)]
        columns[:, :9] = pose.matrix_to_pose9(pose.relative(obs_poses[arm], steps))
        columns[:, 9] = width
    return values.astype(np.float32)
