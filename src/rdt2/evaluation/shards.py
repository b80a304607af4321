"""Open-loop evaluation: what a policy predicts on recorded samples, against what was done.

Samples are read as they are, without augmentation, and by default only those that training on the same folder
holds out (whole episodes). Every number comes with two baselines on the same samples, so that a small error
can be told from an easy data set:

* *stay still*: both arms stay where they are, the grippers keep the width of the sample's first step;
* *mean chunk*: the mean of the very chunks it is judged on, the best any constant prediction can do in
  squared error.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.errors import ConfigError, ShardError
from rdt2.metrics import ActionErrors, action_errors, valid_rate

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from rich.table import Table

    from rdt2.action import ActionChunk
    from rdt2.data import ShardIndex
    from rdt2.observation import Observation
    from rdt2.policy import Policy

STAY_STILL, MEAN_CHUNK = "stay still", "mean chunk"
HELD_OUT = 0.05
"""What training leaves out unless its held_out says otherwise."""


@dataclass(frozen=True)
class ShardEvaluation:
    """Open-loop errors of one policy on one set of shards."""

    policy: str
    data: str
    samples: int
    """Chunks that were predicted."""
    valid_rate: float
    """Share of them that were valid (always 1 for a policy that writes no tokens)."""
    errors: ActionErrors
    """Of the valid chunks."""
    baselines: dict[str, ActionErrors]
    """*stay still* and *mean chunk*, on the same samples."""
    seconds_per_chunk: float
    """Wall-clock time of `predict`, divided by its batch."""
    split: str
    batch_size: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the policy's errors stand at the top level by name."""
        values = dataclasses.asdict(self)
        values.update(values.pop("errors"), samples=self.samples)
        return values

    def table(self) -> Table:
        """A table for the terminal: policy first, baselines below."""
        from rich.table import Table

        table = Table(
            title=f"Open loop: {self.policy} on {self.samples} samples of {self.data} ({self.split})",
            title_justify="left",
        )
        table.add_column("", overflow="fold")
        names = (
            "action\nMSE",
            "position\nMSE (m²)",
            "position\n(mm)",
            "rotation\n(°)",
            "width\n(mm)",
            "valid",
        )
        for name in names:
            # On a narrow terminal the names give way: half a figure would be another one.
            table.add_column(name, justify="right", no_wrap=True)
        rows = [(self.policy, self.errors, f"{100 * self.valid_rate:.1f} %")]
        rows += [(name, errors, "") for name, errors in self.baselines.items()]
        for name, e, valid in rows:
            table.add_row(
                name, f"{e.action_mse:.5f}", f"{e.position_mse:.3e}", f"{e.position_mm:.2f}",
                f"{e.rotation_deg:.2f}", f"{e.width_mm:.2f}", valid,
            )  # fmt: skip
        speed = f"{1000 * self.seconds_per_chunk:.1f} ms a chunk"
        table.caption = f"{speed} in batches of {self.batch_size}, seed {self.seed}"
        return table


