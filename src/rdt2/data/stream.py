"""Batches streamed from shards in order: mixtures by weight, remote shards, bounded memory, exact resume.

data = StreamingData("https://host/shard-{000000..000044}.tar", batch_size=64, workers=4, seed=0)
data = StreamingData("blend.yaml", batch_size=64, rank=rank, world_size=world_size)
for batch in data:                      # never ends
    ...
    checkpoint["data"] = batch.state    # each rank its own; data.load_state(...) goes on with the next batch

:class:`~rdt2.data.TrainingData` shuffles better and needs shards on disk. This reads forwards, so shards may lie
anywhere.

Every worker of every rank is a *lane*. In each epoch the shards of a source are permuted and dealt out to the
lanes, so no sample is seen by two. Lanes in excess of the shards share one, each taking every n-th of its samples;
only where there are fewer samples than lanes do two see the same. A lane reads a few of its shards in turns, a *block*
of samples at a time, and gives out a block in random order while it reads the next. All that is a function of the
seed, and a position is where in which tars the block began and how much of it was given out. The webdataset library
reads the same tars; it keeps no such position, hence this.

Workers are threads: decoding and corrupting release the interpreter. Whoever waits for a batch does not idle, but
decodes some of its pictures. Memory is the block of compressed pictures (``shuffle`` of them, divided among the
workers) and ``prefetch`` batches, whatever the number of workers.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rdt2.data.batch import Batch, Corruption, fill_picture
from rdt2.data.mixture import StreamSource, open_sources
from rdt2.data.ring import Building, Job, Ring
from rdt2.data.shards.reading import ReadReport, Tolerance, parse_sample, stream_shard
from rdt2.data.shards.remote import open_shard, shard_name
from rdt2.data.shards.sample import Sample
from rdt2.data.shards.tar import TarReader
from rdt2.errors import ConfigError, ShardError

_FIRST_BLOCK = 64
"""The first blocks are small and double, so that the first batch does not wait for a whole one."""
_DRAWS = 1024
"""Which source a sample comes from is drawn so many at a time."""


class StreamingData:
    """Batches without end; see the module. ``report.skipped`` names what was damaged and left out."""

    def __init__(
        self,
        source: str | Path | Iterable[str | Path] | Sequence[StreamSource],
        *,
        batch_size: int = 16,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        shuffle: int = 1000,
        interleave: int = 4,
        prefetch: int = 2,
        split: Literal["train", "held_out", "all"] = "all",
        held_out: float = 0.05,
        max_damaged: int = 0,
        pictures: bool = True,
        corruption: Corruption | None = None,
        instructions: Mapping[str, str] | None = None,
    ) -> None:
        """
        source: folder, tars, URLs, a dataset yaml (single or blend), or sources with weights.
        batch_size: samples of one rank.
        workers: threads that read, decode and corrupt.
        shuffle: samples of a rank among which the next one is drawn; 0 gives the stored order.
        interleave: shards that a worker reads in turns.
        prefetch: batches made ahead, at least 1.
        split: by the episode names in the shards; see is_held_out.
        max_damaged: damaged samples, or tars with a damaged rest, that are left out, logged and reported;
            one more is an error. 0 makes the first an error.
        pictures: False leaves pictures undecoded.
        corruption: what training pictures go through.
        instructions: used instead of the tables beside the shards.

        Raises:
            ConfigError: contradictory settings.
            ShardError: no shards, or no instructions.
        """
        if min(batch_size, workers, interleave, prefetch) < 1 or min(shuffle, max_damaged) < 0:
            raise ConfigError(
                f"batch_size {batch_size}, workers {workers}, interleave {interleave}, prefetch {prefetch} are at "
                f"least 1, shuffle {shuffle} and max_damaged {max_damaged} at least 0."
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank} of {world_size} ranks.")
        if split not in ("train", "held_out", "all") or not 0 <= held_out <= 0.5:
            raise ConfigError(
                f"split is {split!r}, held_out {held_out}: expected 'train', 'held_out' or 'all', and 0..0.5."
            )
        self.sources = _sources(source, instructions)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.workers, self.shuffle, self.interleave, self.prefetch = workers, shuffle, interleave, prefetch
        self.split, self.held_out, self.pictures, self.corruption = split, held_out, pictures, corruption
        self.report = ReadReport()
        self._damage = Tolerance(self.report, max_damaged)
        self._state: dict[str, Any] = {
            "batch": 0,
            "settings": self._settings(),
            "lanes": [_Lane.beginning(len(self.sources)) for _ in range(workers)],
        }

    def state(self) -> dict[str, Any]:
        """Where the next iteration begins, for JSON. Ranks have different states."""
        return self._state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that carried this state.

        Raises:
            ConfigError: no state, or of a stream with other settings, sources, rank or workers.
        """
        if set(state) != {"batch", "settings", "lanes"}:
            raise ConfigError(f"data state has {sorted(state)}, expected the state of a StreamingData batch.")
        mine, other = self._settings(), state["settings"]
        differing = sorted(name for name in mine if other.get(name) != mine[name])
        if differing:
            raise ConfigError(
                "the data state is of another stream: "
                + "; ".join(f"{name} was {other.get(name)!r}, is {mine[name]!r}" for name in differing)
                + ". Resume with the settings of the first run."
            )
        self._state = dict(state)

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, from ``state()`` on.

        Raises:
            ShardError: more damage than allowed, a server that does not answer, or shards without samples.
        """
        lanes = [
            _Lane(self, lane=self.rank * self.workers + worker, state=self._state["lanes"][worker])
            for worker in range(self.workers)
        ]
        states = list(self._state["lanes"])
        first = self._state["batch"]
        ring = Ring(first, self.prefetch, lambda: Building(self.batch_size, self.pictures), self._decode)
        threads = [
            threading.Thread(
                target=self._work, args=(ring, worker, lane), name=f"rdt2-data-{worker}", daemon=True
            )
            for worker, lane in enumerate(lanes)
        ]

        def end() -> None:
            ring.stop()
            for thread in threads:
                thread.join(timeout=5)

        atexit.register(end)  # while threads still run: later they stand where they are, with what they hold
        for thread in threads:
            thread.start()
        try:
            for number in itertools.count(first):
                building = ring.take(number)
                for worker, after in building.lanes.items():
                    states[worker] = after
                self._state = {"batch": number + 1, "settings": self._settings(), "lanes": list(states)}
                yield building.finish(self._state)
        finally:
            end()
            atexit.unregister(end)
            for lane in lanes:
                lane.close()

    def _work(self, ring: Ring, worker: int, lane: _Lane) -> None:
        """Fill this worker's rows: row r of batch b is number b * batch_size + r, dealt out in turns."""
        number = ring.first
        try:
            samples = iter(lane)
            for number in itertools.count(ring.first):
                mine = range(
                    (worker - number * self.batch_size) % self.workers, self.batch_size, self.workers
                )
                if not mine:
                    continue
                building = ring.building(number)
                if building is None:
                    return
                rows = list(mine)
                while rows:  # again for those whose sample was damaged
                    rows = self._fill(ring, building, rows, samples, worker)
                ring.filled(number, len(mine))
        except BaseException as error:  # handed to the reader of the batches, which raises it
            ring.fail(number, error)

    def _fill(
        self,
        ring: Ring,
        building: Building,
        rows: list[int],
        samples: Iterator[tuple[Sample, int, int, dict[str, Any]]],
        worker: int,
    ) -> list[int]:
        """Give each row a sample. Returns the rows whose picture turned out to be damaged."""
        jobs = []
        for row in rows:
            sample, number, epoch, after = next(samples)
            building.put(row, sample, number, worker, after)
            if building.pictures is not None:
                jobs.append(Job(building.pictures[row], row, sample, number, epoch))
                ring.offer(jobs[-1])
        ring.finish(jobs)
        damaged = []
        for job in jobs:
            if isinstance(job.error, ShardError):
                self._damage.note(job.error)
                damaged.append(job.row)
            elif job.error is not None:
                raise job.error
        return damaged

    def _decode(self, job: Job) -> None:
        fill_picture(
            job.out,
            job.sample.jpeg,
            where=f"{job.sample.shard}, sample {job.sample.key}",
            corruption=self.corruption,
            sample=job.number,
            epoch=job.epoch,
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "sources": [[each.name, len(each.shards), each.weight] for each in self.sources],
            "batch_size": self.batch_size,
            "seed": self.seed,
            "rank": self.rank,
            "world_size": self.world_size,
            "workers": self.workers,
            "shuffle": self.shuffle,
            "interleave": self.interleave,
            "split": [self.split, self.held_out],
        }


