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
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

from rdt2.allocation import keep_freed_memory
from rdt2.errors import CheckpointError, RDT2Error
from rdt2.policy.spec import PolicySpec
from rdt2.threads import end_with_parent, leave_cores, leave_terminal_to_parent

if TYPE_CHECKING:
    from rdt2.action import ActionChunk, Promise
    from rdt2.observation import Observation
    from rdt2.policy.base import Policy

_PIPE_BYTES = 2**20  # what Linux allows everybody

Opener = Callable[[PolicySpec], "Policy"]
Describer = Callable[[PolicySpec, "Policy"], Any]

_DIED = (
    "the policy's process has died (exit code {}; -9: killed, often because memory ran out). Start another one, and if "
    "it dies again try the policy alone: rdt2 predict."
)
NICE = 5
"""How far it stands back behind those who drive arms, where the cores do not suffice for all."""


class PolicyProcess:
    """A `Policy` whose predictions happen elsewhere. Close it, or use it in a `with` statement.

    It may be asked from any thread, one question at a time. Its process ends with this one, however this one ends.

    Args:
        spec: which policy; it is loaded there.
        open: what loads it, a function of a module; None is `load_policy`.
        describe: what is to be known of it here, a function of a module that is called there with the spec and the
            policy; what it returns is `about`.

    Raises:
        Whatever loading raises. CheckpointError: the process died while it loaded.
    """

    def __init__(
        self, spec: PolicySpec, *, open: Opener | None = None, describe: Describer | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
        self._asking, self._closed = threading.Lock(), False
        asked, self._ask = context.Pipe(duplex=False)
        self._told, answer = context.Pipe(duplex=False)
        _widen(self._ask)
        self._process = context.Process(
            target=_serve, args=(asked, answer, spec, open, describe), name="policy", daemon=True
        )
        self._process.start()
        asked.close()
        answer.close()
        try:
            self.keeps_promises, self.longest_promise, self.patience, self.about = self._reply()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that computes."""
        return int(self._process.pid or 0)

    @property
    def alive(self) -> bool:
        """Whether it may be asked."""
        return not self._closed and self._process.is_alive()

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
                self._ask.send((observations, seed, promised))
            except OSError:
                self._gone()
            return self._reply()

    def died(self) -> str:
        """What became of its process if it ended by itself, known at once; empty while it lives. Never waits."""
        if self._closed or not connection.wait([self._process.sentinel], 0):
            return ""
        return _DIED.format(self._process.exitcode)

    def close(self) -> None:
        """End the process, also in the middle of a prediction: whoever waits for it gets a CheckpointError. Again:
        nothing happens."""
        self._closed = True
        self._process.kill()
        with self._asking:
            self._process.join()
            self._ask.close()
            self._told.close()

    def __enter__(self) -> PolicyProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reply(self) -> Any:
        try:
            good, value = self._told.recv()
        except (EOFError, OSError):
            self._gone()
        if not good:
            raise value
        return value

    def _gone(self) -> NoReturn:
        if self._closed:
            raise CheckpointError("the policy's process was closed. Start another one.") from None
        self._process.join(1.0)
        raise CheckpointError(_DIED.format(self._process.exitcode)) from None


def _serve(
    asked: Connection, answer: Connection, spec: PolicySpec, open: Opener | None, describe: Describer | None
) -> None:
    """Load a policy and answer, until whoever asks has gone."""
    leave_terminal_to_parent()
    if hasattr(os, "nice"):  # whoever started this one may be preferred
        os.nice(max(NICE - os.nice(0), 0))
    keep_freed_memory()
    end_with_parent()
    with contextlib.suppress(EOFError, OSError):
        try:
            policy = (open or _load)(spec)
            leave_cores(2)  # to whoever drives the arms, and to a simulated cell
            about = None if describe is None else describe(spec, policy)
            longest = policy.longest_promise if policy.keeps_promises else 0
            answer.send((True, (policy.keeps_promises, longest, policy.patience, about)))
        except Exception as error:
            answer.send((False, _told(error)))
            return
        while True:
            observations, seed, promised = asked.recv()
            options = {"seed": seed} if promised is None else {"seed": seed, "promised": promised}
            reply: tuple[bool, Any]
            try:
                reply = True, policy.predict(observations, **options)
            except Exception as error:
                reply = False, _told(error)
            answer.send(reply)


def _widen(pipe: Connection) -> None:
    """Let two pictures through at once, where the system can: else both sides wait for each other many times."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _load(spec: PolicySpec) -> Policy:
    from rdt2.policy.load import load_policy  # here: whoever only asks needs no torch

    return load_policy(spec)


def _told(error: Exception) -> Exception:
    """The error itself where it can be sent, else its words; of one that nobody foresaw, the place goes to stderr."""
    if not isinstance(error, RDT2Error):
        traceback.print_exc()
    error.__dict__["remote_traceback"] = traceback.format_exc()
    try:
        # A trial of what the pipe will do with it; nothing from outside is read.
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the classes of others do when they are pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
