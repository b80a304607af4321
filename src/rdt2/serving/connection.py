"""One client: its requests, one after the other, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rdt2.errors import RDT2Error, ServingError, WireError
from rdt2.policy import messages
from rdt2.serving.adapters import Form
from rdt2.serving.batching import Answer, Queue
from rdt2.serving.metrics import Metrics
from rdt2.serving.requests import Request, needs_work, read_entries, read_request
from rdt2.serving.security import Bounds, Rate
from rdt2.wire import Limits, packed

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from websockets.asyncio.server import ServerConnection

log = logging.getLogger(__name__)

_LONGEST = 8000
"""Characters of an error that is sent in words."""


@dataclass(eq=False)
class Connection:
    """Answers one client until it leaves.

    What the client does wrong is told in a text frame, and the next request is answered as if nothing had been. Where
    the policy fails, the connection is closed behind the text (1011), as openpi's server does.
    """

    socket: ServerConnection
    queue: Queue
    metrics: Metrics
    bounds: Bounds
    form: Form
    readers: Executor
    name: str
    """The first part of its requests' names."""
    busy: bool = False
    """Whether a request is being answered."""
    stopping: bool = False
    """No further request is answered."""
    _count: int = 0
    _previous_ms: float | None = None
    _modern: bool = field(init=False)
    """The client reads errors as objects, and looks at `valid` before it executes a chunk."""

    def __post_init__(self) -> None:
        request = self.socket.request
        accepts = request.headers.get(messages.ACCEPT[0], "") if request is not None else ""
        self._modern = messages.ACCEPT[1] in accepts

    async def run(self, metadata: bytes) -> None:
        """Greet, and answer until the client has gone."""
        from websockets.exceptions import ConnectionClosed
        from websockets.frames import CloseCode

        rate = Rate(self.bounds.requests_per_second, 10 * self.bounds.requests_per_second)
        gone = asyncio.create_task(self.socket.wait_closed())
        try:
            await self._send(metadata)
            while not self.stopping:
                data = await self.socket.recv()
                self.busy = True
                try:
                    await self._answer(data, rate, gone)
                finally:
                    self.busy = False
            await self.socket.close(1001, "the server stops")
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self.metrics.requests.labels("too large").inc()
                log.warning("a message is too large", extra={"client": self.name})
        except OSError:
            pass  # it has gone, or does not read: nobody is left to be told
        finally:
            gone.cancel()

    async def _answer(self, data: bytes | str, rate: Rate, gone: asyncio.Task) -> None:
        arrived = time.monotonic()
        self._count += 1
        identity = f"{self.name}-{self._count}"
        try:
            if pause := rate.wait():
                raise ServingError(
                    f"more than {self.bounds.requests_per_second:g} requests a second: the next is read in "
                    f"{pause:.2f} s.",
                    reason="busy",
                )
            request = await self._read(data)
            decoded = time.monotonic()
            answer = await self._ask(request, arrived, gone)
            if not answer.chunk.valid and not self._modern:
                # A client that does not know `valid` would execute it.
                raise ServingError(f"the chunk is not valid and must not be executed: {answer.chunk.reason}")
            await self._reply(answer, identity, arrived, decoded)
            self._note(identity, "answered", arrived, answer)
        except (RDT2Error, _Unforeseen) as error:
            await self._refuse(error, identity, arrived)
            if pause:
                await asyncio.sleep(pause)

    async def _read(self, data: bytes | str) -> Request:
        try:
            entries = read_entries(data, Limits(message_bytes=self.bounds.message_bytes))
            if not needs_work(entries):
                return read_request(entries, form=self.form)
            # Beside the loop, which answers signs of life and reads what others send.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.readers, lambda: read_request(entries, form=self.form))
        except RDT2Error:
            raise
        except Exception as error:  # that nobody foresaw it is its sender's mistake, and no reason to end
            log.exception("a message could not be read")
            raise WireError(f"the message cannot be read ({type(error).__name__}).") from error

    async def _ask(self, request: Request, arrived: float, gone: asyncio.Task) -> Answer:
        """Wait for the chunk, or for the client to go."""
        try:
            return await self.queue.ask(request, arrived, gone)
        except RDT2Error:
            raise
        except Exception as error:
            raise _Unforeseen(error) from error

    async def _reply(self, answer: Answer, identity: str, arrived: float, decoded: float) -> None:
        timing = {
            "infer_ms": 1000 * answer.computed,
            "decode_ms": 1000 * (decoded - arrived),
            "queue_ms": 1000 * max(0.0, answer.queued - (decoded - arrived)),
            "total_ms": 1000 * (time.monotonic() - arrived),
        }
        if self._previous_ms is not None:
            timing["prev_total_ms"] = self._previous_ms
        for stage in ("decode", "queue", "infer"):
            self.metrics.seconds.labels(stage).observe(timing[f"{stage}_ms"] / 1000)
        message = messages.reply(
            answer.chunk,
            identity=identity,
            seed=answer.seed,
            batch=answer.batch,
            queue_seconds=self.queue.wait_seconds(),
            server_timing=timing,
        )
        await self._send(packed(message))
        self._previous_ms = 1000 * (time.monotonic() - arrived)
        self.metrics.seconds.labels("total").observe(self._previous_ms / 1000)

    async def _refuse(self, error: RDT2Error | _Unforeseen, identity: str, arrived: float) -> None:
        outcome = "bad input" if not isinstance(error, ServingError) else error.reason
        if isinstance(error, _Unforeseen):
            outcome = "failed"
        text = error.text(identity, self._modern) if isinstance(error, _Unforeseen) else messages.error_text(
            error, identity=identity, as_object=self._modern
        )  # fmt: skip
        self._note(identity, outcome, arrived, error=error)
        await self._send(text if self._modern else shortened(text))
        if isinstance(error, _Unforeseen):
            await self.socket.close(1011, "the policy failed; see the last message")

    async def _send(self, data: bytes | str) -> None:
        """Send, unless the client does not read: then the connection is given up."""
        alarm = asyncio.get_running_loop().call_later(self.bounds.send_seconds, self._give_up)
        try:
            await self.socket.send(data)
        finally:
            alarm.cancel()

    def _give_up(self) -> None:
        log.warning("a client does not read", extra={"client": self.name})
        self.socket.transport.abort()

    def _note(
        self,
        identity: str,
        outcome: str,
        arrived: float,
        answer: Answer | None = None,
        error: Exception | None = None,
    ) -> None:
        self.metrics.requests.labels(outcome).inc()
        told: dict[str, Any] = {
            "request": identity,
            "outcome": outcome,
            "total_ms": round(1000 * (time.monotonic() - arrived), 2),
        }
        if answer is not None:
            told |= {"batch": answer.batch, "infer_ms": round(1000 * answer.computed, 2), "seed": answer.seed}
        if error is not None:
            told["error"] = str(error)[:500]
        level = logging.ERROR if outcome == "failed" else logging.INFO
        log.log(level, "request", extra=told)


def shortened(text: str, most: int = _LONGEST) -> str:
    """A text without its middle, where it is longer: what was raised, and the request's name, stand at its end."""
    if len(text) <= most:
        return text
    gap = "\n...\n"
    head = (most - len(gap)) // 2
    return text[:head] + gap + text[len(gap) + head - most :]


class _Unforeseen(Exception):
    """What a policy raised that is no error of ours: told with the place, as openpi's server tells it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error

    def text(self, identity: str, as_object: bool) -> str:
        """What is sent."""
        if as_object:
            return messages.error_text(self.error, identity=identity, as_object=True)
        with contextlib.suppress(AttributeError):
            return f"{self.error.remote_traceback}[request {identity}]"  # type: ignore[attr-defined]
        return "".join(traceback.format_exception(self.error)) + f"[request {identity}]"
