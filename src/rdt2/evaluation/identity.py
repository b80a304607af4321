"""What decides a result, as plain values: enough to do it again, to go on with it, and to say how two differ."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.errors import RDT2Error
from rdt2.evaluation.policies import whole_spec
from rdt2.files import write_whole
from rdt2.hub import locate
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.policy import Policy

SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt", ".jinja")
"""Files of a model's folder that decide what it predicts."""
LARGE = 16 * 2**20
"""Bytes from which on the digest of a file is kept, to be found again as long as its size and time are the same."""
ROOMS = ("control", "expert", "policy", "robot", "sim", "tokenizer", "vlm")
"""Parts of this package that decide what an episode becomes, beside the vocabulary."""


def versions() -> dict[str, str]:
    """Versions of what computes the result, as installed."""
    found = {"python": platform.python_version()}
    for package in ("rdt2", "torch", "transformers", "mujoco", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def code_digest() -> str:
    """Of the source that decides what an episode becomes: between two releases the version says too little."""
    package = Path(__file__).parents[1]
    files = [*package.glob("*.py"), *(file for room in ROOMS for file in (package / room).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def this_run() -> dict[str, Any]:
    """Who computes now, and why: what is worth knowing and decides nothing."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "platform": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
    }


def policy_identity(spec: PolicySpec | None, policy: Policy) -> dict[str, Any]:
    """A policy in plain values: which files with their digests, and how it is run.

    Args:
        spec: what was asked for; None for a policy made by hand, of which no files are known.
        policy: that one, loaded: what the spec leaves open it has decided.

    Raises:
        CheckpointError, ConfigError: its files are gone.
    """
    own = {name: getattr(policy, name, None) for name in ("steps", "temperature", "draws", "patience")}
    if spec is None:
        return {"policy": type(policy).__name__, **own}
    from rdt2.policy.load import policy_parts
    from rdt2.policy.place import checked_device, checked_dtype

    dtype = str(checked_dtype(spec.dtype, checked_device(spec.device))).removeprefix("torch.")
    files = {part: file_digests(place) for part, place in policy_parts(whole_spec(spec)).parts.items()}
    return {**dataclasses.asdict(spec), **own, "dtype": dtype, "files": files}


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


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two trees of plain values differ: (dotted name, value there, value here); None where one has nothing."""
    one, other = dict(_leaves(first)), dict(_leaves(second))
    names = [*one, *(name for name in other if name not in one)]
    return [(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


def told(
    found: list[tuple[str, Any, Any]], *, there: str = "there", here: str = "here", most: int = 8
) -> str:
    """Differences as one sentence's worth of words."""
    words = [f"{name} is {one!r} {there} and {other!r} {here}" for name, one, other in found[:most]]
    more = [f"{len(found) - most} more"] if len(found) > most else []
    return "; ".join([*words, *more])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    if not items:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))
