"""Results as JSON that every reader understands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rdt2.files import write_whole


def write_json(path: str | Path, values: Any) -> Path:
    """Write plain values as JSON (see `as_json`), atomically.

    Raises:
        RecordingError: the folder cannot be made or written, or the disk is full.
    """
    return write_whole(path, as_json(values))


def as_json(values: Any) -> str:
    """Plain values as JSON, with a line break at the end. NaN and infinity become null."""
    return json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Containers, numpy numbers and paths as JSON can hold them; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
