"""One run at a time in a folder: two would write each other's checkpoints over. Imports no torch.

The lock is a record lock of the system: it ends with the process that holds it, however that ends, and processes that
load data for it do not inherit it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rdt2.errors import ConfigError
from rdt2.progress import note

LOCK = ".running"
_HELD = (errno.EAGAIN, errno.EACCES)


def require_free(out: Path) -> None:
    """See that no other run trains in ``out``; processes of one run may ask at once. Raises ConfigError."""
    file = out / LOCK
    if not file.is_file():
        return
    try:
        import fcntl

        with file.open("rb") as opened:
            fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except ImportError:
        return
    except OSError as error:
        if error.errno in _HELD and os.access(file, os.R_OK):
            raise _taken(out) from None


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """No other run may train in ``out`` inside the block; one process of a run holds it for all.

    Where the system knows no locks that is said, and the run goes on.

    Raises:
        ConfigError: another run does already, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written to ({error}). Choose another --out.") from error
    try:
        try:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _HELD:
                raise _taken(out) from None
            note(
                f"warning: {out}: its file system knows no locks ({error}), so see to it yourself that no other run "
                "trains in that folder."
            )
        holder = json.dumps({"process": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(out: Path) -> ConfigError:
    try:
        holder = json.loads((out / LOCK).read_text(encoding="utf-8"))
        who = f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "a process that is not known"
    return ConfigError(
        f"{out}: another run trains in this folder now ({who}). Wait until it has ended, or end it (it saves a "
        "checkpoint first) and go on with --resume, or choose another --out."
    )
