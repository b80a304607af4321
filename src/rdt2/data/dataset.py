"""Random access to shards and the batches training sees: shuffled, split over ranks, resumable to the sample.

data = TrainingData("shards/", split="train", batch_size=16, seed=0)
for batch in data:                      # never ends; an epoch is a permutation of the split
    ...
    checkpoint["data"] = batch.state    # data.load_state(checkpoint["data"]) goes on with the next batch
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import queue
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import HORIZON
from rdt2.data import shards as _shards
from rdt2.data.batch import Batch, Corruption, fill_picture
from rdt2.data.continuity import recorded_time
from rdt2.data.mirror import mirrored_actions, mirrored_picture, mirrored_sentence
from rdt2.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_CACHE = ".shard-index.npz"
_CACHE_VERSION = 2
"""Of what the table holds and how samples are found; a table of another version is made again."""
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What reading a damaged archive of arrays raises."""


class ShardIndex:
    """Where every file of every sample lies, so that any sample is read at once, by its number.

    The tars are scanned once, headers and meta only; the table is kept beside them in ``.shard-index.npz``
    where the folder can be written, and made again when a shard's size or time changes.
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path],
        *,
        instructions: Mapping[str, str] | Literal["file", "ignore"] = "file",
    ) -> None:
        """
        source: a folder of shards, a tar, or several tars.
        instructions: "file" reads the table beside the shards; "ignore" leaves sentences out; or a table.

        Raises:
            ShardError: a damaged shard, a missing file, or a sample without a sentence.
        """
        self.paths = _shards.find_shards(source)
        table = self._cached() or self._scan()
        self._shard: np.ndarray = table["shard"]
        self._place: np.ndarray = table["place"]
        """(n, 4, 2) int64: offset and size of image, action, tokens, meta; absent tokens have size 0."""
        self.keys: np.ndarray = table["key"]
        self.episodes: np.ndarray = table["episode"]
        """(n,) text: the episode of a sample, or "" where the shards do not say."""
        self.times: np.ndarray = table["time"]
        """(n,) float64: seconds of a sample in its episode, NaN where the shards do not say."""
        self.sentence_keys: np.ndarray = table["sentence_key"]
        """(n,) JSON text: the instruction key of a sample, or null."""
        self._maps: dict[int, mmap.mmap] = {}
        self.sentences = self._sentences(instructions)

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def has_tokens(self) -> bool:
        """Whether every sample carries action tokens."""
        return len(self) > 0 and bool((self._place[:, 2, 1] > 0).all())

    def where(self, number: int) -> str:
        """Shard and sample in words, for messages."""
        return f"{self.paths[self._shard[number]].name}, sample {self.keys[number]}"

    def jpeg(self, number: int) -> bytes:
        """The picture of a sample, still compressed."""
        return self._read(number, 0)

    def picture(self, number: int, *, out: np.ndarray | None = None) -> UInt8[np.ndarray, "384 768 3"]:
        """The picture of a sample, uint8 RGB, left | right. Raises ShardError."""
        return _shards.decode_jpeg(self._read(number, 0), where=self.where(number), out=out)

    def action(self, number: int) -> Float[np.ndarray, "24 20"]:
        """The chunk of a sample, metres. Raises ShardError."""
        return _shards.parse_action(self._read(number, 1), where=self.where(number))

    def tokens(self, number: int) -> Int[np.ndarray, " 27"] | None:
        """The action tokens of a sample, None where absent. Raises ShardError."""
        if self._place[number, 2, 1] == 0:
            return None
        return _shards.parse_tokens(self._read(number, 2), where=self.where(number))

    def meta(self, number: int) -> dict[str, Any]:
        """The meta dictionary of a sample. Raises ShardError."""
        return _shards.parse_meta(self._read(number, 3), where=self.where(number))

    def state(self, number: int) -> Float[np.ndarray, " 20"]:
        """Where both arms were (see `rdt2.action.state_vector`), float32. Raises ShardError where that is not told."""
        return _shards.parse_state(self.meta(number), where=self.where(number))

    def instruction(self, number: int) -> str | None:
        """The sentence of a sample, None when instructions are ignored."""
        return self.sentences[number] if self.sentences else None

    def all_actions(self, numbers: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "n 24 20"]:
        """The chunks of many samples at once, metres: 1.9 kB a sample. Raises ShardError."""
        numbers = range(len(self)) if numbers is None else numbers
        out = np.empty(
            (len(numbers), *_shards.parse_action(self._read(0, 1), where=self.where(0)).shape), np.float32
        )
        for row, number in enumerate(numbers):
            out[row] = self.action(int(number))
        return out

    def fingerprint(self) -> str:
        """A name for these samples: their keys, episodes, instruction keys and sizes, wherever the shards lie."""
        digest = hashlib.sha256()
        for column in (self.keys, self.episodes, self.sentence_keys):
            digest.update(json.dumps(column.tolist()).encode())
        digest.update(np.ascontiguousarray(self._place[..., 1]).tobytes())
        return digest.hexdigest()[:24]

    def _read(self, number: int, member: int) -> bytes:
        shard = int(self._shard[number])
        if shard not in self._maps:
            with open(self.paths[shard], "rb") as stream:
                self._maps[shard] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        offset, size = self._place[number, member]
        return self._maps[shard][offset : offset + size]

    def _sentences(self, instructions: Mapping[str, str] | Literal["file", "ignore"]) -> list[str]:
        if instructions == "ignore":
            return []
        tables: dict[Path, Mapping[str, str] | None] = {}
        known: dict[tuple[Path, str], str] = {}
        sentences = []
        for number, key in enumerate(self.sentence_keys):
            path = self.paths[self._shard[number]]
            pair = (path.parent, str(key))
            if pair not in known:
                if path.parent not in tables:
                    tables[path.parent] = _shards.instruction_table(path, instructions)
                known[pair] = _shards.lookup_instruction(
                    {_shards.INSTRUCTION_KEY: json.loads(str(key))},
                    tables[path.parent] or {},
                    where=self.where(number),
                )
            sentences.append(known[pair])
        return sentences

    def _signature(self) -> str:
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return hashlib.sha256(json.dumps([_CACHE_VERSION, stats]).encode()).hexdigest()

    def _cached(self) -> dict[str, np.ndarray] | None:
        path = self.paths[0].parent / _CACHE
        try:
            with np.load(path, allow_pickle=False) as table:
                if str(table["signature"]) == self._signature():
                    columns = {name: table[name] for name in table.files if name != "signature"}
                    if len({len(column) for column in columns.values()}) == 1:
                        return columns
        except _UNREADABLE:
            pass  # absent, of other shards, or damaged: scanning again costs a second and is always right
        return None

    def _scan(self) -> dict[str, np.ndarray]:
        shard, place, keys, episodes, times, sentence_keys = [], [], [], [], [], []
        for number, path in enumerate(self.paths):
            with open(path, "rb") as stream:
                for key, members in _shards.scan_shard(path):
                    empty = _shards.Member("", 0, 0, 0)
                    found = [members.get(name, empty) for name in _shards.MEMBERS]
                    stream.seek(found[3].offset)
                    where = f"{path.name}, sample {key}"
                    meta = _shards.parse_meta(stream.read(found[3].size), where=where)
                    time = recorded_time(meta, where=where)
                    shard.append(number)
                    place.append([(member.offset, member.size) for member in found])
                    keys.append(key)
                    episodes.append(str(meta.get("episode", "")))
                    times.append(np.nan if time is None else time)
                    sentence_keys.append(json.dumps(_shards.told_key(meta)))
        if not shard:
            raise ShardError(
                f"{self.paths[0].parent}: the shards hold no sample. Record or convert them again."
            )
        table: dict[str, np.ndarray] = {
            "shard": np.array(shard, dtype=np.int32),
            "place": np.array(place, dtype=np.int64),
            "key": np.array(keys),
            "episode": np.array(episodes),
            "time": np.array(times),
            "sentence_key": np.array(sentence_keys),
        }
        self._remember(table)
        return table

    def _remember(self, table: dict[str, np.ndarray]) -> None:
        path = self.paths[0].parent / _CACHE
        if not path.parent.stat().st_mode & 0o200:
            return  # marked read-only: root could write there all the same, and should not
        temporary = path.with_name(f"{path.name}.{threading.get_native_id()}.npz")
        try:
            np.savez(temporary, signature=np.array(self._signature()), **table)  # type: ignore[arg-type]
            temporary.replace(path)
        except OSError:  # a full disk, or not ours to write: only the next start is slower
            with contextlib.suppress(OSError):  # a file system that is read-only refuses even this
                temporary.unlink(missing_ok=True)


def split_by_episode(index: ShardIndex, *, held_out: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) sample numbers, never sharing an episode; the same for every seed of training.

    Whole episodes are held out, at least one, chosen by the hash of their names so that adding
    episodes moves none. Shards that name fewer than two episodes give their last samples, with one
    horizon left out in between.

    Raises:
        ConfigError: held_out is not in 0..0.5.
    """
    if not 0 <= held_out <= 0.5:
        raise ConfigError(f"held_out is {held_out}, expected a share from 0 to 0.5.")
    everything = np.arange(len(index))
    if held_out == 0:
        return everything, everything[:0]
    names = np.unique(index.episodes)
    if len(names) < 2 or "" in names:
        count = max(1, round(held_out * len(index)))
        return everything[: max(0, len(index) - count - HORIZON)], everything[len(index) - count :]
    order = sorted(names, key=lambda name: hashlib.sha256(str(name).encode(errors="surrogatepass")).digest())
    chosen = np.isin(index.episodes, order[: max(1, round(held_out * len(names)))])
    return everything[~chosen], everything[chosen]


