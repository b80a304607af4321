"""Training shards in the published layout: written whole or not at all, read without trusting them.

A data set is a folder::

    shard-000000.tar      samples, each four files:
        {key}.image.jpg         384 x 768, left picture | right picture, JPEG quality 95
        {key}.action.npy        (24, 20) float32: relative poses and absolute widths in metres, NOT normalised
        {key}.action_token.npy  (27,) int16, absent until the shards are tokenised
        {key}.meta.json         {"sub_task_instruction_key": ...} and anything else
    instructions.json     instruction key -> sentence
    normalizer.safetensors
    dataset.yaml

A tar is written under a temporary name and renamed when it is complete, so a file called
``shard-*.tar`` is whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON
from rdt2.errors import RecordingError, ShardError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from rdt2.normalizer import LinearNormalizer

NUM_TOKENS = 27
JPEG_QUALITY = 95
PICTURE_SHAPE = (384, 768)
INSTRUCTION_FILES = ("instructions.json", "instruction.json")
INSTRUCTION_KEY = "sub_task_instruction_key"
MEMBERS = ("image.jpg", "action.npy", "action_token.npy", "meta.json")

_BLOCK = 512
_MAX_BYTES = {
    "image.jpg": 16 << 20,
    "action.npy": 64 << 10,
    "action_token.npy": 4 << 10,
    "meta.json": 1 << 20,
}
_TEMPORARY = ".partial"


# ----------------------------------------------------------------------------------------------- one sample


@dataclass(frozen=True)
class Sample:
    """One observation with the chunk that followed it.

    action: (24, 20) float32 in metres; tokens: (27,) int16 or None; instruction: None only where the reader
    was told not to ask for one.
    """

    key: str
    shard: str
    jpeg: bytes
    action: Float[np.ndarray, "24 20"]
    tokens: Int[np.ndarray, " 27"] | None
    instruction: str | None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def picture(self) -> UInt8[np.ndarray, "384 768 3"]:
        """The decoded picture, uint8 RGB (384, 768, 3), left | right.

        Raises:
            ShardError: the bytes are no JPEG of that size.
        """
        return decode_jpeg(self.jpeg, where=f"{self.shard}, sample {self.key}")


def encode_jpeg(picture: UInt8[np.ndarray, "384 768 3"]) -> bytes:
    """JPEG bytes of a uint8 RGB picture, at the quality and chroma subsampling of the published shards."""
    import simplejpeg

    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"
    )


def decode_jpeg(
    data: bytes | memoryview, *, where: str = "picture", out: np.ndarray | None = None
) -> UInt8[np.ndarray, "384 768 3"]:
    """Decode a shard's picture to uint8 RGB (384, 768, 3), into ``out`` when it is given.

    Raises:
        ShardError: not a JPEG, damaged, or of another size.
    """
    import simplejpeg

    data = bytes(data)
    if data[:2] != b"\xff\xd8":
        raise ShardError(
            f"{where}: image.jpg does not start like a JPEG. Write pictures with rdt2.data.encode_jpeg."
        )
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != PICTURE_SHAPE:
            raise ShardError(
                f"{where}: image.jpg is {height} x {width}, expected {PICTURE_SHAPE[0]} x {PICTURE_SHAPE[1]} "
                f"(left | right). Resize each wrist picture to 384 x 384."
            )
        return simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
    except ShardError:
        raise
    except ValueError as error:
        raise ShardError(
            f"{where}: image.jpg cannot be decoded ({error}). Drop or record that sample again."
        ) from None


def parse_npy(
    data: bytes | memoryview, *, shape: tuple[int, ...], dtype: str, where: str, name: str
) -> np.ndarray:
    """An array from the bytes of an ``.npy`` file whose shape and dtype are known beforehand.

    The header is compared before anything is allocated, so neither a pickle nor an absurd size gets further.

    Raises:
        ShardError: another format, shape, dtype, byte order or length.
    """
    stream = io.BytesIO(bytes(data))
    try:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        found_shape, fortran, found = read_header(stream, max_header_size=1024)
    except (ValueError, SyntaxError, TypeError) as error:
        raise ShardError(f"{where}: {name} is no .npy file ({error}). Save it with numpy.save.") from None
    expected = np.dtype(dtype)
    if found_shape != shape:
        raise ShardError(
            f"{where}: {name} is {found_shape}, expected {shape}. "
            f"Cut the recording into chunks with rdt2.data.Episode."
        )
    if found != expected or found.hasobject:
        raise ShardError(
            f"{where}: {name} is {found.str}, expected {expected.str}. Save it as {expected.name}."
        )
    body = data[stream.tell() :]
    if len(body) != expected.itemsize * int(np.prod(shape)):
        raise ShardError(
            f"{where}: {name} has {len(body)} bytes of values, its header promises another length."
        )
    return np.frombuffer(body, dtype=expected).reshape(shape, order="F" if fortran else "C").copy()


def parse_action(data: bytes | memoryview, *, where: str) -> Float[np.ndarray, "24 20"]:
    """The (24, 20) float32 chunk of a sample. Raises ShardError."""
    return parse_npy(data, shape=(HORIZON, ACTION_DIM), dtype="<f4", where=where, name="action.npy")


def parse_tokens(data: bytes | memoryview, *, where: str) -> Int[np.ndarray, " 27"]:
    """The (27,) int16 action tokens of a sample. Raises ShardError."""
    return parse_npy(data, shape=(NUM_TOKENS,), dtype="<i2", where=where, name="action_token.npy")


def parse_meta(data: bytes | memoryview, *, where: str) -> dict[str, Any]:
    """The meta dictionary of a sample. Raises ShardError."""
    try:
        meta = json.loads(bytes(data))
    except ValueError as error:
        raise ShardError(f"{where}: meta.json is no JSON ({error}).") from None
    if not isinstance(meta, dict):
        raise ShardError(
            f"{where}: meta.json is a {type(meta).__name__}, expected an object with {INSTRUCTION_KEY!r}."
        )
    return meta


# ----------------------------------------------------------------------------------------------- tar files


class Member(NamedTuple):
    """Where a file lies inside a tar: its name, first byte and length."""

    name: str
    offset: int
    size: int


def scan_tar(path: str | Path) -> Iterator[Member]:
    """The regular files of an uncompressed tar, in order, reading headers only.

    ``tarfile`` takes a damaged or missing header for the end of the archive. Here that is an error, and so
    is an archive without its end mark.

    Raises:
        ShardError: truncated or damaged.
    """
    path = Path(path)
    total = path.stat().st_size
    with open(path, "rb") as stream:
        position, long_name, long_size = 0, None, None
        while True:
            stream.seek(position)
            header = stream.read(_BLOCK)
            if len(header) < _BLOCK:
                raise ShardError(
                    f"{path.name}: ends at byte {total} without the end mark of a tar. "
                    f"It was cut off: copy or record it again."
                )
            if header.count(0) == _BLOCK:
                return
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise ShardError(
                    f"{path.name}: no tar header at byte {position} ({error}). Copy or record it again."
                ) from None
            position += _BLOCK
            size = info.size if long_size is None else long_size
            if position + size > total:
                raise ShardError(
                    f"{path.name}: {info.name} needs {size} bytes at {position}, the file ends at {total}. "
                    f"It was cut off: copy or record it again."
                )
            if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME) and size <= 1 << 16:
                extended = stream.read(size)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = extended.rstrip(b"\0").decode()
                else:
                    records = dict(re.findall(rb"\d+ ([^=\n]+)=([^\n]*)\n", extended))
                    long_name = records[b"path"].decode() if b"path" in records else None
                    long_size = int(records[b"size"]) if b"size" in records else None
            elif info.isreg():
                yield Member(long_name or info.name, position, size)
                long_name, long_size = None, None
            elif info.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
                raise ShardError(
                    f"{path.name}: {info.name} is no plain file. A shard holds plain files only."
                )
            position += -(-size // _BLOCK) * _BLOCK


def scan_shard(path: str | Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """The samples of a shard in order: (key, {member name: place}). Files of other names are passed over.

    Raises:
        ShardError: damaged tar, a file missing or twice in a sample, or too large to be what its name says.
    """
    path = Path(path)
    key, members = None, {}
    for member in scan_tar(path):
        name = member.name.rsplit("/", 1)[-1]
        this, _, extension = name.partition(".")
        if extension not in MEMBERS:
            continue
        if key is not None and this != key:
            yield key, _complete(path, key, members)
            members = {}
        key = this
        if extension in members:
            raise ShardError(
                f"{path.name}, sample {key}: {extension} is there twice. Keys in a shard must differ."
            )
        if member.size > _MAX_BYTES[extension]:
            raise ShardError(
                f"{path.name}, sample {key}: {extension} has {member.size} bytes, "
                f"at most {_MAX_BYTES[extension]} expected. It is not what its name says."
            )
        members[extension] = member
    if key is not None:
        yield key, _complete(path, key, members)


def _complete(path: Path, key: str, members: dict[str, Member]) -> dict[str, Member]:
    missing = [name for name in MEMBERS if name not in members and name != "action_token.npy"]
    if missing:
        raise ShardError(
            f"{path.name}, sample {key}: {', '.join(missing)} missing. Record or convert it again."
        )
    return members


# ----------------------------------------------------------------------------------------------- reading


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
            try:
                table = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ShardError(f"{path}: no JSON ({error}). Expected {{key: sentence}}.") from None
            if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
                raise ShardError(f"{path}: expected an object {{key: sentence}}.")
            return table
    return None


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
        table = _instruction_table(path, instructions)
        samples = scan_shard(path)
        with open(path, "rb") as stream:
            while True:
                try:
                    key, members = next(samples)
                except StopIteration:
                    break
                except ShardError as error:
                    if on_error == "raise":
                        raise
                    report.skipped.append(f"{error} (rest of the shard left out)")
                    break
                try:
                    yield _read_sample(stream, path, key, members, table)
                except ShardError as error:
                    if on_error == "raise":
                        raise
                    report.skipped.append(str(error))


def _instruction_table(
    path: Path, instructions: Mapping[str, str] | Literal["file", "ignore"]
) -> Mapping[str, str] | None:
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


def _read_sample(
    stream: io.BufferedReader,
    path: Path,
    key: str,
    members: dict[str, Member],
    table: Mapping[str, str] | None,
) -> Sample:
    where = f"{path.name}, sample {key}"

    def read(name: str) -> bytes:
        stream.seek(members[name].offset)
        return stream.read(members[name].size)

    meta = parse_meta(read("meta.json"), where=where)
    jpeg = read("image.jpg")
    if jpeg[:2] != b"\xff\xd8":
        raise ShardError(
            f"{where}: image.jpg does not start like a JPEG. Write pictures with rdt2.data.encode_jpeg."
        )
    return Sample(
        key=key,
        shard=path.name,
        jpeg=jpeg,
        action=parse_action(read("action.npy"), where=where),
        tokens=parse_tokens(read("action_token.npy"), where=where) if "action_token.npy" in members else None,
        instruction=None if table is None else lookup_instruction(meta, table, where=where),
        meta=meta,
    )


# ----------------------------------------------------------------------------------------------- writing


def instruction_key(sentence: str) -> str:
    """A readable key for a sentence: 'Pick up the red cube.' -> 'pick_up_the_red_cube'."""
    return re.sub(r"[^a-z0-9]+", "_", sentence.lower()).strip("_")


class ShardWriter:
    """Writes samples to ``shard-000000.tar``, ``shard-000001.tar``, ... and then ``instructions.json``.

    Use it as a context manager. When the block ends well, the last shard and the instruction table are
    finished; when it ends by an exception, the unfinished shard is removed and the finished ones stay.
    """

    def __init__(
        self,
        out_dir: str | Path,
        *,
        samples_per_shard: int = 5000,
        first_shard: int = 0,
        write_instructions: bool = True,
    ) -> None:
        """
        samples_per_shard: a new tar is begun after so many samples.
        first_shard: number of the first tar, so that several processes can write into one folder.
        write_instructions: False leaves ``instructions.json`` to the caller, as several processes must.
        """
        if samples_per_shard < 1:
            raise RecordingError(f"samples_per_shard must be at least 1, got {samples_per_shard}.")
        self.folder = Path(out_dir)
        self.samples_per_shard = samples_per_shard
        self.write_instructions = write_instructions
        self.instructions: dict[str, str] = {}
        self.shards: list[Path] = []
        self._number = first_shard
        self._count = 0
        self._key = 0
        self._stream: io.BufferedWriter | None = None
        self._tar: tarfile.TarFile | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(
                f"{self.folder}: cannot be made ({error}). Choose a folder you may write."
            ) from None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @property
    def _target(self) -> Path:
        return self.folder / f"shard-{self._number:06d}.tar"

    def write(
        self,
        *,
        picture: UInt8[np.ndarray, "384 768 3"] | bytes,
        action: Float[np.ndarray, "24 20"],
        instruction: str,
        tokens: Int[np.ndarray, " 27"] | None = None,
        meta: Mapping[str, Any] | None = None,
        key: str | int | None = None,
    ) -> None:
        """Add one sample. picture: uint8 RGB (384, 768, 3) left | right, or its JPEG bytes; action in metres.

        Raises:
            RecordingError: a value of the wrong shape, or the disk is full (finished shards stay whole).
        """
        action = np.ascontiguousarray(action, dtype="<f4")
        if action.shape != (HORIZON, ACTION_DIM) or not np.isfinite(action).all():
            raise RecordingError(
                f"action is {action.shape}{'' if np.isfinite(action).all() else ' with NaN or infinity'}, "
                f"expected finite ({HORIZON}, {ACTION_DIM})."
            )
        if not instruction.strip():
            raise RecordingError('instruction is empty. Give a sentence such as "Pick up the apple."')
        if not isinstance(picture, bytes):
            if picture.shape != (*PICTURE_SHAPE, 3) or picture.dtype != np.uint8:
                raise RecordingError(
                    f"picture is {picture.dtype} {picture.shape}, expected uint8 (384, 768, 3)."
                )
            picture = encode_jpeg(picture)
        name = str(self._key if key is None else key)
        if "." in name or "/" in name:
            raise RecordingError(f"sample key {name!r} holds '.' or '/'; a key is a plain word or number.")
        sentence_key = instruction_key(instruction)
        if self.instructions.setdefault(sentence_key, instruction) != instruction:
            raise RecordingError(
                f"{instruction!r} and {self.instructions[sentence_key]!r} get the same key. Reword one."
            )
        files = {"image.jpg": picture, "action.npy": _npy(action)}
        if tokens is not None:
            tokens = np.ascontiguousarray(tokens, dtype="<i2")
            if tokens.shape != (NUM_TOKENS,):
                raise RecordingError(f"tokens are {tokens.shape}, expected ({NUM_TOKENS},).")
            files["action_token.npy"] = _npy(tokens)
        files["meta.json"] = json.dumps({INSTRUCTION_KEY: sentence_key, **(meta or {})}).encode()
        try:
            tar = self._tar or self._open()
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{name}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        except OSError as error:
            self._fail(error)
        self._key += 1
        self._count += 1
        if self._count >= self.samples_per_shard:
            self._finish()

    def close(self) -> None:
        """Finish the last shard and write ``instructions.json`` (merged with the one that is there).

        Raises:
            RecordingError: the disk is full.
        """
        if self._tar is not None:
            self._finish()
        if self.instructions and self.write_instructions:
            table = (read_instructions(self.folder) or {}) | self.instructions
            write_atomic(
                self.folder / INSTRUCTION_FILES[0], json.dumps(table, indent=1, sort_keys=True) + "\n"
            )

    def abort(self) -> None:
        """Leave the unfinished shard out; finished shards stay."""
        if self._stream is not None:
            # Closing flushes, and the disk may be full: what is left is removed just below.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream.raw.close()
        self._stream, self._tar, self._count = None, None, 0
        _temporary(self._target).unlink(missing_ok=True)

    def _open(self) -> tarfile.TarFile:
        self._stream = open(_temporary(self._target), "wb")  # noqa: SIM115  closed by _finish or abort
        self._tar = tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.USTAR_FORMAT)
        return self._tar

    def _finish(self) -> None:
        assert self._tar is not None
        assert self._stream is not None
        try:
            self._tar.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            os.replace(_temporary(self._target), self._target)
        except OSError as error:
            self._fail(error)
        self.shards.append(self._target)
        self._stream, self._tar, self._count = None, None, 0
        self._number += 1

    def _fail(self, error: OSError) -> None:
        target, whole = self._target, len(self.shards)
        self.abort()
        raise RecordingError(
            f"{target}: could not be written ({error}). It was removed; "
            f"{whole} earlier shard(s) of this run are whole. "
            f"Free some space and go on from there."
        ) from error


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{_TEMPORARY}")


def write_atomic(path: str | Path, text: str) -> None:
    """Write a small text file under a temporary name and rename it.

    Raises:
        RecordingError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordingError(
            f"{path}: could not be written ({error}). Free some space and try again."
        ) from error


def write_dataset_yaml(folder: str | Path, *, name: str) -> Path:
    """Write ``dataset.yaml`` of the published form beside the shards; its paths are relative to the file."""
    import yaml

    path = Path(folder) / "dataset.yaml"
    config = {
        "name": name,
        "type": "single",
        "shards_dir": ".",
        "kwargs": {"instruction_path": INSTRUCTION_FILES[0], "normalizer_path": "normalizer.safetensors"},
    }
    write_atomic(path, yaml.safe_dump(config, sort_keys=False))
    return path


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
