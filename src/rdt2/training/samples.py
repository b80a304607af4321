"""The samples of a run: which are trained on, which are held out, and that they can be learnt from at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data import ShardIndex, TrainingData
from rdt2.data.augmentation import COLOURS, ImageCorruption
from rdt2.data.batch import Batch
from rdt2.data.shards.remote import is_url
from rdt2.data.sound import action_problem, tokens_problem, unsound
from rdt2.errors import ShardError
from rdt2.training.config import RunConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LOOKED_AT = 10_000  # samples before the first step: all of a small set, in seconds
DECODED = 300  # pictures of them
REMOTELY = 32  # so many times fewer, where each is a request
EVALUATED = 32  # held-out samples at once, at most: what training has room for, evaluation has


class Samples:
    """What is learnt from and what is evaluated, looked through before a model is loaded.

    Attributes:
        train: batches to learn from.
        held_out: what is evaluated; empty where the settings hold nothing out.
        data: a name for what the shards hold.
        notes: lines to tell.
    """

    def __init__(
        self,
        config: RunConfig,
        data: str | Path,
        *,
        rank: int,
        world_size: int,
        batch_size: int | None = None,
        evaluation_batch: int | None = None,
        tokens: bool = False,
        pictures: bool = True,
        states: bool = False,
        **options: Any,
    ):
        """
        batch_size: of the part that is recorded; none takes the settings'.
        evaluation_batch: none takes the settings' batch size, 32 at most.
        tokens: whether the stored action tokens are learnt.
        options: more of TrainingData, for the samples to learn from.

        Raises:
            ConfigError: too few samples for a step.
            ShardError: a sample that cannot be learnt from, with its shard and key.
        """
        self.train = TrainingData(
            data, batch_size=batch_size or config.batch_size, seed=config.seed, held_out=config.held_out,
            rank=rank, world_size=world_size, pictures=pictures, states=states, tokens=tokens,
            max_damaged=config.max_damaged,
            shuffle_window=config.shuffle_window, split="all" if config.validation else "train", **options,
        )  # fmt: skip
        index = self.train.index
        self.held_out = TrainingData(
            config.validation or index, split="all" if config.validation else "held_out", held_out=config.held_out,
            batch_size=evaluation_batch or min(EVALUATED, config.batch_size), seed=config.seed, pictures=pictures,
            states=states, tokens=tokens, max_damaged=config.max_damaged,
            instructions=options.get("instructions", "file"), cut=options.get("cut"),
        )  # fmt: skip
        self.data = index.fingerprint()
        self.notes = [_told(self.train, self.held_out, config)]
        self.notes += [
            _check(
                each,
                tokens=tokens and index.has_tokens,
                states=states,
                pictures=pictures and not config.max_damaged,
            )
            for each in self._parts
        ]
        step = self.train.batch_size * world_size
        if step > len(self.train):
            self.notes.append(
                f"a step sees {step} samples, more than the {len(self.train)} there are: some twice"
            )

    @property
    def _parts(self) -> list[TrainingData]:
        """What is trained on, and a validation set of its own."""
        return [self.train] if self.held_out.index is self.train.index else [self.train, self.held_out]

    def batch(self, step: int) -> Batch:
        """This process's batch of a step. Raises ShardError where a sample cannot be learnt from."""
        return self.train.batch(step)

    def held_out_batch(self, number: int, count: int) -> Batch:
        """Batch ``number`` of ``count`` that are spread evenly over what is held out. Raises ShardError."""
        size = self.held_out.batch_size
        chosen = evenly(len(self.held_out), count * size)[number * size :][:size]
        batch = self.held_out.load(self.held_out.numbers[chosen])
        self.held_out.count_damage(batch)
        return batch

    def held_out_batches(self, samples: int) -> int:
        """How many batches of what is held out show about so many samples."""
        return max(1, min(samples, len(self.held_out)) // self.held_out.batch_size)


def corruption(augment: bool | str, seed: int) -> ImageCorruption | None:
    """What the setting ``augment`` means for pictures."""
    if not augment:
        return None
    return ImageCorruption(seed=seed, config=COLOURS if augment == "colours" else None)


def evenly(total: int, count: int) -> Int[np.ndarray, " n"]:
    """So many of the numbers below ``total``, from the first to the last; all where there are no more."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(int)


def sound_actions(
    data: TrainingData, numbers: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 24 20"], dict[int, str]]:
    """The chunks of samples by their numbers (n,), and what is wrong with those that others of them stand in for.

    Raises:
        ShardError: more of them cannot be learnt from than ``max_damaged`` allows: names the first, and how many.
    """
    index, damaged = data.index, dict[int, str]()
    actions = index.all_actions(numbers, damaged=damaged if data.max_damaged else None)
    bad = unsound(actions) & ~np.isin(numbers, list(damaged))
    rows = {int(numbers[row]): row for row in np.flatnonzero(bad)}  # each sample once

    def told(number: int) -> str:
        return f"{index.where(number)}: {action_problem(actions[rows[number]])}"

    if len(rows) > data.max_damaged:
        raise ShardError(f"{told(next(iter(rows)))} {len(rows)} of {len(bad)} samples looked at are such.")
    damaged |= {number: told(number) for number in rows}
    data.leave_out(damaged.values())
    left_out = np.isin(numbers, list(damaged))
    if left_out.any():
        if left_out.all():
            raise ShardError(next(iter(damaged.values())))
        actions[left_out] = actions[np.argmin(left_out)]
    return actions, damaged


def _check(data: TrainingData, *, tokens: bool, states: bool, pictures: bool) -> str:
    """Look at all samples of a small set, at an even part of a large one; says which."""
    index = data.index
    numbers = _spread(index, LOOKED_AT)
    _, damaged = sound_actions(data, numbers)
    for number in (int(each) for each in numbers if int(each) not in damaged):
        try:
            written = index.tokens(number) if tokens else None
            if written is not None and (problem := tokens_problem(written)):
                raise ShardError(f"{index.where(number)}: {problem}")
            if states:
                index.state(number)
        except ShardError as error:
            if not data.max_damaged:
                raise
            damaged[number] = str(error)
    data.leave_out(damaged.values())
    decoded = _spread(index, DECODED if pictures else 0)
    for number in map(int, decoded):
        index.picture(number)
    which = [
        f"the {name} of {'all' if len(some) == len(index) else f'{len(some)} of'} {len(index)} samples"
        for name, some in (("actions", numbers), ("pictures", decoded))
        if len(some)
    ]
    found = f"{len(damaged)} cannot be learnt from and are left out" if damaged else "all can be learnt from"
    return f"looked through {' and '.join(which)}: {found}"


def _spread(index: ShardIndex, count: int) -> np.ndarray:
    """So many sample numbers, evenly; all where there are no more, few where each is a request."""
    return evenly(len(index), count // REMOTELY if any(map(is_url, index.shards)) else count)


def _told(train: TrainingData, held_out: TrainingData, config: RunConfig) -> str:
    """What is trained on and what is held out, in words."""
    if not len(held_out):
        return f"training on all {len(train)} samples; none is held out to be evaluated (held_out=0)"
    parts = []
    for data in (train, held_out):
        names = data.index.episodes_of(data.numbers)
        named = "" if "" in names else f" of {len(names)} episode{'s' * (len(names) != 1)}"
        parts.append(f"{len(data)} samples{named}")
    if config.validation:
        return f"training on all {parts[0]}; evaluated on the {parts[1]} of {config.validation}"
    return f"training on {parts[0]}; {parts[1]} are held out to be evaluated (--set held_out=0 trains on all)"
