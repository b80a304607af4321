"""Two gloo processes under each engine that runs on a CPU give the losses of one process."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import STEPS, settings

from rdt2.errors import ConfigError
from rdt2.training import engines
from rdt2.training.loop import fit
from rdt2.training.vq import VQStage
from rdt2.vlm import load_vlm

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def alone(samples, tiny_vlm, tmp_path_factory):
    """The folder of one process that sees the batches of both."""
    out = tmp_path_factory.mktemp("alone")
    config = settings(str(tiny_vlm), batch_size=4)
    fit(VQStage(config, samples, out), config, out)
    return out


def launch(engine: str, samples: Path, vlm: Path, out: Path) -> list[dict]:
    """Run two_processes.py with the shipped configuration; what each process reports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(ROOT / "configs" / "accelerate" / f"{engine}.yaml"),
        "--num_processes", "2", "--main_process_port", port,
        str(Path(__file__).with_name("two_processes.py")), str(samples), str(vlm), str(out), engine,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def rows(out: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def check(out: Path, alone: Path) -> None:
    assert len(rows(out, "loss")) == STEPS
    for key in ("loss", "eval/loss", "grad_norm"):
        assert rows(out, key) == pytest.approx(rows(alone, key), rel=1e-5 if "loss" in key else 1e-3), key
    ours, theirs = (load_vlm(folder / "model").state_dict() for folder in (out, alone))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=2e-4, msg=name)


def test_two_processes_give_the_losses_of_one(alone, samples, tiny_vlm, tmp_path):
    first, second = launch("ddp", samples, tiny_vlm, tmp_path)
    check(tmp_path, alone)
    for mine, theirs in zip(first["numbers"], second["numbers"], strict=True):
        assert not set(mine) & set(theirs)  # other data on each process
    draws = first["drawn"] + second["drawn"]
    assert len(draws) == len(set(draws)) == 2 * 2 * STEPS  # other noise, at every part of every step

    sharded = first["fsdp2"]  # the units that fsdp2.yaml shards
    assert sharded["sharded_loss"] == pytest.approx(sharded["loss"], rel=1e-5)
    assert sharded["gradient_difference"] < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_gives_the_losses_of_one_process(stage, alone, samples, tiny_vlm, tmp_path):
    launch(f"zero{stage}", samples, tiny_vlm, tmp_path)
    check(tmp_path, alone)


def test_fsdp_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU is there"):
        engines.check_possible()


def test_processes_with_other_settings_are_told_apart(monkeypatch):
    class Two:
        num_processes = 2

    first, second = ({"stage": "vq", "config": {"seed": seed, "steps": 5}} for seed in (0, 1))
    monkeypatch.setattr("accelerate.utils.gather_object", lambda _: [first, second])
    with pytest.raises(ConfigError, match=r"process 1 was started with other.* seed is 1 there and 0"):
        engines.check_agreement(Two(), first)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda _: [first, first])
    engines.check_agreement(Two(), first)
