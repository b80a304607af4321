"""Two gloo processes under each engine that runs on a CPU give the losses of one process."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from two_processes import STEPS, settings, stage_of

from rdt2.errors import ConfigError
from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig
from rdt2.training import engines, vq
from rdt2.training.config import RunConfig, VQTraining
from rdt2.training.loop import fit
from rdt2.vlm import load_vlm, save_vlm

_PATIENCE_S = 240
"""For two processes on a busy machine, the first build of DeepSpeed's parts included; less than a test's own limit, so
that what they said is seen."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tokenizer(samples, tmp_path_factory):
    """Folder of an untrained one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(0)
    ActionTokenizer(TokenizerConfig.tiny()).save_pretrained(folder)
    LinearNormalizer.from_pretrained(samples).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_vlm(tiny_vlm, tmp_path_factory):
    """In half precision, as published."""
    folder = tmp_path_factory.mktemp("half")
    shutil.copytree(tiny_vlm, folder, dirs_exist_ok=True)
    save_vlm(load_vlm(tiny_vlm, dtype=torch.bfloat16), folder)
    model = load_vlm(folder, dtype=None)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    return folder


@pytest.fixture(scope="module")
def alone(samples, tiny_vlm, tokenizer, tmp_path_factory):
    """The folder of one process that sees the batches of both."""
    out = tmp_path_factory.mktemp("alone")
    config = settings(str(tiny_vlm), str(tokenizer), "batch_size=4")
    fit(stage_of(config, samples, out), config, out)
    return out


def launch(launcher: list[str], *arguments: str | Path, program: str = "two_processes.py") -> list[dict]:
    """Run a program of this folder twice; what each process reports into OUT, its fourth argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        *(part.replace("PORT", port) for part in launcher),
        str(Path(__file__).with_name(program)),
        *map(str, arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        try:
            _, said = process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends the two
            pytest.fail(
                "not done after {} s; what it said:\n{}\n{}".format(
                    _PATIENCE_S, *process.communicate(timeout=40)
                )
            )
        assert process.returncode == 0, said
    return [json.loads((Path(arguments[3]) / f"rank{rank}.json").read_text()) for rank in (0, 1)]


TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "PORT"]


def accelerate(name: str) -> list[str]:
    """`accelerate launch` with a shipped configuration."""
    file = str(ROOT / "configs" / "accelerate" / f"{name}.yaml")
    return [
        "-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", "2",
        "--main_process_port", "PORT",
    ]  # fmt: skip


def rows(out: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def check(out: Path, alone: Path) -> None:
    assert len(rows(out, "loss")) == STEPS
    last = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()][-1]
    assert any("position" in key for key in last)  # chunks were written, too
    for key in ("loss", "grad_norm", *(key for key in last if key.startswith("eval/"))):
        expected = rows(alone, key)
        assert rows(out, key) == pytest.approx(expected, rel=1e-5 if "loss" in key else 1e-3), key
    ours, theirs = (load_vlm(folder / "model").state_dict() for folder in (out, alone))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=2e-4, msg=name)


def test_two_processes_give_the_losses_of_one(alone, samples, tiny_vlm, tokenizer, tmp_path):
    first, second = launch(accelerate("ddp"), samples, tiny_vlm, tokenizer, tmp_path)
    check(tmp_path, alone)
    for mine, theirs in zip(first["numbers"], second["numbers"], strict=True):
        assert not set(mine) & set(theirs)  # other data on each process
    draws = first["drawn"] + second["drawn"]
    assert len(draws) == len(set(draws)) == 2 * 2 * STEPS  # other noise, at every part of every step
    assert first["patience_s"] == second["patience_s"] == 3600  # while one writes a large model


def test_split_weights_give_the_losses_of_one_process(alone, samples, tiny_vlm, tokenizer, tmp_path):
    first, second = launch(TORCHRUN, samples, tiny_vlm, tokenizer, tmp_path, "shard=true")
    check(tmp_path, alone)
    whole = [len(p) for p in load_vlm(tmp_path / "model").parameters()]
    assert max(first["held"]) == max(whole) // 2
    assert sum(first["held"]) + sum(second["held"]) == sum(whole)


