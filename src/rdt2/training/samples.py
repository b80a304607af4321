"""The samples of a run: which are trained on, which are held out, and that they can be learnt from at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS, arm_slice
from rdt2.data import ShardIndex, TrainingData
from rdt2.data.augmentation import COLOURS, ImageCorruption
from rdt2.data.batch import Batch
from rdt2.data.shards.remote import is_url
from rdt2.errors import ShardError
from rdt2.training.config import RunConfig

if TYPE_CHECKING:
    from jaxtyping import Float

LOOKED_AT = 10_000  # samples before the first step: all of a small set, in seconds
DECODED = 300  # pictures of them
REMOTELY = 32  # so many times fewer, where each is a request
ROTATION_TOLERANCE = 1e-2  # of the columns' lengths and their product
CODES = 1024


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
        evaluation_batch: int = 32,
        tokens: bool = False,
        pictures: bool = True,
        states: bool = False,
        **options: Any,
    ):
        """
        batch_size: of the part that is recorded; none takes the settings'.
        tokens: whether the stored action tokens are learnt.
        options: more of TrainingData, for the samples to learn from.

        Raises:
            ConfigError: too few samples for a step.
            ShardError: a sample that cannot be learnt from, with its shard and key.
        """
        self.train = TrainingData(
            data, batch_size=batch_size or config.batch_size, seed=config.seed, held_out=config.held_out,
            rank=rank, world_size=world_size, pictures=pictures, states=states, max_damaged=config.max_damaged,
            shuffle_window=config.shuffle_window, split="all" if config.validation else "train", **options,
        )  # fmt: skip
        index = self.train.index
        self.held_out = TrainingData(
            config.validation or index, split="all" if config.validation else "held_out", held_out=config.held_out,
            batch_size=evaluation_batch, seed=config.seed, pictures=pictures, states=states,
            max_damaged=config.max_damaged, instructions=options.get("instructions", "file"), cut=options.get("cut"),
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
        return self._sound(self.train, self.train.batch(step))

    def held_out_batch(self, number: int, count: int) -> Batch:
        """Batch ``number`` of ``count`` that are spread evenly over what is held out. Raises ShardError."""
        size = self.held_out.batch_size
        stride = max(1, len(self.held_out) // (count * size))
        numbers = self.held_out.numbers[number * size * stride :: stride][:size]
        batch = self.held_out.load(numbers)
        self.held_out.count_damage(batch)
        return self._sound(self.held_out, batch)

    def held_out_batches(self, samples: int) -> int:
        """How many batches of what is held out show about so many samples."""
        return max(1, min(samples, len(self.held_out)) // self.held_out.batch_size)

    def _sound(self, data: TrainingData, batch: Batch) -> Batch:
        check_actions(batch.actions, lambda row: data.index.where(int(batch.indices[row])))
        return batch


def corruption(augment: bool | str, seed: int) -> ImageCorruption | None:
    """What the setting ``augment`` means for pictures."""
    if not augment:
        return None
    return ImageCorruption(seed=seed, config=COLOURS if augment == "colours" else None)


def check_actions(actions: Float[np.ndarray, "n 24 20"], where: Callable[[int], str]) -> None:
    """See that chunks are finite and their rotations are rotations.

    Args:
        actions: metres and 6D columns.
        where: what a row is called.

    Raises:
        ShardError: naming the first that is not, and how many there are.
    """
    finite = np.isfinite(actions).all(axis=(1, 2))
    if not finite.all():
        raise ShardError(
            f"{where(int(np.argmin(finite)))}: action.npy holds NaN or infinity ({_of(~finite)}). "
            "Drop or record that sample again; 'rdt2 data check' names all of them."
        )
    for arm in ARMS:
        columns = actions[..., arm_slice(arm)][..., 3:9]
        first, second = columns[..., :3], columns[..., 3:]
        off = np.abs(np.stack([(first**2).sum(-1) - 1, (second**2).sum(-1) - 1, (first * second).sum(-1)]))
        bad = (off > ROTATION_TOLERANCE).any(axis=(0, 2))
        if bad.any():
            row = int(np.argmax(bad))
            step = int(np.argmax((off[:, row] > ROTATION_TOLERANCE).any(0)))
            zeros = not columns[row, step].any()
            why = (
                "An arm that is not there or rests has the identity [1, 0, 0, 0, 1, 0], not zeros."
                if zeros
                else "Quaternions, Euler angles or rows of a matrix may be stored."
            )
            raise ShardError(
                f"{where(row)}: the 6D rotation of the {arm} arm at step {step} is "
                f"{np.round(columns[row, step], 3).tolist()}, expected two columns of length 1 at a right angle "
                f"({_of(bad)}). {why} Convert the recording again with 'rdt2 data convert'; 'rdt2 data check' names "
                "all such samples."
            )


def _of(bad: np.ndarray) -> str:
    return f"{int(bad.sum())} of {len(bad)} samples looked at"


def _check(data: TrainingData, *, tokens: bool, states: bool, pictures: bool) -> str:
    """Look at all samples of a small set, at an even part of a large one; says which."""
    index, damaged = data.index, dict[int, str]()
    numbers = _spread(index, LOOKED_AT)
    actions = index.all_actions(numbers, damaged=damaged if data.max_damaged else None)
    check_actions(actions, lambda row: index.where(int(numbers[row])))
    for number in map(int, numbers):
        try:
            if states:
                index.state(number)
            written = index.tokens(number) if tokens else None
        except ShardError as error:
            if not data.max_damaged:
                raise
            damaged.setdefault(number, str(error))
            continue
        if written is not None and (written.min() < 0 or written.max() >= CODES):
            raise ShardError(
                f"{index.where(number)}: action_token.npy holds {written.min()} to {written.max()}, expected 0 to "
                f"{CODES - 1}. Write the tokens again with 'rdt2 data tokenize'."
            )
    data.leave_out(damaged.values())
    decoded = _spread(index, DECODED if pictures else 0)
    for number in map(int, decoded):
        index.picture(number)
    which = [
        f"the {name} of {'all' if len(some) == len(index) else f'{len(some)} of'} {len(index)} samples"
        for name, some in (("actions", numbers), ("pictures", decoded))
        if len(some)
    ]
    return f"looked through {' and '.join(which)}: all can be learnt from"


def _spread(index: ShardIndex, count: int) -> np.ndarray:
    """So many sample numbers, evenly; all where there are no more, few where each is a request."""
    count = count // REMOTELY if any(map(is_url, index.shards)) else count
    return np.linspace(0, len(index) - 1, min(len(index), count)).astype(int)


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
