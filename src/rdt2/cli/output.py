"""What all commands say things with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.errors import ConfigError
from rdt2.files import require_writable

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY = (10.0, 60.0)  # s between lines where no terminal is: at the beginning, and later


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
    """A progress bar on stderr, or where that is no terminal a line now and then. Gives `advance(steps=1, note="")`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        with _lines(label, total) as advance:
            yield advance
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


@contextmanager
def _lines(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """For log files: a line at each tenth of the work, and every so often, whether or not anything was finished."""
    began = told = time.monotonic()
    done, said = 0, ""
    ended = threading.Event()

    def tell() -> None:
        nonlocal told
        told = time.monotonic()
        count = f"{done} of {total}" if total else f"{done} done" if done else "at work"
        note(f"{label}: {count}, {told - began:.0f} s{'  ' if said else ''}{said}")

    def beat() -> None:
        while True:
            wait = min(max(LINE_EVERY[0], (time.monotonic() - began) / 10), LINE_EVERY[1])
            if ended.wait(max(told + wait - time.monotonic(), 0.01)):
                return
            if time.monotonic() - told >= wait:
                tell()

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, said
        tenth = 10 * done // total if total else 0
        done, said = done + steps, note
        last = total is not None and done >= total
        if last or (total and 10 * done // total > tenth and time.monotonic() - told >= 1):
            tell()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


@contextmanager
def working(label: str) -> Iterator[None]:
    """A spinner for something without a known length, such as loading a model; says how long it took."""
    from rich.console import Console

    terminal = Console(stderr=True)
    started = time.perf_counter()
    with terminal.status(label) if terminal.is_terminal else _lines(label, None):
        yield
    terminal.print(f"{label}: {time.perf_counter() - started:.1f} s", style="dim", highlight=False)


def check_outputs(command: Any) -> None:
    """See that what a command will write can be written, before it computes anything.

    Looks at the options of these names; `out` is a folder unless the command says `out_is_file`.

    Raises:
        ConfigError: a folder in the place of a file, a file in the place of a folder, no permission, or one path for
            two things.
    """
    places: dict[Path, str] = {}
    for name in ("out", "fit", "json", "html", "plot", "rerun"):
        value = getattr(command, name, None)
        if value is None or (name == "rerun" and value == "viewer"):
            continue
        path = Path(value).expanduser()
        is_file = name not in ("out", "fit") or getattr(command, "out_is_file", False)
        if is_file and path.is_dir():
            raise ConfigError(f"--{name} {path}: is a folder, expected the name of a file to write.")
        if not is_file and path.exists() and not path.is_dir():
            raise ConfigError(f"--{name} {path}: is a file, expected a folder. Choose another name.")
        require_writable(path, error=ConfigError)
        other = places.setdefault(path.absolute(), name)
        if other != name:
            raise ConfigError(f"--{other} and --{name} are both {path}: one would replace the other.")


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
