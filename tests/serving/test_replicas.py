"""Several policies in a local Ray cluster behind one address. `make test-ray` runs this, with the machine to itself."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from standing_in import SECONDS, SPEC, observation, open_stand_in

if "RDT2_RAY" not in os.environ:
    pytest.skip(
        "a cluster beside other tests is too slow to be judged: make test-ray", allow_module_level=True
    )
pytest.importorskip("ray")
pytest.importorskip("starlette", reason="ray[serve]: pip install 'rdt2[ray]'")

from rdt2.errors import ConfigError, ObservationError, ServingError
from rdt2.policy import PolicySpec
from rdt2.serving import Client, RayEngine, ServerSettings, served


@pytest.fixture(scope="module", autouse=True)
def findable():
    """Processes of the cluster must find the policy that stands in."""
    with pytest.MonkeyPatch.context() as patch:
        here = str(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module")
def address():
    with served(
        lambda: RayEngine(SPEC, replicas=2, max_batch=1, open=open_stand_in),
        ServerSettings(port=0, max_batch=1),
    ) as url:
        yield url


def replica_pids() -> list[int]:
    """Processes of replicas that descend from this one, by the titles that Ray gives them."""
    parents, replicas = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                title = (entry / "cmdline").read_text().lower().replace("_", "")
                if title.startswith("ray::servereplica") and "policy" in title:
                    replicas.append(int(entry.name))

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return sorted(filter(ours, replicas))


def test_a_policy_that_cannot_be_loaded_is_told_as_without_ray(tmp_path) -> None:
    nothing = PolicySpec(policy=str(tmp_path / "nothing"))
    told = r"could not be started: CheckpointError: .*nothing"
    with pytest.raises(ServingError, match=told), served(lambda: RayEngine(nothing, replicas=1)):
        pass


def test_clients_notice_no_difference(address) -> None:
    with Client(address) as policy:
        assert policy.keeps_promises
        assert policy.patience == 1.5
        (chunk,) = policy.predict([observation(left=7, right=9)], seed=123)
        assert chunk.values[0, :3].tolist() == [7, 9, 123]
        np.testing.assert_array_equal(chunk.tokens, np.arange(27))
        with pytest.raises(ObservationError, match="refused"):
            policy.predict([observation("refuse this.")])
        with pytest.raises(ServingError, match="ZeroDivisionError"):
            policy.predict([observation("break it.")])
        assert policy.predict([observation()])[0].valid


def test_both_replicas_compute_at_a_time(address) -> None:
    """Of four clients that ask at once, two are computed while two wait: nobody waits for more than one other."""
    answers = []

    def ask() -> None:
        with Client(address) as policy:
            answers.extend(policy.predict([observation("slowly.")])[0] for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    computed = sum(chunk.timing["server_infer"] for chunk in answers)
    assert computed >= 20 * SECONDS
    assert time.monotonic() - began < 0.8 * computed, "one after the other would have taken all of it"


def test_a_replica_killed_under_load_costs_nobody_an_answer(address) -> None:
    """What it was computing is computed by the other one: no client sees an error, let alone two."""
    answered, failures, over = [0] * 4, [], threading.Event()

    def ask(number: int) -> None:
        with Client(address) as policy:
            while not over.is_set():
                try:
                    (chunk,) = policy.predict([observation("slowly.", left=number)], seed=number)
                    assert chunk.values[0, 0] == number
                    answered[number] += 1
                except ServingError as error:
                    failures.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    before = replica_pids()
    os.kill(before[0], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (len(replica_pids()) < 2 or before[0] in replica_pids()):
        time.sleep(0.5)
    counted = list(answered)
    time.sleep(1.0)
    over.set()
    for thread in threads:
        thread.join()
    assert len(before) == 2
    assert failures == []
    assert len(replica_pids()) == 2, "another one was started"
    assert all(now > then for now, then in zip(answered, counted, strict=True)), "all are served on"


def test_what_kills_every_replica_is_given_up(address) -> None:
    with Client(address) as policy:
        with pytest.raises(ServingError, match="has died"):
            policy.predict([observation("die here.")])
        assert policy.predict([observation()])[0].valid


def test_numbers_of_replicas_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        RayEngine(SPEC, replicas=0)


def test_replicas_that_have_no_room_are_refused_where_no_room_will_come() -> None:
    engine = RayEngine(PolicySpec(device="cuda"), replicas=2)
    engine._own_cluster = True
    with pytest.raises(ServingError, match="2 replicas need 2 GPU, the cluster has 1 free"):
        engine._require({"CPU": 2.0, "GPU": 1.0}, {"CPU": 1, "GPU": 1})
