"""What the process of a real-time cell shows to others: states and pictures in shared memory, read without waiting.

One process writes. Every record has a count that is odd while it is being written: a reader that sees an odd count, or
another one afterwards, reads again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from rdt2.errors import RobotError

DEVICES = tuple(f"{side} {kind}" for kind in ("arm", "gripper", "camera") for side in ("right", "left"))
PICTURES = 3
"""Of each camera are kept, so that the newest is not written again while it is copied."""
PATIENCE = 0.5
"""Seconds after which a record that is still being written has lost its writer, and not only its turn."""

_DEVICE = np.dtype([
    ("count", np.uint64), ("connected", np.bool_), ("enabled", np.bool_), ("stopped", np.bool_),
    ("fault", np.uint8, 256), ("timestamp", np.float64), ("sequence", np.int64), ("pose", np.float64, (4, 4)),
    ("velocity", np.float64, 6), ("joints", np.float64, 8), ("width", np.float64),
])  # fmt: skip
_PICTURE = np.dtype([
    ("count", np.uint64), ("timestamp", np.float64), ("sequence", np.int64), ("image", np.uint8, (384, 384, 3)),
])  # fmt: skip
_CELL = np.dtype([
    ("count", np.uint64), ("began", np.float64), ("time", np.float64), ("elapsed", np.float64),
    ("success", np.bool_), ("followed", np.bool_), ("done", np.bool_),
])  # fmt: skip
_BOARD = np.dtype([
    ("cell", _CELL), ("devices", _DEVICE, len(DEVICES)), ("pictures", _PICTURE, (len(DEVICES), PICTURES)),
    ("newest", np.int64, len(DEVICES)),
])  # fmt: skip


class Board:
    """The shared memory, made by one process (no name) and opened by others.

    Raises:
        FileNotFoundError: no memory of this name.
    """

    def __init__(self, name: str | None = None) -> None:
        self._memory = SharedMemory(name=name, create=name is None, size=_BOARD.itemsize)
        self._owns = name is None
        self._records: Any = np.ndarray((), _BOARD, buffer=self._memory.buf)
        if self._owns:
            self._records["newest"] = -1

    @property
    def name(self) -> str:
        return self._memory.name

    def write(self, record: Any, **values: Any) -> None:
        """Change fields of a record as one."""
        record["count"] += 1
        for key, value in values.items():
            record[key] = value
        record["count"] += 1

    def read(self, record: Callable[[], Any]) -> Any:
        """A copy of a record that nobody was writing meanwhile.

        Raises:
            RobotError: it is always being written: its writer died in the middle.
        """
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = record()
            before = int(found["count"])
            copy = found.copy()
            if before % 2 == 0 and int(found["count"]) == before:
                return copy
            time.sleep(2e-4)
        raise RobotError("the cell's process died while it wrote its state. Start the cell again.")

    def cell(self) -> Any:
        """The record of the cell as a whole."""
        return self._open()["cell"]

    def device(self, name: str) -> Any:
        """The record of a device."""
        return self._open()["devices"][DEVICES.index(name)]

    def put_picture(self, name: str, timestamp: float, sequence: int, image: np.ndarray) -> None:
        """Show a new picture of a camera."""
        camera = DEVICES.index(name)
        place = (int(self._records["newest"][camera]) + 1) % PICTURES
        record = self._records["pictures"][camera][place]
        self.write(record, timestamp=timestamp, sequence=sequence, image=image)
        self._records["newest"][camera] = place

    def picture(self, name: str) -> Any:
        """A copy of the newest picture of a camera, None before the first."""
        camera = DEVICES.index(name)
        records = self._open()
        if records["newest"][camera] < 0:
            return None
        return self.read(lambda: records["pictures"][camera][int(records["newest"][camera])])

    def _open(self) -> Any:
        if self._records is None:
            raise RobotError("the cell is closed. Start another one.")
        return self._records

    @property
    def closed(self) -> bool:
        return self._records is None

    def close(self) -> None:
        """Let go of the memory; whoever made it frees it. Again: nothing happens."""
        if self.closed:
            return
        self._records = None
        if self._owns:
            self._memory.unlink()
        self._memory.close()
