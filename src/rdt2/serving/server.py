"""The server: sockets, who gets in, health and metrics, and an end that lets nobody down."""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rdt2.allocation import keep_freed_memory
from rdt2.errors import ConfigError
from rdt2.policy import messages
from rdt2.policy.client import KEY_IN_CLEAR, is_loopback
from rdt2.serving.adapters import Form
from rdt2.serving.batching import MAX_QUEUE, Queue
from rdt2.serving.connection import Connection
from rdt2.serving.engine import Engine
from rdt2.serving.metrics import Metrics
from rdt2.serving.security import Bounds, Rates, allowed, guarded
from rdt2.wire import packed

if TYPE_CHECKING:
    import ssl

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request as HTTPRequest
    from websockets.http11 import Response

log = logging.getLogger(__name__)
_READERS = 2
"""Threads that read messages: pictures are unpacked beside the loop that answers pings."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens, and what it takes."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any that is free."""
    form: Form = "auto"
    """Of the observations; see `rdt2.serving.adapters`."""
    api_key: str | None = None
    tls: ssl.SSLContext | None = None
    max_batch: int = 8
    max_queue: int = MAX_QUEUE
    drain_seconds: float = 10.0
    """When it is to end, requests being answered have so long."""
    bounds: Bounds = field(default_factory=Bounds)


