"""Shards by URL: listed, and read forwards, through fsspec (http, s3, gs, memory, ...)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rdt2.data.shards.reading import (
    INSTRUCTION_FILES,
    find_shards,
    parse_instructions,
    pick_shards,
    read_instructions,
)
from rdt2.errors import ConfigError, ShardError

_TRIES = 4
_WAIT_S = 0.25
"""Before the second try; doubled before each further one."""
_CHUNK = 1 << 20


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
            found += map(str, find_shards(location))
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
        filesystem, path = _filesystem(shard)
        folder = path.rsplit("/", 1)[0]
        for name in INSTRUCTION_FILES:
            try:
                data = filesystem.cat_file(f"{folder}/{name}")
            except FileNotFoundError:
                continue
            except Exception as error:  # each file system raises its own
                raise ShardError(f"{folder}/{name}: cannot be read ({_words(error)}).") from None
            return parse_instructions(data, where=f"{folder}/{name}")
    raise ShardError(
        f"{shard}: neither {' nor '.join(INSTRUCTION_FILES)} is beside it. Write one ({{key: sentence}})."
    )


def shard_name(location: str) -> str:
    """The file name of a tar, for messages."""
    return PurePosixPath(location.partition("?")[0]).name


def open_shard(location: str) -> BinaryIO | RemoteFile:
    """A tar on disk or by URL, to be read forwards. Raises ShardError."""
    if is_url(location):
        return RemoteFile(location)
    try:
        return open(location, "rb")
    except OSError as error:
        raise ShardError(f"{location}: cannot be opened ({error}).") from None


class RemoteFile:
    """A file by URL, read forwards: opened when it is first read, and again where a connection broke."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._filesystem, self._path = _filesystem(url)
        self._wanted = 0
        self._file: Any = None
        self._position = 0

    def seek(self, position: int, /) -> int:
        """The next read begins there."""
        self._wanted = position
        return position

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end of the file.

        Raises:
            ShardError: no such file, or the connection broke several times.
        """
        for attempt in range(_TRIES):
            try:
                self._go_to_wanted()
                data = self._read_exactly(size)
                self._wanted = self._position
                return data
            except (FileNotFoundError, PermissionError) as error:
                raise ShardError(f"{self.url}: cannot be read ({_words(error)}).") from None
            except Exception as error:  # each file system raises its own: aiohttp's, botocore's, ...
                self.close()
                if attempt == _TRIES - 1:
                    raise ShardError(
                        f"{self.url}: reading at byte {self._wanted} failed {_TRIES} times "
                        f"({_words(error)}). Look at the network and the address."
                    ) from None
                time.sleep(_WAIT_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _go_to_wanted(self) -> None:
        if self._file is None or self._wanted < self._position:
            self.close()
            # Sequential reading: one buffer ahead, the old one dropped.
            self._file = self._filesystem.open(self._path, "rb", cache_type="readahead")
            self._position = 0
        if self._wanted - self._position > _CHUNK:
            try:
                self._file.seek(self._wanted)
                self._position = self._wanted
            except (OSError, ValueError):
                pass  # a server without ranges: what lies before is read and dropped, just below
        while self._position < self._wanted:
            if not self._read_exactly(min(_CHUNK, self._wanted - self._position)):
                return  # the file ends before: the read that follows gives nothing, which the tar reader names

    def _read_exactly(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self._file.read(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
            self._position += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back."""
        if self._file is not None:
            self._file.close()
        self._file = None


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: no way to read it ({error}). Install the extra: pip install 'rdt2[remote]'."
        ) from None


def _listing(url: str) -> list[str]:
    filesystem, path = _filesystem(url)
    try:
        listed = {name.rpartition("/")[2]: name for name in filesystem.glob(f"{path.rstrip('/')}/*")}
    except Exception as error:  # each file system raises its own
        raise ShardError(
            f"{url}: cannot be listed ({_words(error)}). Give the tars' own addresses."
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


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
