"""What every policy does, and the steps that policies share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch

from rdt2.action import ACTION_DIM, ARMS, HORIZON, ActionChunk, Promise, arm_slice
from rdt2.errors import ConfigError, PoseError
from rdt2.observation import Observation, jpeg_roundtrip, picture
from rdt2.policy.questions import checked_seeds
from rdt2.pose import rot6d_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from numpy import ndarray
    from torch import Tensor


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into action chunks."""

    @property
    def keeps_promises(self) -> bool:
        """Whether `predict` takes what the arms will do anyway. Else whoever drives blends one plan into the next."""
        ...

    @property
    def longest_promise(self) -> int:
        """The most rows that may be promised as driven anyway (`Promise.fixed`). Only where ``keeps_promises``."""
        ...

    @property
    def patience(self) -> float | None:
        """Seconds after which arms that get nowhere should drive a whole chunk: some policies put what they mean to do
        at the end of a chunk off each time they are asked before. None: not this one."""
        ...

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """One chunk an observation, in their order; instructions may all differ.

        Args:
            observations: at least one.
            seed: of whatever is random, 0 or more. One number: every row is predicted as it would be alone with
                that seed. A sequence: one seed a row. None: a fresh draw for every row.
            promised: what the arms will do anyway, for each row or for none: its chunk begins with exactly those
                steps and goes on from there. Only where ``keeps_promises``.

        A chunk that came out unusable is returned with ``valid=False``; executing it raises.

        Raises:
            ObservationError: no list of observations, or not as many seeds as observations.
            ActionError: not as many promises as observations, to a policy that keeps none, or longer than it keeps.
        """
        ...


class OneProcess:
    """A policy stays in the process that loaded it: its weights are laid out, compiled and placed for it."""

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            f"a {type(self).__name__} can be neither pickled nor copied: its weights are laid out for the process "
            "that loaded it. Hand over its name instead, and call rdt2.policy.load_policy(...) where it is used; a "
            "rdt2.policy.PolicySpec says which one, and how."
        )


def model_pictures(observations: Sequence[Observation]) -> list[UInt8[ndarray, "384 768 3"]]:
    """Left | right pictures after one JPEG step, which training pictures had: all policies begin with this."""
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
        ObservationError: a seed that is none, or not as many as rows.
    """
    return [
        None if each is None else torch.Generator().manual_seed(each) for each in checked_seeds(seed, rows)
    ]


def finished_chunk(
    values: Float[ndarray, "24 20"],
    *,
    timing: Mapping[str, float],
    tokens: Int[ndarray, " 27"] | None = None,
    confidence: float | None = None,
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
