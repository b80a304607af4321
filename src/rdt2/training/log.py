"""What a run tells: metrics.jsonl, trackers, pictures, and its progress on a terminal or in a log file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rdt2.errors import ConfigError, RecordingError, TrainingError
from rdt2.files import write_problem, write_whole
from rdt2.training.config import RunConfig
from rdt2.training.plots import chunks_figure, loss_figure, save_figure

if TYPE_CHECKING:
    from accelerate import Accelerator

LINE_EVERY = (5.0, 60.0)  # s between lines where no terminal is: at the beginning, and later
RESUME = "Then go on with --resume."


def note(text: str) -> None:
    """A line for whoever watches, on stderr."""
    print(text, file=sys.stderr, flush=True)


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

    def progress(self) -> Progress:
        return Progress(self._name, self._config, self._start, enabled=self._main)


class Progress:
    """Loss, learning rate, samples a second, memory and time left: a bar on a terminal, else lines now and then."""

    def __init__(self, name: str, config: RunConfig, start: int, *, enabled: bool):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._samples = config.batch_size * config.accumulate
        self._start, self._total, self._name = start, config.steps, name
        self._lines = enabled and not console.is_terminal
        self._bar = Bar(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
            console=console, disable=not enabled or self._lines,
        )  # fmt: skip

    def __enter__(self) -> Progress:
        self._bar.start()
        self._task = self._bar.add_task(self._name, total=self._total, completed=self._start, figures="")
        self._began = self._told = time.perf_counter()
        return self

    def __call__(self, done: int, loss: float, rate: float) -> None:
        now = time.perf_counter()
        speed = (done - self._start) / (now - self._began)  # steps a second
        figures = (
            f"loss {loss:.4f}  lr {rate:.1e}  {speed * self._samples:.1f} samples/s  {_memory_gib():.1f} GiB"
        )
        self._bar.update(self._task, completed=done, figures=figures)
        wait = min(max(LINE_EVERY[0], (now - self._began) / 10), LINE_EVERY[1])
        if self._lines and (done in (self._start + 1, self._total) or now - self._told >= wait):
            self._told = now
            left = _duration((self._total - done) / speed)
            note(f"{self._name}: step {done} of {self._total}  {figures}  {left} left")

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _memory_gib() -> float:
    """Peak memory: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux reports KiB
