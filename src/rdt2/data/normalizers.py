"""The normalizer that comes with data: as its yaml says, or beside its shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rdt2.data.mixture import DataSource, open_sources
from rdt2.data.shards.remote import Absent, Forbidden, is_url, read_url
from rdt2.errors import NormalizerError, ShardError
from rdt2.matching import OPTION, Held, require_same, resolve
from rdt2.normalizer import FILE_NAMES, LinearNormalizer, has_normalizer
from rdt2.origin import TokenOrigin


def tokenizer_normalizer(tokenizer: str, named: str | None, data: Any) -> LinearNormalizer:
    """The normalizer whose numbers a tokenizer encodes: the one named, else its own, else the data's where that may be.

    Args:
        tokenizer: its folder or hub id.
        named: file, folder or hub id that the user names.
        data: as :func:`~rdt2.data.mixture.open_sources` takes them.

    Raises:
        NormalizerError: none is known, or two differ.
    """
    return resolve(
        named,
        models={"the action tokenizer": tokenizer},
        data=lambda: data_normalizer(open_sources(data, instructions="ignore")),
    ).normalizer


def data_normalizer(sources: Iterable[DataSource], origin: TokenOrigin | None = None) -> Held | None:
    """That of all sources; None where one has none. origin: what made their tokens (ShardIndex.token_origin).

    Raises:
        NormalizerError: one is damaged, or two sources have others: which, and by how much.
    """
    first: Held | None = None
    for source in sources:
        places = [source.normalizer] if source.normalizer else _folders(source)
        for place in dict.fromkeys(places):
            if source.normalizer and not is_url(place) and not Path(place).exists():
                raise NormalizerError(
                    f"normalizer_path of data set {source.name!r} is {place}: there is no such file or folder. Put "
                    "the normalizer there, or correct normalizer_path in the yaml."
                )
            found = _read(place)
            if found is None:
                return None
            if first is not None:
                _require_one(first, found)
            first = first or found
    if first is None or origin is None:
        return first
    # The one that tokens were made with is their tokenizer's, not one fitted to the data.
    return replace(first, of_model=first.normalizer.digest == origin.normalizer)


def _require_one(first: Held, other: Held) -> None:
    """Raises NormalizerError where two that came with data differ, of which neither need be the right one."""
    try:
        require_same(first, other)
    except NormalizerError as error:
        raise NormalizerError(
            f"{error} Where the data themselves bring both: name that of the model with {OPTION}, or "
            "fit one to all: rdt2 data stats DATA --fit FOLDER."
        ) from None


def _folders(source: DataSource) -> list[str]:
    return list(dict.fromkeys(shard.rpartition("/")[0] or "." for shard in source.shards))


def _read(place: str) -> Held | None:
    """What lies there, a file or a folder, on disk or by URL."""
    if is_url(place):
        return _fetched(place)
    path = Path(place)
    if path.is_dir() and not has_normalizer(path):
        return None
    return Held(LinearNormalizer.from_pretrained(path), place, of_model=False)


def _fetched(url: str) -> Held | None:
    names = [""] if url.endswith((".pt", ".safetensors")) else [f"/{name}" for name in FILE_NAMES]
    with TemporaryDirectory() as folder:
        for name in names:
            try:
                data = read_url(f"{url}{name}")
            except ShardError as error:
                if name and isinstance(error, (Absent, Forbidden)):
                    continue
                raise NormalizerError(str(error)) from None
            file = Path(folder) / f"{url}{name}".partition("?")[0].rpartition("/")[2]
            file.write_bytes(data)
            return Held(LinearNormalizer.from_pretrained(file), f"{url}{name}", of_model=False)
    return None
