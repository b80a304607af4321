"""A policy in a process of its own: the same answers and errors, and it takes nothing along when it hangs or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rdt2.action import HORIZON, ActionChunk, Promise
from rdt2.errors import CheckpointError, ObservationError
from rdt2.observation import Observation
from rdt2.policy import PolicyProcess, PolicySpec
from rdt2.threads import leave_cores

SPEC = PolicySpec(policy="fake")


class Stubborn(Exception):
    """Cannot be sent: made of two things, told as one."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Fake:
    """Does what the sentence asks for; its chunk says what it was asked."""

    keeps_promises, longest_promise, patience = True, 10, 1.5

    def predict(self, observations, *, seed=None, promised=None):
        if "hang" in observations[0].instruction:
            time.sleep(60)
        if "refuse" in observations[0].instruction:
            raise ObservationError("no such sentence.")
        if "break" in observations[0].instruction:
            raise Stubborn("this", "that")
        if "die" in observations[0].instruction:
            os.kill(os.getpid(), signal.SIGKILL)
        rows = np.zeros((HORIZON, 20), np.float32)
        rows[0, :4] = seed, observations[0].left.mean(), os.getpid(), -1
        if promised is not None:
            rows[0, 3] = promised[0].known
        return [ActionChunk(rows)]


def open_fake(spec):
    assert spec == SPEC
    return Fake()


def open_nothing(spec):
    raise CheckpointError(f"there is no policy {spec.policy!r}.")


def open_and_die(spec):
    os._exit(3)


def observation(sentence="Pick up the red cube."):
    picture = np.full((384, 384, 3), 7, np.uint8)
    return Observation(left=picture, right=picture, instruction=sentence)


@pytest.fixture(scope="module")
def policy():
    with PolicyProcess(SPEC, open=open_fake) as policy:
        yield policy


def test_it_is_the_policy(policy):
    from rdt2.policy import Policy  # here: it needs torch, the processes of these tests do not

    assert isinstance(policy, Policy)
    assert (policy.keeps_promises, policy.longest_promise, policy.patience) == (True, 10, 1.5)
    (chunk,) = policy.predict([observation()], seed=5)
    assert chunk.values[0, [0, 1, 3]].tolist() == [5, 7, -1]
    assert chunk.values[0, 2] == policy.pid != os.getpid()
    still = np.tile([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], (HORIZON, 2))
    promise = Promise(still, fixed=3, known=9)
    (chunk,) = policy.predict([observation()], seed=5, promised=[promise])
    assert chunk.values[0, 3] == 9


def test_pictures_pass_quickly(policy):
    """Two of 384x384: 0.9 MB each way there."""
    took = []
    for _ in range(10):
        started = time.perf_counter()
        policy.predict([observation()], seed=0)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.03


def test_errors_keep_their_type_and_words_and_the_process_goes_on(policy):
    with pytest.raises(ObservationError, match=r"^no such sentence\.$"):
        policy.predict([observation("refuse")], seed=0)
    with pytest.raises(RuntimeError, match="Stubborn: this and that"):
        policy.predict([observation("break")], seed=0)
    assert policy.predict([observation()], seed=0)[0].valid


def test_errors_of_loading_are_errors_here():
    with pytest.raises(CheckpointError, match="there is no policy 'fake'"):
        PolicyProcess(SPEC, open=open_nothing)
    with pytest.raises(CheckpointError, match="exit code 3"):
        PolicyProcess(SPEC, open=open_and_die)


def test_it_leaves_cores_to_others(monkeypatch):
    """Regression: as many threads as cores, each of which waits without giving its core away: beside a cell in real
    time a chunk took several times as long."""
    told = []
    monkeypatch.setattr("torch.set_num_threads", told.append)
    monkeypatch.setattr("rdt2.threads.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    leave_cores(2)
    leave_cores(20)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    leave_cores(2)
    assert told == [6, 1]


def test_a_process_that_dies_is_an_error_at_once_and_ever_after():
    with PolicyProcess(SPEC, open=open_fake) as policy:
        started = time.perf_counter()
        for _ in range(2):
            with pytest.raises(CheckpointError, match="exit code -9"):
                policy.predict([observation("die")], seed=0)
        assert time.perf_counter() - started < 1.0


def test_its_death_is_known_at_once_without_asking_it():
    with PolicyProcess(SPEC, open=open_fake) as policy:
        assert policy.died() == ""
        os.kill(policy.pid, signal.SIGKILL)
        until = time.monotonic() + 10  # until the system has taken the process away, beside other tests
        while not policy.died() and time.monotonic() < until:
            time.sleep(0.001)
        assert "has died (exit code -9" in policy.died()
    assert policy.died() == ""  # closed, not dead


def test_one_that_hangs_can_be_closed_from_another_thread():
    policy = PolicyProcess(SPEC, open=open_fake)
    errors = []

    def ask():
        try:
            policy.predict([observation("hang")], seed=0)
        except CheckpointError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    started = time.perf_counter()
    policy.close()
    policy.close()
    thread.join(2.0)
    assert time.perf_counter() - started < 1.0
    assert errors == ["the policy's process was closed. Start another one."]
    assert not runs(policy.pid)
    with pytest.raises(CheckpointError, match="was closed"):
        policy.predict([observation()], seed=0)


OWNER = """
import sys
sys.path.insert(0, {folder!r})
from test_process import SPEC, observation, open_fake
from rdt2.policy import PolicyProcess

if __name__ == "__main__":
    policy = PolicyProcess(SPEC, open=open_fake)
    print(policy.pid, flush=True)
    policy.predict([observation("hang")], seed=0)
"""


def test_it_ends_with_its_owner_also_in_the_middle_of_a_prediction(tmp_path):
    """kill -9 of the owner."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER.format(folder=str(Path(__file__).parent)))
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(owner.stdout.readline())
        time.sleep(0.3)
        assert runs(pid)
    finally:
        owner.kill()
        owner.wait()
    until = time.monotonic() + 5
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not runs(pid)


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
