"""Random access to the samples of any number of shards, on disk or by URL, and which of them are held out."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON
from rdt2.data import shards as _shards
from rdt2.data.mixture import DataSource, open_sources
from rdt2.data.shards.index import ShardPlaces, ShardTable, load_indices
from rdt2.data.shards.ranges import Range, RangeReader, shard_name
from rdt2.data.shards.remote import is_url
from rdt2.data.shards.tokens import TokensBeside, as_npy, origin_beside, read_tokens, tokens_path
from rdt2.errors import ConfigError, ShardError
from rdt2.origin import TokenOrigin

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

Instructions = Mapping[str, str] | Literal["file", "ignore"]
_MAX_MAPPED = 256
PICTURE, ACTION, TOKENS, META = range(len(_shards.MEMBERS))


class ShardIndex:
    """Every sample by its number, counted through all shards of all sources.

    sources: the data sets, with weights where a yaml mixes them. shards: their tars, by path or URL.
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path] | Sequence[DataSource],
        *,
        instructions: Instructions = "file",
        damaged_shards: Literal["refuse", "use"] = "refuse",
        tokens: bool = True,
    ) -> None:
        """
        source: folder, tars, URLs, a dataset yaml (single or blend), or sources with weights.
        instructions: "file" reads the table beside the shards; "ignore" leaves sentences out; or a table.
        damaged_shards: "use" takes the samples before the damage; ``damage`` says what it is.
        tokens: False leaves token files beside the shards, and what made tokens, alone.

        Raises:
            ConfigError: a yaml that is neither form.
            ShardError: no shards or samples, a damaged shard, a missing file, a sample without a sentence, or tokens of
                another shard or of several tokenizers or normalizers.
        """
        self.sources = open_sources(source, instructions=instructions)
        self.shards = [shard for each in self.sources for shard in each.shards]
        self._tables: list[ShardTable] = load_indices(self.shards)
        self.damage = [line for table in self._tables for line in table.damage]
        if self.damage and damaged_shards == "refuse":
            raise ShardError(self.damage[0])
        self._first = np.concatenate([[0], np.cumsum([table.samples for table in self._tables])])
        if not len(self):
            raise ShardError(f"{self.shards[0]}: the shards hold no sample. Record or convert them again.")
        self.remote = any(map(is_url, self.shards))
        """Whether any shard is behind a URL."""
        self._reader = RangeReader()
        self._mapped: OrderedDict[int, ShardPlaces] = OrderedDict()
        self._texts = None if instructions == "ignore" else list(self._sentences())
        """For each shard the sentences its samples refer to by number."""
        for each in self.sources if tokens else ():
            if each.tokens is not None and not Path(each.tokens).is_dir():
                raise ShardError(
                    f"tokens_dir of data set {each.name!r} is {each.tokens}: there is no such folder. Write the tokens "
                    "there with 'rdt2 data tokenize --sidecar --out', or correct tokens_dir in the yaml."
                )
        told = ((source, shard) for source in self.sources for shard in source.shards)
        self._beside = [
            _tokens_beside(source, shard, table) if tokens else None
            for (source, shard), table in zip(told, self._tables, strict=True)
        ]
        self.token_origin = self._one_origin() if tokens else None
        """What made the action tokens, None where that is not told or there are none."""

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens its own files."""
        return {**vars(self), "_reader": RangeReader(), "_mapped": OrderedDict()}

    @property
    def has_tokens(self) -> bool:
        """Whether every sample carries action tokens."""
        return not self.without_tokens

    @property
    def without_tokens(self) -> list[str]:
        """The shards with samples that carry no action tokens."""
        return [
            shard
            for shard, beside, table in zip(self.shards, self._beside, self._tables, strict=True)
            if beside is None and table.tokens != table.samples
        ]

    def rows(self, shard: int) -> range:
        """The numbers of the samples of a shard, by its place in ``shards``."""
        return range(int(self._first[shard]), int(self._first[shard + 1]))

    def signature(self, shard: int) -> str:
        """What tells a shard from another (rdt2.data.shards.index.signature_of)."""
        return self._tables[shard].shard

    def span(self, part: int) -> range:
        """The numbers of the samples of a source."""
        before = sum(len(source.shards) for source in self.sources[:part])
        after = before + len(self.sources[part].shards)
        return range(int(self._first[before]), int(self._first[after]))

    def episode_runs(self, part: int | None = None) -> Iterator[tuple[str, range]]:
        """(name, sample numbers) of the runs of samples that are of one episode, in stored order; "" where the
        shards do not say. part: of one source only."""
        before = 0 if part is None else sum(len(source.shards) for source in self.sources[:part])
        count = len(self.shards) if part is None else len(self.sources[part].shards)
        for table, first in zip(self._tables[before : before + count], self._first[before:], strict=False):
            start = int(first)
            for name, length in table.episodes:
                yield name, range(start, start + length)
                start += length

    def key(self, number: int) -> str:
        """The name of a sample in its shard."""
        shard, row = self._place(number)
        return self._places(shard).name(row)

    @property
    def times(self) -> Float[np.ndarray, " n"]:
        """Seconds of each sample in its episode, float64; NaN where the shards do not say."""
        return np.concatenate([self._places(shard).time for shard in range(len(self.shards))])

    def fingerprint(self) -> str:
        """A name for these samples: their keys, episodes, instruction keys and sizes, wherever the shards lie."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(json.dumps([len(source.shards), source.weight]).encode())
        for table in self._tables:
            digest.update(json.dumps([table.digest, table.episodes, table.sentences]).encode())
        if self.token_origin is not None:
            digest.update(json.dumps(self.token_origin).encode())
        return digest.hexdigest()[:24]

    def episodes_of(self, numbers: Int[np.ndarray, " n"]) -> set[str]:
        """The names of the episodes that some samples are of."""
        runs = list(self.episode_runs())
        which = np.searchsorted([span.start for _, span in runs], numbers, "right") - 1
        return {runs[row][0] for row in np.unique(which)}

    def where(self, number: int) -> str:
        """Shard and sample in words, for messages."""
        return f"{shard_name(self.shards[self._place(number)[0]])}, sample {self.key(number)}"

    def jpeg(self, number: int) -> bytes:
        """The picture of a sample, still compressed."""
        return self.read([number], (PICTURE,))[0][0]

    def picture(self, number: int, *, out: np.ndarray | None = None) -> UInt8[np.ndarray, "384 768 3"]:
        """The picture of a sample, RGB, left | right, in `out` (384, 768, 3) if that is given. Raises ShardError."""
        return _shards.decode_jpeg(self.jpeg(number), where=self.where(number), out=out)

    def action(self, number: int) -> Float[np.ndarray, "24 20"]:
        """The chunk of a sample, metres. Raises ShardError."""
        return _shards.parse_action(self.read([number], (ACTION,))[0][0], where=self.where(number))

    def tokens(self, number: int) -> Int[np.ndarray, " 27"] | None:
        """The action tokens of a sample, None where absent. Raises ShardError."""
        data = self.read([number], (TOKENS,))[0][0]
        return _shards.parse_tokens(data, where=self.where(number)) if data else None

    def meta(self, number: int) -> dict[str, Any]:
        """The meta dictionary of a sample. Raises ShardError."""
        return _shards.parse_meta(self.read([number], (META,))[0][0], where=self.where(number))

    def state(self, number: int) -> Float[np.ndarray, " 20"]:
        """Where both arms were (see `rdt2.action.state_vector`), float32. Raises ShardError where that is not told."""
        return _shards.parse_state(self.meta(number), where=self.where(number))

    def instruction(self, number: int) -> str | None:
        """The sentence of a sample, None when instructions are ignored."""
        shard, row = self._place(number)
        return None if self._texts is None else self._texts[shard][self._places(shard).sentence[row]]

    def instruction_counts(self) -> dict[str, int]:
        """How many samples have each sentence; each instruction key, when instructions are ignored."""
        counts: dict[str, int] = {}
        for shard, table in enumerate(self._tables):
            texts = [str(key) for key in table.sentences] if self._texts is None else self._texts[shard]
            found = np.bincount(self._places(shard).sentence, minlength=len(texts))
            for text, count in zip(texts, found, strict=True):
                counts[text] = counts.get(text, 0) + int(count)
        return counts

    def first_of_each_instruction(self) -> list[int]:
        """The first sample of every instruction key of every shard."""
        return [
            int(first + row)
            for shard, first in enumerate(self._first[:-1])
            for row in np.unique(self._places(shard).sentence, return_index=True)[1]
        ]

    def all_actions(
        self, numbers: Sequence[int] | np.ndarray | None = None, *, damaged: dict[int, str] | None = None
    ) -> Float[np.ndarray, "n 24 20"]:
        """The chunks of samples by `numbers` (n,), else of all, metres: 1.9 kB a sample.

        damaged: takes what is wrong with chunks that cannot be read, by the sample's number; another of them stands in
            for each.

        Raises:
            ShardError: a chunk that cannot be read, where ``damaged`` is not given, or none can.
        """
        numbers = range(len(self)) if numbers is None else numbers
        out = np.empty((len(numbers), HORIZON, ACTION_DIM), np.float32)
        for begin in range(0, len(numbers), 256):
            some, then = (
                [int(number) for number in numbers[first : first + 256]] for first in (begin, begin + 256)
            )
            for row, (data,) in enumerate(self.read(some, (ACTION,), then=then), begin):
                try:
                    out[row] = _shards.parse_action(data, where=self.where(some[row - begin]))
                except ShardError as error:
                    if damaged is None:
                        raise
                    damaged[some[row - begin]] = str(error)
        if damaged:
            bad = np.isin(numbers, list(damaged))
            if bad.all():
                raise ShardError(next(iter(damaged.values())))
            out[bad] = out[np.argmin(bad)]
        return out

    def read(
        self, numbers: Sequence[int], members: Sequence[int], *, then: Sequence[int] = ()
    ) -> list[list[bytes]]:
        """The bytes of some files (PICTURE, ACTION, TOKENS, META) of samples; of what is not there, none.

        then: the samples that are asked for next, with the same files: by URL they are on their way meanwhile.

        Raises:
            ShardError: a shard that is cut off, gone, or behind a server that does not answer.
        """
        ranges, places = self._pieces(numbers, members)
        found = iter(self._reader.read(ranges, then=self._pieces(then, members)[0]))
        out = []
        for wanted, pieces, tokens_beside in places:
            data = {piece: next(found) for piece in pieces}
            files = [_cut(data, *each) for each in wanted]
            if tokens_beside:
                files[list(members).index(TOKENS)] = as_npy(next(found))
            out.append(files)
        return out

    def _pieces(
        self, numbers: Sequence[int], members: Sequence[int]
    ) -> tuple[list[Range], list[tuple[list[tuple[int, int]], list[tuple[int, int]], bool]]]:
        """What to read for some files of samples; and of each sample where these files are, which pieces are read of
        its shard, and whether its tokens are read from beside.

        The files of a sample lie together in most shards: each is then one piece.
        """
        ranges: list[Range] = []
        places = []
        for number in numbers:
            shard, row = self._place(number)
            table = self._places(shard)
            begin, size = table.offset[row].tolist(), table.size[row].tolist()
            beside = self._beside[shard] if TOKENS in members else None
            if beside is not None:
                size[TOKENS] = 0
            wanted = [(begin[m], begin[m] + size[m]) for m in members]
            pieces = [piece for piece in wanted if piece[1] > piece[0]]
            if pieces:
                first, last = min(a for a, _ in pieces), max(b for _, b in pieces)
                if last - first <= 2 * sum(size) + 4096:
                    pieces = [(first, last)]
            places.append((wanted, pieces, beside is not None))
            ranges += [(self.shards[shard], *piece) for piece in pieces]
            ranges += [] if beside is None else [beside.range(row)]
        return ranges, places

    def _one_origin(self) -> TokenOrigin | None:
        """Raises ShardError where tokens are of several tokenizers or normalizers."""
        found: dict[TokenOrigin | None, str] = {}
        stored: dict[str, TokenOrigin | None] = {}
        for shard, beside, table in zip(self.shards, self._beside, self._tables, strict=True):
            if beside is not None:
                found.setdefault(beside.origin, shard)
            elif table.tokens:
                folder = shard.rpartition("/")[0]
                if folder not in stored:
                    stored[folder] = origin_beside(folder)
                found.setdefault(stored[folder], shard)
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            what = one.against(other) if one and other else "one of them does not say which"
            raise ShardError(
                f"{first} and {second} have action tokens of two tokenizers or normalizers: {what}. Write the tokens "
                "of both with one tokenizer: rdt2 data tokenize --sidecar."
            )
        return next(iter(found), None)

    def _places(self, shard: int) -> ShardPlaces:
        """Where the files of a shard's samples lie; a bounded number of shards stays mapped."""
        places = self._mapped.pop(shard, None) or self._tables[shard].places()
        self._mapped[shard] = places
        if len(self._mapped) > _MAX_MAPPED:
            self._mapped.popitem(last=False)
        return places

    def _place(self, number: int) -> tuple[int, int]:
        """(shard, row in it) of a sample."""
        shard = int(np.searchsorted(self._first, number, "right")) - 1
        return shard, int(number - self._first[shard])

    def _sentences(self) -> Iterator[list[str]]:
        """Raises ShardError for an instruction key without a sentence."""
        known: dict[tuple[int, str, str | None], str] = {}
        number = 0
        for part, source in enumerate(self.sources):
            for shard in source.shards:
                keys = self._tables[number].sentences
                for code, key in enumerate(keys):
                    if (part, source.folder(shard), key) not in known:
                        known[part, source.folder(shard), key] = self._sentence(source, number, code)
                yield [known[part, source.folder(shard), key] for key in keys]
                number += 1

    def _sentence(self, source: DataSource, shard: int, code: int) -> str:
        first = int(self._first[shard]) + int(np.argmax(self._places(shard).sentence == code))
        meta = {_shards.INSTRUCTION_KEY: self._tables[shard].sentences[code]}
        return _shards.lookup_instruction(meta, source.table(self.shards[shard]), where=self.where(first))


