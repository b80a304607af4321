"""Files in S3 by plain https: at a signed address, over connections that stay open, one for each thread and server.

A range costs a core a third of a millisecond so. urllib3 takes half as much again, fsspec's client for http twice as
much, and the S3 client five times: next to four or five for decoding the picture in it.
"""

from __future__ import annotations

import functools
import http.client
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

_SIGNED_S, _UNSIGNED_S = 1800, 60
"""How long a signed address is used, which is good for twice as long; and how long none is, where one failed."""
_CONNECT_S, _READ_S = 10, 60


class _Place(NamedTuple):
    """What a signed address says: a server, and what is asked of it."""

    scheme: str
    server: str
    target: str


_signed: dict[str, tuple[float, _Place | None]] = {}
"""URL -> until when, and where it is read; None where that does not work."""


def read_signed(url: str, begin: int, end: int, sign: Callable[[int], str]) -> bytes | None:
    """A range of a file; None where it is not given so, and the S3 client has to say why.

    sign: the address at which the file is read for so many seconds; asked for once in half an hour.
    """
    until, place = _signed.get(url, (0.0, None))
    if time.monotonic() > until:
        try:
            place = _place(sign(2 * _SIGNED_S))
        except Exception:  # without credentials; then the S3 client says so
            place = None
        _signed[url] = (time.monotonic() + _SIGNED_S, place)
    if place is None:
        return None
    data = _get(place, begin, end)
    if data is None:
        # It ran out, or the bucket wants more than a signature.
        _signed[url] = (time.monotonic() + _UNSIGNED_S, None)
    return data


def _place(address: str) -> _Place | None:
    parts = urlsplit(address)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or ""):
        return None  # the S3 client goes by the proxy
    return _Place(parts.scheme, parts.netloc, f"{parts.path}?{parts.query}")


def _get(place: _Place, begin: int, end: int) -> bytes | None:
    connection = _connection(place)
    kept = connection.sock is not None
    try:
        if not kept:
            connection.connect()
            connection.sock.settimeout(_READ_S)
        connection.request("GET", place.target, headers={"Range": f"bytes={begin}-{end - 1}"})
        answer = connection.getresponse()
        data = answer.read() if answer.status == 206 else None
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        # A server closes what was idle for long.
        return _get(place, begin, end) if kept and not isinstance(error, TimeoutError) else None
    if data is None:
        connection.close()  # with what else it says: a page, or all of the file
    return data


class _Connections(threading.local):
    """Those of this thread, by scheme and server."""

    process = 0
    """That they belong to: one that a fork shares would carry two conversations."""
    open: dict[tuple[str, str], http.client.HTTPConnection]


_connections = _Connections()


def _connection(place: _Place) -> http.client.HTTPConnection:
    mine = _connections
    if mine.process != os.getpid():
        mine.process, mine.open = os.getpid(), {}
    if (connection := mine.open.get(place[:2])) is None:
        if place.scheme == "https":
            connection = http.client.HTTPSConnection(place.server, timeout=_CONNECT_S, context=_trusted())
        else:
            connection = http.client.HTTPConnection(place.server, timeout=_CONNECT_S)
        mine.open[place[:2]] = connection
    return connection


@functools.lru_cache(1)
def _trusted() -> ssl.SSLContext:
    """The authorities that this machine trusts, read once: some tens of milliseconds."""
    return ssl.create_default_context()
