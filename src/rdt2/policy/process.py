"""A policy in a process of its own, for whoever drives a robot.

Python runs one thread at a time: a policy that computes in the process of the servo holds the servo up for moments. In
a process of its own it holds up nobody, and where it hangs or dies it takes nothing along.

    with PolicyProcess(PolicySpec(policy="demo-fm")) as policy:
        run_episode(robot, policy, ...)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

from rdt2.errors import CheckpointError, RDT2Error
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.action import ActionChunk, Promise
    from rdt2.observation import Observation
    from rdt2.policy.base import Policy

Opener = Callable[[PolicySpec], "Policy"]


class PolicyProcess:
    """A `Policy` whose predictions happen elsewhere. Close it, or use it in a `with` statement.

    It may be asked from any thread, one question at a time. Its process ends with this one, however this one ends.

    Args:
        spec: which policy; it is loaded there.
        open: what loads it, a function of a module; None is `load_policy`.

    Raises:
        Whatever loading raises. CheckpointError: the process died while it loaded.
    """

    def __init__(self, spec: PolicySpec, *, open: Opener | None = None) -> None:
        context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
        self._asking, self._closed = threading.Lock(), False
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, open), name="policy", daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.keeps_promises, self.patience = self._reply()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that computes."""
        return int(self._process.pid or 0)

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """As the policy's own. Raises what it raises, and CheckpointError at once where its process has died."""
        with self._asking:
            if self._closed:
                self._gone()
            try:
                self._pipe.send((observations, seed, promised))
            except OSError:
                self._gone()
            return self._reply()

    def close(self) -> None:
        """End the process, also in the middle of a prediction: whoever waits for it gets a CheckpointError. Again:
        nothing happens."""
        self._closed = True
        self._process.kill()
        with self._asking:
            self._process.join()
            self._pipe.close()

    def __enter__(self) -> PolicyProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reply(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            self._gone()
        if not good:
            raise value
        return value

    def _gone(self) -> NoReturn:
        if self._closed:
            raise CheckpointError("the policy's process was closed. Start another one.") from None
        self._process.join(1.0)
        raise CheckpointError(
            f"the policy's process has died (exit code {self._process.exitcode}; -9: killed, often because memory ran "
            "out). Start another one, and if it dies again try the policy alone: rdt2 predict."
        ) from None


def _serve(pipe: Connection, spec: PolicySpec, open: Opener | None) -> None:
    """Load a policy and answer, until whoever asks has gone."""
    for name in ("SIGINT", "SIGHUP"):  # of the terminal: meant for the process that must stop the arms
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        try:
            policy = (open or _load)(spec)
            pipe.send((True, (policy.keeps_promises, policy.patience)))
        except Exception as error:
            pipe.send((False, _told(error)))
            return
        while True:
            observations, seed, promised = pipe.recv()
            asked = {"seed": seed} if promised is None else {"seed": seed, "promised": promised}
            answer: tuple[bool, Any]
            try:
                answer = True, policy.predict(observations, **asked)
            except Exception as error:
                answer = False, _told(error)
            pipe.send(answer)


def _load(spec: PolicySpec) -> Policy:
    from rdt2.policy.load import load_policy  # here: whoever only asks needs no torch

    return load_policy(spec)


def _end_with_parent() -> None:
    """Also in the middle of a prediction that never ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _told(error: Exception) -> Exception:
    """The error itself where it can be sent, else its words; of one that nobody foresaw, the place goes to stderr."""
    if not isinstance(error, RDT2Error):
        traceback.print_exc()
    try:
        # A trial of what the pipe will do with it; nothing from outside is read.
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the classes of others do when they are pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
