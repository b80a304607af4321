"""Every script in benchmarks/ runs, as small as it can."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LIBRARIES = {"naive", "wallclock"}  # imported by others


@pytest.fixture
def load(monkeypatch):
    """A script as a module; those of its own folder are found beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if name in {path.stem for path in BENCHMARKS.glob("*.py")}:
            del sys.modules[name]


@pytest.fixture
def run(load, monkeypatch, tmp_path):
    """Run a script's main with options; the figures it writes."""

    def run(name: str, *options: str) -> dict:
        figures = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options, "--json", str(figures)])
        load(name).main()
        return json.loads(figures.read_text())

    return run


def test_no_script_is_forgotten():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - LIBRARIES
    text = Path(__file__).read_text()
    assert {name for name in scripts if f'"{name}"' not in text} == set()


def test_memory_calculates_every_mode(run):
    figures = run("memory", "--preset", "tiny")
    assert set(figures) == {"preset", "device", "torch", "expert", "expert_int8", "lora", "qlora"}
    assert figures["expert_int8"]["calculated_gb"] < figures["expert"]["calculated_gb"] < 0.2
    assert figures["qlora"]["calculated_gb"] < figures["lora"]["calculated_gb"] < 0.2


@pytest.mark.parametrize("mode", ["expert", "expert_int8", "lora", "qlora"])
def test_memory_measures_a_step_that_trains(load, mode):
    if mode == "qlora":
        pytest.importorskip("bitsandbytes")
    memory = load("memory")
    preset = memory.PRESETS["tiny"]
    words = memory.train_tokenizer(memory.INSTRUCTIONS, num_embeddings=memory.CODES)
    processor = memory.VLMProcessor(words, memory.ImageProcessor(max_pixels=preset.vlm.max_pixels))
    take = memory.step(mode, preset, processor, torch.device("cpu"), rows=1)
    assert math.isfinite(take())
    assert math.isfinite(take())


def test_packed(run):
    figures = run("packed", "--repeats", "1")
    assert all(row["ratio"] > 0 for row in figures.values())


def test_inference(run):
    figures = run("inference", "--preset", "tiny", "--repeats", "1")
    assert figures["fm"]["max_difference"] < 1e-4
    assert figures["vq"]["equal"] == 1


def test_training(run):
    figures = run(
        "training", "--preset", "tiny", "--batch", "1", "--repeats", "1", "--threads", "1", "--only", "expert"
    )
    assert figures["expert"]["loss_difference"] < 1e-4


def test_training_of_the_whole_vlm_begins_with_the_same_loss(load):
    training = load("training")
    ours, naive = (training.measure("vq", side, training.PRESETS["tiny"], 1, 1) for side in ("ours", "naive"))
    assert ours["loss"] == pytest.approx(naive["loss"], rel=1e-4)


def test_precision(run):
    pytest.importorskip("mujoco")
    figures = run("precision", "--scenes", "1", "--settings", "bfloat16", "int8")
    assert figures["bfloat16"]["position_mm"] == 0
    assert figures["int8"]["fm_gb"] < figures["bfloat16"]["fm_gb"]


def test_calibration(run):
    pytest.importorskip("mujoco")
    figures = run("calibration", "--policy", "untrained", "--episodes", "1", "--max-seconds", "0.2")
    assert list(figures)[:3] == ["as measured", "turned by 5 degrees", "shifted by 2 cm"]
    assert all(each["trials"] == 1 for each in figures.values())


def test_loop(run):
    """Limits hold, always; how fast a busy machine is, is not tested."""
    pytest.importorskip("mujoco")
    options = ("--scenes", "1", "--policy", "untrained", "--max-seconds", "0.2")
    figures = run("loop", "--delays", "0.05", "0.5", "--seconds", "1.5", *options)
    assert figures["violations"] == 0
    assert figures["recorder"]["fps_min"] > 5
    assert figures["servo"]["p99_ms"] > 7
    assert figures["delays"]["500 ms"]["mode"] == "synchronous"
    assert "can be driven before the next comes" in figures["delays"]["500 ms"]["refused"]
    assert figures["success"]["synchronous, 0.1 s"]["trials"] == 1
    assert "driven before the next comes" in figures["success"]["asynchronous, 0.3 s"]["refused"]


def test_faults(run):
    pytest.importorskip("mujoco")
    killed = "main process killed (kill -9)"
    figures = run("faults", "--only", "arm refuses a command", "SIGTERM", killed)
    assert "the left arm refuses: protective stop" in figures["arm refuses a command"]["ending"]
    assert figures["SIGTERM"]["ending"] == "stopped by SIGTERM"
    assert "no process left" in figures[killed]["ending"]
    for name in ("arm refuses a command", "SIGTERM", killed):
        assert figures[name]["acted_ms"] < 1000
        assert figures[name]["still_ms"] < 1000
        assert figures[name]["lines_recorded"] > 10
        assert not figures[name]["threads_left"]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("webdataset", "cv2")),
    reason="needs webdataset and cv2",
)
def test_data(load, run, monkeypatch):
    data = load("data")
    monkeypatch.setattr(data, "in_a_process", lambda measure, *arguments: measure(*arguments))
    figures = run("data", "--samples", "96", "--augmented", "96")
    assert figures["decode"]["samples_per_s"] > 0
    assert figures["augment"]["naive_samples_per_s"] > 0


def test_remote(load, run, monkeypatch):
    """In one process: after loader processes have ended, what is asked by URL in this one still comes."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    remote = load("remote")
    monkeypatch.setattr(remote, "in_a_process", lambda measure, *arguments: measure(*arguments))
    figures = run("remote", "--samples", "48", "--delay", "0.001")
    assert figures["delay_s"] == 0.001
    assert figures["decode"]["http_samples_per_s"] > 0
    assert min(figures["augment"][key] for key in ("http_ratio", "s3_ratio", "s3_worker_cpu_ms")) > 0
    assert min(figures["server_samples_per_s"].values()) > 0
