"""Parts of DeepSpeed that are compiled at their first use, under a lock that a killed build leaves behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rdt2.errors import ConfigError


def require_no_dead_builds() -> None:
    """See that DeepSpeed will not wait for a build that nobody is at: it does so without end and without a word.

    Raises:
        ConfigError: there is one; it names the file to remove, which is left alone here, because another machine, or
            another container, with the same home may be building.
    """
    dead = [lock for lock in _locks() if not _held(lock)]
    if dead:
        raise ConfigError(
            "a part of DeepSpeed is being compiled, as this file says, but no process of this machine is at it: its "
            "build was killed, and every later start would wait for it without end. If no other machine with this "
            f"home builds now, remove it and start again: rm {' '.join(map(str, dead))}"
        )


def _locks() -> Iterator[Path]:
    """Those of DeepSpeed's own parts, where torch builds for this Python."""
    import torch.utils.cpp_extension as builds

    if (told := os.environ.get("TORCH_EXTENSIONS_DIR")) is not None:
        found = list(Path(told).glob("*/lock"))
    else:
        python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
        found = list(Path(builds.get_default_build_root()).glob(f"{python}_*/*/lock"))
    if not found:
        return
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    yield from (lock for lock in found if lock.parent.name in ALL_OPS)


def _held(lock: Path) -> bool:
    """Whether a process has it open, as one does that builds; or it is gone meanwhile."""
    import psutil

    for _ in range(2):  # it is closed a moment before it is removed
        for process in psutil.process_iter():
            try:
                if any(
                    os.path.realpath(each.path) == os.path.realpath(lock) for each in process.open_files()
                ):
                    return True
            except psutil.Error:  # of another user, or ended meanwhile
                continue
        time.sleep(0.5)
        if not lock.exists():
            return True
    return False
