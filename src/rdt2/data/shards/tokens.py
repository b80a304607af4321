"""Action tokens beside shards, so that terabytes of pictures need not be written again; and who made tokens.

``shard-000000.tar.tokens`` is a safetensors file: ``tokens`` (n, 27) int16 in the order of the shard's samples, and in
its metadata the shard they belong to and their origin. It lies beside its tar, or in a folder that a dataset yaml names
as ``tokens_dir``. Shards that hold their tokens themselves have ``tokens.json`` beside them, which says the origin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rdt2.action import NUM_TOKENS
from rdt2.data.shards.index import load_index
from rdt2.data.shards.ranges import Range, shard_name
from rdt2.data.shards.remote import Absent, Forbidden, is_url, read_url
from rdt2.errors import ShardError
from rdt2.files import write_whole
from rdt2.origin import TOKENS_FILE, TokenOrigin, parse_origin, read_origin

if TYPE_CHECKING:
    from jaxtyping import Int

SUFFIX = ".tokens"
_FORMAT = "rdt2 shard tokens 1"
_ROW = 2 * NUM_TOKENS
_DESCR = f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({NUM_TOKENS},), }}"
_NPY_HEADER = b"\x93NUMPY\x01\x00\x76\x00" + _DESCR.encode().ljust(117) + b"\n"
"""What makes 27 numbers the .npy file that they would be inside a shard."""


class TokensBeside(NamedTuple):
    """The token file of a shard."""

    path: Path
    begin: int
    """The byte that the first sample's tokens begin at."""
    origin: TokenOrigin

    def range(self, row: int) -> Range:
        """Where the tokens of a sample lie."""
        first = self.begin + row * _ROW
        return str(self.path), first, first + _ROW


def as_npy(data: bytes) -> bytes:
    """Tokens of a token file as the file of a sample."""
    return _NPY_HEADER + data


def tokens_path(shard: str, folder: str | Path | None = None) -> Path:
    """Where the tokens of a shard lie: beside it, or in a folder."""
    return Path(shard + SUFFIX) if folder is None else Path(folder) / (shard_name(shard) + SUFFIX)


def write_tokens(target: Path, tokens: Int[np.ndarray, "n 27"], *, shard: str, origin: TokenOrigin) -> None:
    """Write the tokens of a shard. shard: its :func:`~rdt2.data.shards.index.signature_of`. Raises RecordingError."""
    from safetensors.numpy import save

    about = {"format": _FORMAT, "shard": shard, **origin._asdict()}
    data = save({"tokens": np.ascontiguousarray(tokens, "<i2")}, {"about": json.dumps(about)})
    write_whole(
        target,
        data,
        advice="For data that may not be written, name a folder with --out.",
    )


def read_tokens(path: Path, *, shard: str, samples: int) -> TokensBeside | None:
    """The tokens in a file; None where there is no such file. shard: the signature of the tar that they must be of.

    Raises:
        ShardError: a damaged file, or tokens of another shard.
    """
    again = "Write it again with 'rdt2 data tokenize --sidecar', or delete it"
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            begin = int.from_bytes(stream.read(8), "little") + 8
            header = json.loads(stream.read(begin - 8)) if begin <= size else {}
        about = json.loads(header.pop("__metadata__")["about"])
        (first, last), shape = header["tokens"]["data_offsets"], header["tokens"]["shape"]
        if about["format"] != _FORMAT or size != begin + last or last - first != shape[0] * _ROW:
            raise ValueError("its sizes contradict each other")
        origin = TokenOrigin(about["tokenizer"], about["normalizer"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: is no whole file of action tokens ({error}). {again}.") from None
    if about["shard"] != shard or shape[0] != samples:
        raise ShardError(
            f"{path}: holds the action tokens of another shard than the one of that name. {again}."
        )
    return TokensBeside(path, begin + first, origin)


def tokens_of_shard(shard: str, folder: str | Path | None = None) -> Int[np.ndarray, "n 27"] | None:
    """What the token file of a shard holds, beside it or in a folder; None where there is none.

    Raises:
        ShardError: a damaged file, or tokens of another shard.
    """
    if folder is None and is_url(shard):
        return None
    path = tokens_path(shard, folder)
    if not path.is_file():
        return None
    table = load_index(shard)
    found = read_tokens(path, shard=table.shard, samples=table.samples)
    if found is None:
        return None
    return np.fromfile(found.path, "<i2", offset=found.begin).reshape(-1, NUM_TOKENS)


def origin_beside(folder: str) -> TokenOrigin | None:
    """What made the tokens of the shards in a folder, on disk or by URL; None where that is not told.

    Raises:
        ShardError: a damaged file, or a server that does not answer.
    """
    if not is_url(folder):
        return read_origin(folder, error=ShardError)
    place = f"{folder}/{TOKENS_FILE}"
    try:
        data = read_url(place)
    except (Absent, Forbidden):
        return None
    return parse_origin(data, place, error=ShardError)
