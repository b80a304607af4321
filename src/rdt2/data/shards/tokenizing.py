"""Action tokens for shards that have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.data.shards.reading import find_shards, read_shards
from rdt2.data.shards.sample import INSTRUCTION_KEY, Sample
from rdt2.data.shards.writing import ShardWriter, write_dataset_yaml
from rdt2.errors import RecordingError, ShardError

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

    tokenizer: has ``encode(actions (b, 24, 20) float32 normalised) -> (b, 27) int64``. Shards that are
    already in ``out_dir`` are kept, so an interrupted run goes on. Returns the number of samples written.

    Raises:
        ShardError: a damaged shard. RecordingError: the disk is full.
    """
    import torch

    source, target = Path(in_dir), Path(out_dir)
    if source.resolve() == target.resolve():
        raise RecordingError(f"{target}: tokenised shards need a folder of their own.")
    written = 0
    for path in find_shards(source):
        if (target / path.name).is_file():
            continue
        number = re.fullmatch(r"shard-(\d+)\.tar", path.name)
        if number is None:
            raise ShardError(f"{path}: a shard is called shard-000000.tar. Rename it.")
        with ShardWriter(target, samples_per_shard=1 << 30, first_shard=int(number[1])) as writer:
            for batch in _batched(read_shards(path, instructions=instructions), batch_size):
                actions = torch.from_numpy(np.stack([sample.action for sample in batch]))
                with torch.no_grad():
                    tokens = tokenizer.encode(normalizer.normalize(actions)).cpu().numpy()
                for sample, row in zip(batch, tokens, strict=True):
                    extra = {name: value for name, value in sample.meta.items() if name != INSTRUCTION_KEY}
                    writer.write(
                        picture=sample.jpeg,
                        action=sample.action,
                        instruction=sample.instruction or "",
                        tokens=row,
                        meta=extra,
                        key=sample.key,
                    )
                written += len(batch)
    normalizer.save_pretrained(target)
    write_dataset_yaml(target, name=target.name)
    return written


def _batched(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
