"""Checkpoints one can resume from: what they hold, and the newest whole one found again.

A checkpoint is a folder of torch.distributed.checkpoint: each process writes a part, and any number of processes,
whether they split the weights or not, reads it. DeepSpeed writes its own files, for the same number of processes.
Beside them progress.json says how far the run has come, and the checksum of every file.
"""

from __future__ import annotations

import json
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError
from rdt2.files import set_aside
from rdt2.training import engines

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed import ProcessGroup

    from rdt2.training.average import WeightAverage
    from rdt2.training.engines import Engine

PROGRESS = "progress.json"
CHUNK = 1 << 22  # bytes read at once for a checksum


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done.
        samples: of the stream that all processes together have seen (see TrainingData.position).
        batch: samples of one step, of all processes together.
        processes: how many there were.
    """

    step: int
    samples: int
    batch: int
    processes: int


def checkpoints(out: Path) -> list[Path]:
    """Those of a run, oldest first."""
    return sorted((out / "checkpoints").glob("step-*"))


def restore(
    engine: Engine, average: WeightAverage | None, out: Path, *, steps: int
) -> tuple[Progress | None, list[str]]:
    """Load the newest checkpoint that is whole; damaged ones are set aside.

    Args:
        engine: holds what is to be loaded.
        average: the same.
        out: folder of the run.
        steps: that the run asks for.

    Returns:
        What it has done (none where there is no checkpoint), and lines to tell.

    Raises:
        CheckpointError: it has done more steps than are asked for, is of another engine or an older version, or none
            of several is whole.
    """
    accelerator = engine.accelerator
    if accelerator.is_main_process:
        for partial in (out / "checkpoints").glob(".*.partial"):  # of a run that was killed while it saved
            shutil.rmtree(partial, ignore_errors=True)
    found, damaged = checkpoints(out), list[tuple[Path, str]]()
    while found:
        folder = found.pop()
        progress, problem = _progress(folder)
        if progress is not None:
            _check_fits(folder, progress, engine, steps)
            problem = _damage(folder, progress, accelerator)
        if engines.all_agree(accelerator, not problem):
            problem = _read(engine, average, folder)
            if engines.all_agree(accelerator, not problem):
                break
        damaged.append((folder, problem or "another process could not read it"))
    else:
        if damaged:
            raise CheckpointError(
                f"{out}: no checkpoint can be read: "
                + "; ".join(f"{folder.name}, {problem}" for folder, problem in damaged)
                + ". Restore one, or start a new --out."
            )
        return None, [f"no checkpoint in {out} yet"]
    notes = []
    for folder, problem in damaged:
        aside = f"damaged-{folder.name}"
        if accelerator.is_main_process:
            set_aside(folder, aside)
        notes.append(f"{folder} is damaged ({problem}): set aside as {aside}, the one before is taken")
    assert progress is not None
    return Progress(**{name: progress[name] for name in Progress.__dataclass_fields__}), notes


# ------------------------------------------------------------------------------------------- what is saved


def state_of(engine: Engine, average: WeightAverage | None) -> dict[str, Any]:
    """What trains, and its optimizer, by name: the same names however the weights are held.

    Frozen weights are left out, they are loaded from where the run began: beside a few megabytes of adapters the
    frozen VLM would be gigabytes.
    """
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = get_state_dict(engine.module, engine.optimizer.optimizer)
    inner = engine.accelerator.unwrap_model(engine.module)
    kept = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    kept.update(name for name, _ in inner.named_buffers())
    state = {"model": {name: model[name] for name in model if name in kept}, "optimizer": optimizer}
    return state if average is None else {**state, "average": average.state_dict()}


def write_state(state: dict[str, Any], folder: Path, group: ProcessGroup | None) -> None:
    """Write what :func:`state_of` gave, from the CPU's memory; the processes of a group each their part, together."""
    from torch.distributed import checkpoint

    # Nothing to fetch ahead of writing, for which torch would open the first GPU in each process.
    writer = checkpoint.FileSystemWriter(folder, per_thread_copy_ahead=0)
    with _one_error():
        checkpoint.save(state, storage_writer=writer, process_group=group, no_dist=group is None)


def _read(engine: Engine, average: WeightAverage | None, folder: Path) -> str:
    """Put in place what a checkpoint holds; why that cannot be done, or nothing."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    try:
        if engine.deepspeed:
            engine.accelerator.load_state(str(folder))
            return ""
        state = state_of(engine, average)
        alone = not torch.distributed.is_initialized()
        with _one_error():
            checkpoint.load(state, storage_reader=checkpoint.FileSystemReader(folder), no_dist=alone)
        set_state_dict(
            engine.module, engine.optimizer.optimizer,
            model_state_dict=state["model"], optim_state_dict=state["optimizer"],
            options=StateDictOptions(strict=False),
        )  # fmt: skip
        if average is not None:
            average.load_state_dict(state["average"])
    except Exception as error:  # of torch, pickle, zip or the system: each damage has its own; it is told
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return reason[0]
    return ""


@contextmanager
def _one_error() -> Iterator[None]:
    """How torch.distributed.checkpoint is to be called: it warns of one process alone, and gathers what went wrong in
    each in an exception that is no Exception. Raises the first of them."""
    from torch.distributed.checkpoint.api import CheckpointException

    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


# ------------------------------------------------------------------------------------------- what is whole


def _progress(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What progress.json says, or why it cannot be read."""
    try:
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        if content.keys() == {"step"}:
            raise CheckpointError(
                f"{folder}: was written by an older version of rdt2, which did not note the samples it had seen. "
                "Finish the run with that version, or start a new --out."
            )
        if content.pop("checksum") != checksum(content):
            raise ValueError("has changed since it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{PROGRESS}: {error!r}"
    return content, ""


def _check_fits(folder: Path, progress: dict[str, Any], engine: Engine, steps: int) -> None:
    """Raises CheckpointError where a whole checkpoint is not for this run."""
    if progress["step"] > steps:
        raise CheckpointError(
            f"{folder}: has done {progress['step']} steps, the run asks for {steps}. "
            f"Set steps={progress['step']} or more."
        )
    if progress["deepspeed"] != engine.deepspeed:
        was, now = ("with", "without") if progress["deepspeed"] else ("without", "with")
        raise CheckpointError(
            f"{folder}: was written {was} DeepSpeed, and cannot be read {now} it. Launch as the run was, or start a "
            "new --out."
        )
    processes = engine.accelerator.num_processes
    if engine.deepspeed and progress["processes"] != processes:
        raise CheckpointError(
            f"{folder}: was written by {progress['processes']} processes, and these are {processes}: DeepSpeed reads "
            "its checkpoints with as many only. Launch as many, or start a new --out; runs without DeepSpeed go on "
            "with any number."
        )


def checksum(content: dict[str, Any]) -> int:
    """Of what progress.json says."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _damage(folder: Path, progress: dict[str, Any], accelerator: Accelerator) -> str:
    """What is wrong with this process's share of the files, each read once; torch itself looks at no checksum."""
    names = sorted(progress["files"])[accelerator.process_index :: accelerator.num_processes]
    for name in names:
        try:
            if file_checksum(folder / name) != progress["files"][name]:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name}: {error}"
    return ""


def file_checksum(file: Path) -> int:
    """Of a file's content. Raises OSError."""
    value = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
