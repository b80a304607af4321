"""Options of every command that drives arms: who looks on, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdt2.dashboard.desk import Desk

LIVE = "live"
"""For --rerun: a viewer that is opened now, instead of a file."""


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Who looks on."""

    dashboard: bool = False
    """Open an operator's page: both arms in 3-D, what the policy wants and what safety makes of it, both wrist
    pictures, an instruction box, start, stop and emergency stop. Nothing moves until someone presses start there."""
    dashboard_host: str = "127.0.0.1"
    """The address that the page is served on. With the default only this machine reaches it (and you, through ssh -L).
    With any other the page wants a key, which is in the address that is printed: who has that can start the arms."""
    dashboard_key_file: Path | None = None
    """A file with the page's key, one line (openssl rand -hex 16 > key), so that a bookmark stays good. Without it one
    is made for each start, and on this machine alone none is asked for."""
    dashboard_port: int = 8060
    """The page's port, or the next one that is free."""
    rerun: str | None = None
    """Give the same data to rerun: the name of a file to write (run.rrd), or live for a viewer that opens now."""


@contextmanager
def open_desk(looking: Looking, *, goes_on: bool) -> Iterator[Desk | None]:
    """What was asked for, or None; closed at the end.

    Args:
        looking: the options.
        goes_on: the next episode begins by itself, unless the operator says otherwise.

    Raises:
        ConfigError: what it needs is not installed, or the address cannot be had.
    """
    if not looking.dashboard and looking.rerun is None:
        yield None
        return
    from rdt2.dashboard.desk import Desk

    with Desk(looking, goes_on=goes_on or not looking.dashboard) as opened:
        yield opened
