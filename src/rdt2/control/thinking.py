"""Inference beside the motion: ask a policy, go on, look whether the answer is there."""

from __future__ import annotations

import queue
import threading
import time as wall
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rdt2.action import ActionChunk
from rdt2.errors import ActionError
from rdt2.policy.process import PolicyProcess

if TYPE_CHECKING:
    from rdt2.action import Promise
    from rdt2.observation import Observation
    from rdt2.policy import Policy
    from rdt2.robot import Clock


@dataclass(frozen=True)
class Answer:
    """What became of a question."""

    chunk: ActionChunk | None
    seconds: float
    """Wall-clock time of the prediction."""
    error: Exception | None = None
    """What the policy raised instead of answering."""


class Thinker(Protocol):
    """One question at a time."""

    def ask(self, observation: Observation, *, seed: int | None, promised: Promise | None) -> None:
        """Begin to predict. There must be no question open."""
        ...

    def answer(self) -> Answer | None:
        """The answer, once; None while there is none."""
        ...

    def died(self) -> str:
        """Why there will never be an answer again; empty while there may be one."""
        ...

    def close(self) -> None:
        """Let go of what computes; an answer that comes later is nobody's."""
        ...


class InSimulatedTime:
    """For a clock that stands still while a policy predicts: the answer is there so much later on that clock.

    Args:
        latency: seconds an answer takes; None for as long as the prediction really took.
    """

    def __init__(self, policy: Policy, clock: Clock, latency: float | None) -> None:
        self._policy, self._clock, self._latency = policy, clock, latency
        self._waiting: tuple[float, Answer] | None = None

    def ask(self, observation: Observation, *, seed: int | None, promised: Promise | None) -> None:
        """Predict at once; the answer is kept back until its time has come."""
        answer = _predict(self._policy, observation, seed, promised)
        takes = answer.seconds if self._latency is None else self._latency
        self._waiting = (self._clock.now() + takes, answer)

    def answer(self) -> Answer | None:
        """The answer, once, and not before its time."""
        if self._waiting is None or self._clock.now() < self._waiting[0] - 1e-6:
            return None
        (_, answer), self._waiting = self._waiting, None
        return answer

    def died(self) -> str:
        """Never: it computes here."""
        return ""

    def close(self) -> None:
        """Forget the answer that waits."""
        self._waiting = None


class InThread:
    """For a clock that goes on: a thread of its own asks the policy. One that hangs hangs nothing else."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._questions: queue.Queue = queue.Queue()
        self._answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._work, name="inference", daemon=True).start()

    def ask(self, observation: Observation, *, seed: int | None, promised: Promise | None) -> None:
        """Hand the question to the thread."""
        self._questions.put((observation, seed, promised))

    def answer(self) -> Answer | None:
        """What the thread has answered, once; None while it thinks."""
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            return None

    def died(self) -> str:
        """What the policy's process says of its end; a policy in this process does not die."""
        return self._policy.died() if isinstance(self._policy, PolicyProcess) else ""

    def close(self) -> None:
        """Let the thread end after what it is at."""
        self._questions.put(None)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            self._answers.put(_predict(self._policy, *question))


def _predict(policy: Policy, observation: Observation, seed: int | None, promised: Promise | None) -> Answer:
    started = wall.perf_counter()
    try:
        if promised is None:
            chunks = policy.predict([observation], seed=seed)
        else:
            chunks = policy.predict([observation], seed=seed, promised=[promised])
        kinds = [type(chunk).__name__ for chunk in chunks] if isinstance(chunks, list | tuple) else chunks
        if kinds != [ActionChunk.__name__]:
            raise ActionError(
                f"the {type(policy).__name__} answered one observation with {str(kinds)[:80]}, expected a list of one "
                "ActionChunk. Look at its predict()."
            )
    except Exception as error:  # whatever a model raises: whoever asked must hear of it
        return Answer(None, wall.perf_counter() - started, error)
    return Answer(chunks[0], wall.perf_counter() - started)