def _tokens_beside(source: DataSource, shard: str, table: ShardTable) -> TokensBeside | None:
    if source.tokens is None and is_url(shard):
        return None
    return read_tokens(tokens_path(shard, source.tokens), shard=table.shard, samples=table.samples)


def _cut(data: Mapping[tuple[int, int], bytes], begin: int, end: int) -> bytes:
    """A file out of the pieces that were read."""
    for (first, last), piece in data.items():
        if first <= begin and end <= last:
            return piece[begin - first : end - first]
    return b""  # a file that is not there


def split_by_episode(
    index: ShardIndex, *, held_out: float = 0.05
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """(training, held-out) sample numbers, never sharing an episode; the same for every seed of training.

    Of each source whole episodes are held out, at least one: those whose names' hashes lie below `held_out`, so that
    adding episodes moves none (but the one that is held out where there is no such name). Of few episodes the share
    may be another one. Shards that name fewer than two episodes give their last samples, with one
    horizon left out in between.

    Raises:
        ConfigError: held_out is not in 0..0.5.
    """
    parts = split_sources(index, held_out=held_out)
    return np.concatenate([train for train, _ in parts]), np.concatenate([other for _, other in parts])


def split_sources(
    index: ShardIndex, *, held_out: float = 0.05
) -> list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
    """split_by_episode for each source: int32 numbers, which take half the memory.

    Raises:
        ConfigError: `held_out` is no share from 0 to 0.5.
    """
    if not 0 <= held_out <= 0.5:
        raise ConfigError(f"held_out is {held_out}, expected a share from 0 to 0.5.")
    return [_split(index, part, held_out) for part in range(len(index.sources))]


def _place(name: str) -> float:
    """Where a name lies between 0 and 1, by its hash."""
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split(index: ShardIndex, part: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    span = index.span(part)
    everything = np.arange(span.start, span.stop, dtype=np.int32)
    if held_out == 0:
        return everything, everything[:0]
    runs = list(index.episode_runs(part))
    names = {name for name, _ in runs}
    if len(names) < 2 or "" in names:
        count = max(1, round(held_out * len(span)))
        return everything[: max(0, len(span) - count - HORIZON)], everything[len(span) - count :]
    # Each name decides for itself, so that an episode that was trained on is never held out of more data later on.
    place = {name: _place(name) for name in names}
    chosen = {name for name in names if place[name] < held_out} or {min(names, key=place.__getitem__)}
    if chosen == names:
        chosen.remove(max(names, key=place.__getitem__))
    mask = np.zeros(len(span), bool)
    for name, numbers in runs:
        if name in chosen:
            mask[numbers.start - span.start : numbers.stop - span.start] = True
    return everything[~mask], everything[mask]
