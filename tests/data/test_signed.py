"""Ranges at signed addresses: over connections that stay open, from servers that close them or refuse."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Ranges, ranges, web_server

from rdt2.data.shards import signed
from rdt2.data.shards.signed import read_signed

URL = "s3://robots/shard.tar"
BYTES = bytes(range(256)) * 8


class Keeping(Ranges):
    """Keeps connections open, as S3 does, and counts them."""

    protocol_version = "HTTP/1.1"
    connections = 0
    forgets = False
    """Connections are closed behind an answer that does not say so."""

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_GET(self) -> None:
        super().do_GET()
        self.close_connection |= self.forgets


@pytest.fixture
def handler() -> type[Keeping]:
    return type("Handler", (Keeping, ranges()), {})


@pytest.fixture
def server(tmp_path: Path, handler: type[Keeping], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(signed, "_signed", {})
    monkeypatch.setattr(signed, "_connections", signed._Connections())
    (tmp_path / "shard.tar").write_bytes(BYTES)
    with web_server(tmp_path, handler) as address:
        yield address


def read(server: str, begin: int) -> bytes | None:
    return read_signed(URL, begin, begin + 100, lambda _: f"{server}/shard.tar?Signature=a%2Fb")


def test_a_connection_stays_open(server: str, handler: type[Keeping]) -> None:
    """For all ranges of a thread; another thread has its own."""
    for begin in (0, 700, 300):
        assert read(server, begin) == BYTES[begin : begin + 100]
    assert handler.connections == 1
    thread = threading.Thread(target=read, args=(server, 0))
    thread.start()
    thread.join()
    assert handler.connections == 2


def test_a_server_may_close_what_it_kept(server: str, handler: type[Keeping]) -> None:
    """It is asked once more, and no S3 client."""
    handler.forgets = True
    for begin in (0, 700, 300):
        assert read(server, begin) == BYTES[begin : begin + 100]
    assert handler.connections == 3


def test_a_process_made_by_fork_has_its_own(server: str, handler: type[Keeping]) -> None:
    """Of a program that does nothing else: a fork of this one hung once, by what other tests had left in it."""
    program = f"""
from rdt2.data.loader import batches_ahead
from rdt2.data.shards.signed import read_signed

def read(begin):
    return read_signed({URL!r}, begin, begin + 100, lambda _: "{server}/shard.tar?Signature=a%2Fb")

print([read(0), *batches_ahead(read, [700, 300], workers=2), read(0)])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    expected = [BYTES[begin : begin + 100] for begin in (0, 700, 300, 0)]
    assert ended.stdout.strip() == str(expected), ended.stderr
    assert handler.connections == 3


@pytest.mark.parametrize("name", ["nothing.tar", "shard.tar"])
def test_what_is_not_given_is_the_clients(
    server: str, handler: type[Keeping], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there, or a server that knows no ranges; it is not asked again soon."""
    monkeypatch.setattr(signed, "_UNSIGNED_S", 600)
    if name == "shard.tar":
        monkeypatch.setattr(handler, "do_GET", http.server.SimpleHTTPRequestHandler.do_GET)
    for _ in range(2):
        assert read_signed(URL, 0, 100, lambda _: f"{server}/{name}") is None
    assert handler.connections == 1


def test_the_client_goes_by_the_proxy(
    server: str, handler: type[Keeping], monkeypatch: pytest.MonkeyPatch
) -> None:
    """regression: ten seconds were waited each minute for a server that only the proxy reaches."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "elsewhere")
    assert read(server, 0) is None
    assert handler.connections == 0
    signed._signed.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert read(server, 0) == BYTES[:100]
