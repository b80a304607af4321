"""The plain files of an uncompressed tar, read forwards; what is damaged or cut off is an error.

``tarfile`` takes a damaged or missing header for the end of the archive. Here that is an error, and so is an
archive without its end mark.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from rdt2.errors import ShardError
from rdt2.files import disguise

_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MAX_EXTENDED = 1 << 16
"""An extended header holds a long name: more than this is none."""


class Stream(Protocol):
    """What a tar is read from: an open file, or :class:`~rdt2.data.shards.ranges.UrlStream`."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer at the end."""
        ...

    def seek(self, position: int, /) -> int:
        """Go to a byte, counted from the start; returns it."""
        ...


class Member(NamedTuple):
    """Where a file lies inside a tar: its name, first byte and length, and where its headers begin."""

    name: str
    offset: int
    size: int
    begin: int


class TarReader:
    """Iterating gives the regular files in order, reading headers only; ``read`` gives the bytes of the last.

    Positions only grow, so a stream that cannot go back will do.
    """

    def __init__(self, stream: Stream, *, name: str, size: int | None = None, start: int = 0) -> None:
        """
        size: bytes of the whole tar, where they are known.
        start: where to begin: ``begin`` of a member, or 0.
        """
        self.name = name
        self._stream, self._size, self._position = stream, size, start

    def read(self, member: Member) -> bytes:
        """The bytes of the member that came last. Raises ShardError where the tar is cut off."""
        self._stream.seek(member.offset)
        data = self._stream.read(member.size)
        if len(data) != member.size:
            raise self._cut_off(member, member.offset + len(data))
        return data

    def __iter__(self) -> Iterator[Member]:
        """
        Raises:
            ShardError: truncated or damaged.
        """
        begin, long_name, long_size = self._position, None, None
        while True:
            header = self._header()
            if header is None:
                self._position = begin
                return
            self._position += _BLOCK
            size = header.size if long_size is None else long_size
            member = Member(long_name or header.name, self._position, size, begin)
            if self._size is not None and self._position + size > self._size:
                raise self._cut_off(member, self._size)
            self._position += -(-size // _BLOCK) * _BLOCK
            if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME) and size <= _MAX_EXTENDED:
                extended = self.read(member)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = extended.rstrip(b"\0").decode(errors="backslashreplace")
                else:
                    records = dict(re.findall(rb"\d+ ([^=\n]+)=([^\n]*)\n", extended))
                    long_name = (
                        records[b"path"].decode(errors="backslashreplace") if b"path" in records else None
                    )
                    long_size = int(records[b"size"]) if b"size" in records else None
                continue
            if header.isreg():
                yield member
            elif header.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
                raise ShardError(
                    f"{self.name}: {header.name} is no plain file. A shard holds plain files only."
                )
            begin, long_name, long_size = self._position, None, None

    @property
    def position(self) -> int:
        """Where the next member begins; at the end, where the end mark is."""
        return self._position

    def _header(self) -> tarfile.TarInfo | None:
        """The header at the position; None at the end mark."""
        self._stream.seek(self._position)
        block = self._stream.read(_BLOCK)
        if self._position == 0:
            self._refuse_others(block)
        if len(block) < _BLOCK:
            raise ShardError(
                f"{self.name}: ends at byte {self._position + len(block)} without the end mark of a tar. "
                f"It was cut off: copy or record it again."
            )
        if block.count(0) == _BLOCK:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            raise ShardError(
                f"{self.name}: no tar header at byte {self._position} ({error}). Copy or record it again."
            ) from None

    def _refuse_others(self, head: bytes) -> None:
        """Name what is no tar by its first bytes: compressed, or a pointer left in its place."""
        if (instead := disguise(head)) is not None:
            raise ShardError(f"{self.name}: it is {instead}.")
        for magic, program in _COMPRESSED.items():
            if head.startswith(magic):
                raise ShardError(
                    f"{self.name}: it is compressed ({program}); samples are read from any place of a plain tar, "
                    f"and pictures hardly shrink. Unpack it: {program} -dc {self.name} > NAME.tar"
                )

    def _cut_off(self, member: Member, end: int) -> ShardError:
        return ShardError(
            f"{self.name}: {member.name} needs {member.size} bytes at {member.offset}, the file ends at {end}. "
            f"It was cut off: copy or record it again."
        )


def scan_tar(path: str | Path) -> Iterator[Member]:
    """The regular files of a tar on disk, in order, reading headers only.

    Raises:
        ShardError: truncated or damaged.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        yield from TarReader(stream, name=path.name, size=path.stat().st_size)