class TrainingData:
    """Batches of a folder of shards, made by a background thread.

    The order is a pure function of (seed, epoch): every epoch is one permutation of the split, cut into
    global batches of ``batch_size * world_size`` of which every rank takes its part, so no sample is seen
    by two ranks. The remainder of an epoch that fills no global batch is dropped (another one each epoch).
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path] | ShardIndex,
        *,
        split: Literal["train", "held_out", "all"] = "train",
        batch_size: int = 16,
        seed: int = 0,
        held_out: float = 0.05,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        pictures: bool = True,
        prefetch: int = 4,
        workers: int = 1,
        corruption: Corruption | None = None,
        mirror: bool = False,
        states: bool = False,
        instructions: Mapping[str, str] | Literal["file", "ignore"] = "file",
    ) -> None:
        """
        split: "train", "held_out" (whole episodes never in "train"), or "all".
        batch_size: samples of one rank.
        pictures: False leaves pictures undecoded (the tokenizer needs actions only).
        prefetch: batches made ahead; 0 makes them in the calling thread.
        workers: threads that decode and corrupt the pictures of a batch; what comes out does not depend on it.
        corruption: what training pictures go through, by sample and epoch; ``once`` and ``load`` without an
            epoch give them as stored.
        mirror: each sample is seen in a mirror in every other epoch, half of them in the first; ``once`` and
            ``load`` without an epoch give them as stored. Stored tokens are left out: they say the chunk itself.
        states: batches say where the arms were, which converters and recordings put into each sample's meta.

        Raises:
            ConfigError: contradictory settings.
            ShardError: damaged shards, or samples that do not tell states that are asked for.
        """
        self.index = (
            source if isinstance(source, ShardIndex) else ShardIndex(source, instructions=instructions)
        )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank} of {world_size} ranks.")
        if workers < 1:
            raise ConfigError(f"workers is {workers}, expected 1 or more.")
        if split not in ("train", "held_out", "all"):
            raise ConfigError(f"split is {split!r}, expected 'train', 'held_out' or 'all'.")
        train, other = split_by_episode(self.index, held_out=held_out)
        self.numbers = {"train": train, "held_out": other, "all": np.arange(len(self.index))}[split]
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.shuffle, self.pictures, self.prefetch = shuffle, pictures, prefetch
        self.corruption, self.mirror, self.states = corruption, mirror, states
        if states and len(self.index):
            self.index.state(0)  # said before anything is trained
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rdt2-decode") if workers > 1 else None
        self.batches_per_epoch = len(self.numbers) // (batch_size * world_size)
        self._state = {"epoch": 0, "position": 0}
        self._order: tuple[int, np.ndarray] = (-1, self.numbers)
        self._turned = np.random.default_rng([seed, len(self.index)]).random(len(self.index)) < 0.5

    def __len__(self) -> int:
        """Samples in the split."""
        return len(self.numbers)

    def state(self) -> dict[str, int]:
        """Where the next iteration begins: epoch, and global batches of it already seen."""
        return dict(self._state)

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on after the batch that carried this state. Raises ConfigError when it is none."""
        if set(state) != {"epoch", "position"} or min(state.values()) < 0:
            raise ConfigError(f"data state is {dict(state)}, expected epoch and position from a batch.")
        self._state = {"epoch": int(state["epoch"]), "position": int(state["position"])}

    def order(self, epoch: int) -> np.ndarray:
        """The sample numbers of an epoch over all ranks, in order."""
        if not self.shuffle:
            return self.numbers
        return np.random.default_rng([self.seed, epoch]).permutation(self.numbers)

    def require_a_batch(self) -> None:
        """Raises ConfigError where the split holds fewer samples than one step of all ranks needs."""
        if self.batches_per_epoch >= 1:
            return
        needed, held_back = self.batch_size * self.world_size, len(self.index) - len(self.numbers)
        ranks = f" on each of {self.world_size} processes" if self.world_size > 1 else ""
        advice = [f"take a smaller batch_size (now {self.batch_size}{ranks})"] if len(self.numbers) else []
        if held_back and len(self.index) // needed >= 1:
            advice.append("train on all with held_out=0")
        raise ConfigError(
            f"{self.index.paths[0].parent}: holds {len(self.index)} samples, of which {held_back} are held back to be "
            f"evaluated, whole episodes where the shards name them; {len(self.numbers)} are left, one step needs "
            f"{needed}. {' or '.join([*advice, 'record more']).capitalize()}."
        )

    def batch(self, step: int) -> Batch:
        """This rank's batch of a step (from 0), a function of seed, rank and step. Raises ShardError."""
        self.require_a_batch()
        epoch, position = divmod(step, self.batches_per_epoch)
        state = {"epoch": epoch, "position": position + 1}
        return self.load(self.numbers_of(step), state=state, epoch=epoch)

    def numbers_of(self, step: int) -> np.ndarray:
        """The sample numbers of this rank's batch of training step ``step``."""
        self.require_a_batch()
        epoch, position = divmod(step, self.batches_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        return self._part(self._order[1], position)

    def _part(self, order: np.ndarray, position: int) -> np.ndarray:
        start = (position * self.world_size + self.rank) * self.batch_size
        return order[start : start + self.batch_size]

    def load(
        self,
        indices: Sequence[int] | np.ndarray,
        *,
        state: Mapping[str, int] | None = None,
        epoch: int | None = None,
    ) -> Batch:
        """Decode the samples of these numbers into a batch, corrupted as in ``epoch``. Raises ShardError."""
        index = self.index
        turned = np.zeros(len(indices), bool)
        if self.mirror and epoch is not None:
            turned = self._turned[np.asarray(indices)] ^ bool(epoch % 2)
        pictures = None
        if self.pictures:
            pictures = np.empty((len(indices), *_shards.PICTURE_SHAPE, 3), dtype=np.uint8)
            corruption = None if epoch is None else self.corruption

            def fill(out: np.ndarray, number: int) -> None:
                fill_picture(
                    out,
                    index.jpeg(number),
                    where=index.where(number),
                    corruption=corruption,
                    sample=number,
                    epoch=epoch or 0,
                )

            numbers = [int(number) for number in indices]
            for _ in (map if self._pool is None else self._pool.map)(fill, pictures, numbers):
                pass  # a damaged picture is raised here
        tokens = None
        if index.has_tokens and not self.mirror:
            tokens = [index.tokens(int(number)) for number in indices]
        actions = np.stack([index.action(int(number)) for number in indices])
        sentences = [index.instruction(int(number)) or "" for number in indices] if index.sentences else []
        states = np.stack([index.state(int(number)) for number in indices]) if self.states else None
        for row in np.flatnonzero(turned):
            actions[row] = mirrored_actions(actions[row])
            if states is not None:
                states[row] = mirrored_actions(states[row])
            if pictures is not None:
                pictures[row] = mirrored_picture(pictures[row].copy())
            if sentences:
                sentences[row] = mirrored_sentence(sentences[row])
        return Batch(
            pictures=pictures,
            actions=actions,
            tokens=None if tokens is None else np.stack(tokens).astype(np.int64),  # type: ignore[arg-type]
            instructions=sentences,
            indices=np.asarray(indices, dtype=np.int64),
            state=dict(state or self._state),
            mirrored=turned,
            states=states,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, from ``state()`` on.

        Raises:
            ConfigError: fewer samples than one global batch. ShardError: a damaged sample.
        """
        batches = self._batches()
        for batch in _ahead(batches, self.prefetch) if self.prefetch else batches:
            self._state = batch.state
            yield batch

    def _batches(self) -> Iterator[Batch]:
        self.require_a_batch()
        epoch, position = self._state["epoch"], self._state["position"]
        while True:
            order = self.order(epoch)
            while position < self.batches_per_epoch:
                numbers = self._part(order, position)
                position += 1
                yield self.load(numbers, state={"epoch": epoch, "position": position}, epoch=epoch)
            epoch, position = epoch + 1, 0

    def once(self) -> Iterator[Batch]:
        """The split once, in stored order, the last batch smaller: for evaluation. This rank's part only."""
        mine = self.numbers[self.rank :: self.world_size]
        for start in range(0, len(mine), self.batch_size):
            yield self.load(mine[start : start + self.batch_size])


def _ahead(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Run an iterator in a thread, at most ``count`` items ahead. What it raises is raised here."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=count)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
        except BaseException as error:  # handed to the reader below, which raises it
            put(error)

    thread = threading.Thread(target=work, name="rdt2-data", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=5)
