"""What all commands say things with."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rdt2.errors import ConfigError
from rdt2.files import as_json, require_writable, write_json
from rdt2.progress import note

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The terminal, for results."""
    from rich.console import Console

    return Console()


ALONE = Path("-")
"""As --json: the figures on stdout, and nothing else there."""


@contextlib.contextmanager
def figures_alone(command: Any) -> Iterator[None]:
    """With --json -, what a command prints otherwise goes to stderr, so that stdout holds the figures alone."""
    if getattr(command, "json", None) != ALONE:
        yield
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        token = _stdout.set(stdout)
        try:
            yield
        finally:
            _stdout.reset(token)


_stdout: ContextVar[TextIO | None] = ContextVar("stdout", default=None)


def save_json(path: Path | None, values: dict[str, Any]) -> None:
    """Write a command's figures where `--json` says, and say so; "-" is stdout."""
    if path is None:
        return
    if path == ALONE:
        print(as_json(values), end="", file=_stdout.get(), flush=True)
        return
    note(f"figures: {write_json(path, values)}")


def figures_file(path: Path | None) -> Path | None:
    """The file of `--json`, where that is one."""
    return None if path == ALONE else path


def check_outputs(command: Any) -> None:
    """See that what a command will write can be written, before it computes anything.

    Looks at the options of these names; `out` is a folder unless the command says `out_is_file`.

    Raises:
        ConfigError: a folder in the place of a file, a file in the place of a folder, no permission, or one path for
            two things.
    """
    places: dict[Path, str] = {}
    for name in ("out", "fit", "json", "plot", "report", "rerun"):
        value = getattr(command, name, None) or getattr(getattr(command, "looking", None), name, None)
        if value is None or (name == "rerun" and value in ("viewer", "live")) or value == ALONE:
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


def data_there(data: str) -> str:
    """Where data are said to be, if that can be: a URL, a range of tars, or a path that is there.

    Raises:
        ConfigError: there is no such path.
    """
    from rdt2.data.shards.remote import is_url

    if not is_url(data) and "{" not in data:
        existing(Path(data), "folder of shards, tar or dataset yaml")
    return data


def plain(value: Any) -> dict[str, Any]:
    """A result as a dictionary: its own `as_dict`, or the fields of a dataclass."""
    import dataclasses

    if hasattr(value, "as_dict"):
        return dict(value.as_dict())
    return dataclasses.asdict(value)