def is_held_out(episode: str, share: float) -> bool:
    """Whether an episode is held out of training: about ``share`` of all, by the hash of the name alone.

    So it is known without seeing the other episodes, and adding some moves none. A sample that names no
    episode is never held out. (``split_by_episode``, which sees all episodes, holds out other ones: read
    the held-out part with the class that reads the training part.)
    """
    digest = hashlib.sha256(episode.encode(errors="surrogatepass")).digest()
    return episode != "" and int.from_bytes(digest[:8], "big") < share * 2**64


def _sources(
    source: str | Path | Iterable[str | Path] | Sequence[StreamSource], instructions: Mapping[str, str] | None
) -> list[StreamSource]:
    if isinstance(source, (str, Path)):
        return open_sources(source, instructions=instructions)
    given = list(source)
    if given and all(isinstance(each, StreamSource) for each in given):
        return given  # type: ignore[return-value]
    return open_sources(given, instructions=instructions)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- reading


class _Lane:
    """What one worker of one rank reads: its part of every source, drawn by weight."""

    def __init__(self, data: StreamingData, *, lane: int, state: Mapping[str, Any]) -> None:
        self._seed = [data.seed, 1, lane]
        weights = np.array([source.weight for source in data.sources])
        self._cumulative = np.cumsum(weights / weights.sum())
        self._state = state
        self._part, self._uniform = -1, np.empty(0)
        self._readers = [_Reader(data, number, lane=lane) for number in range(len(data.sources))]

    @staticmethod
    def beginning(sources: int) -> dict[str, Any]:
        """The state before the first sample."""
        return {"draws": 0, "sources": [{"block": _Reader.beginning(), "used": 0} for _ in range(sources)]}

    def __iter__(self) -> Iterator[tuple[Sample, int, int, dict[str, Any]]]:
        """(sample, its number, epoch of its source, state after it) without end."""
        places = list(self._state["sources"])
        streams = [reader.samples(place) for reader, place in zip(self._readers, places, strict=True)]
        for draw in itertools.count(self._state["draws"]):
            which = self._draw(draw)
            sample, number, epoch, places[which] = next(streams[which])
            yield sample, number, epoch, {"draws": draw + 1, "sources": list(places)}

    def _draw(self, draw: int) -> int:
        if len(self._cumulative) == 1:
            return 0
        part, place = divmod(draw, _DRAWS)
        if self._part != part:
            self._part = part
            self._uniform = np.random.default_rng([*self._seed, part]).random(_DRAWS)
        return min(
            int(np.searchsorted(self._cumulative, self._uniform[place], "right")), len(self._readers) - 1
        )

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


