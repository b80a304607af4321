"""Batches made ahead of the step that needs them, by worker processes (torch's DataLoader over step numbers).

A batch is a function of its step, so nothing has to be remembered: a run goes on by beginning at another step, and
the number of workers changes nothing but the time.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import fields
from typing import Any

from rdt2.data.batch import Batch
from rdt2.errors import RDT2Error, ShardError

MakeBatch = Callable[[int], Any]
_PATIENCE_S = 600
"""A batch that takes longer never comes: a file system or a worker hangs."""


def batches_ahead(
    make: MakeBatch, steps: Sequence[int], *, workers: int = 0, prefetch: int = 2, pin: bool = False
) -> Generator[Any, None, None]:
    """``make(step)`` for each step, in order.

    Args:
        make: gives the batch of a step; runs in the workers.
        workers: processes that make batches; 0 makes them here, when they are asked for.
        prefetch: batches that each worker makes ahead.
        pin: put them where a GPU copies from while it computes.

    Raises:
        RDT2Error: what ``make`` raised, as it raised it.
        ShardError: a worker was ended from outside, or hangs.
    """
    from torch.utils.data import DataLoader

    if workers == 0:
        yield from map(make, steps)
        return
    loader: DataLoader[Any] = DataLoader(
        _Steps(make, steps),  # type: ignore[arg-type]
        sampler=steps,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(workers, max(1, len(steps))),
        prefetch_factor=prefetch,
        pin_memory=pin,
        timeout=_PATIENCE_S,
        worker_init_fn=_begin_worker,
        # Models that the maker of batches may hold are not copied by a fork; elsewhere they have to be picklable.
        multiprocessing_context="fork" if "fork" in multiprocessing.get_all_start_methods() else None,
    )
    try:
        for made in loader:
            if isinstance(made, _Failure):
                raise made.error
            yield _unpacked(made)
    except RuntimeError as error:
        if "DataLoader timed out" in str(error):
            raise ShardError(
                f"no batch came for {_PATIENCE_S} s: the file system, the server of the shards or a process that loads "
                "hangs. Look at it, and go on with --resume."
            ) from None
        if "DataLoader worker" not in str(error):
            raise
        raise ShardError(
            f"a process that loads data was ended from outside ({str(error).splitlines()[0]}), most likely for "
            "want of memory. Take fewer loader_workers or a smaller prefetch, and go on with --resume."
        ) from None


def next_step(step: int) -> int | None:
    """The step that this loader process makes after that one; None behind the last one, and in other processes."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    if worker is None or not isinstance(worker.dataset, _Steps):
        return None
    steps = worker.dataset.steps
    place = steps.index(step) + worker.num_workers  # DataLoader deals them out one by one
    return steps[place] if place < len(steps) else None


class _Failure:
    """An error on its way from a worker: DataLoader would put its traceback into the message."""

    def __init__(self, error: RDT2Error) -> None:
        self.error = error


class _Steps:
    """What DataLoader takes for a data set: step -> batch."""

    def __init__(self, make: MakeBatch, steps: Sequence[int]) -> None:
        self._make, self.steps = make, steps

    def __getitem__(self, step: int) -> Any:
        try:
            return _packed(self._make(step))
        except RDT2Error as error:
            return _Failure(error)


def _begin_worker(_: int) -> None:
    """Ctrl-C and what asks a run to end are for the process that trains, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def _as_it_is(made: Any) -> Any:
    return made


def _packed(batch: Any) -> Any:
    """A batch as it goes from process to process: pictures or patches as a tensor, in one piece of shared memory.

    Each such piece is a connection and a map for the process that trains; a few kilobytes go faster with the message.
    """
    from torch.utils.data import default_convert

    if not isinstance(batch, Batch):
        return batch
    made = {each.name: getattr(batch, each.name) for each in fields(batch)}
    if batch.patches is not None:
        values, grid = batch.patches
        made["patches"] = default_convert(values), grid
    return made | {"pictures": default_convert(batch.pictures)}


def _unpacked(made: Any) -> Any:
    if not isinstance(made, dict) or set(made) != {each.name for each in fields(Batch)}:
        return made

    def arrays(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(map(arrays, value))
        return value.numpy() if hasattr(value, "numpy") else value

    return Batch(**{name: arrays(value) for name, value in made.items()})
