"""Who may ask, and how much: API keys, TLS, limits."""

from __future__ import annotations

import hmac
import logging
import ssl
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.errors import ConfigError
from rdt2.policy.client import is_loopback, read_key

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

log = logging.getLogger(__name__)

_PEERS = 1024
"""Addresses whose rate is remembered."""


@dataclass(frozen=True)
class Bounds:
    """What a server takes, in total and from one client."""

    message_bytes: int = 8 * 2**20
    """Of a message."""
    fragments: int = 8192
    """Of a message that comes in pieces; empty ones weigh nothing and are kept all the same."""
    unread_bytes: int = 2**20
    """Sent to a client and not read by it, as answers to its pings are: then the connection is given up."""
    connections: int = 64
    """At a time."""
    per_address: int = 32
    """Connections from one address at a time."""
    requests_per_second: float = 200.0
    """Of one connection; ten times that for a moment."""
    handshakes_per_second: float = 20.0
    """From one address."""
    handshake_seconds: float = 10.0
    """For a handshake."""
    handshakes: int = 64
    """Begun and not finished; one more ends the oldest. Under TLS: behind TLS's own, which has the same time."""
    send_seconds: float = 10.0
    """For a client to read its answer."""
    ping_seconds: float = 20.0
    """Between signs of life that are asked for, and for an answer to them."""


class Rate:
    """So many a second, and `burst` at once: a bucket that fills again."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._at = burst, time.monotonic()

    def wait(self) -> float:
        """Takes one; 0 if it was there, else the seconds until the next would be."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second


class Rates:
    """A rate for each address; the oldest are forgotten."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._limits = per_second, burst
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    def wait(self, address: str) -> float:
        """As of the rate of that address."""
        rate = self._rates.setdefault(address, Rate(*self._limits))
        self._rates.move_to_end(address)
        while len(self._rates) > _PEERS:
            self._rates.popitem(last=False)
        return rate.wait()


def allowed(header: str | None, key: str | None) -> bool:
    """Whether an Authorization header carries the key, in a time that does not tell how much of it is right."""
    if key is None:
        return True
    expected = f"Api-Key {key}".encode()
    return hmac.compare_digest((header or "").encode("utf-8", "surrogateescape"), expected)


def in_handshake(limit: int) -> type[ServerConnection]:
    """A kind of connection for websockets' `serve`, of which so many may be in their handshake at a time.

    One more ends the one that has taken longest: what speaks finishes in milliseconds, what only holds a socket open
    gives way.
    """
    from websockets.asyncio.server import ServerConnection

    begun: dict[ServerConnection, None] = {}

    class Bounded(ServerConnection):
        def connection_made(self, transport: Any) -> None:
            if len(begun) >= limit:
                oldest = next(iter(begun))
                del begun[oldest]
                oldest.transport.abort()
            begun[self] = None
            super().connection_made(transport)

        async def handshake(self, *args: Any, **options: Any) -> None:
            try:
                await super().handshake(*args, **options)
            finally:
                begun.pop(self, None)

    return Bounded


def guarded(bounds: Bounds) -> type[ServerConnection]:
    """As `in_handshake`; it also ends clients that fill the memory with what no other bound counts."""
    from websockets.frames import DATA_OPCODES, Frame

    bounded: Any = in_handshake(bounds.handshakes)

    class Guarded(bounded):  # type: ignore[misc]
        _fragments = 0

        def process_event(self, event: Any) -> None:
            super().process_event(event)
            if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
                self._fragments = 0 if event.fin else self._fragments + 1
                if self._fragments > bounds.fragments:
                    self._end("it sends a message in too many pieces")

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.transport.get_write_buffer_size() > bounds.unread_bytes:
                self._end("it asks for answers and does not read them")

        def _end(self, why: str) -> None:
            if not self.transport.is_closing():
                client = (self.remote_address or ("unknown",))[0]
                log.warning("a client is given up", extra={"client": client, "reason": why})
                self.transport.abort()

    return Guarded


def required_key(host: str, api_key_file: str | Path | None, *, open_to_all: bool) -> str | None:
    """The key of a server, or None where none is asked for.

    Raises:
        ConfigError: other machines would reach a server without a key, and nobody said that this is meant.
    """
    if api_key_file is not None:
        return read_key(api_key_file)
    if is_loopback(host) or open_to_all:
        return None
    raise ConfigError(
        f"--host {host} can be reached from other machines: anybody there could ask it, and fill its line. Make a key "
        "(openssl rand -hex 32 > key) and pass --api-key-file key, or --without-key where the network is yours."
    )


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What encrypts; None without a certificate.

    Raises:
        ConfigError: one of the two files alone, or files that are no such thing.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("--tls-cert and --tls-key belong together: pass both, or neither.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # No tickets to come back with: they follow the handshake, and a client that reads in one thread while another
    # sends its first message, as websockets' synchronous one and so openpi's, loses one connection in fifty to that.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--tls-cert {certificate} and --tls-key {key}: cannot be read ({error}); expected PEM."
        ) from error
    return context
