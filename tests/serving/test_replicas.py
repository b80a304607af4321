"""Several policies in a local Ray cluster behind one address. `make test-ray` runs this, with the machine to itself."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from standing_in import SECONDS, SPEC, observation, open_stand_in

if "RDT2_RAY" not in os.environ:
    pytest.skip(
        "a cluster beside other tests is too slow to be judged: make test-ray", allow_module_level=True
    )
if not all(map(find_spec, ("ray", "starlette"))):  # importing it here would be too early for its settings
    pytest.skip("ray[serve]: pip install 'rdt2[ray]'", allow_module_level=True)

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


def descendants(of: int) -> dict[int, str]:
    """Processes that a process has started, and these others, with their titles."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text()

    def descends(pid: int) -> bool:
        while pid in parents and pid != of:
            pid = parents[pid]
        return pid == of

    return {pid: title for pid, title in titles.items() if descends(pid) and pid != of}


def replica_pids() -> list[int]:
    """Processes of replicas that descend from this one, by the titles that Ray gives them."""
    titles = {pid: title.lower().replace("_", "") for pid, title in descendants(os.getpid()).items()}
    return sorted(
        pid for pid, title in titles.items() if title.startswith("ray::servereplica") and "policy" in title
    )


def policy_pid(replica: int) -> int:
    """The process in which a replica's policy computes."""
    (found,) = (pid for pid, title in descendants(replica).items() if "spawn_main" in title)
    return found


def wait_for_two(but: int) -> None:
    """Until there are two replicas, without the one that is to be gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (len(replica_pids()) < 2 or but in replica_pids()):
        time.sleep(0.2)
    assert len(replica_pids()) == 2
    assert but not in replica_pids()


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


def test_a_policy_killed_within_its_replica_costs_nobody_an_answer(address) -> None:
    """regression: the replica lived, and told the client that its policy had died."""
    answers = []

    def ask(number: int) -> None:
        with Client(address) as policy:
            answers.extend(policy.predict([observation("very slowly.")], seed=number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    replica = replica_pids()[0]
    os.kill(policy_pid(replica), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert sorted(chunk.values[0, 2] for chunk in answers) == [0, 1]
    wait_for_two(but=replica)


def test_a_replica_whose_policy_dies_while_nobody_asks_is_replaced(address) -> None:
    replica = replica_pids()[0]
    os.kill(policy_pid(replica), signal.SIGKILL)
    wait_for_two(but=replica)
    with Client(address) as policy:
        assert policy.predict([observation()])[0].valid


def test_a_cluster_of_this_machine_listens_to_it_alone(address) -> None:
    """But for one port of each replica, which Ray Serve opens to all and has no setting for."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                sockets[inode] = local.rpartition(":")[0]
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    open_to_all = []
    for pid, title in descendants(os.getpid()).items():
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inode = os.readlink(handle).removeprefix("socket:[").rstrip("]")
                    if sockets.get(inode, loopback[0]) not in loopback:
                        open_to_all.append(title)
    assert 0 < len(open_to_all) <= 2, "one that has just been replaced may not listen yet"
    assert all("ServeReplica" in title for title in open_to_all)


def test_what_kills_every_replica_is_given_up(address) -> None:
    with Client(address) as policy:
        with pytest.raises(ServingError, match="2 replicas died of it"):
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
