"""What a robot asks a policy server and what it answers, as dictionaries for :mod:`rdt2.wire`.

    request   instruction (or prompt), and left and right: uint8 (384, 384, 3) or JPEG; or picture: JPEG of left | right
              besides, if wanted: state, timestamp, compressed, seed, deadline, promise, protocol
    reply     actions: float32 (24, 20), metres, see `rdt2.action`; valid, reason, tokens, confidence, seed, request,
              policy_timing and server_timing in milliseconds
    error     a text: words, or for clients that accept application/json an object of `error_text`

openpi's clients read `actions` and let the rest be. No array of a reply has fewer rows than a chunk: their chunk broker
cuts every array in slices.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rdt2 import errors
from rdt2.action import ACTION_DIM, FPS, HORIZON, MODEL_WIDTH_MAX, ActionChunk, Promise
from rdt2.errors import RDT2Error, ServingError, WireError
from rdt2.observation import Observation, jpeg_bytes, picture

PROTOCOL = 1
"""Of the entries that openpi's protocol leaves open."""
ACCEPT = ("Accept", "application/json")
"""The header by which a client says that it reads errors as objects, and looks at `valid`."""

ACTIONS: dict[str, Any] = {
    "shape": [HORIZON, ACTION_DIM],
    "columns": {
        "right": {"position": [0, 3], "rotation": [3, 9], "width": [9, 10]},
        "left": {"position": [10, 13], "rotation": [13, 19], "width": [19, 20]},
    },
    "units": {"position": "m", "width": f"m, absolute, 0 to {MODEL_WIDTH_MAX}"},
    "frame": "relative to the same arm's end-effector pose at the observation: T_step = T_observed @ T_relative",
    "rotation": "6D: the first two columns of the rotation matrix, one after the other; not yet orthonormal",
    "first_row": "the next step",
}
"""The action space, for metadata."""


def request(
    observation: Observation,
    *,
    seed: int | None = None,
    promised: Promise | None = None,
    deadline: float | None = None,
    jpeg: bool = False,
) -> dict[str, Any]:
    """A request of our own names.

    Args:
        observation: what the policy is to see.
        seed: of whatever is random; None: the server draws one.
        promised: what the arms will do anyway, for real-time chunking.
        deadline: seconds from its arrival in which the answer is worth something.
        jpeg: send the pictures compressed exactly as policies compress them anyway: a tenth of the bytes, and the same
            chunk. Those of a compressed observation are sent as they are, since twice is not the same.
    """
    message: dict[str, Any] = {"protocol": PROTOCOL, "instruction": observation.instruction}
    if jpeg and not observation.compressed:
        message["picture"] = jpeg_bytes(picture(observation))
    else:
        message |= {"left": observation.left, "right": observation.right}
        if observation.compressed:
            message["compressed"] = True
    if observation.state.any():
        message["state"] = observation.state
    if observation.timestamp is not None:
        message["timestamp"] = float(observation.timestamp)
    if seed is not None:
        message["seed"] = seed
    if deadline is not None:
        message["deadline"] = deadline
    if promised is not None:
        message["promise"] = {
            "actions": promised.actions,
            "fixed": promised.fixed,
            "known": promised.known,
        }
    return message


def reply(
    chunk: ActionChunk,
    *,
    identity: str,
    seed: int,
    batch: int,
    queue_seconds: float,
    server_timing: dict[str, float],
) -> dict[str, Any]:
    """The answer to a request.

    Args:
        chunk: of the policy.
        identity: the server's name of the request, the same as in its log.
        seed: that the chunk was drawn with.
        batch: requests that were computed together.
        queue_seconds: for how long a request that came now would wait.
        server_timing: milliseconds.
    """
    stages = {f"{name}_ms": 1000 * float(seconds) for name, seconds in chunk.timing.items()}
    return {
        "actions": chunk.values,
        "valid": chunk.valid,
        "reason": chunk.reason,
        "tokens": None if chunk.tokens is None else chunk.tokens.tolist(),
        "confidence": None if chunk.confidence is None else float(chunk.confidence),
        "request": identity,
        "seed": seed,
        "batch": batch,
        "queue_seconds": queue_seconds,
        "policy_timing": {"infer_ms": server_timing["infer_ms"], **stages},
        "server_timing": server_timing,
    }


