"""Shards read in order: which files belong to a sample, which sentence, and what to do with damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from rdt2.data.shards.sample import (
    INSTRUCTION_KEY,
    MEMBERS,
    Sample,
    parse_action,
    parse_meta,
    parse_tokens,
)
from rdt2.data.shards.tar import Member, TarReader
from rdt2.errors import ShardError

INSTRUCTION_FILES = ("instructions.json", "instruction.json")

_MAX_BYTES = {
    "image.jpg": 16 << 20,
    "action.npy": 64 << 10,
    "action_token.npy": 4 << 10,
    "meta.json": 1 << 20,
}
_Payload = TypeVar("_Payload")


# ----------------------------------------------------------------------------------------- samples of one tar


def scan_shard(path: str | Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """The samples of a shard in order: (key, {member name: place}). Files of other names are passed over.

    Raises:
        ShardError: damaged tar, a file missing or twice in a sample, or too large to be what its name says.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        reader = TarReader(stream, name=path.name, size=path.stat().st_size)
        for key, members, _ in _grouped(reader, lambda member: member):
            yield key, members


def stream_shard(reader: TarReader) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """The samples of a shard in order: (key, {member name: bytes}, where the next sample begins).

    Raises:
        ShardError: as scan_shard.
    """
    return _grouped(reader, reader.read)


def _grouped(
    reader: TarReader, payload: Callable[[Member], _Payload]
) -> Iterator[tuple[str, dict[str, _Payload], int]]:
    key, files = None, dict[str, _Payload]()
    for member in reader:
        this, _, extension = member.name.rsplit("/", 1)[-1].partition(".")
        if extension not in MEMBERS:
            continue
        if key is not None and this != key:
            yield key, _complete(reader.name, key, files), member.begin
            files = {}
        key = this
        if extension in files:
            raise ShardError(
                f"{reader.name}, sample {key}: {extension} is there twice. Keys in a shard must differ."
            )
        if member.size > _MAX_BYTES[extension]:
            raise ShardError(
                f"{reader.name}, sample {key}: {extension} has {member.size} bytes, "
                f"at most {_MAX_BYTES[extension]} expected. It is not what its name says."
            )
        files[extension] = payload(member)
    if key is not None:
        yield key, _complete(reader.name, key, files), reader.position


def _complete(shard: str, key: str, files: dict[str, _Payload]) -> dict[str, _Payload]:
    missing = [name for name in MEMBERS if name not in files and name != "action_token.npy"]
    if missing:
        raise ShardError(f"{shard}, sample {key}: {', '.join(missing)} missing. Record or convert it again.")
    return files


def parse_sample(
    key: str, files: Mapping[str, bytes], *, shard: str, table: Mapping[str, str] | None
) -> Sample:
    """A sample from the bytes of its files; the picture stays compressed.

    table: instruction key -> sentence; None leaves the sentence None.

    Raises:
        ShardError: naming shard, sample, what was expected and what came.
    """
    where = f"{shard}, sample {key}"
    meta = parse_meta(files["meta.json"], where=where)
    if files["image.jpg"][:2] != b"\xff\xd8":
        raise ShardError(
            f"{where}: image.jpg does not start like a JPEG. Write pictures with rdt2.data.encode_jpeg."
        )
    tokens = files.get("action_token.npy")
    return Sample(
        key=key,
        shard=shard,
        jpeg=files["image.jpg"],
        action=parse_action(files["action.npy"], where=where),
        tokens=None if tokens is None else parse_tokens(tokens, where=where),
        instruction=None if table is None else lookup_instruction(meta, table, where=where),
        meta=meta,
    )


# ---------------------------------------------------------------------------------------------- instructions


def read_instructions(source: str | Path) -> dict[str, str] | None:
    """instruction key -> sentence, from ``instructions.json`` or ``instruction.json``; None where there is
    neither.

    Raises:
        ShardError: no JSON object of strings.
    """
    folder = Path(source)
    folder = folder if folder.is_dir() else folder.parent
    for path in (folder / name for name in INSTRUCTION_FILES):
        if path.is_file():
            return parse_instructions(path.read_bytes(), where=str(path))
    return None


