"""openpi's protocol to the letter, and a server that lives through whatever comes."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standing_in import SPEC, entries, observation, open_short, open_stand_in, serving, still
from test_forms import aloha, droid
from test_wire import theirs
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from rdt2.errors import ConfigError, ServingError
from rdt2.policy import messages
from rdt2.serving import Bounds, Client, ProcessEngine, ServerSettings, served
from rdt2.serving.security import Rate, allowed, is_loopback, required_key, tls_context


class Talk:
    """openpi's client, without the words."""

    def __init__(self, url, **more):
        self._opening = connect(url, compression=None, max_size=None, proxy=None, **more)
        self.socket = self._opening.__enter__()
        self.greeting = self.socket.recv(timeout=10)

    def ask(self, message):
        self.socket.send(message if isinstance(message, (bytes, str)) else theirs(message))
        return self.socket.recv(timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._opening.__exit__(*error)


def get(url, path, **headers):
    request = urllib.request.Request(url.replace("ws", "http", 1) + path, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def array(entry):
    return np.frombuffer(entry[b"data"], entry[b"dtype"]).reshape(entry[b"shape"])


# ------------------------------------------------------------------------------------------- openpi's protocol


def test_metadata_first_then_request_and_reply(server):
    with Talk(server) as talk:
        told = msgpack.unpackb(talk.greeting, strict_map_key=False)
        assert told["actions"]["frame"].startswith("relative to the same arm's")
        for _ in range(3):
            reply = msgpack.unpackb(talk.ask(entries(seed=np.int64(4))), strict_map_key=False)
            assert array(reply["actions"]).dtype == np.float32
            assert array(reply["actions"]).shape == (24, 20)
            assert array(reply["actions"])[0, 2] == 4
        assert reply["policy_timing"]["infer_ms"] > 0
        assert set(reply["server_timing"]) == {
            "infer_ms",
            "decode_ms",
            "queue_ms",
            "total_ms",
            "prev_total_ms",
        }
        assert reply["valid"] is True
        assert reply["queue_seconds"] == 0
        assert reply["request"]


def test_no_array_is_shorter_than_a_chunk(server):
    """Their chunk broker slices every array of a reply."""

    def arrays(value):
        if isinstance(value, dict):
            if b"__ndarray__" in value:
                return [value[b"shape"]]
            assert b"__npgeneric__" not in value
            return [each for part in value.values() for each in arrays(part)]
        return []

    with Talk(server) as talk:
        assert arrays(msgpack.unpackb(talk.ask(entries()), strict_map_key=False)) == [[24, 20]]


def test_their_forms_are_answered(server):
    with Talk(server) as talk:
        for seen in (aloha(), droid(), aloha(seed=3, deadline=5.0)):
            assert isinstance(talk.ask(seen), bytes)


def test_promises_of_clients_in_any_language(server):
    promise = {"actions": (still + 0.5).astype(np.float64), "fixed": np.int64(2), "known": 8}
    with Talk(server) as talk:
        reply = msgpack.unpackb(talk.ask(entries(promise=promise)), strict_map_key=False)
        assert np.array_equal(array(reply["actions"])[:2], (still + 0.5)[:2])


def test_signs_of_life_are_answered_while_a_chunk_is_computed(server):
    with Talk(server, ping_interval=0.05, ping_timeout=0.5) as talk:
        assert isinstance(talk.ask(entries(instruction="very slowly")), bytes)


def test_nobody_is_let_in_before_the_policy_is_warm():
    """A first request that waits for what is made only once would be given up by its client."""

    class Slow(ProcessEngine):
        async def start(self):
            with socket.socket() as early:
                tried.append(early.connect_ex(("127.0.0.1", port)))
            await super().start()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tried = []
    with served(lambda: Slow(SPEC, open=open_stand_in, max_batch=3), ServerSettings(port=port)) as url:
        assert tried == [errno.ECONNREFUSED]
        with Client(url) as policy:
            assert policy.predict([observation()])[0].valid


def test_a_policy_that_goes_on_from_few_rows_is_promised_no_more_when_it_is_warmed_up():
    """Regression: a server of an expert trained with a prefix below three did not start."""
    with served(lambda: ProcessEngine(SPEC, open=open_short)) as url, Client(url) as policy:
        assert policy.longest_promise == 1


def test_health_metrics_and_other_pages(server):
    assert get(server, "/healthz") == (200, "OK\n")
    with Client(server) as policy:
        policy.predict([observation()])
    status, text = get(server, "/metrics")
    assert status == 200
    assert 'rdt2_requests_total{outcome="answered"}' in text
    assert "rdt2_ready 1.0" in text
    assert get(server, "/elsewhere")[0] == 404
    assert get(server, "/")[0] == 426


# --------------------------------------------------------------------------------------------------- bad input

BAD = {
    "float pictures": entries(left=np.zeros((384, 384, 3), np.float32)),
    "channels first": entries(left=np.zeros((3, 384, 384), np.uint8)),
    "one picture": entries(right=None),
    "another state": entries(state=np.zeros(7)),
    "no sentence": entries(instruction=""),
    "a long sentence": entries(instruction="a" * 10_000),
    "not a number": entries(state=np.full(20, np.nan)),
    "an unknown key": entries(images_left=1),
    "an old protocol": entries(protocol=0),
    "a text frame": json.dumps({"prompt": "Pick it up."}),
    "garbage": b"\xc1\xff\x00",
    "nothing": b"",
    "a pickle": b"\x80\x04\x95",
    "refused by the policy": entries(instruction="refuse"),
    "a chunk that is not valid": entries(instruction="nonsense"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_and_the_connection_stays_useful(server, name):
    with Talk(server) as talk:
        answer = talk.ask(BAD[name])
        assert isinstance(answer, str), "an error is a text frame"
        assert "[request " in answer
        assert isinstance(talk.ask(entries()), bytes)


def test_a_policy_that_fails_is_told_with_the_place_and_the_connection_closed(server):
    """As openpi's server does."""
    with Talk(server) as talk:
        answer = talk.ask(entries(instruction="break"))
        assert "Traceback" in answer
        assert "ZeroDivisionError: divided by the number of apples" in answer
        with pytest.raises(ConnectionClosed) as told:
            talk.socket.recv(timeout=5)
        assert told.value.rcvd.code == 1011
    with Talk(server) as talk:
        assert isinstance(talk.ask(entries()), bytes)


def test_a_batch_with_one_bad_request_answers_the_others():
    with serving() as url:
        answers = together(url, ["slowly", "fine", "refuse", "break", "good"])
    assert answers["fine"] == answers["good"] == answers["slowly"] == "answered"
    assert "refused" in answers["refuse"]
    assert "divided" in answers["break"]


def together(url, sentences):
    """What becomes of requests of as many clients; the first comes first."""
    answers = {}

    def ask(sentence):
        with Client(url) as policy:
            try:
                policy.predict([observation(sentence)], seed=0)
                answers[sentence] = "answered"
            except ValueError as error:
                answers[sentence] = str(error)

    threads = [threading.Thread(target=ask, args=(sentence,)) for sentence in sentences]
    for thread in threads:
        thread.start()
        time.sleep(0.01 if thread is not threads[0] else 0.03)
    for thread in threads:
        thread.join()
    return answers


# ---------------------------------------------------------------------------------------------------- security


def test_a_key_is_asked_for():
    with serving(api_key="right") as url:
        for headers in ({}, {"Authorization": "Api-Key wrong"}, {"Authorization": "Bearer right"}):
            with pytest.raises(InvalidStatus) as told:
                Talk(url, additional_headers=headers)
            assert told.value.response.status_code == 401
        with Talk(url, additional_headers={"Authorization": "Api-Key right"}) as talk:
            assert isinstance(talk.ask(entries()), bytes)
        with pytest.raises(ServingError, match=r"refuses .*401.*has another API key than the one that came"):
            Client(url, api_key="wrong")
        with pytest.raises(
            ServingError, match=r"refuses .*401.*asks for its API key: pass api_key_file=FILE"
        ):
            Client(url)
        with Client(url, api_key="right") as policy:
            assert policy.predict([observation()])[0].valid
        assert get(url, "/healthz") == (200, "OK\n")
        assert get(url, "/metrics")[0] == 401
        assert get(url, "/metrics", Authorization="Api-Key right")[0] == 200


def test_keys_are_needed_where_others_can_come(tmp_path):
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert is_loopback(host)
        assert required_key(host, None, open_to_all=False) is None
    for host in ("0.0.0.0", "::", "192.168.0.7", "robot"):
        with pytest.raises(ConfigError, match="can be reached from other machines"):
            required_key(host, None, open_to_all=False)
        assert required_key(host, None, open_to_all=True) is None
    file = tmp_path / "key"
    file.write_text("word\n")
    assert required_key("0.0.0.0", file, open_to_all=False) == "word"
    for text in ("", "\n", "two words", "ä"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="key"):
            required_key("0.0.0.0", file, open_to_all=False)
    assert allowed(None, None)
    assert not allowed(None, "word")
    assert not allowed("Api-Key wor", "word")


def test_web_pages_are_not_clients(server):
    """A page in a browser of this machine could reach a server that listens to this machine alone."""
    with pytest.raises(InvalidStatus) as told:
        Talk(server, origin="http://evil.example")
    assert told.value.response.status_code == 403


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A certificate of 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_tls(pem, monkeypatch):
    certificate, key = pem
    with serving(tls=tls_context(certificate, key)) as url:
        assert url.startswith("wss://")
        with pytest.raises(ServingError, match=r"not trusted here .*SSL_CERT_FILE") as told:
            Client(url)
        assert told.value.reason == "refused"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Client(url) as policy:
            assert policy.predict([observation()])[0].valid
    with pytest.raises(ConfigError, match="belong together"):
        tls_context(certificate, None)
    with pytest.raises(ConfigError, match="expected PEM"):
        tls_context(key, certificate)


def test_no_session_tickets_follow_a_handshake_under_tls(pem):
    """regression: a ticket that one thread read while another sent the first message lost one connection in fifty."""
    trusting = ssl.create_default_context(cafile=pem[0])
    with serving(tls=tls_context(*pem)) as url:
        host, port = url.removeprefix("wss://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            trusting.wrap_socket(plain, server_hostname=host) as talk,
        ):
            talk.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert talk.recv(4096).startswith(b"HTTP/1.1 200")
            assert talk.version() == "TLSv1.3"
            assert not talk.session.has_ticket


def test_limits():
    bounds = Bounds(message_bytes=2**20, connections=3, per_address=2, requests_per_second=5)
    with serving(bounds=bounds) as url:
        with Talk(url) as one, Talk(url):
            with pytest.raises(InvalidStatus) as told:
                Talk(url)
            assert told.value.response.status_code == 503
            with pytest.raises(ConnectionClosed) as closed:
                one.ask(b"\0" * 2**21)
            assert closed.value.rcvd.code == 1009
            assert get(url, "/healthz")[0] == 200
        time.sleep(0.1)
        assert 'rdt2_requests_total{outcome="too large"} 1.0' in get(url, "/metrics")[1]
        with Client(url) as policy:
            policy.metadata["limits"]["message_bytes"] = 100
            with pytest.raises(ServingError, match="takes messages of 100 bytes"):
                policy.predict([observation()])
        time.sleep(0.1)
        with Talk(url) as talk:
            answers = [talk.ask(b"\xc1") for _ in range(51)]
            assert "more than 5 requests a second" in answers[-1]
            assert "more than 5" not in answers[0]
            assert isinstance(talk.ask(entries()), bytes)


def test_a_rate_fills_again():
    rate = Rate(100, burst=2)
    assert rate.wait() == rate.wait() == 0
    assert 0 < rate.wait() <= 0.01
    time.sleep(0.02)
    assert rate.wait() == 0


# ------------------------------------------------------------------------------------------------------ faults


def test_strangers_and_the_dead_hold_nobody_up(server):
    """Bytes that are no websocket, a client that dies in a message, one that says nothing, one that reads nothing."""
    host, port = server.removeprefix("ws://").split(":")
    address = (host, int(port))
    silent = socket.create_connection(address)
    garbage = socket.create_connection(address)
    garbage.sendall(os.urandom(4096))
    with Talk(server) as dying:
        sock = dying.socket.socket
        sock.sendall(b"\x82\xff" + (900_000).to_bytes(8, "big") + b"mask" + b"half of it")
        sock.shutdown(socket.SHUT_RDWR)
    with Talk(server) as deaf, Client(server) as policy:
        for _ in range(4):
            deaf.socket.send(theirs(entries(instruction="slowly")))
        began = time.perf_counter()
        for _ in range(5):
            assert policy.predict([observation()])[0].valid
        assert time.perf_counter() - began < 3
    silent.close()
    garbage.close()
    assert get(server, "/healthz") == (200, "OK\n")


def test_handshakes_that_nobody_finishes_give_way():
    """regression: each was kept for ten seconds, however many came."""
    with serving(bounds=Bounds(handshakes=3, handshake_seconds=60)) as url:
        host, port = url.removeprefix("ws://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(5)]
        with Client(url) as policy:
            assert policy.predict([observation()])[0].valid
        for each in silent[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)
        for each in silent:
            each.close()


def handshaken(url, receive_bytes=65536):
    """A socket behind a handshake, on which nothing is answered or read by itself."""
    host, port = url.removeprefix("ws://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.connect((host, int(port)))
    raw.sendall(
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return raw


def test_a_client_that_is_gone_without_a_word_is_noticed():
    """Half an open socket: its machine lost power, its cable was pulled."""
    with serving(bounds=Bounds(ping_seconds=0.2)) as url, handshaken(url) as raw:
        raw.settimeout(10)
        while raw.recv(65536):
            pass  # the greeting, questions for signs of life, and then the end
        until = time.monotonic() + 5
        while "rdt2_connections 0.0" not in get(url, "/metrics")[1]:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_client_that_does_not_read_is_given_up():
    with serving(bounds=Bounds(send_seconds=0.2, requests_per_second=1e6)) as url:
        raw = handshaken(url, receive_bytes=4096)
        raw.settimeout(10)
        frame = b"\x82\x81mask" + bytes([ord("m") ^ 0xC1])  # a message that is refused with a text
        with contextlib.suppress(OSError):  # reset, or a pipe that is broken: it is gone
            for _ in range(100_000):
                raw.sendall(frame * 50)
            pytest.fail("a client that reads nothing was served for ever")
        with Client(url) as policy:
            assert policy.predict([observation()])[0].valid


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_policy_that_dies_or_hangs_is_started_again(fault, caplog):
    caplog.set_level(logging.INFO, logger="rdt2.serving")
    with serving(hang_seconds=0.5) as url, Client(url) as policy, Client(url) as other:
        with pytest.raises(ServingError, match="started again"):
            policy.predict([observation(fault)])
        assert get(url, "/healthz")[0] == 503
        assert other.predict([observation()])[0].valid
        assert policy.predict([observation()])[0].valid
        assert get(url, "/healthz") == (200, "OK\n")
        assert "rdt2_policy_restarts 1.0" in get(url, "/metrics")[1]
    assert "another one is started" in caplog.text


def test_a_deadline_holds_also_where_the_policy_hangs():
    with serving(hang_seconds=3.0) as url, Client(url, deadline=0.3) as policy:
        began = time.perf_counter()
        with pytest.raises(ServingError, match="no answer in time: the deadline is") as told:
            policy.predict([observation("hang")])
        assert time.perf_counter() - began < 2.5
        assert told.value.reason == "late"
        assert told.value.queue_seconds >= 0.25, "it is overdue by that"


def test_stopping_answers_what_was_asked_and_sends_the_others_away():
    answers = {}

    def ask(policy):
        answers["busy"] = policy.predict([observation("very slowly")], seed=1)[0].valid

    with serving() as url:
        idle, policy = Talk(url), Client(url)
        thread = threading.Thread(target=ask, args=(policy,))
        thread.start()
        time.sleep(0.3)
    thread.join()
    policy.close()
    assert answers == {"busy": True}
    with pytest.raises(ConnectionClosed) as told:
        idle.socket.recv(timeout=5)
    assert told.value.rcvd.code == 1001
    idle.__exit__(None, None, None)
    with pytest.raises(ServingError, match="could not be reached"):
        Client(url, connect_seconds=0.2)


SERVER = """
import sys
from standing_in import serving
if __name__ == "__main__":
    with serving(port=int(sys.argv[1])) as url:
        print(url, flush=True)
        sys.stdin.read()
"""


def test_killed_and_started_again_under_load(tmp_path):
    """kill -9 of the server: clients lose nothing but time, since each asks once more."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

    def start():
        process = subprocess.Popen(
            [sys.executable, str(script), str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert process.stdout.readline().startswith("ws://")
        return process

    first = start()
    failures, served, over = [], [0] * 3, threading.Event()

    def work(number):
        with Client(f"ws://127.0.0.1:{port}", connect_seconds=30) as policy:
            while not over.is_set():
                try:
                    served[number] += policy.predict([observation()], seed=0)[0].valid
                except ValueError as error:
                    failures.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    first.kill()
    first.wait()
    second = start()
    before = list(served)
    until = time.monotonic() + 10
    while any(now <= then for now, then in zip(served, before, strict=True)) and time.monotonic() < until:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    second.kill()
    second.wait()
    assert failures == []
    assert all(now > then > 0 for now, then in zip(served, before, strict=True))


# -------------------------------------------------------------------------------------------------------- fuzz

NAMES = st.sampled_from([
    *("left", "right", "picture", "instruction", "prompt", "state", "seed", "deadline", "promise", "protocol"),
    *("images", "cam_left_wrist", "observation/wrist_image_left", "timestamp", "compressed"),
    *("actions", "fixed", "known", b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"),
])  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20),
    st.binary(max_size=40),
    st.sampled_from(["<f4", "|u1", "|O", "Pick up the apple."]), st.just(np.zeros((384, 384, 3), np.uint8)),
    st.just(np.zeros(20, np.float32)), st.just(still),
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=6)),
    max_leaves=12,
)
MESSAGES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100),
    st.dictionaries(NAMES, TREES, max_size=6).map(theirs),
    st.dictionaries(NAMES, TREES, max_size=3).map(lambda more: theirs({**entries(), **more})),
    st.tuples(st.integers(0, 400), st.binary(max_size=8)).map(
        lambda cut: theirs(entries())[: cut[0]] + cut[1] + theirs(entries())[cut[0] + len(cut[1]) :]
    ),
)


def test_fuzzed_messages(server, caplog):
    """Hundreds here, ten thousand with `make fuzz-serving`: each is answered, and so is the next sound one."""
    talk = Talk(server)

    @settings(
        max_examples=int(os.environ.get("RDT2_WIRE_EXAMPLES", "300")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(MESSAGES)
    def ask(message):
        assert isinstance(talk.ask(message), (str, bytes))

    caplog.set_level(logging.WARNING, logger="rdt2.serving")
    with talk:
        ask()
        assert isinstance(talk.ask(entries()), bytes)
    assert "a message could not be read" not in caplog.text, "there is a kind of message that nobody foresaw"
    assert get(server, "/healthz") == (200, "OK\n")


def test_the_header_of_our_client_turns_errors_into_objects(server):
    with Talk(server, additional_headers=dict([messages.ACCEPT])) as talk:
        told = json.loads(talk.ask(entries(instruction="")))
        assert told["error"] == "ObservationError"
        assert told["message"].startswith("instruction is ''")
        assert told["request"]
