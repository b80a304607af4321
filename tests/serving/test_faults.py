"""Clients that flood, policies that die unseen, keys that others can read: what a server does about them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time

import pytest
from standing_in import SPEC, entries, observation, open_second_hangs, serving
from test_server import Talk, get, handshaken
from test_wire import theirs

from rdt2.errors import ServingError
from rdt2.policy import PolicySpec
from rdt2.policy.client import in_clear, open_client
from rdt2.serving import Bounds, Client, ProcessEngine, served
from rdt2.serving.connection import shortened


def flooded(url, data):
    """What a client that reads nothing sends until it is given up."""
    with handshaken(url, receive_bytes=4096) as raw:
        raw.settimeout(10)
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                raw.sendall(data)
            pytest.fail("a client that reads nothing was served for ever")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89\xfdmask" + b"x" * 125, "does not read them"),
        (b"\x00\x80mask", "too many pieces"),
    ],
    ids=["pings", "pieces of a message"],
)
def test_what_no_limit_of_a_message_counts_is_bounded_too(data, words, caplog):
    """regression: answers to pings, and empty pieces of a message, were kept without end."""
    caplog.set_level(logging.WARNING, logger="rdt2.serving")
    first = b"\x02\x80mask" if words == "too many pieces" else b""
    with serving(bounds=Bounds(fragments=100, unread_bytes=2**16)) as url:
        flooded(url, first + data * 200) if first else flooded(url, data * 100)
        with Client(url) as policy:
            assert policy.predict([observation()])[0].valid
    assert words in str([vars(record).get("reason") for record in caplog.records])


def test_a_message_in_a_few_pieces_is_answered(server):
    message = theirs(entries())
    with Talk(server) as talk:
        for _ in range(3):
            talk.socket.send(message[at : at + 1000] for at in range(0, len(message), 1000))
            assert isinstance(talk.socket.recv(timeout=10), bytes)


def test_a_long_error_keeps_its_end():
    assert shortened("a" * 100) == "a" * 100
    told = shortened("beginning " + "x" * 20_000 + " ZeroDivisionError [request 1]")
    assert len(told) == 8000
    assert told.startswith("beginning x")
    assert told.endswith("x ZeroDivisionError [request 1]")


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", "word", True), ("127.0.0.1", "word", False), ("0.0.0.0", None, False)],
)
def test_a_key_that_others_can_read_on_the_way_is_warned_of(host, key, warned, caplog):
    caplog.set_level(logging.WARNING)
    with serving(host=host, api_key=key):
        pass
    assert ("can be read by whoever is on the way" in caplog.text) == warned


def test_clients_are_warned_of_a_key_that_others_can_read(tmp_path, caplog):
    file = tmp_path / "key"
    file.write_text("word")
    for url, clear in (
        ("ws://gpu-machine:8000", True),
        ("wss://gpu-machine:8000", False),
        ("ws://[::1]:8000", False),
        ("ws://localhost", False),
    ):
        assert in_clear(url) == clear
    with pytest.raises(ServingError, match="could not be reached"):
        open_client(PolicySpec(policy="ws://192.0.2.1:9", api_key_file=file), connect_seconds=0.1)
    assert "the API key can be read by whoever is on the way" in caplog.text


def test_a_policy_that_dies_while_nobody_asks_is_started_again_at_once(caplog):
    """regression: it was said to be ready until somebody asked, who was told that it had died."""
    caplog.set_level(logging.INFO, logger="rdt2.serving")
    with serving() as url, Client(url) as policy:
        (pid,) = (vars(each)["pid"] for each in caplog.records if "policy ready" in each.message)
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 1
        while get(url, "/healthz")[0] == 200:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert policy.predict([observation()])[0].valid
        assert get(url, "/healthz") == (200, "OK\n")
        assert "rdt2_policy_restarts 1.0" in get(url, "/metrics")[1]


def test_a_policy_that_hangs_when_it_is_started_again_is_killed_and_tried_once_more(tmp_path, monkeypatch):
    """regression: a warm-up had no end; all who asked waited for it."""
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setenv("STARTS", str(starts))
    engine = functools.partial(ProcessEngine, SPEC, open=open_second_hangs, max_batch=1, hang_seconds=0.5)
    with served(engine) as url, Client(url) as policy:
        with pytest.raises(ServingError, match="started again"):
            policy.predict([observation("die")])
        assert policy.predict([observation()])[0].valid
        assert "rdt2_policy_restarts 1.0" in get(url, "/metrics")[1]
    assert starts.read_text() == "xxx"
