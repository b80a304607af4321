"""Bytes of shards, wherever they lie: read by position, from disk or by URL (http, s3, gs, memory, ... through fsspec).

On disk a bounded number of files stays open; by URL every range is one request, and many are under way at once, so
that a distant server costs bandwidth and no waiting.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from rdt2.data.shards.remote import filesystem_of, is_url, words_of
from rdt2.errors import ShardError

_MAX_OPEN = 64
_AT_ONCE = 16
"""Requests under way at the same time."""
_TRIES = 4
_WAIT_S = 0.25
"""Before the second try; doubled before each further one."""
_BLOCK = 16 << 10
"""What is fetched around a header: all small files of a sample and the header of the next picture."""

Range = tuple[str, int, int]
"""(path or URL, first byte, byte behind the last)."""


class RangeReader:
    """Reads ranges of many files. A process made by fork may go on with it."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        """The process it belongs to, and its threads."""

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of all ranges.

        Raises:
            ShardError: a file that is not there, ends before, or a server that does not answer.
        """
        if not any(is_url(location) for location, _, _ in ranges):
            return [self._from_disk(*each) for each in ranges]
        if self._pool is None or self._pool[0] != os.getpid():  # threads stay behind at a fork
            self._pool = os.getpid(), ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rdt2-read")
        return list(self._pool[1].map(lambda each: self._one(*each), ranges))

    def _one(self, location: str, begin: int, end: int) -> bytes:
        return (read_url if is_url(location) else self._from_disk)(location, begin, end)

    def _from_disk(self, path: str, begin: int, end: int) -> bytes:
        try:
            descriptor = self._open.pop(path, None)
            if descriptor is None:
                while len(self._open) >= _MAX_OPEN:
                    os.close(self._open.popitem(last=False)[1])
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._open[path] = descriptor
            data = os.pread(descriptor, end - begin, begin)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read at byte {begin} ({error}).") from None
        return _whole(data, path, begin, end)

    def __del__(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def read_url(url: str, begin: int = 0, end: int | None = None) -> bytes:
    """A range of a file by URL, tried again where a connection broke.

    Raises:
        ShardError: no such file, no permission, or a server that did not answer several times or knows no ranges.
    """
    filesystem, path = filesystem_of(url)
    for attempt in range(_TRIES):
        try:
            data = filesystem.cat_file(path, start=begin, end=end)
            if end is None:
                return data
            if len(data) > end - begin:
                raise ShardError(
                    f"{url}: its server gives whole files only, no parts of them (HTTP ranges). Serve the shards "
                    "with one that does, such as nginx, or copy them."
                )
            return _whole(data, url, begin, end)
        except ShardError:
            raise
        except FileNotFoundError:
            raise ShardError(f"{url}: there is no such file. Look at the address.") from None
        except PermissionError as error:
            raise ShardError(f"{url}: no permission to read it ({words_of(error)}).") from None
        except Exception as error:  # each file system raises its own: aiohttp's, botocore's, ...
            if attempt == _TRIES - 1:
                raise ShardError(
                    f"{url}: reading at byte {begin} failed {_TRIES} times ({words_of(error)}). "
                    f"Look at the network and the address."
                ) from None
            time.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _whole(data: bytes, location: str, begin: int, end: int) -> bytes:
    if len(data) != end - begin:
        raise ShardError(
            f"{location}: ends at byte {begin + len(data)}, its index says {end} or more. "
            f"It was cut off, or changed after it was indexed: copy it again, and delete its .index file."
        )
    return data


def size_of(location: str) -> int:
    """Bytes of a file on disk or by URL. Raises ShardError."""
    try:
        if not is_url(location):
            return Path(location).stat().st_size
        filesystem, path = filesystem_of(location)
        return int(filesystem.info(path)["size"])
    except ShardError:
        raise
    except Exception as error:  # each file system raises its own
        raise ShardError(f"{location}: cannot be read ({words_of(error)}).") from None


class HeaderStream:
    """A shard by URL for :class:`~rdt2.data.shards.tar.TarReader`: what lies between headers is not fetched."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._position = 0
        self._begin, self._block = 0, b""

    def seek(self, position: int, /) -> int:
        """The next read begins there."""
        self._position = position
        return position

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end of the file. Raises ShardError."""
        begin, end = self._position, min(self._position + size, self._size)
        if begin < self._begin or end > self._begin + len(self._block):
            self._begin = begin
            self._block = read_url(self._url, begin, min(begin + max(size, _BLOCK), self._size))
        self._position = end
        return self._block[begin - self._begin : end - self._begin]


def shard_name(location: str) -> str:
    """The file name of a tar, for messages."""
    return PurePosixPath(location.partition("?")[0]).name
