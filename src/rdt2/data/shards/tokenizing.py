"""Action tokens for shards that have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.data.shards.reading import find_shards, instruction_table, read_shards, told_key
from rdt2.data.shards.sample import Sample
from rdt2.data.shards.writing import ShardWriter, plain_key, write_dataset_yaml
from rdt2.errors import RecordingError

if TYPE_CHECKING:
    from rdt2.normalizer import LinearNormalizer


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
        ShardError: a damaged shard. RecordingError: the disk is full, or ``out_dir`` holds shards whose keys
            stand for other sentences.
    """
    import torch

    source, target = Path(in_dir), Path(out_dir)
    if source.resolve() == target.resolve():
        raise RecordingError(f"{target}: tokenised shards need a folder of their own.")
    written = 0
    for number, path in _numbered(find_shards(source)):
        if (target / f"shard-{number:06d}.tar").is_file():
            continue
        table = instruction_table(path, instructions) or {}
        with ShardWriter(target, samples_per_shard=1 << 30, first_shard=number) as writer:
            for batch in _batched(read_shards(path, instructions=table), batch_size):
                actions = torch.from_numpy(np.stack([sample.action for sample in batch]))
                with torch.no_grad():
                    tokens = tokenizer.encode(normalizer.normalize(actions)).cpu().numpy()
                for sample, row in zip(batch, tokens, strict=True):
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
