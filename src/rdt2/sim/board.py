"""What the processes of a real-time cell show to others: states and pictures in shared memory, read without waiting.

Each record has one process that writes it, in turn into one of several places, and shows a place once it is whole. So
a writer that loses its turn in the middle, or dies there, keeps nobody waiting: readers see what was whole before. A
place has a count that is odd while it is being written: a reader that was itself held up for so long that the writer
came round to its place again sees another count afterwards, and reads again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from rdt2.errors import RobotError

DEVICES = tuple(f"{side} {kind}" for kind in ("arm", "gripper", "camera") for side in ("right", "left"))
PLACES = 3
"""Of each record, so that the newest is not written again while it is copied."""
LET_GO = 1.0
"""Seconds that threads which are reading have to come to an end when the board is closed."""

_DEVICE = np.dtype([
    ("count", np.uint64), ("connected", np.bool_), ("enabled", np.bool_), ("stopped", np.bool_),
    ("fault", np.uint8, 256), ("timestamp", np.float64), ("sequence", np.int64), ("pose", np.float64, (4, 4)),
    ("velocity", np.float64, 6), ("joints", np.float64, 8), ("wrench", np.float64, 6),
    ("width", np.float64),
])  # fmt: skip
_PICTURE = np.dtype([
    ("count", np.uint64), ("timestamp", np.float64), ("sequence", np.int64), ("image", np.uint8, (384, 384, 3)),
])  # fmt: skip
_CELL = np.dtype([
    ("count", np.uint64), ("began", np.float64), ("time", np.float64), ("elapsed", np.float64),
    ("success", np.bool_), ("followed", np.bool_), ("done", np.bool_),
])  # fmt: skip
_MANY = {"cell": 1, "devices": len(DEVICES), "pictures": len(DEVICES)}
_BOARD = np.dtype([
    ("cell", _CELL, (_MANY["cell"], PLACES)), ("devices", _DEVICE, (_MANY["devices"], PLACES)),
    ("pictures", _PICTURE, (_MANY["pictures"], PLACES)), ("newest", [(k, np.int64, n) for k, n in _MANY.items()]),
])  # fmt: skip


class Board:
    """The shared memory, made by one process (no name) and opened by others. Any thread may read.

    What `cell`, `device` and `picture` return are copies.

    Raises:
        FileNotFoundError: no memory of this name.
    """

    def __init__(self, name: str | None = None) -> None:
        self._records: Any = None  # first, so that it is let go of before the memory where nobody closes
        self._memory = SharedMemory(name=name, create=name is None, size=_BOARD.itemsize)
        self._owns = name is None
        # not np.ndarray(buffer=...), which does not keep the memory from being unmapped under a reader
        memory: Any = self._memory.buf
        self._records = np.frombuffer(memory, _BOARD, count=1).reshape(())
        if self._owns:
            for part in _MANY:
                self._records["newest"][part] = -1

    @classmethod
    def watched(cls, name: str) -> Board:
        """The board of a process that did not start this one, and stays that one's: Python would free its memory at
        the end of this process.

        Raises:
            FileNotFoundError: no memory of this name.
        """
        from multiprocessing import resource_tracker

        board = cls(name)
        resource_tracker.unregister(f"/{name}", "shared_memory")
        return board

    @property
    def name(self) -> str:
        """What other processes open it by."""
        return self._memory.name

    def write_cell(self, **values: Any) -> None:
        """Show the whole record of the cell."""
        self._write("cell", 0, values)

    def cell(self) -> Any:
        """The record of the cell as a whole, None before the first."""
        return self._read("cell", 0)

    def write_device(self, name: str, **values: Any) -> None:
        """Show the state of a device, every time with the same fields."""
        self._write("devices", DEVICES.index(name), values)

    def device(self, name: str) -> Any:
        """The record of a device, None before the first."""
        return self._read("devices", DEVICES.index(name))

    def put_picture(self, name: str, timestamp: float, sequence: int, image: np.ndarray) -> None:
        """Show a new picture of a camera, RGB uint8 (h, w, 3), taken at a time of the cell's clock."""
        values = {"timestamp": timestamp, "sequence": sequence, "image": image}
        self._write("pictures", DEVICES.index(name), values)

    def picture(self, name: str) -> Any:
        """The newest picture of a camera, None before the first."""
        return self._read("pictures", DEVICES.index(name))

    def picture_place(self, name: str) -> int:
        """Where the newest picture of a camera stands, -1 before the first: another place than before, another picture.
        Unlike `picture` it copies nothing."""
        records = self._open()
        try:
            return int(records["newest"]["pictures"][DEVICES.index(name)])
        finally:
            records = None

    def _write(self, part: str, which: int, values: Mapping[str, Any]) -> None:
        records = self._open()
        newest = records["newest"][part]
        place = (int(newest[which]) + 1) % PLACES
        record = records[part][which, place]
        count = int(record["count"]) | 1
        record["count"] = count
        for key, value in values.items():
            record[key] = value
        record["count"] = count + 1
        newest[which] = place

    def _read(self, part: str, which: int) -> Any:
        records = self._open()
        places, newest, record = records[part][which], records["newest"][part], None
        try:
            while (place := int(newest[which])) >= 0:
                record = places[place]
                count = int(record["count"])
                copy = record.copy()
                if count % 2 == 0 and int(record["count"]) == count:
                    return copy
            return None
        finally:  # a Ctrl-C that is raised here must not keep the memory in use
            records = places = newest = record = None

    def _open(self) -> Any:
        if (records := self._records) is None:
            raise RobotError("the cell is closed. Start another one.")
        return records

    @property
    def closed(self) -> bool:
        """Whether it was let go of."""
        return self._records is None

    def close(self) -> None:
        """Let go of the memory; whoever made it frees it. Again: nothing happens."""
        if self.closed:
            return
        self._records = None
        if self._owns:
            self.free()
        until = time.monotonic() + LET_GO
        while time.monotonic() < until:
            try:
                self._memory.close()
            except BufferError:  # another thread reads at this moment
                time.sleep(1e-3)
            else:
                return

    def free(self) -> None:
        """Give the memory back to the system once nobody has it open any more: also in place of a maker that died."""
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()
