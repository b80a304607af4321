"""Worker processes that end with the one that started them, without a word of their own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from rdt2.errors import RecordingError
from rdt2.threads import end_with_parent


@contextlib.contextmanager
def worker_pool(
    workers: int, *, initializer: Callable[[], None] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """So many spawned processes (an OpenGL context and the threads of libraries do not survive a fork).

    Ctrl-C is for the process that started them: it ends them, and they say nothing. Where it is killed they end, too.
    What they write must be whole or not there at any moment.

    Raises:
        RecordingError: a worker was ended from outside.
    """
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(initializer,))
    try:
        with _interrupt_ignored():
            pool.submit(int)  # the first job starts a process, which inherits that
        yield pool
        pool.shutdown()
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise RecordingError(
                "a worker process was ended from outside, most likely for want of memory. Take fewer --workers and "
                "start again: what was finished is kept where the command says so."
            ) from None
        raise


def _begin(initializer: Callable[[], None] | None) -> None:
    """The first that a worker does; those that later jobs start were not born deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if initializer is not None:
        initializer()


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only the main one may say what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
