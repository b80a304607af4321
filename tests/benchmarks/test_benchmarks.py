"""Every script in benchmarks/ runs, as small as it can."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from rdt2.errors import ConfigError
from rdt2.policy import PolicySpec
from rdt2.serving import ProcessEngine

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LIBRARIES = {"naive", "opencv_handeye", "wallclock"}  # imported by others


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


def test_footprint_counts_all_processes_of_a_command(load, monkeypatch, tmp_path, capfd):
    holds = "import time; held = bytearray(b'1') * 200_000_000; time.sleep(1)"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holds!r}]); print('done')"
    file = tmp_path / "figures.json"
    monkeypatch.setattr(
        sys, "argv", ["footprint.py", "--json", str(file), "--", sys.executable, "-c", command]
    )
    load("footprint").main()
    figures = json.loads(file.read_text())
    assert 0.2 < figures["peak_gb"] < 0.35
    assert figures["seconds"] > 1
    assert "done" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["footprint.py", "--", sys.executable, "-c", "exit(3)"])
    with pytest.raises(SystemExit, match="3"):
        load("footprint").main()


def test_success_tells_what_the_evaluations_say_and_repeats_none(load, run, tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    untrained = load("success").ROWS["random weights pick UR5e"]
    monkeypatch.setitem(load("success").ROWS, "short", f"{untrained} --max-seconds 0.5")
    options = "--only", "short", "--episodes", "1", "--seed", "3", "--folder", str(tmp_path / "kept")
    found = run("success", *options)["short"]
    assert (found["success"], found["episodes"], found["complete"]) == (0, 1, True)
    assert found["command"].endswith("--max-seconds 0.5 --seed 3 --episodes 1 --workers 2")
    (file,) = (tmp_path / "kept").iterdir()
    before = json.loads(file.read_text())["records"]
    assert run("success", *options)["short"]["episodes"] == 1
    assert json.loads(file.read_text())["records"] == before


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
    # counted, as a GPU holds it: the action tokenizer with VQ's VLM
    measured = json.loads((BENCHMARKS / "results/inference-full-h200.json").read_text())
    for kind in ("fm", "vq"):
        bytes_held = measured[kind]["weights_bytes"]["lean"]
        assert figures["bfloat16"][f"{kind}_gb"] == pytest.approx(bytes_held / 1e9, rel=1e-4)


def test_calibration(run):
    figures = run("calibration", "--draws", "2", "--seconds", "12", "--coverage-draws", "1")
    assert figures["offset_mm"] < 1
    assert figures["rotation_deg"] < 0.2
    assert figures["time_offset_ms"] < 4
    assert 0 <= figures["coverage"] <= 1
    assert figures["coverage_draws"] == 3
    assert figures["methods"]["published (y and z)"]["offset_ratio"] > 10


def test_opencv_is_asked_where_it_can_answer(load, monkeypatch, tmp_path):
    """A Python with OpenCV 4 is played: it finds what is true, if poses come and go as meant."""
    handeye = load("opencv_handeye")
    assert "No such file" in handeye.lacking(str(tmp_path / "none"))
    (tmp_path / "cv2.py").write_text(
        "import numpy as np\nCALIB_HAND_EYE_PARK = 1\n"
        "def calibrateHandEye(R_arm, t_arm, R_seen, t_seen, method):\n"
        "    assert len(R_arm) == 60 and np.shape(t_seen[0]) == (3,)\n"
        "    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])\n"
        "    return turn, np.array([[0.1], [0.2], [0.3]])\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert handeye.lacking(sys.executable) == ""
    poses = np.tile(np.eye(4), (2, 60, 1, 1))
    found = np.linalg.inv(handeye.offsets_by(sys.executable, poses, poses)[1])
    np.testing.assert_allclose(
        found, [[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]], atol=1e-12
    )


def test_wrong_calibration(run, load, monkeypatch, capsys, tmp_path):
    """Whole after every row, compared scene by scene, and what is there already is not run again."""
    pytest.importorskip("mujoco")
    few = ("--policy", "untrained", "--scenes", "1", "--max-seconds", "0.2")
    script, rows = load("wrong_calibration"), ["as measured", "turned by 5 degrees", "shifted by 2 cm"]
    evaluate, ran = script.evaluate_cell, []

    def interrupted(policy, robot, *values, **named):
        ran.append(robot)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return evaluate(policy, robot, *values, **named)

    monkeypatch.setattr(script, "evaluate_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("wrong_calibration", *few)
    assert list(json.loads((tmp_path / "figures.json").read_text())["rows"]) == rows[:2]
    monkeypatch.setattr(script, "evaluate_cell", evaluate)
    figures = run("wrong_calibration", *few)
    assert list(figures["rows"]) == rows
    assert all(row["trials"] == 1 for row in figures["rows"].values())
    compared = [row.get("against_as_measured") for row in figures["rows"].values()]
    assert compared[0] is None
    assert [paired["trials"] for paired in compared[1:]] == [1, 1]
    assert "shifted by 2 cm against as measured: +0 points" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in (tmp_path / "figures").glob("*.json")}
    assert len(before) == 3
    assert run("wrong_calibration", *few) == figures
    assert {path: len(path.read_bytes()) for path in before} == {p: len(b) for p, b in before.items()}


def test_calibrated_cell(run, tmp_path):
    pytest.importorskip("mujoco")
    few = ("--policy", "untrained", "--scenes", "1", "--max-seconds", "0.2", "--seconds", "12")
    figures = run("calibrated_cell", *few)
    assert all(figures[name]["trials"] == 1 for name in ("true", "wrong", "calibrated"))
    assert all(off["mm"] < 0.5 and off["degrees"] < 0.1 for off in figures["off"]["calibrated"].values())
    assert all(19 < off["mm"] < 21 and 4.9 < off["degrees"] < 5.1 for off in figures["off"]["wrong"].values())
    assert figures["against_true"]["calibrated"]["trials"] == 1
    before = {path: path.read_bytes() for path in (tmp_path / "figures").glob("*.json")}
    assert len(before) == 3
    assert run("calibrated_cell", *few) == figures  # goes on: there is nothing left to do
    assert {path: len(path.read_bytes()) for path in before} == {p: len(b) for p, b in before.items()}


@pytest.mark.realtime
def test_loop(run):
    """Limits hold, always; how fast a busy machine is, is not tested."""
    pytest.importorskip("mujoco")
    options = ("--scenes", "1", "--policy", "untrained", "--max-seconds", "0.2")
    figures = run("loop", "--delays", "0.05", "0.5", "--seconds", "1.5", *options)
    assert figures["violations"] == 0
    assert figures["recorder"]["moments_per_s"] > 5
    assert figures["recorder"]["pictures_per_s"] > 0
    rows = (*figures["delays"].values(), *figures["policies"].values())
    assert figures["recorder"]["fps_min"] == min(rate for row in rows for rate in row["recorder"].values())
    assert figures["policies"]["demo-fm"]["mode"] in ("chunking", "synchronous")
    assert not any(row["unrecorded"] for row in rows)
    assert figures["servo"]["p99_ms"] > 7
    assert figures["delays"]["500 ms"]["mode"] == "synchronous"
    assert "to be driven until the next one comes" in figures["delays"]["500 ms"]["refused"]
    assert figures["success"]["synchronous, 0.1 s"]["trials"] == 1
    assert "driven until the next one comes" in figures["success"]["asynchronous, 0.3 s"]["refused"]


@pytest.mark.realtime
def test_devices(run):
    pytest.importorskip("pymodbus")
    figures = run("devices", "--only", "zhixing", "uvc", "--seconds", "1")
    assert set(figures["devices"]) == {"zhixing", "uvc"}
    assert all(value >= 0 for row in figures["devices"].values() for value in row.values())


@pytest.mark.realtime
def test_faults(run, capfd):
    """In an episode that a busy machine ends before its fault nothing is measured: there is another."""
    pytest.importorskip("mujoco")
    killed = "main process killed (kill -9)"
    figures = run("faults", "--only", "arm refuses a command", "SIGTERM", killed, "--slow")
    assert "the left arm refuses: protective stop" in figures["arm refuses a command"]["ending"]
    assert figures["SIGTERM"]["ending"] == "stopped by SIGTERM"
    assert "no process left" in figures[killed]["ending"]
    for name in ("arm refuses a command", "SIGTERM", killed):
        # on the robot's clock, which stands still where the machine does not keep up
        assert 0 <= figures[name]["acted_ms"] < 1000
        assert 0 <= figures[name]["still_ms"] < 1000
        assert figures[name]["recorded"]["moments"] > 10
        assert figures[name]["recorded"]["pictures"] > 0
        assert not figures[name]["threads_left"]
    assert "leaked" not in capfd.readouterr().err


def needs_all_peers():
    for name in ("mujoco", "rtde_control", "pymodbus", "mcap"):
        pytest.importorskip(name)
    from rdt2.devices.libaravis import library
    from rdt2.errors import RDT2Error

    try:
        library()
    except RDT2Error as error:
        pytest.skip(str(error))


@pytest.mark.realtime
def test_peers(run):
    """One scene both ways, as short as it can be; what is there already is not run again."""
    needs_all_peers()
    options = ("--scenes", "1", "--policy", "untrained", "--max-seconds", "1")
    figures = run("peers", *options)
    assert figures["scenes"] == 1
    assert figures["peers_less_direct"]["trials"] == 1
    for way in ("direct", "peers"):
        assert figures["rows"][0][way]["seconds"] > 0 or figures["rows"][0][way]["ending"]
    assert run("peers", *options)["rows"] == figures["rows"]


@pytest.mark.skipif(
    shutil.which("cc") is None or sys.platform != "linux", reason="needs Linux and a C compiler"
)
def test_slow_motion(load, monkeypatch, tmp_path):
    """A quarter of each second passes, whatever is waited by, and in a process of its own as well."""
    (tmp_path / "slow.py").write_text(
        "import asyncio, json, select, subprocess, sys, threading, time\n"
        "def took(wait):\n"
        "    began = time.monotonic()\n"
        "    wait()\n"
        "    return time.monotonic() - began\n"
        "waits = [lambda: time.sleep(0.1), lambda: threading.Event().wait(0.1), lambda: select.select([], [], [], 0.1),"
        " lambda: select.poll().poll(100), lambda: asyncio.run(asyncio.sleep(0.1))]\n"
        "clock = [sys.executable, '-c', 'import time; print(time.monotonic())']\n"
        "before, inner, after = time.monotonic(), float(subprocess.check_output(clock)), time.monotonic()\n"
        "open(sys.argv[1], 'w').write(json.dumps([[took(wait) for wait in waits], before < inner < after]))\n"
    )
    found = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["slow_motion.py", "0.25", str(tmp_path / "slow.py"), str(found)])
    began = time.monotonic()
    with pytest.raises(SystemExit, match=r"^0$"):
        load("slow_motion").main()
    assert time.monotonic() - began > 5 * 0.1 / 0.25
    waited, agree = json.loads(found.read_text())
    assert agree
    assert all(0.1 <= seconds < 0.3 for seconds in waited), waited


@pytest.mark.realtime
def test_device_faults(run):
    """Its rows with arms take minutes, and a machine that does nothing else."""
    needs_all_peers()
    figures = run("device_faults", "--only", "tracker jumps")
    assert "more than a hand does" in figures["tracker jumps"]["message"]
    assert 0 <= figures["tracker jumps"]["acted_ms"] < 1000
    assert figures["tracker jumps"]["back"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_process_that_a_killed_one_had_started_is_looked_for(load):
    """Regression: the policy's was, and the relays to the controllers, in sessions of their own, were not."""
    pytest.importorskip("mujoco")
    waits = "import time; print('here', flush=True); time.sleep(60)"
    starts = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {waits!r}], start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    found = load("device_faults")
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True) as owner:
        child = int(owner.stdout.readline())
        started = found.descendants(owner.pid)
        owner.kill()
    try:
        assert started == [child]
        assert found.runs(child)  # nobody has ended it
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_process_that_draws_is_looked_for_as_well(load, monkeypatch, capsys, tmp_path):
    """Regression: "no process left" was said of the cell's and the policy's alone."""
    pytest.importorskip("mujoco")
    faults = load("faults")
    cell, drawing, policy = (SimpleNamespace(pid=pid) for pid in (11, 12, 13))
    found = SimpleNamespace(
        process=cell,
        _drawing=drawing,
        _board=SimpleNamespace(name="board"),
        robot=lambda: SimpleNamespace(clock=SimpleNamespace(now=time.monotonic)),
    )
    monkeypatch.setattr(faults.RealtimeCell, "of", lambda *_: contextlib.nullcontext(found))
    monkeypatch.setattr(faults, "PolicyProcess", lambda *_, **__: contextlib.nullcontext(policy))
    monkeypatch.setattr(faults, "DiskRecorder", lambda *_, **__: SimpleNamespace(begin=lambda *_: None))
    monkeypatch.setattr(faults, "run_episode", lambda *_, **__: SimpleNamespace(ending="time is up"))
    with pytest.raises(SystemExit, match="before its fault: time is up"):
        faults.victim(tmp_path, faults.driving("turns", slow=False))
    assert sorted(json.loads(capsys.readouterr().out)["processes"]) == [11, 12, 13]


