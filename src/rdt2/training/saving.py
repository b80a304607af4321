"""Saving while training goes on.

A save copies what is to be kept into the CPU's memory, for which training waits; a thread writes it from there. The
folder gets its name when all of it is written, so that a process that dies at any moment leaves the one before.
DeepSpeed writes its own files and exchanges in the group of training, which therefore waits for all of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from rdt2.errors import TrainingError
from rdt2.files import begin_folder, finish_folder, partial_folder, write_problem
from rdt2.progress import note
from rdt2.training import engines
from rdt2.training.checkpoints import (
    PROGRESS,
    Progress,
    checkpoints,
    checksum,
    file_checksum,
    state_of,
    write_state,
)

if TYPE_CHECKING:
    from rdt2.training.average import WeightAverage
    from rdt2.training.engines import Engine

T = TypeVar("T")

PATIENCE = timedelta(
    hours=3
)  # how much longer than others a process may write; that one has died is seen at once


class Saver:
    """Writes the checkpoints of a run, one at a time.

    A context: when it ends, however that comes, nothing is being written any more. All processes make it, save and
    wait together.
    """

    def __init__(self, engine: Engine, average: WeightAverage | None, out: Path, *, keep: int):
        """
        average: of the weights, saved beside them.
        out: folder of the run.
        keep: checkpoints that stay; older ones go when a newer one is whole.
        """
        self._engine, self._average, self._out, self._keep = engine, average, out, keep
        self._main = engine.accelerator.is_main_process
        # Where each process holds all, one writes. Else all do, and agree in a group that training does not use:
        # on a GPU that is another backend, too, and an exchange in the background must not come between training's.
        self._group = None if engine.plain else torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._going: Future[None] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        self._thread.shutdown()

    def save(self, progress: Progress) -> Path:
        """Begin to write a checkpoint, when the one before is whole; the folder it will be.

        Raises:
            TrainingError: the one before could not be written.
        """
        self.wait()
        engine, group = self._engine, self._group
        folder = self._out / "checkpoints" / f"step-{progress.step:08d}"
        if engine.deepspeed:
            self._write(folder, lambda partial: engine.accelerator.save_state(str(partial)), progress)
        elif self._main or not engine.plain:
            state = _copied(state_of(engine, self._average))
            self._going = self._thread.submit(
                self._write, folder, lambda partial: write_state(state, partial, group), progress
            )
        return folder

    @property
    def failed(self) -> bool:
        """Whether this process knows that the last one could not be written."""
        return self._going is not None and self._going.done() and self._going.exception() is not None

    def wait(self) -> None:
        """Until what was saved is whole.

        Raises:
            TrainingError: the disk is full, or the folder may not be written to; in all processes.
        """
        error = self._ended()
        if not engines.all_agree(self._engine.accelerator, error is None):
            raise error or TrainingError(
                f"{self._out}: process 0 could not write a checkpoint, and says why."
            )

    def finish(self) -> None:
        """As :meth:`wait`, for a run that ends for another reason: of this process alone, and raises nothing."""
        if (error := self._ended()) is not None and self._main:
            note(str(error))

    def _ended(self) -> BaseException | None:
        """Why the last one could not be written, when that is known."""
        going, self._going = self._going, None
        return None if going is None else going.exception()

    def _write(self, folder: Path, content: Callable[[Path], None], progress: Progress) -> None:
        """From nothing to a whole folder, in which ``content`` writes its files."""
        partial = partial_folder(folder)
        try:
            self._on_main(lambda: begin_folder(folder, replace=True, error=TrainingError))
            content(partial)
            parts = self._together(lambda: self._checksums(partial))
            files = {name: value for part in parts for name, value in part.items()}
            self._on_main(lambda: self._finish(partial, folder, progress, files))
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            problem = write_problem(error)
            if problem is None:
                raise
            whole = checkpoints(self._out)
            there = f"{whole[-1].name} is whole: go on from it" if whole else "There is none yet: start again"
            raise TrainingError(
                f"{folder}: could not be written: {problem}. {there} with --resume."
            ) from error

    def _together(self, do: Callable[[], T]) -> list[T]:
        """What each process that writes comes to. Raises, in all of them, what the first one raises."""
        if self._group is None:
            return [do()]
        mine: T | Exception
        try:
            mine = do()
        except Exception as error:
            mine = error
        found: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(found, mine, group=self._group)
        for each in found:
            if isinstance(each, Exception):
                raise each
        return found

    def _on_main(self, do: Callable[[], object]) -> None:
        """Where the main process alone has something to do; all fail where it does."""
        self._together(do if self._main else lambda: None)

    def _checksums(self, folder: Path) -> dict[str, int]:
        """Of this process's share of the files, by their names in the folder."""
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        place = self._engine.accelerator
        every = 1 if self._group is None else place.num_processes
        return {name: file_checksum(folder / name) for name in names[place.process_index :: every]}

    def _finish(self, partial: Path, folder: Path, progress: Progress, files: dict[str, int]) -> None:
        """Note how far the run is, give the folder its name, and drop the oldest."""
        content = {**vars(progress), "deepspeed": self._engine.deepspeed, "files": files}
        content = {**content, "checksum": checksum(content)}
        (partial / PROGRESS).write_text(json.dumps(content), encoding="utf-8")
        finish_folder(partial, folder)
        for old in checkpoints(self._out)[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def _copied(state: Any) -> Any:
    """The same in the CPU's memory, each process its parts: once, where torch's stager copies parts twice."""
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else state
