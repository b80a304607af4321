"""Whose folder it is: what a run was asked for, and whether a second start may go on with it. Imports no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import require_writable, write_whole
from rdt2.training.config import BUILT_IN, MAY_CHANGE, RunConfig
from rdt2.training.settings import to_mapping

CONFIG = "config.json"


def identity(
    stage: str, config: RunConfig, *, data: str | None = None, processes: int | None = None
) -> dict[str, Any]:
    """What config.json of a run holds.

    Args:
        stage: its name.
        config: its settings.
        data: a name for what the shards hold; none where that is not known (yet).
        processes: how many train together; none where that is not known (yet).
    """
    known = {"data": data, "processes": processes}
    return {
        "stage": stage,
        "config": to_mapping(config),
        **{key: value for key, value in known.items() if value is not None},
    }


def look(out: Path, wanted: dict[str, Any], config: RunConfig, *, resume: bool) -> list[str]:
    """See that a run may begin, or go on, in ``out``; changes nothing.

    Args:
        out: folder of the run.
        wanted: its :func:`identity`; what is not known there is not compared.
        config: the same settings, typed.
        resume: whether it is to go on from what lies there.

    Returns:
        Lines to tell: which settings changed since the start, or that there is nothing to go on from.

    Raises:
        ConfigError: ``out`` is no folder, cannot be written to, or holds a run and ``resume`` is off.
        CheckpointError: what it holds is another run.
    """
    try:
        if os.path.lexists(out) and not out.is_dir():
            what = "a link to nowhere" if out.is_symlink() and not out.exists() else "a file"
            raise ConfigError(f"{out}: is {what}, expected a folder or nothing. Choose another --out.")
        require_writable(out, error=ConfigError)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be used ({error}). Choose another --out.") from error
    found = _found(out)
    if found is None:
        return [f"nothing to resume in {out}: starting at step 0"] if resume else []
    if not resume:
        raise ConfigError(
            f"{out}: holds a training run already. Choose another --out, or go on with --resume."
        )
    return _compared(out, found, wanted, config)


def claim(out: Path, wanted: dict[str, Any]) -> None:
    """Write down what the run in ``out`` is from now on. Raises ConfigError where the system refuses."""
    write_whole(
        out / CONFIG, json.dumps(wanted, indent=2) + "\n", error=ConfigError, advice="Choose another --out."
    )


def _found(out: Path) -> dict[str, Any] | None:
    """What config.json says; none where there is none."""
    path = out / CONFIG
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}). Restore it, or start a new --out: what was asked for stands there."
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict) or "stage" not in found:
        raise CheckpointError(
            f"{path}: is not that of a training run (of a model, perhaps). Choose another --out."
        )
    return found


def _compared(out: Path, found: dict[str, Any], wanted: dict[str, Any], config: RunConfig) -> list[str]:
    """The settings that changed and may, a line each."""
    if found["stage"] != wanted["stage"]:
        raise CheckpointError(f"{out}: holds a run of '{found['stage']}', expected '{wanted['stage']}'.")
    before = {**to_mapping(type(config)()), **found["config"]}  # settings that are newer than the run
    changed = {
        key: f"{key} was {before[key]!r}, is {value!r}"
        for key, value in sorted(wanted["config"].items())
        if not _same(before[key], value)
    }
    if refused := [line for key, line in changed.items() if key not in MAY_CHANGE]:
        raise CheckpointError(
            f"{out}: was started with other settings: {'; '.join(refused)}. Resume with those of {out / CONFIG}, or "
            f"start a new --out. On --resume may change: {', '.join(sorted(MAY_CHANGE & before.keys()))}."
        )
    was, now = (each.get("data") for each in (found, wanted))
    if None not in (was, now) and was != now:
        raise CheckpointError(
            f"{out}: was started with shards with other samples ({was}, now {now}): which samples were seen is not "
            "known any more. Resume with the same, or start a new --out."
        )
    was, now = (each.get("processes") for each in (found, wanted))
    if was is not None and now is not None and was != now:
        changed["processes"] = f"the processes were {was}, are {now}"
        changed["step"] = _step(before, was, wanted["config"], now)
    return [f"since the run began, {line}" for line in changed.values() if line]


def _step(before: dict[str, Any], processes: int, after: dict[str, Any], now: int) -> str:
    """How many samples a step saw and sees, where other processes make that another number; else empty."""
    saw = before["batch_size"] * before["accumulate"] * processes
    sees = after["batch_size"] * after["accumulate"] * now
    keeps = ""
    for setting in ("accumulate", "batch_size"):
        parts = sees // after[setting]
        if saw % parts == 0:
            keeps = f"; --set {setting}={saw // parts} keeps {saw}"
            break
    return f"a step saw {saw} samples, sees {sees}{keeps}" if saw != sees else ""


def _same(before: Any, now: Any) -> bool:
    """Whether two values of a setting are equal, or the same place: x and ./x."""
    if before == now or not (isinstance(before, str) and isinstance(now, str)):
        return before == now
    if {before, now} & BUILT_IN or not Path(now).expanduser().exists():
        return False
    return os.path.realpath(Path(before).expanduser()) == os.path.realpath(Path(now).expanduser())
