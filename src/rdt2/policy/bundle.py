"""The small JSON file that says which folders make up a policy.

    {"kind": "fm", "vlm": "../vlm", "tokenizer": "../tokenizer", "normalizer": "..", "expert": "../expert"}

Paths are relative to the folder of the file. A folder that holds such a file under the name ``policy.json``, or
a single one under another name, is itself a checkpoint. ``processor`` may be added where the VLM's folder lacks
its tokenizer files, and ``settings`` may say how the policy is used unless its user says otherwise:
``{"draws": 4, "temperature": 0.8, "patience": 1.0}`` (see ``rdt2.policy.Policy`` for the last).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rdt2.errors import CheckpointError
from rdt2.files import forbidden, require_file, whole_file

Kind = Literal["fm", "vq"]

FILE_NAME = "policy.json"
PARTS = ("vlm", "processor", "tokenizer", "normalizer", "expert")
REQUIRED: dict[str, tuple[str, ...]] = {
    "fm": ("vlm", "normalizer", "expert"),
    "vq": ("vlm", "normalizer", "tokenizer"),
}


@dataclass(frozen=True)
class Bundle:
    """The parts of a policy: local folders or files, or hub ids."""

    kind: Kind
    parts: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    """``patience``, and ``draws`` and ``temperature`` of ``load_policy``, where it is not given them."""

    def __getitem__(self, part: str) -> str:
        return self.parts[part]


def bundle_files(folder: Path) -> list[Path]:
    """The bundle files of a folder: ``policy.json`` alone where it is there, else all."""
    if (folder / FILE_NAME).is_file():
        return [folder / FILE_NAME]
    return [file for file in sorted(folder.glob("*.json")) if _is_bundle(file)]


def find_bundle(folder: Path) -> Path | None:
    """The bundle file that a folder stands for, or None if it holds no bundle.

    Raises:
        CheckpointError: there are several, of which one must be named.
    """
    found = bundle_files(folder)
    if len(found) > 1:
        raise CheckpointError(
            f"{folder} holds several policies. Say which one: {' or '.join(str(file) for file in found)}."
        )
    return found[0] if found else None


def _is_bundle(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise CheckpointError(forbidden(file)) from error
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") in list(REQUIRED)


def read_bundle(file: Path) -> Bundle:
    """Reads a bundle file; all paths in it must exist.

    Raises:
        CheckpointError: if it is damaged, lacks a part, or names a file that is not there.
    """
    try:
        content = json.loads(require_file(file, advice="Name a bundle that is there.").read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error}); write it again.") from error
    if not isinstance(content, dict) or content.get("kind") not in list(REQUIRED):
        raise CheckpointError(
            f"{file}: expected an object with kind 'fm' or 'vq' and the parts {list(PARTS)}, got "
            f"{content!s:.200}."
        )
    parts = {name: value for name, value in content.items() if name not in ("kind", "settings")}
    if unknown := sorted(set(parts) - set(PARTS)):
        raise CheckpointError(
            f"{file}: unknown entries {unknown}; expected kind, settings and {list(PARTS)}."
        )
    settings = content.get("settings", {})
    _check_settings(file, content["kind"], settings)
    if missing := [name for name in REQUIRED[content["kind"]] if name not in parts]:
        raise CheckpointError(f"{file}: a policy of kind {content['kind']!r} needs {missing} as well.")
    found = {}
    for name in parts:
        if not isinstance(parts[name], str) or not (file.parent / parts[name]).exists():
            raise CheckpointError(
                f"{file}: {name!r} is {parts[name]!r}, but there is no {file.parent / str(parts[name])}. "
                "Paths are relative to the file: restore the folder or correct the entry."
            )
        found[name] = str(file.parent / parts[name])
    return Bundle(content["kind"], found, settings)


def _check_settings(file: Path, kind: str, settings: Any) -> None:
    known: dict[str, tuple[type, ...]] = {"draws": (int,), "patience": (int, float)}
    if kind == "vq":
        known["temperature"] = (int, float)
    if not isinstance(settings, dict) or any(
        name not in known or isinstance(value, bool) or not isinstance(value, known[name])
        for name, value in settings.items()
    ):
        raise CheckpointError(
            f"{file}: settings are {settings!r}, expected numbers for no more than {list(known)} of a policy of kind "
            f"{kind!r}."
        )


def save_bundle(
    path: str | Path, *, kind: Kind, settings: Mapping[str, Any] | None = None, **parts: str | Path
) -> Path:
    """Writes a bundle file and returns its path.

    Args:
        path: a ``.json`` file, or a folder, which gets ``policy.json``.
        kind: "fm" or "vq".
        settings: ``patience``, and ``draws`` and ``temperature`` of ``load_policy``, where it is not given them.
        **parts: ``vlm``, ``normalizer``, ``expert`` or ``tokenizer``, ``processor``: what exists on disk.

    Raises:
        CheckpointError: if a part is missing or not there.
    """
    file = Path(path)
    file = file if file.suffix == ".json" else file / FILE_NAME
    content = {
        "kind": kind,
        **{k: Path(os.path.relpath(v, file.parent)).as_posix() for k, v in parts.items()},
        **({"settings": dict(settings)} if settings else {}),
    }
    with whole_file(file, error=CheckpointError) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
        read_bundle(partial)
    return file
