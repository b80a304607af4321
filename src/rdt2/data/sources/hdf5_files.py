"""What is read from an open HDF5 file: numbers, names of columns, sentences, pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.data.sources.pictures import MAX_SIDE, NOT_COLOUR, decode_image
from rdt2.errors import RDT2Error, RecordingError
from rdt2.files import unreadable

_NAME_ATTRIBUTES = (
    "names",
    "column_names",
    "columns",
    "labels",
    "fields",
    "axes",
    "state_names",
    "dim_names",
)
_TEXT_KEYS = ("instruction", "language_instruction", "task", "language_raw")
MAX_VALUES = 1 << 27
"""Numbers a pose or time array may hold; a day at 30 Hz is 52 million."""


def open_file(path: Path) -> Any:
    """Open a file for reading, without a lock: recordings may lie on a read-only disk.

    Raises:
        RecordingError: it is no whole HDF5 file.
    """
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise RecordingError(
            unreadable(path, f"is no whole HDF5 file ({error}). It was cut off: copy or record it again.")
        ) from None


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """An open file; what HDF5 raises about damage inside it is a RecordingError."""
    with open_file(path) as file:
        try:
            yield file
        except RDT2Error:
            raise
        except (
            OSError,
            RuntimeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # of h5py, by what is damaged
            raise RecordingError(
                f"{path}: is damaged inside ({error}). Copy or record it again, or leave it out."
            ) from None


def pose_numbers(file: Any, key: str) -> np.ndarray:
    """(n, columns) numbers with fractions. Raises RecordingError."""
    values = numbers(file, key, 2)
    if file[key].dtype.kind != "f":
        raise RecordingError(
            f"{file.filename}: {key} holds {file[key].dtype}: poses of whole numbers have lost their fractions. "
            f"Store them as float32 or float64."
        )
    return values


def numbers(file: Any, key: str, *dimensions: int) -> np.ndarray:
    """An array as float64, whatever its byte order: with `dimensions` 1 (n,), with 2 (n, m). Raises RecordingError."""
    found = file.get(key)
    if not hasattr(found, "shape"):
        raise RecordingError(f"{file.filename}: has no dataset {key}.")
    if found.dtype.kind not in "fiu":
        raise RecordingError(f"{file.filename}: {key} holds {found.dtype}, expected numbers.")
    if found.ndim not in dimensions or found.size > MAX_VALUES:
        raise RecordingError(
            f"{file.filename}: {key} is {found.shape}, expected {' or '.join(map(str, dimensions))} dimensions "
            f"and at most {MAX_VALUES} numbers."
        )
    return found[()].astype(np.float64)


def sentences(file: Any, count: int) -> str | list[str] | None:
    """The sentence of an episode, or one for each of its ``count`` frames."""
    for key in _TEXT_KEYS:
        if key in file.attrs:
            value = file.attrs[key]
        elif key in file and hasattr(file[key], "shape") and file[key].size in (1, count):
            value = file[key][()]
        else:
            continue
        found = [
            _decoded(each, f"{file.filename}: {key}") for each in np.asarray(value, dtype=object).reshape(-1)
        ]
        if any(found):
            return found[0] if len(found) == 1 else found
    return None


def _decoded(value: Any, where: str) -> str:
    """A text of a file. Raises RecordingError for one that is not UTF-8: guessed letters would be another sentence."""
    try:
        if isinstance(value, bytes):
            value = value.decode("utf-8")
        elif isinstance(value, str):
            value.encode("utf-8")  # h5py hides bytes that are none in its strings
    except UnicodeError:
        raise RecordingError(
            f"{where} is {value!r:.80}, which is no UTF-8 (perhaps GBK). Write it again as UTF-8."
        ) from None
    return value.strip() if isinstance(value, str) else ""


def column_names(file: Any, key: str) -> list[str]:
    """Names of the columns of a dataset, where an attribute of it has them."""
    attributes = file[key].attrs
    for attribute in _NAME_ATTRIBUTES:
        if attribute in attributes:
            values = np.asarray(attributes[attribute], dtype=object).reshape(-1)
            names = [_decoded(value, f"{file.filename}: {key}, {attribute}") for value in values]
            return re.split(r"[\s,;]+", names[0].strip("[]")) if len(names) == 1 else names
    return []


def require_pictures(file: Any, key: str, count: int, path: Path) -> None:
    """Check that a camera has one picture for each pose: uint8 (n, h, w, 3 or 4), or n files of JPEG.

    Raises:
        RecordingError: there is no such camera, or it has another number of pictures, or another kind.
    """
    if key not in file or not hasattr(file[key], "shape"):
        raise RecordingError(
            f"{path}: has no camera {key}. Name both with --cameras RIGHT LEFT, as they are called in that group or by "
            f"their whole paths in the file."
        )
    found = file[key]
    if found.shape[:1] != (count,):
        raise RecordingError(
            f"{path}: {key} has {found.shape[0] if found.shape else 0} pictures for {count} poses."
        )
    if not is_colour(found):
        raise RecordingError(
            f"{path}: {key} is {found.dtype} {found.shape}, expected uint8 (n, h, w, 3) or JPEG bytes a frame. "
            f"{NOT_COLOUR}"
        )
    if found.ndim == 4 and max(found.shape[1:3]) > MAX_SIDE:
        raise RecordingError(f"{path}: {key} is {found.shape}: no camera has such pictures.")


def is_colour(found: Any) -> bool:
    """Whether a dataset holds colour pictures: uint8 (n, h, w, 3 or 4), or JPEG bytes a frame."""
    raw = getattr(found, "dtype", None) == np.uint8 and found.ndim == 4 and found.shape[3] in (3, 4)
    return raw or (hasattr(found, "shape") and _is_packed(found))


def _is_packed(found: Any) -> bool:
    """JPEG or PNG bytes a frame: rows padded with zeros, byte strings, or arrays of variable length."""
    import h5py

    if found.ndim == 2 and found.shape[1] > 1:
        return found.dtype == np.uint8
    string = h5py.check_string_dtype(found.dtype)
    bytes_of_any_length = h5py.check_vlen_dtype(found.dtype) in (np.uint8, np.int8)
    single = found.ndim == 1 or found.shape[1:] == (1,)
    return single and (string is not None or found.dtype.kind == "V" or bytes_of_any_length)


class Frames:
    """Reads frames of one camera; the file stays open from one frame to the next."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._file: Any = None

    def __call__(self, number: int) -> np.ndarray:
        """Picture `number`, RGB uint8 (h, w, 3).

        Raises:
            RecordingError: it cannot be read or decoded.
        """
        if self._file is None:
            self._file = open_file(self._path)
        try:
            value = self._file[self._key][number]
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise RecordingError(
                f"{self._path}: {self._key}, frame {number} cannot be read ({error})."
            ) from None
        if isinstance(value, np.ndarray) and value.ndim == 3:
            return value
        while isinstance(value, np.ndarray) and value.dtype == object:
            value = value[0]
        data = value if isinstance(value, bytes) else value.tobytes()
        return decode_image(data, where=f"{self._path}: {self._key}, frame {number}")
