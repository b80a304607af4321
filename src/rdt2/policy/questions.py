"""What is asked of a policy, checked before anything is computed or sent."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rdt2.action import Promise
from rdt2.errors import ActionError, ObservationError
from rdt2.observation import Observation


def checked_observations(observations: Any) -> list[Observation]:
    """What was given to ``predict``, if it is observations, and at least one.

    Raises:
        ObservationError: it is not.
    """
    if isinstance(observations, Observation):
        raise ObservationError(
            "predict takes a list of observations, got a single one: (chunk,) = policy.predict([observation])."
        )
    if isinstance(observations, (Mapping, str)) or not isinstance(observations, Iterable):
        raise ObservationError(
            f"predict takes a list of rdt2.observation.Observation, got {type(observations).__name__}."
        )
    found = list(observations)
    for number, each in enumerate(found):
        if not isinstance(each, Observation):
            raise ObservationError(
                f"observation {number} is of type {type(each).__name__}; expected "
                "rdt2.observation.Observation(left=..., right=..., instruction=...)."
            )
    if not found:
        raise ObservationError("predict needs at least one observation, got none.")
    return found


def checked_promises(promised: Any, rows: int) -> list[Promise | None]:
    """A promise or None for each row; promises of no rows are none.

    Raises:
        ActionError: not as many as rows, or something else than promises.
    """
    if promised is None:
        return [None] * rows
    if isinstance(promised, (Promise, str, Mapping)) or not isinstance(promised, Iterable):
        raise ActionError(
            f"promised is of type {type(promised).__name__}, expected a list with one rdt2.action.Promise or None for "
            "each observation."
        )
    found = list(promised)
    for number, each in enumerate(found):
        if each is not None and not isinstance(each, Promise):
            raise ActionError(
                f"promise {number} is of type {type(each).__name__}, expected rdt2.action.Promise or None."
            )
    if len(found) != rows:
        raise ActionError(f"got {len(found)} promises for {rows} observations; pass one for each, or None.")
    return [each if each is not None and each.known else None for each in found]


def checked_seeds(seed: Any, rows: int) -> list[int | None]:
    """A seed or None for each row.

    Raises:
        ObservationError: a seed that is none, or not as many as rows.
    """
    if seed is None:
        return [None] * rows
    if isinstance(seed, Iterable) and not isinstance(seed, str) and np.ndim(seed) > 0:  # type: ignore[arg-type]
        seeds = [checked_seed(each) for each in seed]
    else:
        seeds = [checked_seed(seed)] * rows
    if len(seeds) != rows:
        raise ObservationError(
            f"got {len(seeds)} seeds for {rows} observations; pass one number, or one a row."
        )
    return list(seeds)


def checked_seed(seed: Any) -> int:
    """A seed of any integer type as torch takes it.

    Raises:
        ObservationError: no whole number of 0 to 2**63 - 1.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, (bool, np.bool_)) or not 0 <= number < 2**63:
        raise ObservationError(
            f"the seed is {seed!r} ({type(seed).__name__}), expected a whole number of 0 to 2**63 - 1, or None."
        )
    return number
