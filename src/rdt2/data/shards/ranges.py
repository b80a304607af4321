"""Bytes of shards, wherever they lie: read by position, from disk or by URL (http, s3, gs, memory, ... through fsspec).

On disk a bounded number of files stays open; by URL every range is one request, many are under way at once, and those
of the next batch are while this one is decoded, so that a distant server costs bandwidth and no waiting.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from rdt2.data.shards.remote import is_url, read_url, size_of_url
from rdt2.errors import ShardError

_MAX_OPEN = 64
_AT_ONCE = 16
"""Requests under way at the same time."""
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
        self._ahead: dict[Range, Future[bytes]] = {}
        """What is on its way, and was not asked for yet."""

    def read(self, ranges: Sequence[Range], *, then: Sequence[Range] = ()) -> list[bytes]:
        """The bytes of all ranges.

        then: what is asked for next; by URL it is on its way already while these are used. Nothing is read ahead from
            disk, where the system does so.

        Raises:
            ShardError: a file that is not there, ends before, or a server that does not answer.
        """
        if self._pool is None or self._pool[0] != os.getpid():  # threads stay behind at a fork
            self._pool = os.getpid(), ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rdt2-read")
            self._ahead = {}
        now = self._begun(ranges, self._ahead)
        ahead = self._begun(then, self._ahead | now)
        for each in self._ahead.keys() - now.keys() - ahead.keys():
            self._ahead[each].cancel()
        self._ahead = ahead
        return [now[each].result() if each in now else self._from_disk(*each) for each in ranges]

    def _begun(
        self, ranges: Sequence[Range], before: Mapping[Range, Future[bytes]]
    ) -> dict[Range, Future[bytes]]:
        """Every range by URL on its way, each once."""
        assert self._pool is not None
        return {
            each: before.get(each) or self._pool[1].submit(_from_url, *each)
            for each in dict.fromkeys(ranges)
            if is_url(each[0])
        }

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


def _from_url(url: str, begin: int, end: int) -> bytes:
    return _whole(read_url(url, begin, end), url, begin, end)


def _whole(data: bytes, location: str, begin: int, end: int) -> bytes:
    if len(data) != end - begin:
        raise ShardError(
            f"{location}: ends at byte {begin + len(data)}, its index says {end} or more. "
            f"It was cut off, or changed after it was indexed: copy it again, and delete its .index file."
        )
    return data


def size_of(location: str) -> int:
    """Bytes of a file on disk or by URL. Raises ShardError."""
    if is_url(location):
        return size_of_url(location)
    try:
        return Path(location).stat().st_size
    except OSError as error:
        raise ShardError(f"{location}: cannot be read ({error}).") from None


class UrlStream:
    """A shard by URL for :class:`~rdt2.data.shards.tar.TarReader`.

    block: bytes that are fetched at a time. Few are the headers alone: what lies between them is passed over. Many are
        the whole file, forwards.
    """

    def __init__(self, url: str, size: int, *, block: int = _BLOCK) -> None:
        self._url, self._size, self._least = url, size, block
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
            self._block = read_url(self._url, begin, min(begin + max(size, self._least), self._size))
        self._position = end
        return self._block[begin - self._begin : end - self._begin]


def shard_name(location: str) -> str:
    """The file name of a tar, for messages."""
    return PurePosixPath(location.partition("?")[0]).name
