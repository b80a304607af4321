"""A policy that does what the sentence asks for; its chunk says what it was asked. Loads at once, needs no torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON, ActionChunk
from rdt2.errors import ActionError, ObservationError
from rdt2.observation import Observation
from rdt2.policy import PolicySpec
from rdt2.serving import ProcessEngine, ServerSettings, served

SPEC = PolicySpec(policy="standing-in")
SECONDS = 0.05
"""That a batch takes when the sentence says "slowly"; twenty times that when it says "very"."""


class StandIn:
    keeps_promises, longest_promise, patience, steps, draws = True, 10, 1.5, 5, 2

    def predict(self, observations, *, seed=None, promised=None):
        sentences = " ".join(observation.instruction for observation in observations)
        if "refuse" in sentences:
            raise ObservationError("this sentence is refused.")
        if "break" in sentences:
            raise ZeroDivisionError("divided by the number of apples")
        if "hang" in sentences:
            time.sleep(60)
        if "die" in sentences:
            os.kill(os.getpid(), signal.SIGKILL)
        if "slowly" in sentences:
            time.sleep(SECONDS * (20 if "very" in sentences else 1))
        return [
            self._chunk(o, s, promised[i] if promised else None)
            for i, (o, s) in enumerate(zip(observations, seed, strict=True))
        ]

    def _chunk(self, observation, seed, promise):
        values = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.float32), (HORIZON, 2))
        values[:, 0], values[:, 1], values[:, 2] = (
            observation.left.mean(),
            observation.right.mean(),
            seed % 1000,
        )
        values[:, 9], values[:, 10] = observation.compressed, observation.state.sum()
        if promise is not None:
            if promise.fixed > self.longest_promise:
                raise ActionError("more steps were promised than this goes on from.")
            values[: promise.fixed] = promise.actions[: promise.fixed]
        if "nonsense" in observation.instruction:
            return ActionChunk(values * np.nan, valid=False, reason="it is nonsense")
        return ActionChunk(
            values, timing={"vlm": 0.001, "total": 0.002}, confidence=-0.5, tokens=np.arange(27)
        )


def open_stand_in(spec):
    assert spec == SPEC
    return StandIn()


def open_short(spec):
    """As `open_stand_in`; but it goes on from one given row at most."""
    policy = open_stand_in(spec)
    policy.longest_promise = 1
    return policy


def open_second_hangs(spec):
    """As `open_stand_in`; but where it is opened for the second time it never answers."""
    starts = Path(os.environ["STARTS"])
    starts.write_text(starts.read_text() + "x")
    policy = open_stand_in(spec)
    if starts.read_text() == "xx":
        policy.predict = lambda *_, **__: time.sleep(60)
    return policy


def observation(instruction="Pick up the apple.", *, left=10, right=20, **more):
    pictures = (np.full((384, 384, 3), value, np.uint8) for value in (left, right))
    return Observation(*pictures, instruction, **more)


def entries(**changes):
    """A request of our names, as its sender writes it; None leaves an entry out."""
    seen = observation()
    whole = {"left": seen.left, "right": seen.right, "instruction": seen.instruction, **changes}
    return {name: value for name, value in whole.items() if value is not None}


still = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.float32), (HORIZON, 2))
assert still.shape == (HORIZON, ACTION_DIM)


def serving(*, max_batch=8, hang_seconds=60.0, **settings):
    """The address of a server with it, for a block."""
    return served(
        lambda: ProcessEngine(SPEC, open=open_stand_in, max_batch=max_batch, hang_seconds=hang_seconds),
        ServerSettings(**{"port": 0, **settings}, max_batch=max_batch),
    )
