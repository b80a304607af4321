"""Result files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from rdt2.errors import RecordingError


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` through a temporary file beside it, so that no reader sees half of it.

    Returns:
        The absolute path.

    Raises:
        RecordingError: the folder cannot be made or written, or the disk is full.
    """
    target = Path(path).expanduser().absolute()
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise RecordingError(
            f"{target}: cannot be written ({error.strerror or error}). Free space or choose another file; "
            "nothing was left half-written."
        ) from error
    return target


def write_json(path: str | Path, values: Any) -> Path:
    """Write plain values as JSON, atomically. NaN and infinity become null, which every reader understands.

    Raises:
        RecordingError: as `write_atomic`.
    """
    return write_atomic(
        path, json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def _plain(value: Any) -> Any:
    """Containers, numpy numbers and paths as JSON can hold them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
