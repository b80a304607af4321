"""Zarr stores of format 2 and 3, in a folder or a zip, whose metadata are judged before zarr decodes anything."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import RecordingError
from rdt2.files import unreadable

if TYPE_CHECKING:
    from jaxtyping import Bool

MAX_ROWS = 50_000_000
_MAX_CHUNK = 1 << 30
"""Bytes one chunk may decode to; a wrist picture is under 10 MB, UMI's pose arrays are one chunk each."""
_MAX_RATIO = 200
"""A zip member that inflates more than this is no recording."""
_UNSAFE_CODECS = {"pickle", "json2", "msgpack2", "vlen-utf8", "vlen-bytes", "vlen-array", "categorize"}


@dataclass(frozen=True)
class _Meta:
    """What the metadata of an array say. stored: shape of what lies in one file; decoded: of what is decoded at
    once. prefix, separator: how the files are named. filled: whether chunks of nothing but the fill value may be
    left out."""

    zarr_format: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    decoded: tuple[int, ...]
    codecs: frozenset[str]
    prefix: str
    separator: str
    filled: bool

    @property
    def counts(self) -> tuple[int, ...]:
        """How many files there are along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.stored, strict=True))


class ZarrFiles:
    """The arrays of a store, by their path in it."""

    def __init__(self, path: Path, marker: str) -> None:
        """
        marker: an array that every store has; in a zip of a folder it tells the folder.

        Raises:
            RecordingError: a zip that is truncated, or inflates without measure; Python 3.10.
        """
        if sys.version_info < (3, 11):
            raise RecordingError(
                f"{path} is read with zarr 3, which needs Python 3.11 or newer, and this is 3.10. "
                "Convert it with a newer Python: the shards are the same for all."
            )
        import zarr

        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._root = ""
        self._metas: dict[str, _Meta] = {}
        _register_codecs()
        if path.is_dir():
            self._store: Any = zarr.storage.LocalStore(path, read_only=True)
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise RecordingError(
                unreadable(
                    path, f"is no whole zip file ({error}). It was cut off: download or record it again."
                )
            ) from None
        self._names = set(self._zip.namelist())
        ends = [f"{marker}/{name}" for name in (".zarray", "zarr.json")]
        roots = {name.removesuffix(end) for end in ends for name in self._names if name.endswith(f"/{end}")}
        if len(roots) == 1 and not self._names & set(ends):
            self._root = roots.pop()
        for member in self._zip.infolist():
            if member.file_size > 1 << 20 and member.file_size > _MAX_RATIO * max(1, member.compress_size):
                raise RecordingError(
                    f"{path}: {member.filename} would inflate from {member.compress_size} to "
                    f"{member.file_size} bytes. That is no recording."
                )
        self._store = zarr.storage.ZipStore(path, mode="r", read_only=True)

    def has(self, name: str) -> bool:
        """Whether there is such an array."""
        return self._exists(f"{name}/.zarray") or self._exists(f"{name}/zarr.json")

    def array(self, name: str) -> Any:
        """A zarr array of numbers, after its metadata were found harmless. Raises RecordingError."""
        import zarr

        meta, where = self._meta(name), f"{self.path}: {name}"
        if meta.dtype.hasobject or meta.codecs & _UNSAFE_CODECS:
            raise RecordingError(f"{where} holds Python objects; loading them could run code. Store numbers.")
        if meta.dtype.kind not in "fiu":
            raise RecordingError(f"{where} is {meta.dtype}, expected numbers.")
        size = math.prod(meta.decoded) * meta.dtype.itemsize
        if size > _MAX_CHUNK or min((*meta.decoded, *meta.stored), default=1) < 1:
            raise RecordingError(
                f"{where} has chunks of {meta.decoded} {meta.dtype}: more than a recording needs."
            )
        if any(size < 0 for size in meta.shape) or (meta.shape and meta.shape[0] > MAX_ROWS):
            raise RecordingError(f"{where} has shape {meta.shape}: no recording is that long.")
        if len(meta.stored) != len(meta.shape):
            raise RecordingError(f"{where} has shape {meta.shape} and chunks of {meta.stored}.")
        if math.prod(meta.counts) > MAX_ROWS:
            raise RecordingError(
                f"{where} has shape {meta.shape}, {math.prod(meta.counts)} chunks: no recording has."
            )
        try:
            return zarr.open_array(
                self._store,
                path=self._root + name,
                mode="r",
                zarr_format=meta.zarr_format,  # type: ignore[arg-type]
            )
        except Exception as error:  # zarr and every codec have exceptions of their own
            if "imagecodecs_jpegxl" in meta.codecs and not _has_imagecodecs():
                raise RecordingError(
                    f"{where} is JPEG XL and imagecodecs is not installed: pip install 'rdt2[data]'"
                ) from None
            raise RecordingError(f"{where} cannot be opened ({type(error).__name__}: {error}).") from None

    def missing_rows(self, name: str) -> Bool[np.ndarray, " n"]:
        """Which rows of an array have a chunk that is not stored. Zarr would read it as the fill value, silently."""
        meta = self._meta(name)
        missing = np.zeros(meta.shape[0], bool)
        for place in np.ndindex(*meta.counts):
            if not self._exists(f"{name}/{meta.prefix}{meta.separator.join(map(str, place))}"):
                missing[place[0] * meta.stored[0] : (place[0] + 1) * meta.stored[0]] = True
        return missing

    def may_leave_out(self, name: str) -> bool:
        """Whether chunks that hold nothing but the fill value may have been left out, and are not lost."""
        return self._meta(name).filled

    def rows(self, array: Any, start: int, end: int) -> np.ndarray:
        """Rows of an array, (end - start, ...). Raises RecordingError for a damaged chunk."""
        try:
            return np.asarray(array[start:end])
        except Exception as error:  # every codec has exceptions of its own
            raise RecordingError(
                f"{self.path}: {array.path or array.name}, frame {start} cannot be decoded "
                f"({type(error).__name__}: {error})."
            ) from error

    def _meta(self, name: str) -> _Meta:
        if name not in self._metas:
            self._metas[name] = self._read_meta(name)
        return self._metas[name]

    def _read_meta(self, name: str) -> _Meta:
        if not self.has(name):
            raise RecordingError(f"{self.path}: {name} is missing. This is not UMI's layout.")
        path = f"{name}/.zarray"
        parse = _parse_v2
        if not self._exists(path):
            path, parse = f"{name}/zarr.json", _parse_v3
        try:
            if self._zip is None:
                text = (self.path / path).read_bytes()
            else:
                text = self._zip.read(self._root + path)
            values = json.loads(text)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise RecordingError(f"{self.path}: {path} cannot be read ({error}).") from None
        try:
            return parse(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordingError(
                f"{self.path}: {name} has unreadable {path.rpartition('/')[2]} metadata ({error})."
            ) from None

    def _exists(self, path: str) -> bool:
        return (self.path / path).is_file() if self._zip is None else self._root + path in self._names


def _parse_v2(values: dict[str, Any]) -> _Meta:
    chunks = tuple(map(int, values["chunks"]))
    codecs = [values.get("compressor"), *(values.get("filters") or [])]
    return _Meta(
        zarr_format=2,
        dtype=np.dtype(values["dtype"]),
        shape=tuple(map(int, values["shape"])),
        stored=chunks,
        decoded=chunks,
        codecs=frozenset(codec["id"] for codec in codecs if codec),
        prefix="",
        separator=values.get("dimension_separator", "."),
        filled=values.get("fill_value") is not None,
    )


def _parse_v3(values: dict[str, Any]) -> _Meta:
    if values["node_type"] != "array":
        raise ValueError(f"node_type is {values['node_type']!r}, expected 'array'")
    stored = tuple(map(int, values["chunk_grid"]["configuration"]["chunk_shape"]))
    decoded, codecs, pending = stored, set(), list(values["codecs"])
    while pending:
        codec = pending.pop()
        # Codecs of format 2 bear the prefix of their library.
        codecs.add(codec["name"].removeprefix("numcodecs."))
        if codec["name"] == "sharding_indexed":
            decoded = tuple(map(int, codec["configuration"]["chunk_shape"]))
            pending += codec["configuration"]["codecs"]
    encoding = values["chunk_key_encoding"]
    own = encoding["name"] == "default"
    separator = (encoding.get("configuration") or {}).get("separator", "/" if own else ".")
    kind = values["data_type"]
    return _Meta(
        zarr_format=3,
        dtype=np.dtype(kind if isinstance(kind, str) and kind not in ("string", "bytes") else "O"),
        shape=tuple(map(int, values["shape"])),
        stored=stored,
        decoded=decoded,
        codecs=frozenset(codecs),
        prefix=f"c{separator}" if own else "",
        separator=separator,
        filled=values.get("fill_value") is not None,
    )


def _register_codecs() -> None:
    try:
        from imagecodecs.numcodecs import Jpegxl
    except ImportError:  # only recordings with such pictures need it; array() says so for them
        return
    from numcodecs.registry import register_codec

    register_codec(Jpegxl)


def _has_imagecodecs() -> bool:
    from importlib.util import find_spec

    return find_spec("imagecodecs") is not None
