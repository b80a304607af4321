"""Runs that are killed at random moments and go on with other processes: the same samples, the same losses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_run import STEPS, run

from rdt2.errors import CheckpointError
from rdt2.training import checkpoints

PROGRAM = Path(__file__).with_name("killed_run.py")
BATCH = 8  # of all processes together


@pytest.fixture(scope="module")
def whole(samples, tmp_path_factory):
    """One process, to which nothing happens."""
    out = tmp_path_factory.mktemp("whole")
    run(samples, out, BATCH, 1)
    return out


def start(
    samples: Path,
    out: Path,
    processes: int,
    accumulate: int,
    *,
    shard: bool,
    spoil: tuple[str, int] = ("", 0),
) -> subprocess.Popen:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    batch_size = BATCH // processes // accumulate
    arguments = [PROGRAM, samples, out, batch_size, accumulate, shard, *spoil]
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(file: Path) -> list[dict]:
    whole = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in whole if line.endswith("}")]  # a killed run leaves half a line


def kill(run: subprocess.Popen, out: Path, *, steps: int, there: str = "") -> None:
    """All its processes at once, some time after it has made so many steps in all, and a file of this name."""
    began = time.monotonic()
    while run.poll() is None and (len(lines(out / "rank-0.jsonl")) < steps or not (out / there).exists()):
        assert time.monotonic() - began < 100
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.15))
    assert run.poll() is None, "it ended before it was killed"
    run.kill()  # a launcher first, which would ask the others to stop
    for file in out.glob("pid-*"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
        file.unlink()
    run.communicate()


def numbers_by_step(out: Path) -> dict[int, list[list[int]]]:
    """What all processes together saw in a step, whenever they saw it whole."""
    seen: dict[int, list[list[int]]] = {}
    for file in sorted(out.glob("rank-*.jsonl")):
        for line in lines(file):
            seen.setdefault(line["step"], []).append(line["numbers"])
    return seen


def test_killed_runs_go_on_with_any_number_of_processes(samples, whole, tmp_path):
    """(processes, accumulate, shard) of each start."""
    starts = [(2, 1, False), (1, 1, False), (2, 2, True), (1, 2, False)]
    for number, (processes, accumulate, shard) in enumerate(starts[:-1]):
        done = len(lines(tmp_path / "rank-0.jsonl"))
        going = start(samples, tmp_path, processes, accumulate, shard=shard)
        kill(going, tmp_path, steps=done + 8 * accumulate)
        if number == 0:
            kept = sorted((tmp_path / "checkpoints").glob("step-*"))
            assert kept, "a checkpoint every third step, whole when the next begins"
    last = start(samples, tmp_path, *starts[-1][:2], shard=starts[-1][2])
    _, told = last.communicate(timeout=100)
    assert last.returncode == 0, told
    assert "since the run began, the processes were 2, are 1" in told

    expected = {row["step"]: row["loss"] for row in lines(whole / "metrics.jsonl") if "loss" in row}
    found = {row["step"]: row["loss"] for row in lines(tmp_path / "metrics.jsonl") if "loss" in row}
    assert found.keys() == expected.keys() == set(range(1, STEPS + 1))
    assert found == pytest.approx(expected, rel=1e-4)
    evaluated = [row["eval/loss"] for row in lines(whole / "metrics.jsonl") if "eval/loss" in row]
    assert [
        row["eval/loss"] for row in lines(tmp_path / "metrics.jsonl") if "eval/loss" in row
    ] == pytest.approx(evaluated, rel=1e-4)
    order = numbers_by_step(whole)
    for step, parts in numbers_by_step(tmp_path).items():
        (samples_of_step,) = order[step]
        assert all(set(part) <= set(samples_of_step) for part in parts), step
    weights = [torch.load(out / "model" / "weights.pt") for out in (whole, tmp_path)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)


def test_runs_killed_while_they_write_go_on_from_the_last_whole_one(samples, whole, tmp_path):
    """Split over two processes, whole in two, and then in one: (shard, the checkpoint that is never done)."""
    for shard, stuck in ((True, 6), (False, 9)):
        going = start(samples, tmp_path, 2, 1, shard=shard, spoil=("stuck", stuck))
        kill(going, tmp_path, steps=stuck, there=f"checkpoints/.step-{stuck:08d}.partial")
        assert [path.name for path in checkpoints.checkpoints(tmp_path)][-1] == f"step-{stuck - 3:08d}"
    last = start(samples, tmp_path, 1, 1, shard=False)
    _, told = last.communicate(timeout=100)
    assert last.returncode == 0, told
    assert "going on from step 6 of 40" in told
    expected = {row["step"]: row["loss"] for row in lines(whole / "metrics.jsonl") if "loss" in row}
    found = {row["step"]: row["loss"] for row in lines(tmp_path / "metrics.jsonl") if "loss" in row}
    assert found == pytest.approx(expected, rel=1e-4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("shard", "where"), [(True, 1), (False, 0)])
def test_a_process_that_finds_no_room_ends_all(samples, tmp_path, shard, where):
    """Process 1, of which process 0 hears; and process 0, which writes alone where both hold all."""
    run = start(samples, tmp_path, 2, 1, shard=shard, spoil=(f"full-{where}", 6))
    _, told = run.communicate(timeout=100)
    assert run.returncode != 0
    assert "step-00000006: could not be written: the disk is full" in told
    assert "step-00000003 is whole: go on from it with --resume" in told
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert len(lines(tmp_path / "rank-0.jsonl")) < STEPS
    if not shard:
        assert "process 0 could not write a checkpoint, and says why" in told


def test_another_batch_goes_on_behind_what_was_seen(samples, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("killed_run.STEPS", 6)
    run(samples, tmp_path, BATCH, 1)
    monkeypatch.setattr("killed_run.STEPS", 10)
    run(samples, tmp_path, 4, 1)
    assert "a step saw 8 samples until now, and sees 4 from here on" in capsys.readouterr().err
    stream = [number for step in range(STEPS) for part in numbers_by_step(whole)[step] for number in part]
    seen = numbers_by_step(tmp_path)
    assert [number for step in range(10) for number in seen[step][0]] == stream[: 6 * 8 + 4 * 4]


def test_checkpoints_of_other_engines_and_versions_are_refused_by_name(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("killed_run.STEPS", 3)
    run(samples, tmp_path, BATCH, 1)
    (folder,) = checkpoints.checkpoints(tmp_path)
    progress, _ = checkpoints._progress(folder)

    class DeepSpeed:
        deepspeed = True

        class accelerator:
            num_processes = 2

    with pytest.raises(CheckpointError, match="was written without DeepSpeed, and cannot be read with it"):
        checkpoints._check_fits(folder, progress, DeepSpeed, 3)
    with pytest.raises(CheckpointError, match="was written by 1 processes, and these are 2: DeepSpeed"):
        checkpoints._check_fits(folder, {**progress, "deepspeed": True}, DeepSpeed, 3)
    (folder / "progress.json").write_text('{"step": 3}')
    with pytest.raises(CheckpointError, match="older version of rdt2"):
        run(samples, tmp_path, BATCH, 1)
