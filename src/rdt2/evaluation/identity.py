"""What decides a result, as plain values: enough to do it again, to go on with it, and to say how two differ."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.evaluation.policies import whole_spec
from rdt2.policy.client import is_address
from rdt2.policy.digests import file_digests
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.policy import Policy

OF_CLIENTS = ("api_key_file", "jpeg")
"""Options of a policy's spec that are for servers' clients alone."""
ROOMS = ("control", "evaluation", "expert", "operation", "policy", "robot", "sim", "tokenizer", "vlm")
"""Parts of this package that decide what an episode becomes, beside the vocabulary."""
SOME = 64
"""Numbers of a tensor that tell it from others."""


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
        spec: what was asked for; None for one that was loaded or made by hand: of the modules in it some weights tell
            which it is, of anything else its class alone.
        policy: that one, loaded: what the spec leaves open it has decided.

    Raises:
        CheckpointError, ConfigError: its files are gone.
    """
    own = {name: getattr(policy, name, None) for name in ("steps", "temperature", "draws", "patience")}
    if spec is None:
        return {"policy": type(policy).__qualname__, **own, "weights": _weights(policy)}
    if is_address(spec.policy):
        # What its server says of it; pictures reach it the same, raw or as JPEG.
        return {"policy": spec.policy, **own, "server": getattr(policy, "model", None)}
    from rdt2.policy.load import policy_parts
    from rdt2.policy.place import checked_device, checked_dtype

    dtype = str(checked_dtype(spec.dtype, checked_device(spec.device))).removeprefix("torch.")
    files = {part: file_digests(place) for part, place in policy_parts(whole_spec(spec)).parts.items()}
    given = {name: value for name, value in dataclasses.asdict(spec).items() if name not in OF_CLIENTS}
    return {**given, **own, "dtype": dtype, "files": files}


def _weights(policy: Policy) -> str | None:
    """A digest of some numbers of every tensor of the modules in a policy; None where it holds none."""
    from torch import nn

    from rdt2.packed import PackedLinear

    digest, found = hashlib.sha256(), False
    for module in vars(policy).values() if hasattr(policy, "__dict__") else ():
        if not isinstance(module, nn.Module):
            continue
        packed = {name: part for name, part in module.named_modules() if isinstance(part, PackedLinear)}
        weights = {name: part.weight.to_dense() for name, part in packed.items()}
        for name, tensor in {**dict(module.named_parameters()), **weights}.items():
            flat, found = tensor.detach().flatten(), True
            told = flat[:: max(1, len(flat) // SOME)].float().cpu().numpy()
            digest.update(f"{name} {tuple(tensor.shape)}".encode() + told.tobytes())
    return digest.hexdigest()[:16] if found else None


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