def evaluate_shards(
    policy: Policy,
    data: str | Path,
    *,
    name: str = "policy",
    split: Literal["held_out", "train", "all"] = "held_out",
    batch_size: int = 16,
    held_out: float = HELD_OUT,
    limit: int | None = None,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> ShardEvaluation:
    """Predict the samples of a folder of shards and measure the errors.

    Args:
        policy: anything with `predict`.
        data: folder with `shard-*.tar` and `instructions.json`.
        name: what to call the policy in the result.
        split: "held_out" takes the episodes that training on this folder leaves out, "train" the others;
            "all" is for a folder that was not trained on.
        batch_size: observations a call of `predict`.
        held_out: the share of the episodes that training left out: its setting of that name.
        limit: at most so many samples, spread evenly: neighbours at 30 Hz are nearly the same picture.
        seed: of the policy's noise; sample n gets seed + n, so that the batch size changes nothing.
        on_batch: called with the number of samples of each finished batch.

    Raises:
        ConfigError: an unknown split, batch_size or limit below 1.
        ShardError: no sample in the split, or a damaged one.
    """
    from rdt2.data import ShardIndex

    check_counts(batch_size, limit)
    index = ShardIndex(data, tokens=False)
    numbers = chosen_samples(index, split, limit, held_out=held_out)

    chunks: list[ActionChunk] = []
    seconds = 0.0
    for start in range(0, len(numbers), batch_size):
        batch = numbers[start : start + batch_size]
        observations = [observe(index, number) for number in batch]
        started = time.perf_counter()
        predicted = policy.predict(observations, seed=[seed + number for number in batch])
        seconds += time.perf_counter() - started
        if len(predicted) != len(batch):
            raise ConfigError(f"{name} returned {len(predicted)} chunks for {len(batch)} observations.")
        chunks += predicted
        if on_batch is not None:
            on_batch(len(batch))

    recorded = index.all_actions(numbers)
    valid = np.array([chunk.valid for chunk in chunks])
    values = np.stack([chunk.values for chunk in chunks])
    return ShardEvaluation(
        policy=name,
        data=str(data),
        samples=len(chunks),
        valid_rate=valid_rate(chunks),
        errors=action_errors(values[valid], recorded[valid]),
        baselines={
            STAY_STILL: action_errors(stay_still(recorded)[valid], recorded[valid]),
            MEAN_CHUNK: action_errors(mean_chunk(recorded)[valid], recorded[valid]),
        },
        seconds_per_chunk=seconds / len(chunks),
        split=split,
        batch_size=batch_size,
        seed=seed,
    )


def check_counts(batch_size: int, limit: int | None) -> None:
    """Raises ConfigError for a batch size or limit below 1."""
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch_size is {batch_size} and limit {limit}, expected at least 1.")


def trained_with(model: str | Path) -> float | None:
    """The share of the episodes that the run left out in whose folder a model lies: none of them where it was evaluated
    on other data (validation); None for a model elsewhere."""
    try:
        found = json.loads((Path(model).expanduser().absolute().parent / "config.json").read_text("utf-8"))
        settings = found["config"] if "stage" in found else {}
        return 0.0 if settings.get("validation") else float(settings["held_out"])
    except (OSError, ValueError, KeyError, TypeError):  # no run's
        return None


def chosen_samples(
    index: ShardIndex, split: str, limit: int | None = None, *, held_out: float = HELD_OUT
) -> list[int]:
    """Numbers of the samples to evaluate. Raises ConfigError (unknown split), ShardError (empty one)."""
    from rdt2.data import split_by_episode

    train, others = split_by_episode(index, held_out=held_out)
    splits = {"held_out": others, "train": train, "all": np.arange(len(index))}
    if split not in splits:
        raise ConfigError(f"split is {split!r}, expected one of {', '.join(splits)}.")
    numbers = splits[split]
    if not len(numbers):
        raise ShardError(f"{index.sources[0].name}: no sample in the {split} split. Try --split all.")
    if limit is not None and limit < len(numbers):
        numbers = numbers[np.linspace(0, len(numbers) - 1, limit).round().astype(int)]
    return [int(number) for number in numbers]


def observe(index: ShardIndex, number: int) -> Observation:
    """The observation a sample was recorded with: the two halves of its picture and its sentence."""
    from rdt2.observation import IMAGE_SIZE, Observation

    picture = index.picture(number)
    told: dict[str, Any] = {"state": index.state(number)} if "state" in index.meta(number) else {}
    return Observation(
        **told,
        left=picture[:, :IMAGE_SIZE],
        right=picture[:, IMAGE_SIZE:],
        instruction=index.instruction(number) or "",
        compressed=True,
    )


def stay_still(recorded: Float[ndarray, "b 24 20"]) -> Float[ndarray, "b 24 20"]:
    """Identity poses, and the gripper widths of each sample's first step held."""
    chunks = np.zeros_like(recorded)
    chunks[..., [3, 7, 13, 17]] = 1.0  # 6D identity: [1, 0, 0, 0, 1, 0]
    chunks[..., [9, 19]] = recorded[:, :1, [9, 19]]
    return chunks


def mean_chunk(recorded: Float[ndarray, "b 24 20"]) -> Float[ndarray, "b 24 20"]:
    """The mean of all chunks for every sample; Gram-Schmidt makes its mean 6D rotation a rotation again."""
    return np.broadcast_to(recorded.mean(axis=0, dtype=np.float64), recorded.shape).astype(recorded.dtype)
