"""What is read from an open HDF5 file: numbers, names of columns, sentences, pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.data.sources.columns import of_arm
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


def arm_keys(key: str, arms: str | None) -> dict[str, str]:
    """arm -> the dataset of its poses, in the order of ``arms``, for a pose key with {arm}; else the one, of ""."""
    if "{arm}" not in key:
        return {"": key}
    return {arm: key.replace("{arm}", arm) for arm in (arms or "left-right").split("-")}


def arm_hint(datasets: Sequence[str], key: str | None = None) -> str:
    """A sentence on {arm} where there is a dataset an arm, else nothing. ``key``: only where it is one of these."""
    for name in datasets if key is None else [key]:
        for arm, other in (("left", "right"), ("right", "left")):
            if arm in name and {name, name.replace(arm, other)} <= set(datasets):
                both = name.replace(arm, "{arm}")
                return f" Of both arms: --pose-key '{both}', where {{arm}} stands for right and left."
    return ""


def pose_numbers(file: Any, key: str, arms: str | None = None) -> np.ndarray:
    """(n, columns) numbers with fractions; those of a dataset an arm side by side (see arm_keys).

    Raises:
        RecordingError: no such dataset, or no poses; or one arm has more rows or columns than the other.
    """
    tables = {}
    for each in arm_keys(key, arms).values():
        tables[each] = numbers(file, each, 2)
        if file[each].dtype.kind != "f":
            raise RecordingError(
                f"{file.filename}: {each} holds {file[each].dtype}: poses of whole numbers have lost their fractions. "
                f"Store them as float32 or float64."
            )
    if len({table.shape for table in tables.values()}) > 1:
        shapes = " and ".join(f"{each} is {table.shape}" for each, table in tables.items())
        raise RecordingError(
            f"{file.filename}: {shapes}: both arms need a row for each frame and the same columns. Record it again, "
            f"or cut them to equal length."
        )
    return np.concatenate([*tables.values()], axis=1)


def pose_column_names(file: Any, key: str, arms: str | None = None) -> list[str]:
    """Names of the columns of `pose_numbers`, where attributes have them; of a dataset an arm they tell that arm."""
    names = {arm: column_names(file, each) for arm, each in arm_keys(key, arms).items()}
    if not all(names.values()):
        return []
    return [of_arm(name, arm) if arm else name for arm, found in names.items() for name in found]


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


def pictures(file: Any) -> list[str]:
    """Whole paths of all datasets of a file that hold colour pictures, wherever they are."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if is_colour(item) and len(item) and (item.ndim == 4 or _begins_as_picture(item[0])):
            found.append(os.fsdecode(name))

    file.visititems(visit)
    return sorted(found)


def _begins_as_picture(value: Any) -> bool:
    """JPEG or PNG, told from sentences and other bytes."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size:
        value = value.reshape(-1)[0]
    data = value if isinstance(value, bytes) else value.tobytes() if hasattr(value, "tobytes") else b""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG"))


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