class PolicyServer:
    """A policy for many robots over websockets, in openpi's protocol.

    Args:
        engine: what computes; it is started here, and closed.
        settings: where and how.
    """

    def __init__(self, engine: Engine, settings: ServerSettings | None = None) -> None:
        self.engine, self.settings = engine, settings or ServerSettings()
        self.port = self.settings.port
        self._stop = asyncio.Event()
        self._connections: set[Connection] = set()
        self._addresses: Counter[str] = Counter()
        self._handshakes = Rates(
            self.settings.bounds.handshakes_per_second, 10 * self.settings.bounds.handshakes_per_second
        )

    def stop(self) -> None:
        """Take nothing new, answer what is being computed, and end."""
        self._stop.set()

    async def run(
        self, *, on_ready: Callable[[PolicyServer], None] | None = None, signals: bool = False
    ) -> None:
        """Load, warm up, listen, and answer until `stop`.

        Args:
            on_ready: called when clients may come.
            signals: SIGTERM and SIGINT stop it; a second one ends it at once.

        Raises:
            ConfigError: the port cannot be had. What loading the policy raises.
        """
        keep_freed_memory()
        settings = self.settings
        listening = _bound(settings.host, settings.port)
        self.port = listening.getsockname()[1]
        try:
            with self._signals() if signals else contextlib.nullcontext():
                await self._unless_stopped(self.engine.start())
                if not self._stop.is_set():
                    await self._serve(listening, on_ready)
        finally:
            listening.close()
            await self.engine.close()

    async def _serve(self, listening: socket.socket, on_ready: Callable[[PolicyServer], None] | None) -> None:
        from websockets.asyncio.server import serve

        settings, bounds = self.settings, self.settings.bounds
        self.metrics = Metrics(
            queue=lambda: self.queue.length,
            connections=lambda: len(self._connections),
            ready=lambda: float(self._healthy()),
            restarts=lambda: self.engine.restarts,
        )
        self.queue = Queue(
            self.engine,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            on_batch=lambda size, _: self.metrics.batch.observe(size),
        )
        about = {
            **self.engine.about,
            "form": settings.form,
            "limits": {"message_bytes": bounds.message_bytes, "batch": settings.max_batch},
        }
        self._metadata = packed(messages.metadata(about))
        quiet = logging.getLogger("rdt2.serving.websockets")
        quiet.setLevel(logging.CRITICAL)  # strangers that speak no websocket are not worth a traceback each
        with ThreadPoolExecutor(_READERS, thread_name_prefix="reader") as self._readers:
            server = await serve(
                self._handle,
                sock=listening,
                ssl=settings.tls,
                process_request=self._admit,
                origins=[None],  # no web page: a browser would let any of them ask a server of its machine
                compression=None,
                server_header=None,
                open_timeout=bounds.handshake_seconds,
                ping_interval=bounds.ping_seconds,
                ping_timeout=bounds.ping_seconds,
                close_timeout=2.0,
                max_size=bounds.message_bytes,
                max_queue=2,
                create_connection=guarded(bounds),
                logger=quiet,
            )
            log.info(
                "listening", extra={"host": settings.host, "port": self.port, "tls": settings.tls is not None}
            )
            if settings.api_key is not None and settings.tls is None and not is_loopback(settings.host):
                log.warning(KEY_IN_CLEAR)
            if on_ready is not None:
                on_ready(self)
            try:
                await self._stop.wait()
                await self._drain()
            finally:
                server.close()
                await self.queue.close()
                await server.wait_closed()
        log.info("stopped")

    async def _drain(self) -> None:
        """Let those who wait have their answers; the others are sent away."""
        log.info("stopping", extra={"connections": len(self._connections), "waiting": self.queue.length})
        idle = []
        for connection in self._connections:
            connection.stopping = True
            if not connection.busy:
                idle.append(connection.socket.close(1001, "the server stops"))
        await asyncio.gather(*idle, return_exceptions=True)
        until = time.monotonic() + self.settings.drain_seconds
        while any(connection.busy for connection in self._connections) and time.monotonic() < until:
            await asyncio.sleep(0.01)

    # ---------------------------------------------------------------------------------------------- who gets in

    async def _admit(self, connection: ServerConnection, request: HTTPRequest) -> Response | None:
        """Health and metrics; else None for a client that may ask, or why it may not."""
        address = _address(connection)
        if request.path == "/healthz":
            if self._healthy():
                return connection.respond(http.HTTPStatus.OK, "OK\n")
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the policy is not ready\n")
        if self._handshakes.wait(address):
            return self._turn_away(
                connection, "rate", http.HTTPStatus.TOO_MANY_REQUESTS, "too many connections a second"
            )
        key = request.headers.get("Authorization")
        if not allowed(key, self.settings.api_key):
            problem = "asks for its API key" if key is None else "has another API key than the one that came"
            return self._turn_away(
                connection, "key", http.HTTPStatus.UNAUTHORIZED,
                f"this server {problem}: pass api_key_file=FILE (header 'Authorization: Api-Key KEY')",
            )  # fmt: skip
        if request.path == "/metrics":
            text, kind = self.metrics.text()
            response = connection.respond(http.HTTPStatus.OK, text.decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = kind
            return response
        if request.path.split("?")[0] not in ("", "/"):
            return connection.respond(
                http.HTTPStatus.NOT_FOUND, "there are /, for policies' clients, /healthz and /metrics\n"
            )
        if self._stop.is_set():
            return self._turn_away(
                connection, "stopping", http.HTTPStatus.SERVICE_UNAVAILABLE, "the server stops"
            )
        bounds = self.settings.bounds
        if len(self._connections) >= bounds.connections or self._addresses[address] >= bounds.per_address:
            return self._turn_away(
                connection, "connections", http.HTTPStatus.SERVICE_UNAVAILABLE,
                f"{len(self._connections)} clients are connected, {self._addresses[address]} of them from your address",
            )  # fmt: skip
        return None

    def _turn_away(
        self, connection: ServerConnection, reason: str, status: http.HTTPStatus, words: str
    ) -> Response:
        self.metrics.handshakes.labels(reason).inc()
        log.warning("connection refused", extra={"client": _address(connection), "reason": reason})
        return connection.respond(status, words + "\n")

    async def _handle(self, socket: ServerConnection) -> None:
        address = _address(socket)
        connection = Connection(
            socket, self.queue, self.metrics, self.settings.bounds, self.settings.form, self._readers,
            name=secrets.token_hex(4),
        )  # fmt: skip
        self._connections.add(connection)
        self._addresses[address] += 1
        log.info("connected", extra={"client": address, "name_of_requests": connection.name})
        try:
            await connection.run(self._metadata)
        except Exception:  # the others are served on; websockets closes this one with 1011
            log.exception(
                "a connection failed", extra={"client": address, "name_of_requests": connection.name}
            )
            raise
        finally:
            self._connections.discard(connection)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
            log.info("left", extra={"client": address, "name_of_requests": connection.name})

    def _healthy(self) -> bool:
        return self.engine.ready_in == 0 and not self._stop.is_set()

    # ------------------------------------------------------------------------------------------------- the end

    @contextlib.contextmanager
    def _signals(self) -> Any:
        loop = asyncio.get_running_loop()

        def heard() -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self.stop()

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, heard)
        try:
            yield
        finally:
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(name)

    async def _unless_stopped(self, starting: Any) -> None:
        """Await it, unless the server is to stop meanwhile."""
        task, stop = asyncio.ensure_future(starting), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address. Raises ConfigError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except BaseException:
            found.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}. Choose a free --port, and a --host that this machine has."
        ) from error
    return found


def _address(connection: ServerConnection) -> str:
    remote = connection.remote_address
    return str(remote[0]) if remote else "unknown"
