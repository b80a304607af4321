"""Shards by URL: found and listed through fsspec (http, s3, gs, memory, ...)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rdt2.data.shards.reading import (
    INSTRUCTION_FILES,
    find_shards,
    parse_instructions,
    pick_shards,
    read_instructions,
)
from rdt2.errors import ConfigError, ShardError


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL and no path."""
    return re.match(r"^[a-z][a-z0-9+.-]*://", str(location)) is not None


def expand_locations(locations: str | Path | Iterable[str | Path]) -> list[str]:
    """The tars of folders, tars and URLs, in order, as paths or URLs.

    A URL is a tar, a folder its server can list, or a range of tars: ``https://host/shard-{000000..000044}.tar``.

    Raises:
        ShardError: there are none, or the server does not answer.
    """
    locations = [locations] if isinstance(locations, (str, Path)) else locations
    found: list[str] = []
    for location in locations:
        if not is_url(location):
            # A name with braces in it may be there as it is written.
            given = [location] if Path(location).exists() else _ranges(str(location))
            found += map(str, find_shards(given))
            continue
        for url in _ranges(str(location)):
            found += [url] if re.search(r"\.(tar(\.\w+)?|t[gbx]z2?)$", url) else _listing(url)
    return found


def instructions_beside(shard: str) -> dict[str, str]:
    """The instruction table in the folder of a tar, on disk or remote.

    Raises:
        ShardError: there is none, or it is damaged.
    """
    if not is_url(shard):
        table = read_instructions(shard)
        if table is not None:
            return table
    else:
        filesystem, path = filesystem_of(shard)
        folder = path.rsplit("/", 1)[0]
        for name in INSTRUCTION_FILES:
            try:
                data = filesystem.cat_file(f"{folder}/{name}")
            except FileNotFoundError:
                continue
            except Exception as error:  # each file system raises its own
                raise ShardError(f"{folder}/{name}: cannot be read ({words_of(error)}).") from None
            return parse_instructions(data, where=f"{folder}/{name}")
    raise ShardError(
        f"{shard}: neither {' nor '.join(INSTRUCTION_FILES)} is beside it. Write one ({{key: sentence}})."
    )


def filesystem_of(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises ConfigError where there is no way to read it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: no way to read it ({error}). Install the extra: pip install 'rdt2[remote]'."
        ) from None


def _listing(url: str) -> list[str]:
    filesystem, path = filesystem_of(url)
    try:
        listed = {name.rpartition("/")[2]: name for name in filesystem.glob(f"{path.rstrip('/')}/*")}
    except Exception as error:  # each file system raises its own
        raise ShardError(
            f"{url}: cannot be listed ({words_of(error)}). Give the tars' own addresses."
        ) from None
    found = [listed[name] for name in pick_shards(listed, url)]
    if not found:
        raise ShardError(f"{url}: holds no *.tar that its server lists. Give the tars' own addresses.")
    return [filesystem.unstrip_protocol(name) for name in found]


def _ranges(url: str) -> list[str]:
    """``a{00..02}b`` as a00b, a01b, a02b."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", url)
    if match is None:
        return [url]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= 1_000_000:
        raise ConfigError(f"{url}: {{{first}..{last}}} is an empty or absurd range.")
    head, tail = url[: match.start()], url[match.end() :]
    return [each for n in numbers for each in _ranges(f"{head}{n:0{len(first)}d}{tail}")]


def words_of(error: Exception) -> str:
    """An error of a file system in words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
