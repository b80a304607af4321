"""Who gets to the operator's page: it listens where it was told to, who reaches it from elsewhere brings its key, and
other people's pages cannot press its buttons.

A browser lets any page that it shows talk to a server on the same machine. viser takes everybody, so requests are
looked at before viser sees them: a page must come from the address it talks to, and a page on loopback answers to
loopback's names alone. The key comes once, in the address; a cookie carries it from then on, to the websocket, too.
"""

from __future__ import annotations

import hashlib
import hmac
import http
import logging
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from rdt2.errors import ConfigError
from rdt2.serving.security import in_handshake, is_loopback, read_key

_HANDSHAKES = 64
"""Sockets that have not said yet what they want; a browser opens six."""


def open_server(host: str, port: int, key_file: Path | None = None) -> tuple[Any, str]:
    """A viser server and the page's address, with its key: that of a file, else off loopback one made for this time.

    Raises:
        ConfigError: viser is not installed, the address cannot be had, or the file holds no key.
    """
    try:
        import viser
        from websockets.asyncio import server as sockets
    except ImportError as error:
        raise ConfigError(
            f"the operator's page needs viser ({error}). Install the extra: pip install 'rdt2[dashboard]'."
        ) from None
    if not 0 <= port < 65536:
        raise ConfigError(f"--dashboard-port is {port}, expected 0 to 65535 (0: any free one).")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise ConfigError(
            f"--dashboard-host {host}: this machine cannot listen there ({error.strerror}). Expected 127.0.0.1 for "
            "this machine alone, 0.0.0.0 for every network it is in, or one of its own addresses."
        ) from None
    key = read_key(key_file) if key_file is not None else None if is_loopback(host) else secrets.token_hex(8)
    viser_serves = sockets.serve

    def serve(*args: Any, process_request: Any = None, **options: Any) -> Any:
        def look(connection: Any, request: Any) -> Any:
            if refusal := refused(request.headers.get("Host"), request.headers.get("Origin"), host):
                return connection.respond(http.HTTPStatus.FORBIDDEN, refusal)
            if key is not None and (answer := _asked_for_key(connection, request, key)) is not None:
                return answer
            return process_request(connection, request)

        quiet = logging.getLogger("rdt2.dashboard.websockets")
        quiet.setLevel(logging.CRITICAL)  # strangers that speak no websocket are not worth a traceback each
        bounded = in_handshake(_HANDSHAKES)
        return viser_serves(*args, process_request=look, create_connection=bounded, logger=quiet, **options)

    # viser has no option for it; this process has no other server
    setattr(sockets, "serve", serve)  # noqa: B010
    server = viser.ViserServer(host=host, port=port, label="RDT2", verbose=False)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{server.get_port()}"
    return server, address if key is None else f"{address}/?{urlencode({'key': key})}"


def _asked_for_key(connection: Any, request: Any, key: str) -> Any:
    """None for a request with the cookie; the cookie for one that has the key in its address; else a refusal."""
    # Cookies know no ports: pages of several robots on one machine have names of their own.
    name = f"rdt2-{request.headers.get('Host', '').rpartition(':')[2]}"
    mark = hashlib.sha256(key.encode()).hexdigest()
    if _same(_cookie(request.headers.get_all("Cookie"), name), mark):
        return None
    if not _same("".join(parse_qs(urlsplit(request.path).query).get("key", [])), key):
        return connection.respond(
            http.HTTPStatus.UNAUTHORIZED,
            "This page wants its key: open the whole address that was printed where it was started, with ?key=... in "
            "it, and the name or number by which you reach that machine.\n",
        )
    answer = connection.respond(http.HTTPStatus.SEE_OTHER, "")
    answer.headers["Location"] = "/"  # so that the address that is shown holds no key
    answer.headers["Set-Cookie"] = f"{name}={mark}; Path=/; HttpOnly; SameSite=Lax"
    return answer


def _cookie(headers: list[str], name: str) -> str:
    try:
        found = SimpleCookie("; ".join(headers)).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(given: str, key: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())


def refused(asked: str | None, origin: str | None, host: str) -> str:
    """Why a request is not answered; "" where it is.

    Args:
        asked: the address it names (its header Host).
        origin: where the page that sends it comes from (its header Origin); None for none.
        host: where the server listens.
    """
    if is_loopback(host) and not is_loopback(urlsplit(f"//{asked}").hostname or ""):
        return f"this page answers to localhost, not to {asked}.\n"
    if origin is not None and urlsplit(origin).netloc != asked:
        return f"a page of {origin} may not talk to {asked}.\n"
    return ""
