"""What a run tells: metrics.jsonl, trackers, pictures, and its progress on a terminal or in a log file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rdt2.errors import ConfigError, RecordingError, TrainingError
from rdt2.files import write_problem, write_whole
from rdt2.progress import note, progress
from rdt2.training.config import RunConfig
from rdt2.training.plots import chunks_figure, loss_figure, save_figure

if TYPE_CHECKING:
    from accelerate import Accelerator

RESUME = "Then go on with --resume."


class Log:
    """Figures of a run to its files and trackers, only from the main process."""

    def __init__(self, out: Path, name: str, config: RunConfig, start: int, accelerator: Accelerator):
        """
        start: steps that are done already; what was logged after them will be logged again.

        Raises:
            ConfigError: a tracker does not start. TrainingError: metrics.jsonl cannot be written.
        """
        self._path, self._name, self._config, self._start = out / "metrics.jsonl", name, config, start
        self._accelerator, self._main = accelerator, accelerator.is_main_process
        if self._main and self._path.exists():
            kept = [row for row in self.rows() if self._stays(row)]
            content = "".join(f"{json.dumps(row)}\n" for row in kept)
            write_whole(self._path, content, error=TrainingError, advice=RESUME)
        self._trackers = self._open_trackers(out)

    def _stays(self, row: dict[str, Any]) -> bool:
        """Whether a line is of what is done: the evaluation at the end of a run may be to come."""
        return row["step"] < self._start or (
            row["step"] == self._start and ("loss" in row or self._start < self._config.steps)
        )

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; what was cut off, by a full disk perhaps, is left out and told."""
        rows = []
        for number, line in enumerate(self._path.read_text(encoding="utf-8", errors="replace").splitlines()):
            try:
                row = json.loads(line)
                rows.append({**row, "step": int(row["step"])})
            except (ValueError, KeyError, TypeError):
                note(f"{self._path}, line {number + 1}: is no whole line, left out: {line[:40]!r}")
        return rows

    def _open_trackers(self, out: Path) -> bool:
        if not (self._main and self._config.trackers):
            return False
        from accelerate.tracking import filter_trackers

        try:
            self._accelerator.log_with = filter_trackers(list(self._config.trackers), str(out))
            self._accelerator.project_configuration.set_directories(str(out))
            self._accelerator.init_trackers(f"rdt2-{self._name}")
        except Exception as error:  # each tracker has its own: no network, no login, no space
            raise ConfigError(
                f"trackers={list(self._config.trackers)}: could not be started ({error}). "
                "Mend that, or set trackers=[]."
            ) from error
        return True

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add a line. Raises TrainingError where the system refuses."""
        if not (self._main and figures):
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
            if self._trackers:
                self._accelerator.log(figures, step=step)
        except OSError as error:
            raise TrainingError(
                f"{self._path}: could not be written: {write_problem(error)}. {RESUME}"
            ) from error

    def draw_examples(self, step: int, examples: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Predicted against recorded chunks, in plots/ and where TensorBoard is used there."""
        if not self._main or examples is None:
            return
        figure = chunks_figure(*examples, title=f"{self._name}, step {step}")
        self._keep(figure, self._path.parent / "plots" / f"step-{step:08d}.png")
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.tracker.add_figure("chunks", figure, global_step=step)

    def draw_loss(self) -> None:
        """The loss curve as a picture."""
        rows = self.rows()
        train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        held_out = [(row["step"], row["eval/loss"]) for row in rows if "eval/loss" in row]
        if train:
            self._keep(loss_figure(train, held_out, title=self._name), self._path.with_name("loss.png"))

    def _keep(self, figure: Any, path: Path) -> None:
        """A picture is no reason to lose a run."""
        try:
            save_figure(figure, path)
        except RecordingError as error:
            note(f"{error}")

    @contextmanager
    def progress(self) -> Iterator[Callable[[int, float, float], None]]:
        """Gives ``tell(done, loss, rate)``, for after each step."""
        if not self._main:
            yield lambda done, loss, rate: None
            return
        samples = self._config.batch_size * self._config.accumulate
        began = time.perf_counter()
        with progress(f"{self._name}: step", self._config.steps, done=self._start) as advance:

            def tell(done: int, loss: float, rate: float) -> None:
                speed = (done - self._start) * samples / (time.perf_counter() - began)
                advance(1, f"loss {loss:.4f}  lr {rate:.1e}  {speed:.1f} samples/s  {_memory_gib():.1f} GiB")

            yield tell


def _memory_gib() -> float:
    """Peak memory: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux reports KiB
