"""The client is the policy: the same answers and errors, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time

import numpy as np
import pytest
from standing_in import StandIn, observation, still

from rdt2.action import HORIZON, Promise
from rdt2.errors import ConfigError, ObservationError, ServingError
from rdt2.policy import Policy, PolicySpec, load_policy
from rdt2.serving import AsyncClient, Client
from rdt2.serving.engine import described


@pytest.fixture(scope="module")
def policy(server):
    with Client(server) as policy:
        yield policy


def test_it_is_the_policy(policy):
    assert isinstance(policy, Policy)
    assert (policy.keeps_promises, policy.longest_promise, policy.patience) == (True, 10, 1.5)
    assert (policy.steps, policy.draws) == (5, 2)
    (chunk,) = policy.predict([observation(left=30, right=40, state=np.ones(20, np.float32))], seed=5)
    assert chunk.valid
    assert chunk.values[0, [0, 1, 2, 9, 10]].tolist() == [30, 40, 5, 0, 20]
    assert chunk.confidence == -0.5
    assert chunk.tokens.tolist() == list(range(27))
    assert chunk.timing["vlm"] == 0.001
    assert chunk.timing["round_trip"] >= chunk.timing["server_total"] >= chunk.timing["server_infer"] > 0
    chunks = policy.predict([observation(left=1), observation(left=2)], seed=[7, 8])
    assert [chunk.values[0, 0] for chunk in chunks] == [1, 2]
    assert [chunk.values[0, 2] for chunk in chunks] == [7, 8]


def test_it_says_what_it_is_before_it_is_asked(policy):
    told = policy.metadata
    assert told["horizon"] == HORIZON
    assert told["rate_hz"] == 30
    assert told["actions"]["shape"] == [24, 20]
    assert told["actions"]["units"]["position"] == "m"
    assert "columns of the rotation matrix" in told["actions"]["rotation"]
    assert policy.model["policy"] == "standing-in"


def test_clients_know_the_weights_by_their_digests():
    """An evaluation that goes on with --resume, or is compared, must notice that the server's weights are others."""
    named = type("FMPolicy", (StandIn,), {"__module__": "rdt2.policy.fm"})
    told = described(PolicySpec(policy="demo-fm"), named())
    assert told["policy"] == "demo-fm"
    assert set(told["files"]) == {"vlm", "expert", "normalizer"}
    assert len(told["files"]["expert"]["model.safetensors"]) == 16
    assert "files" not in described(PolicySpec(policy="untrained"), named())


def test_promises_travel(policy):
    promise = Promise(still + 0.25, fixed=3, known=9)
    (chunk,) = policy.predict([observation(left=30)], seed=0, promised=[promise])
    assert np.array_equal(chunk.values[:3], promise.actions[:3])
    assert chunk.values[3, 0] == 30


def test_without_a_seed_each_draw_is_another(policy):
    draws = {policy.predict([observation()])[0].values[0, 2] for _ in range(5)}
    assert len(draws) > 1


def test_errors_have_the_class_and_the_words_that_they_have_there(policy):
    with pytest.raises(ObservationError, match=r"^this sentence is refused\.$"):
        policy.predict([observation("refuse")], seed=0)
    with pytest.raises(ServingError, match="failed on the server: ZeroDivisionError: divided by the number"):
        policy.predict([observation("break")], seed=0)
    assert policy.predict([observation()], seed=0)[0].valid


def test_invalid_chunks_stay_invalid(policy):
    (chunk,) = policy.predict([observation("nonsense")], seed=0)
    assert not chunk.valid
    assert chunk.reason == "it is nonsense"
    assert np.isnan(chunk.values).all()


