"""Which files make up a policy, as names and digests: two policies of the same digests predict the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from rdt2.errors import RDT2Error
from rdt2.files import write_whole
from rdt2.hub import locate

SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt", ".jinja")
"""Files of a model's folder that decide what it predicts."""
LARGE = 16 * 2**20
"""Bytes from which on the digest of a file is kept, to be found again as long as its size and time are the same."""


def file_digests(place: str) -> dict[str, str]:
    """Name -> first 16 hexadecimal digits of the SHA-256 of what decides: a file's, or those of a folder or hub id.

    Adapters bring the files of the model that they adapt.

    Raises:
        CheckpointError: there is no such place.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return {path.name: _digest(path)}
    folder = locate(place, ("config.json", "adapter_config.json"))
    found = {
        file.name: _digest(file)
        for file in sorted(folder.iterdir())
        if file.suffix in SUFFIXES and file.is_file()
    }
    if "adapter_config.json" in found:
        from rdt2.vlm.adapters import base_of

        if (base := base_of(place)) != place:
            found |= {f"base/{name}": digest for name, digest in file_digests(base).items()}
    return found


def _digest(file: Path) -> str:
    """Of a file's content. A large one is read once, and again when its size or time has changed."""
    about = file.stat()
    kept: Path | None = None
    if about.st_size >= LARGE:
        name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:24]
        kept = (
            Path(os.environ.get("RDT2_CACHE") or Path.home() / ".cache" / "rdt2") / "digests" / f"{name}.json"
        )
        key = [about.st_size, about.st_mtime_ns]
        with contextlib.suppress(OSError, ValueError):  # no digest is kept, or none that can be read
            said = json.loads(kept.read_text())
            if said[:2] == key:
                return str(said[2])
    running = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(LARGE):
            running.update(piece)
    digest = running.hexdigest()[:16]
    if kept is not None:
        with contextlib.suppress(RDT2Error):  # it is computed again next time
            write_whole(kept, json.dumps([*key, digest]))
    return digest
