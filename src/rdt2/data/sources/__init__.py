"""Recordings of other projects, read as :class:`~rdt2.data.Episode` objects.

for episode in open_source("dataset.zarr.zip", "umi-zarr", SourceOptions(arms="right-left")):
    ...

What a recording does not say is guessed, and the guesses are listed in ``source.guesses``: look at them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rdt2.data.sources.base import Pictures, Source
from rdt2.data.sources.options import Guess, SourceOptions
from rdt2.errors import ConfigError

SourceKind = Literal["umi-zarr", "lerobot", "hdf5", "mcap", "shards", "recording"]

__all__ = ["Guess", "Pictures", "Source", "SourceKind", "SourceOptions", "open_source"]


def open_source(path: str | Path, kind: SourceKind, options: SourceOptions | None = None) -> Source:
    """Open recordings of one of these layouts.

    Raises:
        ConfigError: an unknown kind, or options that are missing or contradict the recording.
        RecordingError, ShardError: the recording is damaged or of another layout.
    """
    if kind == "umi-zarr":
        from rdt2.data.sources.umi import UmiZarr

        return UmiZarr(path, options)
    if kind == "lerobot":
        from rdt2.data.sources.lerobot import LeRobot

        return LeRobot(path, options)
    if kind == "hdf5":
        from rdt2.data.sources.hdf5 import Hdf5

        return Hdf5(path, options)
    if kind == "mcap":
        from rdt2.data.sources.mcap import Mcap

        return Mcap(path, options)
    if kind == "shards":
        from rdt2.data.sources.shards import Shards

        return Shards(path, options)
    if kind == "recording":
        from rdt2.data.sources.recording import LoopRecordings

        return LoopRecordings(path, options)
    raise ConfigError(
        f"unknown kind of recording {kind!r}; expected one of {', '.join(get_args(SourceKind))}."
    )
