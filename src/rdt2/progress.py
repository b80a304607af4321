"""How work is told while it goes on: a bar on a terminal, and in log files a line now and then. All on stderr."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WAITING = 100
"""Lines that may wait for a terminal that takes none; more are dropped."""
LINE_EVERY = (10.0, 60.0)  # s between lines where no terminal is: at the beginning, and later


def note(text: str) -> None:
    """A line for whoever watches, on stderr."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(text, style="dim", markup=False, highlight=False)


_aside: queue.Queue[str | threading.Event] = queue.Queue(WAITING)
_starting = threading.Lock()
_teller: threading.Thread | None = None


def note_aside(text: str) -> None:
    """As `note`, from a thread of its own. Whoever listens for a stop says things so: a terminal that takes nothing for
    a while (Ctrl-S) does not hold it up, and a full disk or a broken pipe does not end it.
    """
    global _teller
    with _starting:
        if _teller is None:
            _teller = threading.Thread(target=_tell_aside, name="notes", daemon=True)
            _teller.start()
    with contextlib.suppress(queue.Full):
        _aside.put_nowait(text)


def wait_for_notes(seconds: float) -> None:
    """Return when what was noted aside has been told, or after so long."""
    if _teller is None:
        return
    told = threading.Event()
    with contextlib.suppress(queue.Full):
        _aside.put(told, timeout=seconds)
        told.wait(seconds)


def _tell_aside() -> None:
    while True:
        said = _aside.get()
        if isinstance(said, threading.Event):
            said.set()
            continue
        with contextlib.suppress(Exception, SystemExit):  # rich ends the program where a pipe is broken
            note(said)


@contextmanager
def progress(label: str, total: int | None, *, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar, or where no terminal is a line now and then. Gives ``advance(steps=1, note="", total=None)``,
    where a total replaces what was known of it.

    Args:
        label: what is worked at.
        total: how much there is to do; none where nobody knows.
        done: how much of it was done before.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        with _lines(label, total, done) as advance:
            yield advance
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "", total: int | None = None) -> None:
            bar.update(task, advance=steps, note=note, total=total)

        yield advance


@contextmanager
def working(label: str) -> Iterator[None]:
    """A spinner for something without a known length, such as loading a model; says how long it took."""
    from rich.console import Console

    terminal = Console(stderr=True)
    started = time.perf_counter()
    with terminal.status(label) if terminal.is_terminal else _lines(label, None, 0):
        yield
    terminal.print(f"{label}: {time.perf_counter() - started:.1f} s", style="dim", highlight=False)


@contextmanager
def _lines(label: str, whole: int | None, done: int) -> Iterator[Callable[..., None]]:
    """A line when the first is done, at each tenth of the work, and every so often whatever was done."""
    began = told = time.monotonic()
    before, said = done, ""
    ended = threading.Event()

    def tell() -> None:
        nonlocal told
        told = time.monotonic()
        count = f"{done} of {whole}" if whole else f"{done} done" if done else "at work"
        seconds = told - began
        left = ""
        if whole and before < done < whole:
            left = f", {_duration(seconds / (done - before) * (whole - done))} left"
        note(f"{label}: {count}, {_duration(seconds)}{left}{'  ' if said else ''}{said}")

    def beat() -> None:
        while True:
            wait = min(max(LINE_EVERY[0], (time.monotonic() - began) / 10), LINE_EVERY[1])
            if ended.wait(max(told + wait - time.monotonic(), 0.01)):
                return
            if time.monotonic() - told >= wait:
                tell()

    def advance(steps: int = 1, note: str = "", total: int | None = None) -> None:
        nonlocal done, said, whole
        whole = whole if total is None else total
        first = done == before and steps > 0
        tenth = 10 * done // whole if whole else 0
        done, said = done + steps, note
        last = whole is not None and done >= whole
        if first or last or (whole and 10 * done // whole > tenth and time.monotonic() - told >= 1):
            tell()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