def chunk_of(message: dict[str, Any]) -> ActionChunk:
    """The chunk of a reply. Its timing, in seconds, is the policy's stages and `server_...`, the server's.

    Raises:
        WireError: it is no reply of a server of RDT2.
    """
    actions = message.get("actions")
    if not isinstance(actions, np.ndarray) or actions.shape != (HORIZON, ACTION_DIM):
        shape = actions.shape if isinstance(actions, np.ndarray) else type(actions).__name__
        raise WireError(
            f"the server's actions are {shape}, expected ({HORIZON}, {ACTION_DIM}) of an RDT2 policy."
        )
    try:
        stages = dict(message.get("policy_timing") or {})
        stages.pop("infer_ms", None)
        stages |= {f"server_{name}": value for name, value in (message.get("server_timing") or {}).items()}
        tokens, confidence = message.get("tokens"), message.get("confidence")
        return ActionChunk(
            actions,
            valid=message.get("valid", True) is True,
            reason=str(message.get("reason", "")),
            tokens=None if tokens is None else np.asarray(tokens, np.int64),
            confidence=None if confidence is None else float(confidence),
            timing={name.removesuffix("_ms"): float(ms) / 1000 for name, ms in stages.items()},
        )
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError(f"the server's reply cannot be read: {error}") from error


# ------------------------------------------------------------------------------------------------- metadata


def metadata(about: dict[str, Any]) -> dict[str, Any]:
    """What a server says first. `about` adds to it and has keeps_promises, longest_promise, patience
    and model."""
    return {
        "server": "rdt2",
        "protocol": PROTOCOL,
        "horizon": HORIZON,
        "rate_hz": FPS,
        "actions": ACTIONS,
        "observation": {
            "left": "uint8 (384, 384, 3) RGB, or JPEG: the left arm's wrist camera",
            "right": "uint8 (384, 384, 3) RGB, or JPEG: the right arm's wrist camera",
            "instruction": "a sentence such as 'Pick up the apple.'; prompt is another name for it",
        },
        **about,
    }


def checked_metadata(message: dict[str, Any]) -> dict[str, Any]:
    """What a server said first, if it is one of ours.

    Raises:
        ServingError: another one.
    """
    if message.get("server") != "rdt2" or message.get("protocol") != PROTOCOL:
        raise ServingError(
            f"there is a server, but not of RDT2's protocol {PROTOCOL}: it says {str(message)[:120]}. Start one with: "
            "rdt2 serve --policy ..."
        )
    return message


# --------------------------------------------------------------------------------------------------- errors


def error_text(error: Exception, *, identity: str, as_object: bool) -> str:
    """An error as the text that is sent."""
    if not as_object:
        return f"{error} [request {identity}]"
    return json.dumps({
        "error": type(error).__name__,
        "message": str(error),
        "request": identity,
        "reason": getattr(error, "reason", None),
        "queue_seconds": getattr(error, "queue_seconds", None),
    })  # fmt: skip


def error_of(text: str) -> RDT2Error:
    """The error that a server sent: of the class it had there, if that is one of ours."""
    try:
        told = json.loads(text)
        name, message = str(told["error"]), str(told["message"])
    except (ValueError, TypeError, KeyError):
        return ServingError(f"the policy server reports: {text}")
    if told.get("reason") is not None:
        return ServingError(message, reason=str(told["reason"]), queue_seconds=told.get("queue_seconds"))
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, RDT2Error) and kind is not ServingError:
        return kind(message)
    return ServingError(f"the policy failed on the server: {name}: {message}")
