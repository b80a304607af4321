"""The batches training sees: shuffled, mixed, split over ranks, each a function of its step.

data = TrainingData("shards/", split="train", batch_size=16, seed=0)      # or a URL, or a blend.yaml
batch = data.batch(step)                                                  # this rank's part of that step
for batch in data.batches(range(100, 200), workers=4): ...                # the same, made ahead by processes
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rdt2.data import shards as _shards
from rdt2.data.batch import Batch, Corruption
from rdt2.data.dataset import ACTION, META, PICTURE, TOKENS, Instructions, ShardIndex, split_sources
from rdt2.data.loader import batches_ahead, next_step
from rdt2.data.mirror import mirrored_actions, mirrored_picture, mirrored_sentence
from rdt2.data.mixture import DataSource
from rdt2.data.order import Order
from rdt2.data.shards.remote import Unreachable
from rdt2.data.sound import action_problem, tokens_problem
from rdt2.errors import ConfigError, ShardError

_log = logging.getLogger(__name__)
Cut = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""Pictures (b, 384, 768, 3) to patches and grids (see Batch)."""


class TrainingData:
    """Batches of any data set; see the module.

    Rank r of step s sees the positions (s * world_size + r) * batch_size and following of one endless stream
    (:class:`~rdt2.data.order.Order`), so no sample is seen by two ranks, and none is left out.

    Attributes:
        numbers: the samples of the split, in stored order.
        damaged: what was left out, one line for each damaged sample.
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path] | Sequence[DataSource] | ShardIndex,
        *,
        split: Literal["train", "held_out", "all"] = "train",
        batch_size: int = 16,
        seed: int = 0,
        held_out: float = 0.05,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        shuffle_window: int = 0,
        pictures: bool = True,
        cut: Cut | None = None,
        corruption: Corruption | None = None,
        mirror: bool = False,
        states: bool = False,
        tokens: bool = True,
        max_damaged: int = 0,
        instructions: Instructions = "file",
    ) -> None:
        """
        source: folder, tars, URLs, a dataset yaml (single or blend), sources with weights, or an index.
        split: "train", "held_out" (whole episodes never in "train"), or "all".
        batch_size: samples of one rank.
        shuffle_window: see Order; 0 shuffles everything.
        pictures: False leaves pictures undecoded (the tokenizer needs actions only).
        cut: makes patches and grids of the pictures right where they are decoded, which then are all that the batch
            has of them: for models on the CPU. A GPU cuts faster than pictures travel.
        corruption: what training pictures go through, by sample and epoch; ``load`` without epochs gives them as
            stored.
        mirror: each sample is seen in a mirror in every other epoch, half of them in the first; ``load`` without
            epochs gives them as stored. Stored tokens are left out: they say the chunk itself.
        states: batches say where the arms were, which converters and recordings put into each sample's meta.
        tokens: False leaves stored tokens out.
        max_damaged: samples (and rests of shards) that cannot be read, decoded or learnt from (rdt2.data.sound) are
            replaced by others of their batch, logged and counted; one more than this is an error. 0 makes the first
            an error.

        Raises:
            ConfigError: contradictory settings, or a split without samples.
            ShardError: damaged shards, or samples that do not tell states that are asked for.
        """
        damage: Sequence[str] = ()  # that of an index is known to who opened it
        if not isinstance(source, ShardIndex):
            damaged_shards: Literal["refuse", "use"] = "use" if max_damaged else "refuse"
            source = ShardIndex(source, instructions=instructions, damaged_shards=damaged_shards)
            damage = source.damage
        self.index = source
        if not 0 <= rank < world_size or min(batch_size, world_size) < 1:
            raise ConfigError(f"rank is {rank} of {world_size} ranks, batch_size {batch_size}.")
        if split not in ("train", "held_out", "all"):
            raise ConfigError(f"split is {split!r}, expected 'train', 'held_out' or 'all'.")
        if min(shuffle_window, max_damaged) < 0:
            raise ConfigError(
                f"shuffle_window {shuffle_window} and max_damaged {max_damaged} are at least 0."
            )
        parts = split_sources(self.index, held_out=0 if split == "all" else held_out)
        chosen = [other if split == "held_out" else train for train, other in parts]
        weights = [source.weight for source in self.index.sources]
        for number, (data, (train, _)) in enumerate(zip(self.index.sources, parts, strict=True)):
            if not len(train) and split == "train":
                raise ConfigError(
                    f"{data.name}: of {len(self.index.span(number))} samples none is left to train on: "
                    f"held_out={held_out} keeps whole episodes, or the last samples, for evaluation. Record more, or "
                    "take held_out=0 (rdt2 train ... --set held_out=0)."
                )
        there = [number for number, part in enumerate(chosen) if len(part)]
        self.numbers = np.concatenate(chosen)
        self._order = Order(
            [chosen[number] for number in there], weights=[weights[number] for number in there],
            seed=seed, shuffle=shuffle, window=shuffle_window,
        )  # fmt: skip
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.pictures, self.cut, self.corruption = pictures, cut, corruption
        self.mirror, self.states, self.max_damaged = mirror, states, max_damaged
        self.tokens = tokens and self.index.has_tokens and not mirror
        self.damaged: list[str] = []
        self.leave_out(damage)
        self._begin = (0, 0)
        if states:
            self.index.state(0)  # said before anything is trained
        self._turned = (
            np.random.default_rng([seed, len(self.index)]).random(len(self.index)) < 0.5 if mirror else None
        )

    def __len__(self) -> int:
        """Samples in the split."""
        return len(self.numbers)

    def go_on(self, step: int, samples: int) -> None:
        """Let ``step`` be the first one after so many samples of the stream, which other ranks or other batch sizes
        may have seen."""
        self._begin = (step, samples)

    def position(self, step: int) -> int:
        """Samples of the stream that all ranks together have seen before a step."""
        first, samples = self._begin
        return samples + (step - first) * self.world_size * self.batch_size

    def batch(self, step: int) -> Batch:
        """This rank's batch of a step (from 0), a function of seed, rank and step. Raises ShardError."""
        numbers, epochs = self.samples_of(step)
        upcoming = next_step(step) if self.index.remote else None
        then = () if upcoming is None else self.samples_of(upcoming)[0].tolist()
        return self._batch(numbers.tolist(), epochs, then)

    def samples_of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample numbers of this rank's batch of a step, and the epoch each is seen in."""
        return self._order(self.position(step) + self.rank * self.batch_size, self.batch_size)

    def batches(
        self, steps: Sequence[int], *, workers: int = 0, prefetch: int = 2, pin: bool = False
    ) -> Iterator[Batch]:
        """The batches of steps, made ahead by so many processes.

        Raises:
            ShardError: a damaged sample beyond those allowed, or a worker that was ended from outside.
        """
        for batch in batches_ahead(self.batch, steps, workers=workers, prefetch=prefetch, pin=pin):
            self.count_damage(batch)
            yield batch

    def count_damage(self, batch: Batch) -> None:
        """Remember what a batch left out, each sample once. Raises ShardError when it is more than allowed."""
        self.leave_out(batch.damaged)

    def leave_out(self, lines: Iterable[str]) -> None:
        """Remember what cannot be read, a line for each sample. Raises ShardError when it is more than allowed."""
        for line in lines:
            if line in self.damaged:
                continue
            self.damaged.append(line)
            _log.warning("left out (%d of at most %d): %s", len(self.damaged), self.max_damaged, line)
        if len(self.damaged) > self.max_damaged:
            raise ShardError(
                f"{len(self.damaged)} damaged samples or shards, at most {self.max_damaged} are to be left out "
                f"(max_damaged); the last: {self.damaged[-1]}"
            )

    def load(self, numbers: Sequence[int] | np.ndarray, epochs: np.ndarray | None = None) -> Batch:
        """The samples of b numbers as a batch, seen as in their epochs (b,), else the first. Raises ShardError."""
        return self._batch([int(number) for number in numbers], epochs)

    def _batch(self, chosen: list[int], epochs: np.ndarray | None, then: Sequence[int] = ()) -> Batch:
        rows, pictures, damaged = self._rows(chosen, epochs, then)
        patches = None
        if pictures is not None and self.cut is not None:
            patches, pictures = self.cut(pictures), None
        return Batch(
            pictures=pictures,
            patches=patches,
            actions=np.stack([row["action"] for row in rows]),
            tokens=np.stack([row["tokens"] for row in rows]).astype(np.int64)
            if "tokens" in rows[0]
            else None,
            instructions=[row["instruction"] for row in rows],
            indices=np.array([row["number"] for row in rows], np.int64),
            mirrored=np.array([row["mirrored"] for row in rows]),
            states=np.stack([row["state"] for row in rows]) if self.states else None,
            damaged=tuple(damaged),
        )

    def _rows(
        self, chosen: list[int], epochs: np.ndarray | None, then: Sequence[int]
    ) -> tuple[list[dict[str, Any]], np.ndarray | None, list[str]]:
        """The samples and their pictures, and what is wrong with those that others of the batch stand in for.

        then: the samples that are asked for next.
        """
        members = [ACTION, *([PICTURE] if self.pictures else ()), *([META] if self.states else ())]
        if self.tokens:
            members.append(TOKENS)
        try:
            files: list[Any] = self.index.read(chosen, members, then=then)
        except Unreachable:
            raise  # no damage: nothing is known of these samples
        except ShardError:
            files = [None] * len(chosen)  # read one by one below, so that only what is damaged is left out
        pictures = np.empty((len(chosen), *_shards.PICTURE_SHAPE, 3), np.uint8) if self.pictures else None
        rows: list[dict[str, Any]] = []
        damaged: dict[int, str] = {}
        for place, number in enumerate(chosen):
            out = None if pictures is None else pictures[place]
            epoch = None if epochs is None else int(epochs[place])
            try:
                data = files[place] or self.index.read([number], members)[0]
                rows.append(self._sample(number, dict(zip(members, data, strict=True)), epoch, out))
            except ShardError as error:
                if self.max_damaged == 0:
                    raise
                damaged[place] = str(error)
                rows.append({})
        whole = [place for place in range(len(rows)) if place not in damaged]
        if not whole:
            raise ShardError(f"all {len(chosen)} samples of a batch are damaged, such as {damaged[0]}")
        for stand_in, place in enumerate(damaged):
            other = whole[stand_in % len(whole)]
            rows[place] = rows[other]
            if pictures is not None:
                pictures[place] = pictures[other]
        return rows, pictures, list(damaged.values())

    def _sample(
        self, number: int, files: dict[int, bytes], epoch: int | None, out: np.ndarray | None
    ) -> dict[str, Any]:
        """All of a sample but its picture, which is written to ``out``. Raises ShardError where it cannot be read or
        learnt from."""
        where = self.index.where(number)
        row: dict[str, Any] = {
            "number": number,
            "action": _shards.parse_action(files[ACTION], where=where),
            "instruction": self.index.instruction(number) or "",
            "mirrored": False,
        }
        problem = action_problem(row["action"])
        if TOKENS in files:
            row["tokens"] = _shards.parse_tokens(files[TOKENS], where=where)
            problem = problem or tokens_problem(row["tokens"])
        if problem:
            raise ShardError(f"{where}: {problem}")
        if META in files:
            row["state"] = _shards.parse_state(_shards.parse_meta(files[META], where=where), where=where)
        if out is not None:
            _shards.decode_jpeg(files[PICTURE], where=where, out=out)
            if self.corruption is not None and epoch is not None:
                out[...] = self.corruption(out, sample=number, epoch=epoch)
        if self._turned is not None and epoch is not None and self._turned[number] ^ bool(epoch % 2):
            row |= {
                "mirrored": True,
                "action": mirrored_actions(row["action"]),
                "instruction": mirrored_sentence(row["instruction"]),
            }
            if "state" in row:
                row["state"] = mirrored_actions(row["state"])
            if out is not None:
                out[...] = mirrored_picture(out.copy())
        return row
