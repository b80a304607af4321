"""Calls into a driver's library, which may wait for a controller for ever or hold a whole process up at its end."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

ANSWER_SECONDS = 10.0
"""What a call may take at most."""
HANGS = 0.3
"""Seconds of one turn after which the thread that speaks to a robot counts as hanging in the library."""

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


class Turns:
    """Of a thread that speaks to a robot again and again: one that hangs in the library leads the arm nowhere, and not
    to rest either."""

    def __init__(self) -> None:
        self._began, self._thread = math.inf, 0

    def begin(self) -> None:
        """Another turn; said by the thread itself."""
        self._began, self._thread = time.monotonic(), threading.get_ident()

    def end(self) -> None:
        """There will be no more."""
        self._began = math.inf

    @property
    def hanging(self) -> str:
        """For how long it has been hanging, in words; empty where it does not, or has come back and asks itself."""
        late = time.monotonic() - self._began
        if late <= HANGS or threading.get_ident() == self._thread:
            return ""
        return f"its driver has been hanging for {late:.1f} s"


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
