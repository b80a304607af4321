"""What all commands say things with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The terminal, for results."""
    from rich.console import Console

    return Console()


def save_json(path: Path | None, values: dict[str, Any]) -> None:
    """Write a command's figures where `--json` says, and say so."""
    if path is None:
        return
    from rdt2.evaluation.files import write_json

    note(f"figures: {write_json(path, values)}")


def note(text: str) -> None:
    """A line beside the results, on stderr."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(text, style="dim", markup=False, highlight=False)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr. Gives `advance(steps=1, note="")`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


@contextmanager
def working(label: str) -> Iterator[None]:
    """A spinner for something without a known length, such as loading a model; says how long it took."""
    from rich.console import Console

    terminal = Console(stderr=True)
    started = time.perf_counter()
    with terminal.status(label):
        yield
    terminal.print(f"{label}: {time.perf_counter() - started:.1f} s", style="dim", highlight=False)


def existing(path: Path, what: str) -> Path:
    """`path` if it is there. Raises ConfigError that names it."""
    if not path.exists():
        raise ConfigError(f"{path}: no such {what}. Paths are taken from the current folder, {Path.cwd()}.")
    return path


def plain(value: Any) -> dict[str, Any]:
    """A result as a dictionary: its own `as_dict`, or the fields of a dataclass."""
    import dataclasses

    if hasattr(value, "as_dict"):
        return dict(value.as_dict())
    return dataclasses.asdict(value)
