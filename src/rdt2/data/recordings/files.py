"""MCAP files that survive: whatever happens to the process, what was written until a moment ago can be read.

A file grows by small chunks, each with a checksum, and is pushed to the disk once and again. One without an end (the
process was killed, the disk was full) is read as far as its chunks are whole; `recover` gives it an end.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rdt2.data.recordings.messages import DEFINITIONS, PICTURE, Message
from rdt2.errors import ConfigError, RecordingError
from rdt2.files import unreadable, whole_file

if TYPE_CHECKING:
    from mcap.writer import Writer

CHUNK = 1 << 14
"""Bytes of messages in a chunk, after which it goes to the file: a picture, or a few tenths of a second of states."""
ABOUT = "rdt2"
"""The file's metadata record that says of what robot and policy it is."""


def require_mcap() -> None:
    """Raises ConfigError where the library is not installed."""
    try:
        import mcap  # noqa: F401
    except ImportError:
        raise ConfigError(
            "recordings are MCAP files, and mcap is not installed. Install the extra: pip install 'rdt2[mcap]'."
        ) from None


class RecordingFile:
    """A new file, open for messages.

    Args:
        path: where; there must be nothing.
        about: what it is a recording of, by name.

    Raises:
        OSError: the system refuses; from every method.
    """

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        from mcap.writer import CompressionType

        self.path = path
        self._stream: IO[bytes] = path.open("xb")
        _locked(self._stream)  # until it is closed: nobody mends what is being written
        self._writer: Writer = _writer(self._stream, CompressionType.ZSTD)
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._writer.add_metadata(ABOUT, about)
        self.sync()

    def put(self, message: Message) -> None:
        """Add one message."""
        if message.topic not in self._channels:
            self._channels[message.topic] = self._add_channel(message)
        self._writer.add_message(
            self._channels[message.topic],
            log_time=message.logged,
            publish_time=message.stamp,
            data=message.data,
        )

    def _add_channel(self, message: Message) -> int:
        kind = message.kind
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", DEFINITIONS[kind].encode())
        return self._writer.register_channel(message.topic, "cdr", self._schemas[kind])

    def sync(self) -> None:
        """Have all whole chunks on the disk: after this not even a power cut takes them."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Write the end, with an index of the whole."""
        self._writer.finish()
        self.sync()
        self._stream.close()

    def abandon(self) -> None:
        """Let go of a file that cannot be written to: what is on the disk stays, what waits in memory is gone."""
        with contextlib.suppress(OSError):  # what refused to be written refuses once more
            self._stream.close()


def _writer(stream: IO[bytes], compression: Any) -> Writer:
    from mcap.writer import Writer

    # Pictures are compressed already; what remains of a chunk is small.
    writer = Writer(stream, chunk_size=CHUNK, compression=compression)
    writer.start(profile="ros2", library="rdt2")
    return writer


@dataclass(frozen=True)
class Contents:
    """What a file holds, as far as it is whole."""

    about: dict[str, str]
    messages: list[Message]
    """In the order in which they were written."""
    cut: str
    """Why it has no end; empty for a whole file."""


def read_file(path: Path, *, pictures: bool = True) -> Contents:
    """All messages of a recording.

    pictures: False leaves them out.

    Raises:
        RecordingError: no recording of ours, or nothing of it can be read.
    """
    about: dict[str, str] = {}
    messages: list[Message] = []
    cut = ""
    for item in _items(path):
        if isinstance(item, Message):
            if pictures or item.kind != PICTURE:
                messages.append(item)
        elif isinstance(item, str):
            cut = item
        else:
            about = item
    if not about:
        words = f"is no recording of 'rdt2 run --record'{f' ({cut})' if cut else ''}. Read others with --from mcap."
        raise RecordingError(unreadable(path, words))
    return Contents(about, messages, cut)


def _items(path: Path) -> Iterator[Message | dict[str, str] | str]:
    """The messages, what the file is about, and at its end why it has none."""
    import zstandard
    from mcap.exceptions import McapError
    from mcap.records import Channel, Metadata, Schema
    from mcap.records import Message as Record
    from mcap.stream_reader import StreamReader

    kinds: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    try:
        stream = path.open("rb")
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be read ({error.strerror or error}). Look at the path."
        ) from error
    with stream:
        try:
            for record in StreamReader(stream, validate_crcs=True).records:
                if isinstance(record, Schema):
                    kinds[record.id] = record.name
                elif isinstance(record, Channel):
                    channels[record.id] = record.topic, kinds[record.schema_id]
                elif isinstance(record, Metadata) and record.name == ABOUT:
                    yield record.metadata
                elif isinstance(record, Record):
                    topic, kind = channels[record.channel_id]
                    yield Message(topic, kind, record.data, record.log_time, record.publish_time)
        # A file that was cut off ends anywhere, and a disk that was full leaves anything behind its end.
        except (
            McapError,
            zstandard.ZstdError,
            struct.error,
            EOFError,
            ValueError,
            LookupError,
            MemoryError,
        ) as error:
            yield f"it ends in the middle ({type(error).__name__})"


def _locked(stream: IO[bytes]) -> bool:
    """Take an open file for this process; False where another has it."""
    try:
        import fcntl
    except ImportError:  # Windows, which lets nobody replace an open file anyway
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def rewrite(path: Path, contents: Contents) -> None:
    """Put a whole file in the place of one that was cut off.

    Raises:
        RecordingError: it is being written, or cannot be; the old one stays then.
    """
    with path.open("rb") as stream:
        if not _locked(stream):
            raise RecordingError(f"{path}: is being recorded right now. Wait until that has ended.")
    with whole_file(path, advice="The recording is as it was.") as partial:
        partial.unlink()
        file = RecordingFile(partial, contents.about)
        for message in contents.messages:
            file.put(message)
        file.close()
