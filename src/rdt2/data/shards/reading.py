"""Shards read in order: which files belong to a sample, which sentence, and what to do with damage."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

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
from rdt2.files import disguise

_log = logging.getLogger(__name__)

INSTRUCTION_FILES = ("instructions.json", "instruction.json")

_PACKED = re.compile(r"(\.tar\.(gz|bz2|xz|zst|Z)|\.(tgz|tbz2|txz))$")
_MAX_BYTES = {
    "image.jpg": 16 << 20,
    "action.npy": 64 << 10,
    "action_token.npy": 4 << 10,
    "meta.json": 1 << 20,
}
_EXAMPLES = 3
_Payload = TypeVar("_Payload")


# ----------------------------------------------------------------------------------------- samples of one tar


def scan_shard(path: str | Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """The samples of a shard in order: (key, {member name: place}). Files of other names are passed over.

    Raises:
        ShardError: damaged tar, one without samples, a file missing in a sample, not beside its others or there
            twice, or too large to be what its name says.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        reader = TarReader(stream, name=path.name, size=path.stat().st_size)
        yield from scan_samples(reader)


def scan_samples(reader: TarReader) -> Iterator[tuple[str, dict[str, Member]]]:
    """scan_shard of a tar that is open. Raises ShardError."""
    for key, members, _ in _grouped(reader, lambda member: member):
        yield key, members


def stream_shard(reader: TarReader) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """The samples of a shard in order: (key, {member name: bytes}, where the next sample begins).

    Raises:
        ShardError: as scan_shard.
    """
    return _grouped(reader, reader.read)


