"""Signals that end a run: the step is finished and all is saved."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from toy import ToyStage, config, rows

from rdt2.training.loop import fit
from rdt2.training.stopping import Stopped, Stopping

PROGRAM = Path(__file__).with_name("stopped_run.py")


class Signalled(ToyStage):
    """Gets a signal in the middle of a step."""

    def __init__(self, number: int, at: int):
        super().__init__()
        self.left = at

        def kill(*_: object) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)

        self.module.register_forward_pre_hook(kill)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    fit(ToyStage(), config(), out)
    return out


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_after_the_step_and_the_run_goes_on(tmp_path, whole, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {name} after step 6 of 12; all is saved in") as stop:
        fit(Signalled(number, at=6), config(), tmp_path)
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoints" / "step-00000006").is_dir()
    fit(ToyStage(), config(), tmp_path, resume=True)
    mine, theirs = (torch.load(out / "model" / "weights.pt") for out in (tmp_path, whole))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert [r for r in rows(tmp_path) if "loss" in r] == [r for r in rows(whole) if "loss" in r]


def test_a_signal_in_the_last_step_or_the_last_evaluation_loses_nothing(tmp_path):
    class Late(ToyStage):
        def evaluate(self, module, device):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().evaluate(module, device)

    for name, stage in (("step", Signalled(signal.SIGTERM, at=12)), ("evaluation", Late())):
        with pytest.raises(Stopped, match="all 12 steps are done and saved; the model is still to be"):
            fit(stage, config(evaluate_every=0), tmp_path / name)
        fit(ToyStage(), config(evaluate_every=0), tmp_path / name, resume=True)
        assert (tmp_path / name / "model" / "weights.pt").is_file()


def test_what_nohup_ignores_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(Signalled(signal.SIGHUP, at=3), config(), tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_a_thread_leaves_signals_alone(tmp_path):
    thread = threading.Thread(target=fit, args=(ToyStage(), config(), tmp_path))
    thread.start()
    thread.join()
    assert (tmp_path / "model" / "weights.pt").is_file()


def test_the_same_signal_passed_on_twice_is_one():
    with Stopping(speaks=False) as stopping:
        for _ in range(2):  # once from the cluster, once from the launcher
            os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.asked == signal.SIGTERM


def start(*command: str) -> subprocess.Popen:
    here = str(PROGRAM.parent)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_second_signal_ends_at_once(tmp_path):
    run = start(str(PROGRAM), str(tmp_path), "5", "60")
    assert run.stdout is not None
    run.stdout.readline()
    run.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(1.5)
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=5)
    assert run.returncode == -signal.SIGTERM
    assert "SIGTERM: finishing the step, then saving a checkpoint; a second signal ends at once." in told


def test_two_processes_stop_together(tmp_path):
    """Whoever ends the launcher ends the run: as clusters and Ctrl-C do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port)
    launcher += ("--shutdown-timeout", "10")  # in place of 30, after which it kills them
    run = start(*launcher, str(PROGRAM), str(tmp_path), "400", "0.05")
    assert run.stdout is not None
    for _ in range(6):
        run.stdout.readline()
    run.send_signal(signal.SIGTERM)
    said, told = run.communicate(timeout=60)
    assert run.returncode != 0
    assert said.count("stopped by SIGTERM after step") == 2, told
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert saved.name in said
    assert json.loads((saved / "progress.json").read_text())["processes"] == 2