def test_jpeg_is_the_step_that_policies_take_anyway(server):
    """What arrives is bit for bit what the policy would have made of the pictures, and it knows that it need not."""
    from rdt2.observation import jpeg_roundtrip, picture
    from rdt2.policy import messages
    from rdt2.serving.requests import read_entries, read_request
    from rdt2.wire import packed

    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 256, (2, 384, 384, 3), dtype=np.uint8)
    seen = observation().__class__(left, right, "Pick up the apple.")
    raw, jpeg = (
        read_request(read_entries(packed(messages.request(seen, jpeg=jpeg)))).observation
        for jpeg in (False, True)
    )
    assert np.array_equal(raw.left, left)
    assert np.array_equal(raw.right, right)
    assert not raw.compressed
    assert jpeg.compressed
    assert np.array_equal(picture(jpeg), jpeg_roundtrip(picture(seen)))
    with Client(server, jpeg=True) as policy:
        assert policy.predict([observation()], seed=0)[0].values[0, 9] == 1


def test_awaited(server):
    async def ask():
        async with AsyncClient(server) as policy:
            assert policy.keeps_promises
            chunks = await asyncio.gather(*(policy.predict([observation(left=n)], seed=n) for n in range(4)))
            with pytest.raises(ObservationError, match="is refused"):
                await policy.predict([observation("refuse")])
            await policy.close()
            (again,) = await policy.predict([observation(left=9)], seed=0)
            return [chunk.values[0, 0] for (chunk,) in chunks] + [again.values[0, 0]]

    assert asyncio.run(ask()) == [0, 1, 2, 3, 9]


def test_by_its_name(server):
    policy = load_policy(server)
    assert isinstance(policy, Client)
    policy.close()
    with pytest.raises(ConfigError, match=r"^device, steps: the server .* decides that"):
        load_policy(server, steps=3, device="cuda")
    with pytest.raises(ConfigError, match="no address of a policy server"):
        load_policy("ws://:8000")
    assert PolicySpec.of(server, jpeg=True).jpeg


def test_nobody_there():
    with pytest.raises(
        ServingError, match=r"could not be reached for 0\.2 s .*Is `rdt2 serve` running there"
    ) as told:
        Client("ws://127.0.0.1:9", connect_seconds=0.2)
    assert told.value.reason == "unreachable"


def test_a_closed_client_says_so(server):
    policy = Client(server)
    policy.close()
    with pytest.raises(ServingError, match="was closed"):
        policy.predict([observation()])


def test_after_ctrl_c_and_after_a_cancelled_question_the_next_answer_is_its_own(server):
    async def cancelled():
        async with AsyncClient(server) as policy:
            asking = asyncio.create_task(policy.predict([observation("slowly", left=1)]))
            await asyncio.sleep(0.02)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            return (await policy.predict([observation(left=77)], seed=2))[0].values[0, 0]

    assert asyncio.run(cancelled()) == 77
    with Client(server) as policy:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes while the answer is waited for
            threading.Timer(
                0.02, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            ).start()
            policy.predict([observation("slowly", left=1)])
        assert policy.predict([observation(left=78)], seed=2)[0].values[0, 0] == 78


def test_an_answer_that_takes_too_long_is_nobodys(server):
    """The next question is not answered with it."""
    with Client(server, timeout=0.02) as policy:
        with pytest.raises(ServingError, match=r"has not answered for 0\.02 s") as told:
            policy.predict([observation("slowly")], seed=1)
        assert told.value.reason == "late"
        policy.timeout = 5
        assert policy.predict([observation(left=77)], seed=2)[0].values[0, 0] == 77


def test_an_attempt_that_is_not_answered_is_made_anew(monkeypatch):
    """regression: one lost answer to a handshake took all the time there was to connect."""
    monkeypatch.setattr("rdt2.policy.client.ATTEMPT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        silent = threading.Event()

        def listen() -> None:
            kept = [deaf.accept(), deaf.accept()]  # says nothing to the first, and hangs up on the second
            kept[1][0].close()
            silent.set()
            time.sleep(0.2)
            kept[0][0].close()

        threading.Thread(target=listen, daemon=True).start()
        with pytest.raises(ServingError, match="could not be reached"):
            Client(f"ws://127.0.0.1:{deaf.getsockname()[1]}", connect_seconds=1.5)
        assert silent.is_set(), "there was one attempt only"