def split_name(name: str) -> tuple[str, str] | None:
    """(key, extension) of a file in a tar as the webdataset library tells them: the key keeps its folders and
    ends at the first dot after them, extensions are lower case. None where the name begins with a dot: hidden
    files, and the ``._x`` shadows of macOS."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and dot else None


def _grouped(
    reader: TarReader, payload: Callable[[Member], _Payload]
) -> Iterator[tuple[str, dict[str, _Payload], int]]:
    first, any_sample, seen = reader.position == 0, False, list[str]()
    group = _Group[_Payload](reader.name, "")
    for member in reader:
        split = split_name(member.name)
        if split is None:
            continue
        root, extension = split
        if root != group.root:
            for key, files in group.end():
                any_sample = True
                yield key, files, member.begin
            group = _Group(reader.name, root)
        file = next((name for name in MEMBERS if f".{extension}".endswith(f".{name}")), None)
        if file is None:
            seen += [member.name][: _EXAMPLES - len(seen)]
            continue
        # A key may hold dots, which webdataset takes for the beginning of the extension.
        key = f"{root}.{extension}"[: -len(file) - 1]
        for done, files in group.next(key):
            any_sample = True
            yield done, files, member.begin
        if member.size > _MAX_BYTES[file]:
            raise ShardError(
                f"{reader.name}, sample {key}: {file} has {member.size} bytes, "
                f"at most {_MAX_BYTES[file]} expected. It is not what its name says."
            )
        group.put(key, file, payload(member))
    for key, files in group.end():
        any_sample = True
        yield key, files, reader.position
    if first and not any_sample:
        raise ShardError(
            f"{reader.name}: holds no sample; expected files KEY.image.jpg, KEY.action.npy and KEY.meta.json, "
            f"found {', '.join(seen) or 'none'}. Convert the recording ('rdt2 data convert'), or move that tar away."
        )


class _Group(Generic[_Payload]):
    """The files of one key as webdataset sees it: one sample, or several whose keys hold dots.

    ``0.depth.image.jpg`` beside the files of 0 is a file that nobody asked for; ``ep.001.image.jpg``,
    ``ep.001.action.npy``, ... are a sample of the key ep.001.
    """

    def __init__(self, shard: str, root: str) -> None:
        self.root = root
        self._shard = shard
        self._own: dict[str, _Payload] = {}
        self._dotted: tuple[str, dict[str, _Payload]] = ("", {})
        self._incomplete: ShardError | None = None

    def next(self, key: str) -> Iterator[tuple[str, dict[str, _Payload]]]:
        """Before a file of ``key``: the sample before it, where its key holds dots and it is complete."""
        if key in (self.root, self._dotted[0]):
            return
        before, self._dotted = self._dotted, (key, {})
        if not before[1]:
            return
        error = _incomplete(self._shard, *before)
        if error is None:
            yield before
        self._incomplete = self._incomplete or error

    def put(self, key: str, file: str, payload: _Payload) -> None:
        files = self._own if key == self.root else self._dotted[1]
        if file in files:
            raise ShardError(
                f"{self._shard}, sample {key}: {file} is there twice. Keys in a shard must differ."
            )
        files[file] = payload

    def end(self) -> Iterator[tuple[str, dict[str, _Payload]]]:
        """The last samples of the group. Raises ShardError where one is incomplete."""
        yield from self.next("")
        error = _incomplete(self._shard, self.root, self._own) if self._own else self._incomplete
        if error is not None:
            raise error
        if self._own:
            yield self.root, self._own


def _incomplete(shard: str, key: str, files: Mapping[str, Any]) -> ShardError | None:
    missing = [name for name in MEMBERS if name not in files and name != "action_token.npy"]
    if not missing:
        return None
    where = f"{shard}, sample {key}: {', '.join(missing)} missing beside {', '.join(files)}."
    if missing == ["action.npy"] and "action_token.npy" in files:
        return ShardError(
            f"{where} Action tokens alone do not say the motion: action.npy holds the (24, 20) chunk in metres that "
            "they stand for. Take the chunks of the recording, or decode the tokens with the tokenizer and the "
            "normalizer that made them (ActionTokenizer.decode, then LinearNormalizer.denormalize)."
        )
    return ShardError(
        f"{where} The files of a sample lie one after the other in a tar. If they only lie apart, unpack it and pack "
        f"it again in order: tar --sort=name -cf {shard} -C FOLDER . ; if they are gone, record or convert again."
    )


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
        if (instead := disguise(data)) is not None:
            raise ShardError(f"{where}: it is {instead}.") from None
        raise ShardError(f"{where}: no JSON ({error}). Expected {{key: sentence}}.") from None
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise ShardError(f"{where}: expected an object {{key: sentence}}.")
    return table


def lookup_instruction(meta: Mapping[str, Any], table: Mapping[str, str], *, where: str) -> str:
    """The sentence of a sample. A missing key or sentence is an error, never an empty sentence.

    Raises:
        ShardError: key missing in the meta or in the table, or the sentence is blank.
    """
    key = told_key(meta)
    if key is None:
        raise ShardError(
            f"{where}: meta.json has no {INSTRUCTION_KEY!r}. Add the key of the sample's instruction."
        )
    sentence = table.get(key, "")
    if not sentence.strip():
        raise ShardError(f"{where}: instructions.json has no sentence for {key!r}. Add it there.")
    return sentence


def told_key(meta: Mapping[str, Any]) -> str | None:
    """The instruction key of a sample, None where its meta has none. A number is read as its digits."""
    key = meta.get(INSTRUCTION_KEY)
    return str(key) if isinstance(key, (str, int)) and not isinstance(key, bool) else None


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
        ShardError: there are none, or some are compressed, or links to nothing.
    """
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(path) for path in source]
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [path / name for name in pick_shards([each.name for each in path.iterdir()], str(path))]
        elif path.is_file():
            found.append(path)
        else:
            raise ShardError(f"{path}: no such shard or folder. Record one with 'rdt2 data record'.")
    if not found:
        raise ShardError(
            f"{', '.join(map(str, paths))}: holds no shard-*.tar. Record one with 'rdt2 data record'."
        )
    for path in found:
        if path.is_symlink() and not path.exists():
            raise ShardError(f"{path}: links to {path.readlink()}, which is not there. Fetch that file.")
    return found


def pick_shards(names: Iterable[str], where: str) -> list[str]:
    """The tars among the file names of a folder, in order; hidden files and macOS shadows (``._x``) are none.

    Raises:
        ShardError: a compressed tar that is not there unpacked, too: its samples would be missing silently.
    """
    shown = sorted(name for name in names if not name.startswith("."))
    tars = [name for name in shown if name.endswith(".tar")]
    packed = [name for name in shown if _PACKED.search(name) and f"{_PACKED.sub('', name)}.tar" not in tars]
    if packed:
        raise ShardError(
            f"{where}: {packed[0]} ({len(packed)} in all) is compressed; samples are read from any place of a plain "
            f"tar, and pictures hardly shrink. Unpack it, such as with 'gunzip -k {packed[0]}', or move it away."
        )
    return tars


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
