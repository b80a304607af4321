"""What the check of shards reads, sample by sample and in order, by any number of processes; and what it keeps."""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.continuity import Thumbs, recorded_time, thumbnails
from rdt2.data.shards import Member, decode_jpeg, parse_action, parse_meta, parse_tokens, scan_shard
from rdt2.errors import ShardError
from rdt2.workers import worker_pool

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_TOGETHER = 32
"""Samples that a process reads at a time: 3 MB on their way back."""
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
    paths: Iterable[Path], *, decode: bool, workers: int
) -> Iterator[tuple[Path, Iterator[Read | ShardError]]]:
    """Every shard with its samples in stored order; a shard that is damaged ends with the error.

    workers: processes that read and decode; 0 does it here.
    """
    if workers == 0:
        for path in paths:
            yield path, _here(path, decode)
        return
    with worker_pool(workers) as pool:
        ahead: deque[tuple[Path, Future[list[Read]] | ShardError | None]] = deque()
        jobs = _jobs(paths)

        def fill() -> None:
            while len(ahead) < 2 * workers + 1 and (job := next(jobs, None)) is not None:
                path, samples = job
                waits = (
                    pool.submit(_read_some, path, samples, decode) if isinstance(samples, list) else samples
                )
                ahead.append((path, waits))

        fill()
        while ahead:
            path, opening = ahead.popleft()
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

            yield path, of_one()
            fill()


def _here(path: Path, decode: bool) -> Iterator[Read | ShardError]:
    for samples in _some(path):
        if isinstance(samples, ShardError):
            yield samples
        else:
            yield from _read_some(path, samples, decode)


_Samples = list[tuple[str, dict[str, Member]]]


def _jobs(paths: Iterable[Path]) -> Iterator[tuple[Path, _Samples | ShardError | None]]:
    """What there is to do, in order: None for the beginning of a shard, then its samples."""
    for path in paths:
        yield path, None
        for samples in _some(path):
            yield path, samples


def _some(path: Path) -> Iterator[_Samples | ShardError]:
    """The samples of a shard, a few at a time, by its headers alone; then the error that ends it."""
    found: _Samples = []
    try:
        for key, members in scan_shard(path):
            found.append((key, dict(members)))
            if len(found) == _TOGETHER:
                yield found
                found = []
    except ShardError as error:
        if found:
            yield found
        yield error
        return
    if found:
        yield found


def _read_some(path: Path, samples: _Samples, decode: bool) -> list[Read]:
    with open(path, "rb") as stream:
        return [
            _read(f"{path.name}, sample {key}", key, _files(stream, members), decode)
            for key, members in samples
        ]


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


def _files(stream: Any, members: Mapping[str, Member]) -> dict[str, bytes]:
    data = {}
    for name, member in members.items():
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
