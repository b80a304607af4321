"""One training sample: its files, parsed without trusting them."""

from __future__ import annotations

import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ACTION_DIM, HORIZON
from rdt2.errors import ShardError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

NUM_TOKENS = 27
JPEG_QUALITY = 95
PICTURE_SHAPE = (384, 768)
INSTRUCTION_KEY = "sub_task_instruction_key"
MEMBERS = ("image.jpg", "action.npy", "action_token.npy", "meta.json")


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
    """An array of a known `shape`, () for a scalar, and `dtype`, from the bytes of an ``.npy`` file.

    Other widths and byte orders of the same kind of number (float64 for float32, int64 for int16) are read,
    too. The header is compared before anything is allocated, so neither a pickle nor an absurd size gets further.

    Raises:
        ShardError: another format, shape, kind of number or length, or integers too large for the dtype.
    """
    expected, data = np.dtype(dtype), bytes(data)
    header = _plain_header(shape, expected.str)
    if data.startswith(header) and len(data) == len(header) + expected.itemsize * int(np.prod(shape)):
        # What numpy.save writes: compared as bytes, five times faster than its header parsed.
        return np.frombuffer(data, dtype=expected, offset=len(header)).reshape(shape).copy()
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        found_shape, fortran, found = read_header(stream, max_header_size=1024)
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ShardError(f"{where}: {name} is no .npy file ({error}). Save it with numpy.save.") from None
    if found_shape != shape:
        raise ShardError(
            f"{where}: {name} is {found_shape}, expected {shape}. "
            f"Cut the recording into chunks with rdt2.data.Episode."
        )
    alike = found.kind == expected.kind or (found.kind, expected.kind) == ("u", "i")
    if found.hasobject or not alike:
        raise ShardError(
            f"{where}: {name} is {found.str}, expected {expected.str}. Save it as {expected.name}."
        )
    body = data[stream.tell() :]
    if len(body) != found.itemsize * int(np.prod(shape)):
        raise ShardError(
            f"{where}: {name} has {len(body)} bytes of values, its header promises another length."
        )
    values = np.frombuffer(body, dtype=found).reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore"):  # what is too large for the floats becomes infinite, which checks name
        array = values.astype(expected)
    if expected.kind == "i" and (array != values).any():
        raise ShardError(
            f"{where}: {name} runs from {values.min()} to {values.max()}, too far for {expected.name}."
        )
    return np.ascontiguousarray(array)


@lru_cache(maxsize=8)
def _plain_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header that numpy.save writes for an array of this shape and type."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def parse_action(data: bytes | memoryview, *, where: str) -> Float[np.ndarray, "24 20"]:
    """The (24, 20) float32 chunk of a sample. Raises ShardError."""
    return parse_npy(data, shape=(HORIZON, ACTION_DIM), dtype="<f4", where=where, name="action.npy")


def parse_tokens(data: bytes | memoryview, *, where: str) -> Int[np.ndarray, " 27"]:
    """The (27,) int16 action tokens of a sample. Raises ShardError."""
    return parse_npy(data, shape=(NUM_TOKENS,), dtype="<i2", where=where, name="action_token.npy")


def parse_state(meta: dict[str, Any], *, where: str) -> Float[np.ndarray, " 20"]:
    """The (20,) float32 proprioceptive state that a meta dictionary tells. Raises ShardError."""
    try:
        state = np.array(meta.get("state"), dtype=np.float32)
    except (TypeError, ValueError):
        state = np.empty(0, np.float32)
    if state.shape != (ACTION_DIM,) or not np.isfinite(state).all():
        raise ShardError(
            f"{where}: meta.json tells no state: {ACTION_DIM} finite numbers, the poses and widths of both arms. "
            "Convert or record the data again with this version, or train without state."
        )
    return state


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
