"""What the check of shards reads, sample by sample and in order, by any number of processes; and what it keeps."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.continuity import Thumbs, recorded_time, thumbnails
from rdt2.data.shards import Member, decode_jpeg, parse_action, parse_meta, parse_tokens, scan_shard
from rdt2.data.shards.ranges import UrlStream, shard_name, size_of
from rdt2.data.shards.reading import stream_shard
from rdt2.data.shards.remote import Unreachable, is_url
from rdt2.data.shards.tar import TarReader
from rdt2.errors import ShardError
from rdt2.workers import worker_pool

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_TOGETHER = 32
"""Samples that a process reads at a time: 3 MB on their way back."""
_BLOCK = 8 << 20
"""Of a shard by URL, fetched at a time."""
_NEW = 1 << 14


@dataclass(frozen=True)
class ReadSample:
    """A sample of a shard, or what is wrong with it."""

    key: str
    jpeg: bytes
    action: Float[np.ndarray, "24 20"]
    meta: dict[str, Any]
    time: float | None
    tokens: Int[np.ndarray, " 27"] | None
    thumbs: Thumbs | None
    """None where pictures are not decoded."""
    black: tuple[str, ...]
    """The wrist pictures without any light."""
    digest: int
    """64 bits of picture and action."""


Read = ReadSample | tuple[str, ShardError]
"""(key, error) of one that is damaged."""


def read_samples(
    shards: Iterable[str], *, decode: bool, workers: int
) -> Iterator[tuple[str, Iterator[Read | ShardError]]]:
    """Every shard, by path or URL, with its samples in stored order; a shard that is damaged ends with the error.

    workers: processes that read and decode; 0 does it here. What is behind a URL is fetched here, once and forwards.

    Raises:
        Unreachable: a server that does not let a shard be read, which is no damage.
    """
    if workers == 0:
        for shard in shards:
            yield shard, _here(shard, decode)
        return
    with worker_pool(workers) as pool:
        ahead: deque[tuple[str, Future[list[Read]] | ShardError | None]] = deque()
        jobs = _jobs(shards)

        def fill() -> None:
            while len(ahead) < 2 * workers + 1 and (job := next(jobs, None)) is not None:
                shard, samples = job
                waits = (
                    pool.submit(_read_some, shard, samples, decode) if isinstance(samples, list) else samples
                )
                ahead.append((shard, waits))

        fill()
        while ahead:
            shard, opening = ahead.popleft()
            assert opening is None  # each shard begins so

            def of_one() -> Iterator[Read | ShardError]:
                fill()
                while ahead and ahead[0][1] is not None:
                    _, made = ahead.popleft()
                    if isinstance(made, ShardError):
                        yield made
                    elif made is not None:
                        yield from made.result()
                    fill()

            yield shard, of_one()
            fill()


def _here(shard: str, decode: bool) -> Iterator[Read | ShardError]:
    for samples in _some(shard):
        if isinstance(samples, ShardError):
            yield samples
        else:
            yield from _read_some(shard, samples, decode)


_Samples = list[tuple[str, dict[str, Member] | dict[str, bytes]]]
"""Keys and files: where they lie on disk, or what is in them."""


def _jobs(shards: Iterable[str]) -> Iterator[tuple[str, _Samples | ShardError | None]]:
    """What there is to do, in order: None for the beginning of a shard, then its samples."""
    for shard in shards:
        yield shard, None
        for samples in _some(shard):
            yield shard, samples


def _found(shard: str) -> Iterator[tuple[str, dict[str, Member] | dict[str, bytes]]]:
    if not is_url(shard):
        yield from scan_shard(shard)
        return
    size = size_of(shard)
    reader = TarReader(UrlStream(shard, size, block=_BLOCK), name=shard_name(shard), size=size)
    for key, files, _ in stream_shard(reader):
        yield key, files


def _some(shard: str) -> Iterator[_Samples | ShardError]:
    """The samples of a shard, a few at a time; then the error that ends it."""
    found: _Samples = []
    try:
        for sample in _found(shard):
            found.append(sample)
            if len(found) == _TOGETHER:
                yield found
                found = []
    except Unreachable:
        raise
    except ShardError as error:
        if found:
            yield found
        yield error
        return
    if found:
        yield found


def _read_some(shard: str, samples: _Samples, decode: bool) -> list[Read]:
    name = shard_name(shard)
    with contextlib.nullcontext() if is_url(shard) else open(shard, "rb") as stream:
        return [_read(f"{name}, sample {key}", key, _files(stream, files), decode) for key, files in samples]


def _read(where: str, key: str, data: Mapping[str, bytes], decode: bool) -> Read:
    jpeg = data["image.jpg"]
    try:
        action = parse_action(data["action.npy"], where=where)
        meta = parse_meta(data["meta.json"], where=where)
        time = recorded_time(meta, where=where)
        packed = data.get("action_token.npy")
        tokens = None if packed is None else parse_tokens(packed, where=where)
        picture = decode_jpeg(jpeg, where=where) if decode else None
    except ShardError as error:
        return key, error
    halves = () if picture is None else (("left", picture[::8, :376:8]), ("right", picture[::8, 392::8]))
    digest = hashlib.blake2b(jpeg + data["action.npy"], digest_size=8).digest()
    return ReadSample(
        key=key,
        jpeg=jpeg,
        action=action,
        meta=meta,
        time=time,
        tokens=tokens,
        thumbs=None if picture is None else thumbnails(picture),
        black=tuple(side for side, half in halves if half.max() < 8),
        digest=int.from_bytes(digest, "little"),
    )


def _files(stream: Any, files: Mapping[str, Member] | Mapping[str, bytes]) -> dict[str, bytes]:
    data = {}
    for name, member in files.items():
        if isinstance(member, bytes):
            data[name] = member
            continue
        stream.seek(member.offset)
        data[name] = stream.read(member.size)
    return data


class Seen:
    """Which numbers came before: 8 bytes for each."""

    def __init__(self) -> None:
        self._old, self._new = np.empty(0, np.uint64), set[int]()

    def add(self, number: int) -> bool:
        """Whether it came before; from now on it did."""
        place = int(np.searchsorted(self._old, np.uint64(number)))
        if number in self._new or (place < len(self._old) and int(self._old[place]) == number):
            return True
        self._new.add(number)
        if len(self._new) >= max(_NEW, len(self._old) // 16):
            self._old = np.sort(np.concatenate([self._old, np.fromiter(self._new, np.uint64)]))
            self._new = set()
        return False


class Thinned(Sequence[float]):
    """Numbers for a plot: all of them while they are few, then every second, fourth, ..."""

    def __init__(self, most: int = 1 << 17) -> None:
        self._kept, self._every, self._count, self._most = array("d"), 1, 0, most

    def append(self, value: float) -> None:
        """One more."""
        if self._count % self._every == 0:
            self._kept.append(value)
            if len(self._kept) == self._most:
                self._kept, self._every = self._kept[::2], 2 * self._every
        self._count += 1

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, place: Any) -> Any:
        return self._kept[place]
