"""Checkpoints one can resume from: written whole, the newest whole one found again."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rdt2.errors import CheckpointError, TrainingError
from rdt2.files import begin_folder, finish_folder, partial_folder, write_problem
from rdt2.training import engines

if TYPE_CHECKING:
    from accelerate import Accelerator

PROGRESS = "progress.json"


def checkpoints(out: Path) -> list[Path]:
    """Those of a run, oldest first."""
    return sorted((out / "checkpoints").glob("step-*"))


def save_checkpoint(accelerator: Accelerator, out: Path, step: int, *, keep: int) -> Path:
    """Save weights, optimizer and position after ``step`` steps; drop the oldest beyond ``keep``.

    All processes must call it together.

    Raises:
        TrainingError: the disk is full, or the folder may not be written to.
    """
    folder = out / "checkpoints" / f"step-{step:08d}"
    partial = partial_folder(folder)
    try:
        if accelerator.is_main_process:
            begin_folder(folder, replace=True, error=TrainingError)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial), safe_serialization=False)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / PROGRESS).write_text(json.dumps({"step": step}), encoding="utf-8")
            finish_folder(partial, folder)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        problem = write_problem(error)
        if problem is None:
            raise
        whole = checkpoints(out)
        there = f"{whole[-1].name} is whole: go on from it" if whole else "There is none yet: start again"
        raise TrainingError(f"{folder}: could not be written: {problem}. {there} with --resume.") from error
    if accelerator.is_main_process:
        for old in checkpoints(out)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def restore(accelerator: Accelerator, out: Path, *, steps: int) -> tuple[int, list[str]]:
    """Load the newest checkpoint that is whole; damaged ones are set aside.

    Args:
        accelerator: holds what is to be loaded.
        out: folder of the run.
        steps: that the run asks for.

    Returns:
        The steps it has done (0 where there is no checkpoint), and lines to tell.

    Raises:
        CheckpointError: it has done more steps than are asked for, or none of several is whole.
    """
    if accelerator.is_main_process:
        for partial in (out / "checkpoints").glob(".*.partial"):  # of a run that was killed while it saved
            shutil.rmtree(partial, ignore_errors=True)
    found, damaged = checkpoints(out), list[tuple[Path, str]]()
    while found:
        folder = found.pop()
        problem = _damage(folder) if accelerator.is_main_process else ""
        step, problem = (-1, problem) if problem else _load(accelerator, folder, steps)
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
        return 0, [f"no checkpoint in {out} yet"]
    notes = []
    for folder, problem in damaged:
        aside = folder.with_name(f"damaged-{folder.name}")
        if accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        notes.append(f"{folder} is damaged ({problem}): set aside as {aside.name}, the one before is taken")
    return step, notes


def _damage(folder: Path) -> str:
    """What is wrong with the files of a checkpoint, read once; torch itself looks at no checksum."""
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    if archive.testzip() is not None:
                        return f"{file.name} has changed since it was written"
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            return f"{file.name}: {error}"
    return ""


def _load(accelerator: Accelerator, folder: Path, steps: int) -> tuple[int, str]:
    """(steps it has done, "") or (-1, why it cannot be loaded)."""
    try:
        step = int(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return -1, f"{PROGRESS}: {error!r}"
    if step > steps:
        raise CheckpointError(
            f"{folder}: has done {step} steps, the run asks for {steps}. Set steps={step} or more."
        )
    try:
        # Frozen weights are not in it. DeepSpeed keeps them, and has another word for strict.
        accelerator.load_state(str(folder), **({} if engines.deepspeed_asked_for() else {"strict": False}))
    except Exception as error:  # of torch, pickle, zip or the system: each damage has its own; it is told
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return -1, reason[0]
    return step, ""


def without_frozen(modules: list[nn.Module], states: list[dict[str, Tensor]], folder: str) -> None:
    """Leave frozen parameters out of a checkpoint: they are loaded from where the run began.

    Beside a few megabytes of adapters the frozen VLM would be gigabytes.
    """
    for module, state in zip(modules, states, strict=False):  # sharded engines write their states themselves
        kept = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        kept.update(name for name, _ in module.named_buffers())
        for name in set(state) - kept:  # a quantised weight has several entries, all of which go
            del state[name]
