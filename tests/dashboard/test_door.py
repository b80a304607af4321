"""Who gets to an operator's page: nobody without its key from elsewhere, and no pages of other people."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from rdt2.dashboard.door import open_server, refused
from rdt2.errors import ConfigError


@pytest.mark.parametrize(
    ("asked", "origin", "host"),
    [
        ("127.0.0.1:8060", "http://127.0.0.1:8060", "127.0.0.1"),
        ("localhost:9000", "http://localhost:9000", "127.0.0.1"),  # through ssh -L 9000:127.0.0.1:8060
        ("127.0.0.1:8060", None, "127.0.0.1"),  # no browser
        ("[::1]:8060", "http://[::1]:8060", "::1"),
        ("127.0.0.5:8060", "http://127.0.0.5:8060", "127.0.0.5"),
        ("robot.lab:8060", "http://robot.lab:8060", "0.0.0.0"),
    ],
)
def test_the_page_itself_is_answered(asked, origin, host):
    assert refused(asked, origin, host) == ""


@pytest.mark.parametrize(
    ("asked", "origin", "host"),
    [
        ("127.0.0.1:8060", "https://evil.example", "127.0.0.1"),  # another page in the operator's browser
        ("127.0.0.1:8060", "http://127.0.0.1:9999", "127.0.0.1"),
        ("evil.example:8060", "http://evil.example:8060", "127.0.0.1"),  # its name was made to point here
        ("robot.lab:8060", "https://evil.example", "0.0.0.0"),
        ("127.0.0.1:8060", "null", "127.0.0.1"),  # a file, a frame without an origin
        (None, None, "127.0.0.1"),
    ],
)
def test_others_are_refused(asked, origin, host):
    assert refused(asked, origin, host)


@pytest.fixture
def opened(monkeypatch):
    """Opens pages; their server is viser's only as long as the test runs."""
    pytest.importorskip("viser", reason="the extra 'dashboard' is not installed")
    from websockets.asyncio import server as sockets

    monkeypatch.setattr(sockets, "serve", sockets.serve)
    servers = []

    def open_page(*arguments):
        server, url = open_server(*arguments)
        servers.append(server)
        return urlsplit(url)

    yield open_page
    for server in servers:
        server.stop()


def ask(url, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_from_elsewhere_a_page_wants_its_key(opened):
    """Once in the address; then a cookie has it, which the page's websocket brings, too."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = opened("0.0.0.0", 0)
    (key,) = parse_qs(url.query)["key"]
    for path in ("/", "/?key=", "/?key=0123456789abcdef", f"/?key={key[:-1]}"):
        status, _, words = ask(url, path)
        assert status == 401
        assert b"with ?key=" in words
    socket_url, mine = f"ws://127.0.0.1:{url.port}", f"http://127.0.0.1:{url.port}"
    with pytest.raises(InvalidStatus, match="401"):
        connect(socket_url, origin=mine)

    status, headers, _ = ask(url, f"/?{url.query}")
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"].split(";")[0]
    assert key not in cookie
    assert "HttpOnly; SameSite=Lax" in headers["Set-Cookie"]
    assert ask(url, "/", Cookie=f"other=1; {cookie}")[0] == 200
    with connect(
        socket_url,
        origin=mine,
        additional_headers={"Cookie": cookie},
        subprotocols=["viser-v0"],
        open_timeout=30,
    ):
        pass
    evil = {"Cookie": cookie, "Origin": "https://evil.example"}
    assert ask(url, "/", **evil)[0] == 403


def test_a_key_of_ones_own(opened, tmp_path):
    """On loopback, too; one with signs that an address cannot carry as they are."""
    (tmp_path / "key").write_text("a;b&c=d%20\n")
    url = opened("127.0.0.1", 0, tmp_path / "key")
    assert ask(url, "/")[0] == 401
    status, headers, _ = ask(url, f"/?{url.query}")
    assert status == 303
    assert ask(url, "/", Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200
    with pytest.raises(ConfigError, match="openssl rand"):
        open_server("127.0.0.1", 0, tmp_path / "none")


def test_this_machine_needs_no_key(opened):
    url = opened("127.0.0.1", 0)
    assert url.query == ""
    assert ask(url, "/")[0] == 200


def test_sockets_that_say_nothing_give_way(opened):
    """regression: each was kept for ten seconds, however many came."""
    url = opened("127.0.0.1", 0)
    silent = [socket.create_connection(("127.0.0.1", url.port), timeout=30) for _ in range(70)]
    assert ask(url, "/")[0] == 200
    for each in silent[:6]:
        assert _ended(each)
    for each in silent:
        each.close()


def _ended(silent):
    try:
        return silent.recv(1) == b""
    except ConnectionResetError:
        return True
