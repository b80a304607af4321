"""Where every file of every sample of a shard lies: one small file beside each tar, made once, mapped into memory.

``shard-000000.tar.index`` is a safetensors file. Its metadata say all that a start needs (how many samples, of which
episodes, with which sentences), so nothing else of it is touched until a sample is read, and processes that map the
same file share its pages. An index belongs to one tar, which it knows by its size, first and last bytes; one of
another tar, or on disk an older one than its tar, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rdt2.data.continuity import recorded_time
from rdt2.data.shards.ranges import RangeReader, UrlStream, shard_name, size_of
from rdt2.data.shards.reading import scan_samples, told_key
from rdt2.data.shards.remote import Absent, Forbidden, Unreachable, is_url, read_url
from rdt2.data.shards.sample import MEMBERS, parse_meta
from rdt2.data.shards.tar import TarReader
from rdt2.errors import ShardError
from rdt2.files import write_whole

if TYPE_CHECKING:
    from jaxtyping import Float, UInt

SUFFIX = ".index"
_FORMAT = "rdt2 shard index 1"
_FIRST_BYTES, _LAST_BYTES = 1024, 16 << 10
"""What a shard is known by: at its end lie the last sample's meta and up to 10 KiB of zeros."""
_DTYPES = {"F64": np.float64, "U64": np.uint64, "U32": np.uint32, "U8": np.uint8}
_AT_ONCE = 16


class _CannotKeep(ShardError):
    """An index that could not be written where it was to be."""


@dataclass(frozen=True)
class ShardTable:
    """What there is in one tar.

    episodes: (name, how many samples) of the runs of samples that belong together, in stored order; "" where the
        shard does not say. sentences: the instruction keys, None for samples that have none; a sample has the number
        of its own. digest: of the samples' keys and sizes, wherever the shard lies. shard: its :func:`signature_of`.
    """

    path: Path
    shard: str
    samples: int
    tokens: int
    """How many samples carry action tokens."""
    damage: tuple[str, ...]
    """What is wrong with samples, or the rest of the tar, that are left out; empty for a whole one."""
    episodes: tuple[tuple[str, int], ...]
    sentences: tuple[str | None, ...]
    digest: str
    layout: dict[str, Any] = field(repr=False)

    def places(self) -> ShardPlaces:
        """Where the files of its samples lie, mapped into memory until it is let go: a map holds a descriptor."""
        data = np.memmap(self.path, np.uint8, "r")
        return ShardPlaces(
            **{
                name: data[begin:end].view(_DTYPES[dtype]).reshape(shape)
                for name, (dtype, shape, begin, end) in self.layout.items()
            }
        )


class ShardPlaces(NamedTuple):
    """offset, size: first byte and bytes (0 of tokens that are not there) of picture, action, tokens and meta of each
    sample. sentence: number of its instruction key in ``ShardTable.sentences``. time: seconds in its episode, NaN where
    the shard does not say. key: its name, padded with zeros.
    """

    offset: UInt[np.ndarray, "n 4"]
    size: UInt[np.ndarray, "n 4"]
    sentence: UInt[np.ndarray, " n"]
    time: Float[np.ndarray, " n"]
    key: UInt[np.ndarray, "n width"]

    def name(self, row: int) -> str:
        """The key of a sample."""
        return self.key[row].tobytes().rstrip(b"\0").decode()


def load_indices(shards: Iterable[str | Path]) -> list[ShardTable]:
    """The indices of shards, by path or URL, in order: see :func:`load_index`."""
    locations = [str(shard) for shard in shards]
    if not any(map(is_url, locations)):
        return [load_index(location) for location in locations]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(load_index, locations))


def load_index(location: str) -> ShardTable:
    """The index of a shard: the one beside it, the one in the cache folder, or a new one.

    A new index is kept beside the shard where that can be written, else (and for URLs) in the cache folder
    (RDT2_CACHE, or ~/.cache/rdt2), else among temporary files. Of several processes one makes it while the others wait.

    Raises:
        ShardError: the shard cannot be read. One that is damaged has an index up to there, which says so.
    """
    signature = signature_of(location)
    since = 0 if is_url(location) else Path(location).stat().st_mtime_ns
    places = list(_places(location))
    for place in places:
        if found := _opened(place, signature, since):
            return found
    for place in places:
        if _may_write(place.parent) and (found := _made(location, place, signature, since)):
            return found
    raise ShardError(
        f"{location}: its index can be kept in none of {', '.join(map(str, places))}. Set RDT2_CACHE to a folder "
        "that you may write to."
    )


def _places(location: str) -> Iterator[Path]:
    """Where the index of a shard may be."""
    if not is_url(location):
        yield Path(location + SUFFIX)
    absolute = location if is_url(location) else str(Path(location).absolute())
    name = f"{shard_name(location)}-{hashlib.sha256(absolute.encode()).hexdigest()[:20]}{SUFFIX}"
    yield Path(os.environ.get("RDT2_CACHE") or Path.home() / ".cache" / "rdt2") / "index" / name
    yield Path(tempfile.gettempdir()) / f"rdt2-index-{os.getuid()}" / name


def _made(location: str, target: Path, signature: str, since_ns: int) -> ShardTable | None:
    """Make an index there; None where the system does not let it."""
    from filelock import FileLock

    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            found = _opened(target, signature, since_ns)
            if found is None and is_url(location):
                _fetch(location, target)
                found = _opened(target, signature, since_ns)
            if found is None:
                write_index(location, target, signature)
                found = _opened(target, signature, since_ns)
        lock.unlink(missing_ok=True)
    except (OSError, _CannotKeep):
        return None
    return found


