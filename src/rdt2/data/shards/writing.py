"""Shards written whole or not at all: under a temporary name, renamed when complete."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON
from rdt2.data.shards.index import write_index
from rdt2.data.shards.reading import INSTRUCTION_FILES, read_instructions, split_name
from rdt2.data.shards.sample import INSTRUCTION_KEY, NUM_TOKENS, PICTURE_SHAPE, encode_jpeg
from rdt2.errors import RecordingError, ShardError
from rdt2.files import finish_file, partial_file
from rdt2.files import write_whole as write_atomic

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_KEY_LENGTH = 80


def instruction_key(sentence: str) -> str:
    """A readable key for a sentence, another one for every sentence: 'Pick up the red cube.' ->
    'pick_up_the_red_cube'.

    Wordings that a few letters and digits do not tell apart ('pick up the red cube', '拿起苹果。') get a hash of the
    sentence, too. The key depends on nothing else, so processes that write at the same time agree.
    """
    words = re.sub(r"[^a-z0-9]+", "_", sentence.lower()).strip("_")
    if words and len(words) <= _KEY_LENGTH and sentence == f"{words.replace('_', ' ').capitalize()}.":
        return words
    return _hashed_key(sentence, words)


def _hashed_key(sentence: str, words: str) -> str:
    digest = hashlib.blake2b(sentence.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{words[:_KEY_LENGTH] or 'sentence'}_{digest}"


def plain_key(key: str) -> str:
    """The key of a sample as webdataset reads it whole: dots after its folders become underlines."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + base.replace(".", "_")


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

        Raises:
            RecordingError: fewer than one sample a shard, or a folder that cannot be made.
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
        self._table = read_instructions(self.folder) or {}
        """What is in the folder already."""

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
        instruction_key: str | None = None,
    ) -> None:
        """Add one sample. picture: uint8 RGB (384, 768, 3) left | right, or its JPEG bytes; action in metres.

        key: of the sample; None numbers them. It may have folders and no dots, as webdataset reads keys.
        instruction_key: of the sentence, to keep the one it has; None makes one (see `instruction_key`).

        Raises:
            RecordingError: a value of the wrong shape, a key that stands for another sentence, or the disk is
                full (finished shards stay whole).
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
        if split_name(f"{name}.x") != (name, "x"):
            raise RecordingError(
                f"sample key {name!r}: after its folders, a key is a word or number without dots."
            )
        told = self._told_key(instruction, instruction_key)
        files = {"image.jpg": picture, "action.npy": _npy(action)}
        if tokens is not None:
            tokens = np.ascontiguousarray(tokens, dtype="<i2")
            if tokens.shape != (NUM_TOKENS,):
                raise RecordingError(f"tokens are {tokens.shape}, expected ({NUM_TOKENS},).")
            files["action_token.npy"] = _npy(tokens)
        files["meta.json"] = json.dumps(
            {INSTRUCTION_KEY: told} | dict(meta or {}, **{INSTRUCTION_KEY: told})
        ).encode()
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

    def _told_key(self, sentence: str, key: str | None) -> str:
        known = self._table | self.instructions
        if key is None:
            key = instruction_key(sentence)
            if known.get(key, sentence) != sentence:  # a key of somebody else's
                key = _hashed_key(sentence, key)
        if known.setdefault(key, sentence) != sentence:
            raise RecordingError(
                f"{self.folder}: the instruction key {key!r} stands for {known[key]!r} there, and here for "
                f"{sentence!r}. Choose another folder."
            )
        self.instructions[key] = sentence
        return key

    def close(self) -> None:
        """Finish the last shard and write ``instructions.json`` (merged with the one that is there).

        Raises:
            RecordingError: the disk is full.
        """
        if self._tar is not None:
            self._finish()
        if self.instructions and self.write_instructions:
            write_instructions(self.folder, (read_instructions(self.folder) or {}) | self.instructions)

    def abort(self) -> None:
        """Leave the unfinished shard out; finished shards stay."""
        if self._stream is not None:
            # Closing flushes, and the disk may be full: what is left is removed just below.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream.raw.close()
        self._stream, self._tar, self._count = None, None, 0
        partial_file(self._target).unlink(missing_ok=True)

    def _open(self) -> tarfile.TarFile:
        self._stream = open(partial_file(self._target), "wb")  # noqa: SIM115  closed by _finish or abort
        self._tar = tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT)
        return self._tar

    def _finish(self) -> None:
        assert self._tar is not None
        assert self._stream is not None
        try:
            self._tar.close()
            self._stream.close()
            finish_file(partial_file(self._target), self._target)
        except OSError as error:
            self._fail(error)
        self.shards.append(self._target)
        with contextlib.suppress(ShardError):  # a full disk: the first reader makes it then
            write_index(str(self._target))
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


def write_instructions(folder: str | Path, table: Mapping[str, str]) -> None:
    """Write ``instructions.json`` (key -> sentence) of a data set. Raises RecordingError."""
    # As people read it, but for half characters, which UTF-8 cannot hold and JSON can.
    halves = any("\ud800" <= letter <= "\udfff" for pair in table.items() for text in pair for letter in text)
    text = json.dumps(table, indent=1, sort_keys=True, ensure_ascii=halves)
    write_atomic(Path(folder) / INSTRUCTION_FILES[0], text + "\n")


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
