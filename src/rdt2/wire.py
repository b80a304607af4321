"""Messages between robots and a policy server: msgpack with arrays, exactly as openpi's clients write and read them.

    data = packed({"prompt": "Pick up the apple.", "state": np.zeros(20, np.float32)})
    message = unpacked(data)      # read-only arrays that lie in `data`

An array is a map of four entries, whose keys are bytes: `__ndarray__` True, `data` (C order), `dtype` such as "<f4",
`shape`. A numpy scalar is `__npgeneric__`, `data`, `dtype`. Nothing is ever unpickled, and what a stranger can make
this side allocate is bounded by what was sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt2.errors import WireError

DTYPES = (
    *("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"),
    *("<f2", "<f4", "<f8"),
)  # fmt: skip
"""Of arrays, in numpy's words: booleans, whole numbers and floats, little-endian."""
MAX_BYTES = 16 * 2**20
"""Of one message: eighteen pairs of 384 x 384 pictures."""
MAX_DIMENSIONS = 4
_ARRAY, _SCALAR, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Limits:
    """What one message may hold."""

    message_bytes: int = MAX_BYTES
    """Of the whole."""
    entries: int = 4096
    """Of a list."""
    keys: int = 256
    """Of a map."""
    text_bytes: int = 64 * 2**10
    """Of a string."""
    values: int = 16 * 2**10
    """In all maps and lists together, these themselves included."""
    depth: int = 16
    """Maps and lists within each other."""


def packed(message: dict[str, Any]) -> bytes:
    """A message as bytes.

    Raises:
        WireError: an array of objects, texts or complex numbers, or anything that msgpack has no form for.
    """
    import msgpack

    try:
        data: bytes = msgpack.packb(message, default=_packed_array)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(
            f"this message cannot be sent: {error}. Send dictionaries, lists, strings, numbers, bytes and arrays of "
            "numbers."
        ) from error
    return data


def unpacked(data: bytes, limits: Limits | None = None) -> dict[str, Any]:
    """What a message holds. Its arrays are read-only views of `data`.

    Raises:
        WireError: no msgpack, no dictionary, a forbidden or damaged array, or more than the limits allow.
    """
    import msgpack

    limits = limits or Limits()
    if len(data) > limits.message_bytes:
        raise WireError(f"the message has {len(data)} bytes, at most {limits.message_bytes} are taken.")
    count = _Count(limits.values)
    try:
        message = msgpack.unpackb(
            data,
            object_hook=lambda entries: _unpacked_array(count(entries)),
            list_hook=count,
            strict_map_key=False,  # the keys of an array are bytes
            max_str_len=limits.text_bytes,
            max_bin_len=limits.message_bytes,
            max_array_len=limits.entries,
            max_map_len=limits.keys,
            max_ext_len=0,
        )
    except WireError:
        raise
    except Exception as error:  # of bytes from anywhere msgpack raises errors of many kinds
        if bytes(data[:2]) in _PICKLES:
            raise WireError("the message is a pickle, which is never read; send msgpack.") from error
        raise WireError(
            f"the message is not msgpack, or holds more than is taken ({str(error) or type(error).__name__}). Send one "
            "dictionary, packed as openpi_client.msgpack_numpy does."
        ) from error
    if not isinstance(message, dict):
        raise WireError(f"the message is a {type(message).__name__}, expected a dictionary.")
    _check_depth(message, limits.depth)
    return message


class _Count:
    """Of the values of a message while it is unpacked: a few million of them would take seconds."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def __call__(self, container: Any) -> Any:
        self._left -= 1 + len(container)
        if self._left < 0:
            raise WireError(
                f"the message has more than {self._most} values in its dictionaries and lists. Send pictures and other "
                "numbers as arrays."
            )
        return container


def _check_depth(message: dict[Any, Any], most: int) -> None:
    level: list[Any] = [message]
    for _ in range(most):
        inside = (each for one in level for each in (one.values() if isinstance(one, dict) else one))
        level = [each for each in inside if isinstance(each, (dict, list))]
        if not level:
            return
    raise WireError(f"the message has more than {most} dictionaries and lists within each other.")


def _packed_array(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise WireError(f"a {type(value).__name__} cannot be sent")
    if value.dtype.newbyteorder("<").str not in DTYPES:
        raise WireError(f"an array of dtype {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return {
            _ARRAY: True,
            _DATA: np.ascontiguousarray(value).data.cast("B") if value.size else b"",
            _DTYPE: value.dtype.str,
            _SHAPE: value.shape,
        }
    return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.newbyteorder("<").str}


def _unpacked_array(entries: dict[Any, Any]) -> Any:
    if _ARRAY in entries:
        return _array(entries)
    if _SCALAR in entries:
        dtype = _checked_dtype(entries.get(_DTYPE))
        try:
            return dtype.type(entries[_DATA])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WireError(f"a scalar of dtype {dtype} holds no number of that kind.") from error
    return entries


def _array(entries: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _checked_dtype(entries.get(_DTYPE)), entries.get(_DATA), entries.get(_SHAPE)
    if not isinstance(data, bytes):
        raise WireError(f"the data of an array are of type {type(data).__name__}, expected bytes.")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in shape)
    ):
        raise WireError(
            f"the shape of an array is {shape!r:.60}, expected at most {MAX_DIMENSIONS} whole numbers."
        )
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(
            f"an array {tuple(shape)} of dtype {dtype} has {math.prod(shape) * dtype.itemsize} bytes, {len(data)} came."
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _checked_dtype(name: Any) -> np.dtype:
    if isinstance(name, bytes):
        name = name.decode("ascii", "replace")
    if not isinstance(name, str) or name not in DTYPES:
        raise WireError(
            f"an array has dtype {name!r:.40}, taken are {', '.join(DTYPES)}; texts are sent as strings."
        )
    return np.dtype(name)
