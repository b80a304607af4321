"""Calls into a driver's library, which may wait for a controller for ever or hold a whole process up at its end."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import TypeVar

ANSWER_SECONDS = 10.0
"""What a call may take at most."""

_CALLS: list[threading.Thread] = []

T = TypeVar("T")


class NoAnswer(Exception):
    """A call did not come back."""


def within(call: Callable[[], T], seconds: float = ANSWER_SECONDS) -> T:
    """The answer of a call that may hang, made in a thread of its own.

    Raises:
        NoAnswer: it hangs; its thread is left behind. And what the call raises.
    """
    answer: list[tuple[T | None, Exception | None]] = []

    def ask() -> None:
        try:
            answer.append((call(), None))
        except Exception as error:  # of the library, for the caller
            answer.append((None, error))

    aside(ask).join(seconds)
    if not answer:
        raise NoAnswer(f"no answer within {seconds:g} s")
    value, error = answer[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def aside(call: Callable[[], None]) -> threading.Thread:
    """Run in a thread of its own, which the process waits for before it ends: one that is still inside of the library
    when the interpreter goes would abort it."""
    thread = threading.Thread(target=call, daemon=True)
    _CALLS[:] = [*(other for other in _CALLS if other.is_alive()), thread]
    try:
        thread.start()
    except RuntimeError:  # from Python 3.12 on, none begins once the interpreter is about to end
        call()
    return thread


@atexit.register
def _end_calls() -> None:
    until = time.monotonic() + ANSWER_SECONDS
    for thread in _CALLS:
        if thread.is_alive():
            thread.join(max(0.0, until - time.monotonic()))
