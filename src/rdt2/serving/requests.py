"""What a robot asks for, read from its message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt2.action import Promise
from rdt2.errors import ActionError, ObservationError, WireError
from rdt2.observation import Observation
from rdt2.policy.messages import PROTOCOL
from rdt2.policy.questions import checked_seed
from rdt2.serving.adapters import BESIDES, Form, observation_of, recognised
from rdt2.wire import Limits, unpacked

MAX_DEADLINE = 3600.0


@dataclass(frozen=True, eq=False)
class Request:
    """One question to the policy."""

    observation: Observation
    seed: int | None = None
    deadline: float | None = None
    """Seconds from its arrival in which the answer is worth something."""
    promise: Promise | None = None


def read_entries(data: bytes | str, limits: Limits | None = None) -> dict[str, Any]:
    """The entries of a message, by name.

    Raises:
        WireError: no message of the protocol.
    """
    if isinstance(data, str):
        raise WireError(
            f"a text frame came ({data[:40]!r}), expected a binary one: a dictionary packed with msgpack, as "
            "openpi_client.msgpack_numpy does."
        )
    entries = unpacked(data, limits)
    protocol = entries.get("protocol", PROTOCOL)
    if not isinstance(protocol, int) or protocol != PROTOCOL:
        raise WireError(
            f"the client speaks protocol {protocol!r:.40}, this server {PROTOCOL}: install the same rdt2 on both sides."
        )
    return entries


def needs_work(entries: Mapping[str, Any]) -> bool:
    """Whether `read_request` would decode or resize pictures, which takes milliseconds; else it copies two."""
    return recognised(entries) != "ours" or any(isinstance(value, bytes) for value in entries.values())


def read_request(entries: Mapping[str, Any], *, form: Form = "auto") -> Request:
    """The question that a message asks.

    Raises:
        ObservationError, ActionError: the policy cannot be asked that.
    """
    seen = {name: value for name, value in entries.items() if name not in BESIDES}
    return Request(
        observation_of(seen, form),
        seed=None if entries.get("seed") is None else checked_seed(entries["seed"]),
        deadline=_deadline(entries.get("deadline")),
        promise=_promise(entries.get("promise")),
    )


def _deadline(value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_DEADLINE:
        raise ObservationError(
            f"deadline is {value!r:.40}, expected seconds from now, more than 0 and at most {MAX_DEADLINE:g}."
        )
    return float(value)


def _promise(value: Any) -> Promise | None:
    if value is None:
        return None
    names = {"actions", "fixed", "known"}
    if not isinstance(value, Mapping) or set(value) != names or not isinstance(value["actions"], np.ndarray):
        raise ActionError(
            "promise is no such thing, expected a dictionary of actions, float32 (24, 20): the steps still to be "
            "driven, relative to this observation; fixed: so many are driven before the answer comes; known: so many "
            "are planned."
        )
    if value["actions"].dtype.kind not in "fiu":
        raise ActionError(f"the actions of a promise are {value['actions'].dtype}, expected float32.")
    return Promise(value["actions"], fixed=value["fixed"], known=value["known"])
