"""Action tokens for shards that have none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import NUM_TOKENS
from rdt2.data.shards.reading import find_shards, instruction_table, read_shards, told_key
from rdt2.data.shards.sample import Sample
from rdt2.data.shards.writing import ShardWriter, plain_key, write_dataset_yaml
from rdt2.errors import RecordingError

if TYPE_CHECKING:
    from jaxtyping import Int

    from rdt2.normalizer import LinearNormalizer

_SAME_TOKENS = 0.99
"""The part of the tokens that one tokenizer finds again on another machine; two codes may lie equally near."""


def tokenize_shards(
    in_dir: str | Path,
    out_dir: str | Path,
    tokenizer: Any,
    normalizer: LinearNormalizer,
    *,
    batch_size: int = 128,
    instructions: Mapping[str, str] | Literal["file"] = "file",
) -> int:
    """Write the shards of ``in_dir`` again, tar for tar and key for key, with the tokens of ``tokenizer``.

    The keys of the sentences and their table are kept as they are. Tars of other names than
    ``shard-000000.tar`` are numbered in order.

    tokenizer: has ``encode(actions (b, 24, 20) float32 normalised) -> (b, 27) int64``. Shards that are
    already in ``out_dir`` are kept, so an interrupted run goes on. Returns the number of samples written.

    Raises:
        ShardError: a damaged shard. RecordingError: the disk is full, or ``out_dir`` holds shards of another
            recording, tokenizer or normalizer, or whose keys stand for other sentences.
    """
    import torch

    source, target = Path(in_dir), Path(out_dir)
    if source.resolve() == target.resolve():
        raise RecordingError(f"{target}: tokenised shards need a folder of their own.")

    def encode(batch: Sequence[Sample]) -> Int[np.ndarray, "b 27"]:
        actions = torch.from_numpy(np.stack([sample.action for sample in batch]))
        with torch.no_grad():
            return tokenizer.encode(normalizer.normalize(actions)).cpu().numpy()

    written = 0
    for number, path in _numbered(find_shards(source)):
        there = target / f"shard-{number:06d}.tar"
        if there.is_file():
            _require_same(there, path, encode, batch_size)
            continue
        table = instruction_table(path, instructions) or {}
        with ShardWriter(target, samples_per_shard=1 << 30, first_shard=number) as writer:
            for batch in _batched(read_shards(path, instructions=table), batch_size):
                for sample, row in zip(batch, encode(batch), strict=True):
                    writer.write(
                        picture=sample.jpeg,
                        action=sample.action,
                        instruction=sample.instruction or "",
                        tokens=row,
                        meta=sample.meta,
                        key=plain_key(sample.key),
                        instruction_key=told_key(sample.meta),
                    )
                written += len(batch)
            writer.instructions |= table
    normalizer.save_pretrained(target)
    write_dataset_yaml(target, name=target.name)
    return written


def _require_same(
    there: Path,
    path: Path,
    encode: Callable[[Sequence[Sample]], np.ndarray],
    batch_size: int,
) -> None:
    """Raises RecordingError unless the first samples of ``there`` are those of ``path`` with these tokens."""
    found, expected = (
        list(islice(read_shards(tar, instructions="ignore"), batch_size)) for tar in (there, path)
    )
    same = [plain_key(sample.key) for sample in expected] == [sample.key for sample in found] and all(
        np.array_equal(one.action, other.action) for one, other in zip(found, expected, strict=True)
    )
    what = "samples of another recording"
    if same:
        stored = [np.full(NUM_TOKENS, -1) if sample.tokens is None else sample.tokens for sample in found]
        same = not found or float((encode(expected) == np.stack(stored)).mean()) >= _SAME_TOKENS
        what = "tokens of another tokenizer or normalizer"
    if not same:
        raise RecordingError(f"{there}: holds {what}. Choose another folder, or remove this one.")


def _numbered(paths: list[Path]) -> list[tuple[int, Path]]:
    """The tars with the numbers in their names, or with their places where a name has none."""
    matches = [re.fullmatch(r"shard-(\d+)\.tar", path.name) for path in paths]
    numbers = [int(match[1]) for match in matches if match is not None]
    if len(set(numbers)) < len(paths):
        numbers = list(range(len(paths)))
    return list(zip(numbers, paths, strict=True))


def _batched(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
