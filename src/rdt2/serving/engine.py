"""What computes: a policy in a process of its own, warm before anybody asks, killed when it hangs, started again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON, ActionChunk, Promise
from rdt2.errors import RDT2Error, ServingError
from rdt2.observation import IMAGE_SIZE, Observation
from rdt2.policy.process import Opener, PolicyProcess
from rdt2.policy.spec import PolicySpec
from rdt2.serving.requests import Request

if TYPE_CHECKING:
    from rdt2.policy import Policy

log = logging.getLogger(__name__)

HANG_SECONDS = 60.0
SENTENCE = "Pick up the red cube with the left hand."
_PAUSES = (1.0, 30.0)  # s between attempts to start a policy again: the first, and what they double up to
_GLANCE = 0.1  # s between looks at whether it lives
FIRST_WARM_UP = 1800.0
"""Seconds of the first: compiled for every batch size by a slow machine it takes minutes. Later ones are measured by
how long it took."""

Outcome = ActionChunk | Exception


class Engine(Protocol):
    """What a server asks. One that has several policies computes as many batches at a time."""

    slots: int
    """Batches at a time."""

    restarts: int
    """Times a policy was started again."""

    hang_seconds: float
    """What takes longer is given up."""

    @property
    def about(self) -> dict[str, Any]:
        """Of the policy, once it is started: keeps_promises, longest_promise, patience, model."""
        ...

    @property
    def ready_in(self) -> float:
        """Seconds until it can compute, as far as that is known; 0 when it can."""
        ...

    @property
    def measured(self) -> dict[int, float]:
        """Seconds of a batch by its size, as measured at the start."""
        ...

    async def start(self) -> None:
        """Load and warm up. Raises what loading raises."""
        ...

    async def compute(self, requests: Sequence[Request], seeds: Sequence[int]) -> list[Outcome]:
        """A chunk or an error for each request. Waits while the policy is started again."""
        ...

    async def close(self) -> None:
        """End it, also in the middle of a prediction."""
        ...


class ProcessEngine:
    """One policy, one process, one batch at a time.

    Args:
        spec: which policy.
        max_batch: requests at a time; what is compiled is compiled for 1, 2, 4 and so on.
        hang_seconds: a batch that takes longer is given up, and its process killed.
        open: what loads the policy, a function of a module; None is `load_policy`.
    """

    slots = 1

    def __init__(
        self,
        spec: PolicySpec,
        *,
        max_batch: int = 8,
        hang_seconds: float = HANG_SECONDS,
        open: Opener | None = None,
    ) -> None:
        self.spec, self.max_batch, self.hang_seconds = spec, max_batch, hang_seconds
        self.measured: dict[int, float] = {}
        self.restarts = 0
        self._open = open
        self._process: PolicyProcess | None = None
        self._ready = asyncio.Event()
        self._began = self._took = 0.0
        self._longest_warm_up = FIRST_WARM_UP
        self._restarting: asyncio.Task | None = None
        self._watching: asyncio.Task | None = None
        self._thread = Thread()
        self._closed = False

    @property
    def about(self) -> dict[str, Any]:
        """What a client hears of the policy when it connects."""
        assert self._process is not None, "started"
        return {
            "keeps_promises": self._process.keeps_promises,
            "longest_promise": self._process.longest_promise,
            "patience": self._process.patience,
            "model": self._process.about,
        }

    @property
    def ready_in(self) -> float:
        """Seconds until it will probably answer; 0 when it does."""
        if self._ready.is_set():
            return 0.0
        return max(0.1, left_of(self._took, time.monotonic() - self._began))

    async def start(self) -> None:
        """Load the policy in its process, and let it predict once."""
        self._began = time.monotonic()
        self._process = process = await self._thread.call(self._load)
        loaded = time.monotonic()
        try:
            await self._within(self._longest_warm_up, process, self._warm_up, process)
        except BaseException:
            process.close()
            raise
        ended = time.monotonic()
        self._longest_warm_up = 2 * (ended - loaded) + self.hang_seconds
        self._took = ended - self._began
        self._ready.set()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        log.info("policy ready", extra={"seconds": round(self._took, 3), "pid": process.pid})

    async def compute(self, requests: Sequence[Request], seeds: Sequence[int]) -> list[Outcome]:
        """Predict a batch, one outcome a request, in their order; what was raised is the outcome of its request."""
        await self._ready.wait()
        process = self._process
        assert process is not None
        try:
            return list(
                await self._within(self.hang_seconds, process, self._ask, process, requests, list(seeds))
            )
        except Exception as error:  # whatever a model raises: whoever asked must hear of it
            if not process.alive:
                self._restart()
                return [_gone(error)] * len(requests)
            if len(requests) == 1:
                return [error]
        # One request that the policy refuses is not to spoil those beside it.
        outcomes: list[Outcome] = []
        for request, seed in zip(requests, seeds, strict=True):
            outcomes += await self.compute([request], [seed])
        return outcomes

    async def close(self) -> None:
        """End the process, also one that is just being started."""
        self._closed = True
        for task in (self._watching, self._restarting):
            if task is not None:
                task.cancel()
        if self._process is not None:
            await asyncio.to_thread(self._process.close)
        self._thread.end()

    # ------------------------------------------------------------------------------------------- the process

    async def _within(
        self, seconds: float, process: PolicyProcess, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """What a function returns that asks the process. Raises ServingError: it took longer, and it was killed."""
        asked = self._thread.call(function, *arguments)
        done, _ = await asyncio.wait([asked], timeout=seconds)
        if not done:
            await asyncio.to_thread(process.close)  # which ends the asking, too
            with contextlib.suppress(RDT2Error):
                await asked
            raise ServingError(f"the policy has not answered for {round(seconds, 1):g} s and was killed.")
        return asked.result()

    def _ask(
        self, process: PolicyProcess, requests: Sequence[Request], seeds: list[int]
    ) -> list[ActionChunk]:
        count = len(requests)
        if self.spec.compile:  # what is compiled is compiled for the sizes of the warm-up
            size = next(size for size in self._sizes() if size >= count)
            requests = [*requests, *[requests[-1]] * (size - count)]
            seeds = [*seeds, *[seeds[-1]] * (size - count)]
        promised = [request.promise for request in requests]
        chunks = process.predict(
            [request.observation for request in requests],
            seed=seeds,
            promised=promised if any(promised) else None,
        )
        if not isinstance(chunks, list) or [type(chunk) for chunk in chunks] != [ActionChunk] * len(requests):
            raise ServingError(f"the policy answered {len(requests)} requests with {str(chunks)[:80]}.")
        return chunks[:count]

    async def _watch(self) -> None:
        """Start it again at once where it dies while nobody asks: the first who did would be told."""
        while True:
            await asyncio.sleep(_GLANCE)
            if self._process is not None and self._process.died():
                self._restart()

    def _restart(self) -> None:
        """Begin to load the policy again, behind the backs of those who wait."""
        if self._restarting is None and not self._closed:
            self._ready.clear()
            self.restarts += 1
            self._restarting = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        pause, most = _PAUSES
        while True:
            log.error("the policy's process is gone, another one is started")
            try:
                await self.start()
            except Exception:  # whatever loading raises: the next attempt may succeed, as when memory ran out
                log.exception("the policy could not be started again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
            else:
                self._restarting = None
                return

    def _load(self) -> PolicyProcess:
        process = PolicyProcess(self.spec, open=self._open, describe=described)
        if self._closed:
            process.close()
        return process

    # --------------------------------------------------------------------------------------------- the warm-up

    def _sizes(self) -> list[int]:
        """Batch sizes of the warm-up: powers of two and the largest."""
        sizes = [2**power for power in range(self.max_batch.bit_length())]
        return [size for size in sizes if size < self.max_batch] + [self.max_batch]

    def _warm_up(self, process: PolicyProcess) -> None:
        """Predict once or twice in every size, so that nobody who asks waits for what is made only once."""
        black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        still = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.float32), (HORIZON, 2))
        kept = Promise(still, fixed=min(3, process.longest_promise), known=12)
        promises = [None, kept] if process.keeps_promises else [None]
        state = np.ones(ACTION_DIM, np.float32)  # policies that read it refuse zeros
        seen = Observation(black, black, SENTENCE, state=state)
        sizes = self._sizes() if self.spec.compile else sorted({1, self.max_batch})
        for size in sizes:
            for promise in promises:
                for _ in range(2):  # the first may be slower
                    began = time.monotonic()
                    self._ask(process, [Request(seen, promise=promise)] * size, [0] * size)
                    took = time.monotonic() - began
            self.measured[size] = took


def left_of(expected: float, elapsed: float) -> float:
    """Seconds that something still takes; what has taken longer than expected takes as long again."""
    return expected - elapsed if elapsed < expected else elapsed


def described(spec: PolicySpec, policy: Policy) -> dict[str, Any]:
    """What clients are told of a policy, in plain values. Its place on this machine is not theirs to know."""
    name = Path(spec.policy).name if Path(spec.policy).expanduser().exists() else spec.policy
    found: dict[str, Any] = {"policy": name, "kind": type(policy).__name__}
    for option in ("steps", "temperature", "draws"):
        if (value := getattr(policy, option, None)) is not None:
            found[option] = value
    for part in ("normalizer", "tokenizer"):
        if (digest := getattr(getattr(policy, part, None), "digest", None)) is not None:
            found[f"{part}_digest"] = digest
    if type(policy).__module__.startswith("rdt2.policy."):
        from rdt2.policy.digests import file_digests
        from rdt2.policy.load import policy_parts  # here: the server's own process needs no torch

        with contextlib.suppress(RDT2Error):  # "untrained" has none
            parts = policy_parts(spec).parts
            found["files"] = {part: file_digests(place) for part, place in parts.items()}
    expert = getattr(policy, "expert", None)
    found["reads_state"] = bool(getattr(getattr(expert, "config", None), "reads_state", False))
    given = dataclasses.asdict(spec)
    return {**found, **{option: given[option] for option in ("dtype", "quantize", "compile", "revision")}}


class Thread:
    """Calls functions one after the other. It keeps no program from ending, though loading may take minutes."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="policy", daemon=True).start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """What the function returns, or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def tell(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def work() -> None:
            result, failure = None, None
            try:
                result = function(*arguments)
            except BaseException as error:  # raised where it is awaited
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, result, failure)

        self._calls.put(work)
        return future

    def end(self) -> None:
        """After what was asked for."""
        self._calls.put(None)

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


def _gone(error: Exception) -> ServingError:
    return ServingError(f"{error} It is started again; ask again.", reason="failed")