class _OpenShard:
    """A tar that is being read; ``offset`` is where its next sample begins, and ``count`` how many came before.

    Of ``parts`` lanes that read it, this one takes samples ``part``, ``part`` + ``parts``, ...
    """

    def __init__(
        self, location: str, number: int, offset: int = 0, count: int = 0, part: int = 0, parts: int = 1
    ) -> None:
        self.number, self.offset, self.count, self.part, self.parts = number, offset, count, part, parts
        self.name = shard_name(location)
        self._stream = open_shard(location)
        self.samples = stream_shard(TarReader(self._stream, name=self.name, start=offset))

    def close(self) -> None:
        self._stream.close()


class _Reader:
    """A lane's shards of one source, epoch after epoch, block after block."""

    def __init__(self, data: StreamingData, source: int, *, lane: int) -> None:
        self._source, self._number, self._lane = data.sources[source], source, lane
        self._lanes, self._seed = data.workers * data.world_size, data.seed
        self._shuffle = data.shuffle
        self._block_size = max(1, data.shuffle // data.workers)
        self._interleave = data.interleave if data.shuffle else 1
        self._wanted = None if data.split == "all" else (data.split == "held_out", data.held_out)
        self._damage = data._damage
        self._epoch = self._block = self._next = self._turn = self._shift = 0
        self._open: list[_OpenShard] = []

    @staticmethod
    def beginning() -> dict[str, Any]:
        """The position before the first block."""
        return {"epoch": 0, "block": 0, "next": 0, "turn": 0, "shift": 0, "open": []}

    def samples(self, place: Mapping[str, Any]) -> Iterator[tuple[Sample, int, int, dict[str, Any]]]:
        """(sample, its number, epoch, place after it) without end, from a place on."""
        self._go_to(place["block"])
        skip, begin = place["used"], dict(place["block"])
        block: list[Sample | None] = list(self._read_block())
        while True:
            after = self._position()
            ahead, following = self._read_block(), list[Sample | None]()
            ratio = -(-self._size(after["epoch"], after["block"]) // max(1, len(block)))
            for used, row in enumerate(self._order(begin, len(block)), 1):
                sample, block[row] = block[row], None  # what was given out is let go
                if used <= skip or sample is None:
                    continue
                following += itertools.islice(ahead, ratio)
                yield sample, self._sample_number(sample), begin["epoch"], {"block": begin, "used": used}
            following += ahead
            begin, block, skip = after, following, 0

    def close(self) -> None:
        for shard in self._open:
            shard.close()
        self._open = []

    def _order(self, begin: Mapping[str, Any], count: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(count)
        seed = [self._seed, 2, self._number, self._lane, begin["epoch"], begin["block"]]
        return np.random.default_rng(seed).permutation(count)

    def _size(self, epoch: int, block: int) -> int:
        return min(self._block_size, _FIRST_BLOCK << min(block, 20)) if epoch == 0 else self._block_size

    def _shards(self, epoch: int) -> list[tuple[int, int, int]]:
        """This lane's shards in an epoch: number, and which part of how many."""
        count = len(self._source.shards)
        order = np.arange(count)
        if self._shuffle:
            order = np.random.default_rng([self._seed, 3, self._number, epoch]).permutation(count)
        lane = (self._lane + self._shift) % self._lanes
        if count >= self._lanes:
            return [(number, 0, 1) for number in order[lane :: self._lanes].tolist()]
        part, place = divmod(lane, count)
        return [(int(order[place]), part, len(range(place, self._lanes, count)))]

    def _position(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "block": self._block,
            "next": self._next,
            "turn": self._turn,
            "shift": self._shift,
            "open": [
                [shard.number, shard.offset, shard.count, shard.part, shard.parts] for shard in self._open
            ],
        }

    def _go_to(self, position: Mapping[str, Any]) -> None:
        self.close()
        self._epoch, self._block = position["epoch"], position["block"]
        self._next, self._turn, self._shift = position["next"], position["turn"], position["shift"]
        self._open = [
            _OpenShard(self._source.shards[number], number, *place) for number, *place in position["open"]
        ]

    def _read_block(self) -> Iterator[Sample]:
        """The samples of the next block: fewer at the end of an epoch."""
        shards, size, count = self._shards(self._epoch), self._size(self._epoch, self._block), 0
        while count < size:
            while len(self._open) < self._interleave and self._next < len(shards):
                self._open_next(*shards[self._next])
            if not self._open:
                if count == 0 and self._block == 0:
                    # Where only a few shards hold samples of the split, a lane without any reads another's, too.
                    self._shift += 1
                    if self._shift == self._lanes:
                        raise ShardError(
                            f"{self._source.name}: its {len(self._source.shards)} shards hold no usable sample of "
                            f"the split. Look at them with 'rdt2 data check'."
                        )
                    shards, self._next, self._turn = self._shards(self._epoch), 0, 0
                    continue
                self._epoch += 1
                self._block = self._next = self._turn = self._shift = 0
                return
            sample = self._read_sample()
            if sample is not None:
                count += 1
                yield sample
        self._block += 1

    def _open_next(self, number: int, part: int, parts: int) -> None:
        self._next += 1
        try:
            self._open.append(_OpenShard(self._source.shards[number], number, part=part, parts=parts))
        except ShardError as error:
            self._damage.note(error, " (the whole shard)")

    def _read_sample(self) -> Sample | None:
        """One sample of the shard whose turn it is; None at its end, and for one that is not wanted."""
        self._turn %= len(self._open)
        shard = self._open[self._turn]
        try:
            key, files, shard.offset = next(shard.samples)
        except StopIteration:
            self._open.pop(self._turn).close()
            if shard.parts > 1 and 0 < shard.count <= shard.part:  # fewer samples than lanes: none was left
                parts = shard.count
                location = self._source.shards[shard.number]
                self._open.insert(
                    self._turn, _OpenShard(location, shard.number, part=shard.part % parts, parts=parts)
                )
            return None
        except ShardError as error:
            self._open.pop(self._turn).close()
            self._damage.note(error, " (and the rest of that shard)")
            return None
        self._turn += 1
        try:
            sample = parse_sample(key, files, shard=shard.name, table=self._source.instructions)
        except ShardError as error:
            self._damage.note(error)
            return None
        if self._wanted is not None:
            held_out, share = self._wanted
            if is_held_out(str(sample.meta.get("episode", "")), share) != held_out:
                return None
        shard.count += 1
        return sample if (shard.count - 1) % shard.parts == shard.part else None

    def _sample_number(self, sample: Sample) -> int:
        """A number for the sample that depends on its name only."""
        name = f"{self._source.name}/{sample.shard}/{sample.key}"
        return (
            int.from_bytes(
                hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "big"
            )
            >> 1
        )