def test_a_fault_is_tried_again_where_the_episode_ended_before(load, monkeypatch, capsys):
    """Regression: an episode that a busy machine had ended by itself came as an IndexError."""
    pytest.importorskip("mujoco")
    faults = load("faults")
    early, good = (None, "the pictures were taken 60 ms apart."), ({"acted_ms": 5}, "stopped by SIGTERM")
    episodes = iter([early, early, good])
    monkeypatch.setattr(faults, "episode", lambda *_: next(episodes))
    assert faults.try_fault("SIGTERM", None, None) == {"acted_ms": 5}
    told = "SIGTERM: episode 2 of 3 ended before its fault: the pictures were taken 60 ms apart."
    assert told in capsys.readouterr().err
    episodes = iter([early] * 3)
    with pytest.raises(SystemExit, match="none of 3 episodes lasted until its fault"):
        faults.try_fault("SIGTERM", None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_disk_that_is_full_ends_the_recording_and_leaves_what_was_written(load, tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    pytest.importorskip("mcap")
    from rdt2.control import DiskRecorder
    from rdt2.sim.cell import cell_settings

    faults, recorder = load("faults"), DiskRecorder(tmp_path, policy={})
    recorder.begin(SimpleNamespace(now=time.monotonic), cell_settings("ur5e"))
    recorder.mark("success")
    faults.disk_full(SimpleNamespace(recorder=recorder))
    for _ in range(2000):
        recorder.mark("success")
    assert "No space left on device" in recorder.problem
    assert load("wallclock").recorded(tmp_path) == {"moments": 0, "pictures": 0}


def test_no_fault_happens_behind_the_end_of_its_episode(load, monkeypatch):
    """Regression: one whose episode ended early came into what was done next; as SIGTERM it ended the process."""
    pytest.importorskip("mujoco")
    faults = load("faults")
    came, speeds = [], SimpleNamespace(seen=[(0.0, faults.SPEED)])
    monkeypatch.setitem(faults.FAULTS, "SIGTERM", came.append)
    run = SimpleNamespace(robot=SimpleNamespace(clock=SimpleNamespace(now=time.monotonic)))
    happened: list[float] = []
    with faults.later("SIGTERM", run, speeds, happened):
        pass
    assert not any(thread.name == "fault" for thread in threading.enumerate())
    assert (came, happened) == ([], [])
    monkeypatch.setattr(faults, "AFTER", 0.0)
    with faults.later("SIGTERM", run, speeds, happened):
        until = time.monotonic() + 10
        while not came and time.monotonic() < until:
            time.sleep(0.01)
    assert came == [run]
    assert len(happened) == 1


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


@pytest.mark.realtime
def test_serving(load, run, monkeypatch):
    figures = run("serving", "--only", "overhead", "--repeats", "3")
    assert figures["raw"]["request_bytes"] > 5 * figures["jpeg"]["request_bytes"]
    assert all(figures[kind]["served_ms"] > figures[kind]["overhead_ms"] for kind in ("raw", "jpeg"))
    serving = load("serving")
    monkeypatch.setattr(serving, "rdt2_serve", instant_server)
    many = serving.under_load(0.5)
    assert many["errors"] == 0
    assert many["requests"] >= serving.CLIENTS


@contextlib.contextmanager
def instant_server(*options):
    """In place of `rdt2 serve`, which tests/cli/test_serve.py starts."""
    import serving

    with serving.process(serving._serve_instant) as url:
        yield url, os.getpid()


def test_replicas(load):
    """The clients' side; a cluster is for `make test-ray`."""
    serving, replicas = load("serving"), load("replicas")
    spec = PolicySpec(policy="instant")
    with (
        replicas.serving(lambda: ProcessEngine(spec, open=serving.open_instant)) as url,
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        figures = replicas.turn(pool, url, clients=1, seconds=0.5)
    assert figures["errors"] == 0
    assert figures["per_second"] > 0
    assert figures["median_ms"] <= figures["p99_ms"]
    assert figures["busy_ms"] > 0
    rounds = [
        {
            name: {**figures, "per_second": rate, "busy_ms": 100}
            for name, rate in (("1 replica", 10), ("2 replicas", two))
        }
        for two in (15, 16, 19)
    ]
    told = replicas.summary(rounds)
    assert told["ratio"] == 1.6
    assert told["ratio_at_most"] == pytest.approx(os.cpu_count())


def test_delayed(run):
    pytest.importorskip("mujoco")
    few = ("--episodes", "1", "--max-seconds", "0.4", "--port", "8768")
    figures = run("delayed", *few, "--delay", "0.05")
    assert figures["line"]["latency_s"] == pytest.approx(figures["local"]["latency_s"] + 0.1)
    assert figures["line"]["wall_ms_of_a_prediction"] > 100
    assert figures["line_against_local"]["trials"] == 1


def test_openpi_cell_goes_on_with_the_scenes_that_are_missing(load, tmp_path, monkeypatch):
    pytest.importorskip("openpi_client", reason="openpi-client needs numpy < 2: make test-openpi")
    cell, file = load("openpi_cell"), tmp_path / "cell.json"
    spec, options = PolicySpec(policy="demo-fm"), ("ur5e", "pick")
    figures = cell.compare(spec, *options, range(1), 1.0, file)
    assert figures["same_outcome"] == figures["same_end"] == 1
    assert figures["served_against_direct"]["difference"] == 0
    monkeypatch.setattr(cell, "load_policy", lambda *_: None)
    monkeypatch.setattr(cell, "served", lambda *_: contextlib.nullcontext("ws://nowhere:1"))
    monkeypatch.setattr(cell, "WebsocketClientPolicy", lambda *_: None)
    monkeypatch.setattr(cell, "drive", lambda *_: {"success": True, "end": [0.0]})
    again = cell.compare(spec, *options, range(2), 1.0, file)
    assert again["rows"][0] == figures["rows"][0]
    assert [row["scene"] for row in again["rows"]] == [0, 1]
    with pytest.raises(ConfigError, match="has another task, max_seconds"):
        cell.compare(spec, "ur5e", "press", range(2), 2.0, file)
