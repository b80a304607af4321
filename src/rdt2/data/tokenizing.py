"""Action tokens for shards that have none: in new shards, or in small files beside the old ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import NUM_TOKENS
from rdt2.data.dataset import ACTION, META, PICTURE, ShardIndex
from rdt2.data.loader import batches_ahead, next_step
from rdt2.data.mixture import DataSource
from rdt2.data.shards import (
    INSTRUCTION_FILES,
    ShardWriter,
    parse_action,
    parse_sample,
    told_key,
    write_atomic,
    write_dataset_yaml,
    write_instructions,
)
from rdt2.data.shards.ranges import shard_name
from rdt2.data.shards.remote import is_url
from rdt2.data.shards.tokens import read_tokens, tokens_path, write_tokens
from rdt2.data.shards.writing import plain_key
from rdt2.errors import RecordingError, ShardError
from rdt2.origin import TokenOrigin, read_origin, write_origin

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from rdt2.normalizer import LinearNormalizer

Location = str | Path | Iterable[str | Path] | Sequence[DataSource]
Encode = Callable[["Float[np.ndarray, 'b 24 20']"], "Int[np.ndarray, 'b 27']"]
_SAME_TOKENS = 0.99
"""The part of the tokens that one tokenizer finds again on another machine; two codes may lie equally near."""


def tokenize_shards(
    source: Location,
    out_dir: str | Path,
    tokenizer: Any,
    normalizer: LinearNormalizer,
    *,
    batch_size: int = 128,
    instructions: Mapping[str, str] | Literal["file"] = "file",
    device: Any = "cpu",
    workers: int = 0,
) -> int:
    """Write shards again, tar for tar and key for key, with the tokens of ``tokenizer``, and what made them.

    The keys of the sentences and their table are kept as they are. Tars of other names than
    ``shard-000000.tar`` are numbered in order.

    Args:
        source: folder, tars, URLs, a dataset yaml, or sources.
        tokenizer: has ``digest`` and ``encode(actions (b, 24, 20) float32 normalised) -> (b, 27) int64``.
        device: where the tokenizer is.
        workers: processes that read ahead.

    Returns:
        the number of samples written: shards that are in ``out_dir`` are kept, so an interrupted run goes on.

    Raises:
        ShardError: a damaged shard. RecordingError: the disk is full, or ``out_dir`` holds shards of another
            recording, tokenizer or normalizer, or whose keys stand for other sentences.
    """
    target = Path(out_dir)
    index = ShardIndex(source, instructions=instructions, tokens=False)
    if any(Path(shard).resolve().parent == target.resolve() for shard in index.shards if not is_url(shard)):
        raise RecordingError(f"{target}: tokenised shards need a folder of their own.")
    origin = TokenOrigin(tokenizer.digest, normalizer.digest)
    begun = read_origin(target, error=RecordingError)
    if begun is not None and begun != origin:
        raise RecordingError(
            f"{target}: was begun with {begun.against(origin)}. Choose another folder, or remove this one."
        )
    encode = _encoder(tokenizer, normalizer, device)
    numbers, to_do = _numbered(index.shards), []
    for shard in range(len(index.shards)):
        there = target / f"shard-{numbers[shard]:06d}.tar"
        if there.is_file():
            _require_same(there, index, shard, encode, batch_size)
        else:
            to_do.append(shard)
    target.mkdir(parents=True, exist_ok=True)
    write_origin(target, origin, error=RecordingError)
    tables = {shard: dict(each.table(shard)) for each in index.sources for shard in each.shards}
    for shard, batches in _read(index, to_do, (PICTURE, ACTION, META), batch_size, workers):
        table = tables[index.shards[shard]]
        with ShardWriter(target, samples_per_shard=1 << 30, first_shard=numbers[shard]) as writer:
            for rows, files in batches:
                samples = [
                    parse_sample(
                        index.key(row),
                        dict(zip(("image.jpg", "action.npy", "meta.json"), each, strict=True)),
                        shard=shard_name(index.shards[shard]),
                        table=table,
                    )
                    for row, each in zip(rows, files, strict=True)
                ]
                tokens = encode(np.stack([sample.action for sample in samples]))
                for sample, row_tokens in zip(samples, tokens, strict=True):
                    writer.write(
                        picture=sample.jpeg,
                        action=sample.action,
                        instruction=sample.instruction or "",
                        tokens=row_tokens,
                        meta=sample.meta,
                        key=plain_key(sample.key),
                        instruction_key=told_key(sample.meta),
                    )
            writer.instructions |= table
    normalizer.save_pretrained(target)
    write_dataset_yaml(target, name=target.name)
    return sum(len(index.rows(shard)) for shard in to_do)


def tokenize_beside(
    source: Location,
    tokenizer: Any,
    normalizer: LinearNormalizer,
    *,
    out_dir: str | Path | None = None,
    batch_size: int = 1024,
    device: Any = "cpu",
    workers: int = 0,
) -> int:
    """Write the tokens of shards into a small file for each (rdt2.data.shards.tokens): 54 bytes a sample.

    Args:
        source: as for :func:`tokenize_shards`.
        out_dir: None puts the files beside the shards, and the normalizer where none is; else they go there, with a
            ``dataset.yaml`` to train on, which names shards, tokens and normalizer: for data that may not be
            written, or lie behind a URL.
        tokenizer, device, workers: as for :func:`tokenize_shards`.

    Returns:
        the number of samples whose tokens were written; those that are there already are kept.

    Raises:
        ShardError: a damaged shard.
        RecordingError: a folder that cannot be written, shards by URL without ``out_dir``, shards of equal names or a
            mixture for one ``out_dir``, or token files of another tokenizer or normalizer.
    """
    index = ShardIndex(source, instructions="ignore", tokens=False)
    _require_places(index, out_dir)
    origin = TokenOrigin(tokenizer.digest, normalizer.digest)
    targets = [tokens_path(shard, out_dir) for shard in index.shards]
    to_do = [shard for shard in range(len(targets)) if not _is_done(targets[shard], index, shard, origin)]
    encode = _encoder(tokenizer, normalizer, device)
    for shard, batches in _read(index, to_do, (ACTION,), batch_size, workers):
        tokens = [
            encode(
                np.stack([
                    parse_action(action, where=index.where(row))
                    for row, (action,) in zip(rows, files, strict=True)
                ])
            )
            for rows, files in batches
        ]  # fmt: skip
        write_tokens(targets[shard], np.concatenate(tokens), shard=index.signature(shard), origin=origin)
    from rdt2.normalizer import has_normalizer

    for folder in {target.parent for target in targets}:
        if out_dir is not None or not has_normalizer(folder):  # one that was fitted to the data stays theirs
            normalizer.save_pretrained(folder)
    if out_dir is not None:
        _write_yaml(Path(out_dir), index.sources[0])
    return sum(len(index.rows(shard)) for shard in to_do)


def _encoder(tokenizer: Any, normalizer: LinearNormalizer, device: Any) -> Encode:
    import torch

    def encode(actions: Float[np.ndarray, "b 24 20"]) -> Int[np.ndarray, "b 27"]:
        numbers = normalizer.normalize(torch.from_numpy(actions))
        # cuDNN's convolutions round to fewer bits, and codes are close.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
            return tokenizer.encode(numbers.to(device)).cpu().numpy()

    return encode


def _read(
    index: ShardIndex, shards: Sequence[int], members: Sequence[int], size: int, workers: int
) -> Iterator[tuple[int, Iterator[tuple[range, list[list[bytes]]]]]]:
    """Shard after shard its batches: sample numbers and their files, read ahead. Raises ShardError."""
    jobs = [
        (shard, index.rows(shard)[begin : begin + size])
        for shard in shards
        for begin in range(0, len(index.rows(shard)), size)
    ]

    def made_of(step: int) -> list[list[bytes]]:
        upcoming = next_step(step)
        return index.read(jobs[step][1], members, then=() if upcoming is None else jobs[upcoming][1])

    made = batches_ahead(made_of, range(len(jobs)), workers=workers)
    together = ((shard, rows, files) for (shard, rows), files in zip(jobs, made, strict=True))
    for shard, batches in groupby(together, key=itemgetter(0)):
        yield shard, ((rows, files) for _, rows, files in batches)


def _is_done(target: Path, index: ShardIndex, shard: int, origin: TokenOrigin) -> bool:
    """Whether a shard has its tokens. Raises RecordingError where they are of another tokenizer or normalizer."""
    try:
        found = read_tokens(target, shard=index.signature(shard), samples=len(index.rows(shard)))
    except ShardError:  # damaged, or of a shard that was there before
        return False
    if found is not None and found.origin != origin:
        raise RecordingError(
            f"{target}: was made with {found.origin.against(origin)}. Remove the .tokens files there, or write "
            "these into another folder with --out."
        )
    return found is not None


def _require_places(index: ShardIndex, out_dir: str | Path | None) -> None:
    """Raises RecordingError where token files cannot go where they are to go."""
    if out_dir is None:
        if remote := next(filter(is_url, index.shards), None):
            raise RecordingError(
                f"{remote}: nothing is written beside shards behind a URL. Name a folder with --out."
            )
        return
    if len(index.sources) > 1:
        raise RecordingError(
            f"a mixture of {len(index.sources)} data sets does not go into one folder. Write the tokens of each by its "
            "own yaml, or leave --out away, which puts them beside the shards."
        )
    if index.sources[0].place is None:
        raise RecordingError(
            "the yaml beside the tokens names one place of shards: give a folder, a tar, a range or a dataset yaml."
        )
    names = [shard_name(shard) for shard in index.shards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecordingError(
            f"two shards are called {twice}: write the tokens of each folder into its own --out."
        )


def _write_yaml(out: Path, source: DataSource) -> None:
    """dataset.yaml of shards elsewhere and tokens here."""
    import yaml

    shards = str(source.place)
    kwargs = {"normalizer_path": "normalizer.safetensors", "tokens_dir": "."}
    if "" in source.instructions:
        write_instructions(out, source.instructions[""])
        kwargs["instruction_path"] = INSTRUCTION_FILES[0]
    config = {
        "name": source.name if is_url(source.name) else Path(source.name).stem,
        "type": "single",
        "shards_dir": shards if is_url(shards) else str(Path(shards).absolute()),
        "kwargs": kwargs,
    }
    write_atomic(out / "dataset.yaml", yaml.safe_dump(config, sort_keys=False))


def _require_same(there: Path, index: ShardIndex, shard: int, encode: Encode, batch_size: int) -> None:
    """Raises RecordingError unless the first samples of ``there`` are those of a shard with these tokens."""
    found = ShardIndex([there], instructions="ignore", tokens=False)
    rows = index.rows(shard)[:batch_size]
    same = len(found) >= len(rows) and [plain_key(index.key(row)) for row in rows] == [
        found.key(row) for row in range(len(rows))
    ]
    what = "samples of another recording"
    if same:
        actions = index.all_actions(rows)
        same = np.array_equal(actions, found.all_actions(range(len(rows))))
    if same and len(rows):
        stored = [found.tokens(row) for row in range(len(rows))]
        written = np.stack([np.full(NUM_TOKENS, -1) if row is None else row for row in stored])
        same = float((encode(actions) == written).mean()) >= _SAME_TOKENS
        what = "tokens of another tokenizer or normalizer"
    if not same:
        raise RecordingError(f"{there}: holds {what}. Choose another folder, or remove this one.")


def _numbered(shards: Sequence[str]) -> list[int]:
    """The numbers in the names of tars, or their places where a name has none."""
    matches = [re.fullmatch(r"shard-(\d+)\.tar", shard_name(shard)) for shard in shards]
    numbers = [int(match[1]) for match in matches if match is not None]
    return numbers if len(set(numbers)) == len(shards) else list(range(len(shards)))