def test_split_weights_of_which_some_are_frozen(samples, tiny_vlm, tokenizer, tmp_path):
    """Files in half precision; one process holds the frozen ones in float32, too."""
    config = settings(str(tiny_vlm), str(tokenizer), "batch_size=4", "frozen_layers=1")
    fit(stage_of(config, samples, tmp_path / "alone"), config, tmp_path / "alone")
    launch(TORCHRUN, samples, tiny_vlm, tokenizer, tmp_path / "two", "shard=true", "frozen_layers=1")
    check(tmp_path / "two", tmp_path / "alone")


def test_an_expert_beside_a_split_vlm(samples, demo_vlm, tmp_path):
    """The losses and figures are those of processes that hold the VLM whole, and each reads half of it."""
    half = tmp_path / "vlm"
    shutil.copytree(demo_vlm, half)
    save_vlm(load_vlm(demo_vlm, dtype=torch.bfloat16), half)
    reports = {}
    for how in ("whole", "split"):
        out, shard = tmp_path / how, f"shard={str(how == 'split').lower()}"
        reports[how] = launch(TORCHRUN, samples, half, "-", out, shard, program="two_experts.py")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "grad_norm", *(key for key in lines[-1] if key.startswith("eval/"))):
        assert rows(tmp_path / "split", key) == pytest.approx(rows(tmp_path / "whole", key), rel=1e-4), key
    (first, second), whole = reports["split"], reports["whole"][0]
    assert first["dtypes"] == second["dtypes"] == ["torch.float32"]
    assert first["linears"] + second["linears"] == whole["linears"]
    assert first["linears"] == whole["linears"] // 2


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_gives_the_losses_of_one_process(stage, alone, samples, tiny_vlm, tokenizer, tmp_path):
    launch(accelerate(f"zero{stage}"), samples, tiny_vlm, tokenizer, tmp_path)
    check(tmp_path, alone)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_in_bf16_gives_nearly_the_losses_of_float32(alone, samples, tiny_vlm, tokenizer, tmp_path):
    launch(accelerate("zero3"), samples, tiny_vlm, tokenizer, tmp_path, "precision=bf16")
    assert rows(tmp_path, "loss") == pytest.approx(rows(alone, "loss"), rel=2e-3)


def test_deepspeed_in_bf16_is_given_the_pages_of_the_files(tiny_vlm, monkeypatch):
    """Of which it keeps a float32 part of its own; what computes in float32 has to come so."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    settings = VQTraining(start_from=str(tiny_vlm), precision="bf16")
    model = vq._build(settings, str(tiny_vlm))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    places = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    files = [place for place in places if place[-1].startswith(str(tiny_vlm))]
    mapped = [range(*(int(end, 16) for end in place[0].split("-"))) for place in files]
    assert all(any(p.data_ptr() in part for part in mapped) for p in model.parameters())
    exact = vq._build(replace(settings, precision="fp32"), str(tiny_vlm))
    assert {p.dtype for p in exact.parameters()} == {torch.float32}


def test_what_cannot_split_weights_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match=r"this is one alone. Launch with 'torchrun"):
        engines.check_possible(RunConfig(shard=True))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="does not go with DeepSpeed"):
        engines.check_possible(RunConfig(shard=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="--set shard=true, which splits the weights"):
        engines.check_possible(RunConfig())
    with pytest.raises(ConfigError, match="4-bit weights cannot be split"):
        VQTraining(adapter="qlora", shard=True)


def test_processes_with_other_settings_are_told_apart(monkeypatch):
    class Two:
        num_processes = 2

    first, second = ({"stage": "vq", "config": {"seed": seed, "steps": 5}} for seed in (0, 1))
    monkeypatch.setattr("accelerate.utils.gather_object", lambda _: [first, second])
    with pytest.raises(ConfigError, match=r"process 1 was started with other.* seed is 1 there and 0"):
        engines.check_agreement(Two(), first)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda _: [first, first])
    engines.check_agreement(Two(), first)