def write_index(location: str, target: Path | None = None, signature: str | None = None) -> None:
    """Read the headers and metas of a shard and write its index, beside it unless ``target`` says otherwise.

    Raises:
        ShardError: the shard cannot be read, or the index cannot be written.
    """
    offsets, sizes, sentences, times, keys = [], [], [], [], []
    runs: list[tuple[str, int]] = []
    codes: dict[str | None, int] = {}
    damage: list[str] = []
    for key, members, meta, time in _scan(location, damage):
        offsets.append([members[name].offset if name in members else 0 for name in MEMBERS])
        sizes.append([members[name].size if name in members else 0 for name in MEMBERS])
        sentences.append(codes.setdefault(told_key(meta), len(codes)))
        times.append(np.nan if time is None else time)
        keys.append(key.encode())
        episode = str(meta.get("episode", ""))
        before = runs.pop() if runs and runs[-1][0] == episode else (episode, 0)
        runs.append((episode, before[1] + 1))
    width = max(map(len, keys), default=1)
    places = ShardPlaces(
        offset=np.array(offsets, np.uint64).reshape(-1, len(MEMBERS)),
        size=np.array(sizes, np.uint32).reshape(-1, len(MEMBERS)),
        sentence=np.array(sentences, np.uint32),
        time=np.array(times, np.float64),
        key=np.array(keys, f"S{width}").view(np.uint8).reshape(-1, width),
    )
    save_index(
        target or Path(location + SUFFIX), places, shard=signature or signature_of(location),
        episodes=runs, sentences=list(codes), damage=damage,
    )  # fmt: skip


def save_index(
    target: Path,
    places: ShardPlaces,
    *,
    shard: str,
    episodes: Sequence[tuple[str, int]],
    sentences: Sequence[str | None],
    damage: Sequence[str] = (),
) -> None:
    """Write an index; see ShardTable for what it says. shard: the :func:`signature_of` its tar.

    Raises:
        ShardError: it cannot be written.
    """
    from safetensors.numpy import save

    about = {
        "format": _FORMAT,
        "shard": shard,
        "damage": damage,
        "digest": hashlib.sha256(places.size.tobytes() + places.key.tobytes()).hexdigest()[:32],
        "tokens": int((places.size[:, 2] > 0).sum()),
        "episodes": episodes,
        "sentences": sentences,
    }
    # In one piece: the library writes several in another order each time.
    data = save(places._asdict(), {"about": json.dumps(about)})
    write_whole(target, data, error=_CannotKeep)


def _scan(
    location: str, damage: list[str]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], float | None]]:
    """(key, files, meta, time) of the samples of a shard, reading headers and metas only. What is wrong with a
    sample, which then is left out, or with the rest of the shard, goes to ``damage``."""
    size, name = size_of(location), shard_name(location)
    stream: Any = UrlStream(location, size) if is_url(location) else open(location, "rb")  # noqa: SIM115
    try:
        for key, members in scan_samples(TarReader(stream, name=name, size=size)):
            place, where = members["meta.json"], f"{name}, sample {key}"
            stream.seek(place.offset)
            try:
                meta = parse_meta(stream.read(place.size), where=where)
                time = recorded_time(meta, where=where)
            except Unreachable:
                raise
            except ShardError as error:
                damage.append(str(error))
                continue
            yield key, members, meta, time
    except Unreachable:
        raise  # which is no damage, and may have passed at the next start
    except ShardError as error:
        damage.append(f"{error} (the rest of that shard)")
    finally:
        if not is_url(location):
            stream.close()


def _opened(path: Path, signature: str, since_ns: int) -> ShardTable | None:
    """The index in a file; None where there is none, it is damaged, of another shard, or older than that."""
    try:
        with path.open("rb") as stream:
            begin = int.from_bytes(stream.read(8), "little") + 8
            header = json.loads(stream.read(begin - 8))
            stat = os.fstat(stream.fileno())
        about = json.loads(header.pop("__metadata__")["about"])
        if about["format"] != _FORMAT or about["shard"] != signature:
            return None
        layout = {
            name: (each["dtype"], each["shape"], *(begin + offset for offset in each["data_offsets"]))
            for name, each in header.items()
        }
        if stat.st_mtime_ns < since_ns or stat.st_size != max(end for *_, end in layout.values()):
            return None
        return ShardTable(
            path,
            shard=signature,
            samples=layout["offset"][1][0],
            tokens=about["tokens"],
            damage=tuple(about["damage"]),
            episodes=tuple((name, count) for name, count in about["episodes"]),
            sentences=tuple(about["sentences"]),
            digest=about["digest"],
            layout=layout,
        )
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        return None  # absent or damaged: making it again is always right


def _fetch(url: str, target: Path) -> None:
    """Copy the index that lies beside a remote shard, if there is one."""
    try:
        data = read_url(url + SUFFIX)
    except (Absent, Forbidden):
        return  # without one, the shard's headers are read
    write_whole(target, data, error=_CannotKeep)


def signature_of(location: str) -> str:
    """What tells a shard, by path or URL, from another. Raises ShardError."""
    size = size_of(location)
    ends = [(0, min(size, _FIRST_BYTES)), (max(0, size - _LAST_BYTES), size)]
    digest = hashlib.sha256()
    for piece in RangeReader().read([(location, *each) for each in ends]):
        digest.update(piece)
    return f"{size} {digest.hexdigest()[:32]}"


def _may_write(folder: Path) -> bool:
    """Whether a folder is there that may be written, or can be made; root could write to one that is marked read-only,
    and should not."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o200)