def parse_instructions(data: bytes, *, where: str) -> dict[str, str]:
    """The instruction table of a data set. Raises ShardError."""
    try:
        table = json.loads(data)
    except ValueError as error:
        raise ShardError(f"{where}: no JSON ({error}). Expected {{key: sentence}}.") from None
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise ShardError(f"{where}: expected an object {{key: sentence}}.")
    return table


def lookup_instruction(meta: Mapping[str, Any], table: Mapping[str, str], *, where: str) -> str:
    """The sentence of a sample. A missing key or sentence is an error, never an empty sentence.

    Raises:
        ShardError: key missing in the meta or in the table, or the sentence is blank.
    """
    key = meta.get(INSTRUCTION_KEY)
    if key is None:
        raise ShardError(
            f"{where}: meta.json has no {INSTRUCTION_KEY!r}. Add the key of the sample's instruction."
        )
    sentence = table.get(key, "")
    if not sentence.strip():
        raise ShardError(f"{where}: instructions.json has no sentence for {key!r}. Add it there.")
    return sentence


def instruction_table(
    path: Path, instructions: Mapping[str, str] | Literal["file", "ignore"]
) -> Mapping[str, str] | None:
    """The table to use for a shard on disk: the given one, the one beside it, or None to ignore sentences.

    Raises:
        ShardError: "file", and there is none.
    """
    if not isinstance(instructions, str):
        return instructions
    if instructions == "ignore":
        return None
    table = read_instructions(path)
    if table is None:
        raise ShardError(
            f"{path.parent}: neither {' nor '.join(INSTRUCTION_FILES)} is there. "
            f"Write one ({{key: sentence}}), or pass instructions={{...}}."
        )
    return table


# ---------------------------------------------------------------------------------------------- whole folders


@dataclass
class ReadReport:
    """What a tolerant reader left out: one line for each damaged shard or sample."""

    skipped: list[str] = field(default_factory=list)


def find_shards(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The tar files of a folder in name order, or the given files.

    Raises:
        ShardError: there are none.
    """
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(path) for path in source]
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.glob("*.tar"))
        elif path.is_file():
            found.append(path)
        else:
            raise ShardError(f"{path}: no such shard or folder. Record one with 'rdt2 data record'.")
    if not found:
        raise ShardError(
            f"{', '.join(map(str, paths))}: holds no shard-*.tar. Record one with 'rdt2 data record'."
        )
    return found


def read_shards(
    source: str | Path | Iterable[str | Path],
    *,
    instructions: Mapping[str, str] | Literal["file", "ignore"] = "file",
    on_error: Literal["raise", "skip"] = "raise",
    report: ReadReport | None = None,
) -> Iterator[Sample]:
    """Stream the samples of a folder, a tar, or several tars, in order; one sample in memory at a time.

    instructions: "file" reads the table beside the shards, "ignore" leaves the sentence None, or a table.
    on_error: "skip" passes over a damaged sample (or the rest of a damaged tar) and notes it in ``report``.

    Raises:
        ShardError: naming the file, the sample, what was expected and what came.
    """
    report = ReadReport() if report is None else report
    for path in find_shards(source):
        table = instruction_table(path, instructions)
        with open(path, "rb") as stream:
            samples = stream_shard(TarReader(stream, name=path.name, size=path.stat().st_size))
            while True:
                try:
                    key, files, _ = next(samples)
                except StopIteration:
                    break
                except ShardError as error:
                    if on_error == "raise":
                        raise
                    report.skipped.append(f"{error} (rest of the shard left out)")
                    break
                try:
                    yield parse_sample(key, files, shard=path.name, table=table)
                except ShardError as error:
                    if on_error == "raise":
                        raise
                    report.skipped.append(str(error))
