"""What every policy does, and the steps that policies share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch

from rdt2.action import ACTION_DIM, ARMS, HORIZON, ActionChunk, arm_slice
from rdt2.errors import ObservationError, PoseError
from rdt2.observation import Observation, jpeg_roundtrip, picture
from rdt2.pose import rot6d_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from numpy import ndarray
    from torch import Tensor


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into action chunks."""

    def predict(
        self, observations: Sequence[Observation], *, seed: int | Sequence[int] | None = None
    ) -> list[ActionChunk]:
        """One chunk an observation, in their order; instructions may all differ.

        Args:
            observations: at least one.
            seed: of whatever is random. One number: every row is predicted as it would be alone with that
                seed. A sequence: one seed a row. None: a fresh draw for every row.

        A chunk that came out unusable is returned with ``valid=False``; executing it raises.

        Raises:
            ObservationError: no observations, or not as many seeds as observations.
        """
        ...


def model_pictures(observations: Sequence[Observation]) -> list[UInt8[ndarray, "384 768 3"]]:
    """Left | right pictures after one JPEG step, which training pictures had: all policies begin with this.

    Raises:
        ObservationError: if there are no observations.
    """
    if not observations:
        raise ObservationError("predict needs at least one observation, got none.")
    return [
        picture(observation) if observation.compressed else jpeg_roundtrip(picture(observation))
        for observation in observations
    ]


def draw_noise(
    rows: int, seed: int | Sequence[int] | None, *, draws: int = 1
) -> Float[Tensor, "drawsxrows 24 20"]:
    """Standard normal noise, float32 on the CPU whatever the model runs on: all rows' first draw, then the second.

    A row depends on its seed alone, never on the rows beside it: a batch equals its rows one by one.

    Raises:
        ObservationError: if there are not as many seeds as rows.
    """
    noise = [
        torch.randn(draws, HORIZON, ACTION_DIM, generator=generator)
        for generator in row_generators(rows, seed)
    ]
    return torch.stack(noise, dim=1).flatten(0, 1)


def row_generators(rows: int, seed: int | Sequence[int] | None) -> list[torch.Generator | None]:
    """What draws for each row: torch's own generator without a seed, else one that nothing else uses.

    Raises:
        ObservationError: if there are not as many seeds as rows.
    """
    if seed is None:
        return [None] * rows
    seeds = [seed] * rows if isinstance(seed, int) else list(seed)
    if len(seeds) != rows:
        raise ObservationError(
            f"got {len(seeds)} seeds for {rows} observations; pass one number, or one a row."
        )
    return [torch.Generator().manual_seed(each) for each in seeds]


def finished_chunk(
    values: Float[ndarray, "24 20"],
    *,
    timing: Mapping[str, float],
    tokens: Int[ndarray, " 27"] | None = None,
    confidence: float | None = None,
    accepted: int | None = None,
) -> ActionChunk:
    """A chunk of de-normalised values, marked invalid if they are not finite or name no orientation."""
    reason = ""
    if not np.isfinite(values).all():
        reason = "the model's output holds NaN or infinite values"
    elif confidence is not None and not np.isfinite(confidence):
        reason, confidence = "the probabilities of the action tokens are not finite", None
    else:
        try:
            for arm in ARMS:
                rot6d_to_matrix(values[:, arm_slice(arm)][:, 3:9])
        except PoseError as error:
            reason = f"the predicted rotation of the {arm} arm is unusable: {error}"
    return ActionChunk(
        values,
        valid=not reason,
        reason=reason,
        tokens=tokens,
        confidence=confidence,
        timing=timing,
        accepted=accepted,
    )


class Stopwatch:
    """Seconds of each stage; waits for the GPU, whose work otherwise outlasts the stage that began it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends ``stage``, which began when the stage before ended."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now

    def result(self) -> dict[str, float]:
        """All stages and their ``total``."""
        return {**self.seconds, "total": sum(self.seconds.values())}
