"""UMI's ``dataset.zarr.zip`` (and the same as a folder): zarr v2 or v3, one chunk a picture, often JPEG XL.

    data/robot{i}_eef_pos              (n, 3)  metres
    data/robot{i}_eef_rot_axis_angle   (n, 3)  rotation vector
    data/robot{i}_gripper_width        (n, 1)  metres
    data/camera{i}_rgb                 (n, h, w, 3) uint8
    data/timestamp                     (n,) in any unit; UMI's own recordings have none
    meta/episode_ends                  (episodes,) first frame AFTER each episode

All episodes follow each other in the arrays; 59.94 frames a second; robot 0 is the right hand.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.clock import at_rate, to_seconds
from rdt2.data.sources.base import Source
from rdt2.data.sources.options import SourceOptions
from rdt2.data.sources.pictures import MAX_SIDE
from rdt2.data.sources.zarr_files import MAX_ROWS, ZarrFiles
from rdt2.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

UMI_FPS = 59.94
_CLOCK = "data/timestamp"


class UmiZarr(Source):
    """See the module. Needs the zarr package, and imagecodecs for JPEG XL pictures."""

    kind = "umi-zarr"
    meaningless = frozenset({"message_clock", "marks", "pose_key", "pose_names"})

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: truncated, not in UMI's layout, object arrays, or sizes that are no recording.
            ConfigError: options that contradict the file.
        """
        super().__init__(path, options)
        self._files = ZarrFiles(self.path, "meta/episode_ends")
        ends = self._files.array("meta/episode_ends")
        if self._files.missing_rows("meta/episode_ends").any():
            raise RecordingError(f"{self.path}: meta/episode_ends is incomplete. Copy or convert it again.")
        self._ends = _checked_ends(self._files.rows(ends, 0, MAX_ROWS), self.path)
        self._missing_rows: dict[str, np.ndarray] = {}
        self.lengths = np.diff(self._ends, prepend=0).tolist()
        self.names = [f"episode_{number:06d}" for number in range(len(self.lengths))]
        count = 0
        while self._files.has(f"data/robot{count}_eef_pos"):
            count += 1
        if count == 0:
            raise RecordingError(f"{self.path}: no data/robot0_eef_pos. This is not UMI's layout.")
        if self.options.rotation not in (None, "rotvec"):
            self._ask(
                f"its arrays are named as rotations by axis times angle, --rotation says {self.options.rotation}. "
                f"Leave --rotation out"
            )
        self._ask_instruction([None] * len(self))
        with self._asking_as_well(lambda: None):
            self._robots_of = self._robots(count, *_ORDER[min(count, 2)])
        total = int(self._ends[-1])
        self._low = {arm: self._numbers(arm, robot, total) for arm, robot in self._robots_of.items()}
        self._stamps = self._clock(total)
        if self._stamps is None:
            fps = self._choose(
                "fps", lambda: (UMI_FPS, "the file has no timestamps; UMI's cameras run at 59.94")
            )
            self.options = replace(self.options, fps=fps)
        self.options = replace(self.options, rotation="rotvec")
        self._settle_units((name, self._parts_of(number)) for number, name in enumerate(self.names))
        self._settle()
        self._pictures = {arm: self._camera(arm, robot, total) for arm, robot in self._robots_of.items()}
        self._block: dict[str, tuple[int, np.ndarray]] = {}

    def episode(self, number: int) -> Episode:
        """One episode. Raises RecordingError, or another RDT2Error, that names file and frame."""
        start, end = int(self._ends[number] - self.lengths[number]), int(self._ends[number])
        for name, missing in self._missing_rows.items():
            if missing[start:end].any():
                raise RecordingError(self._lost(name, int(missing[start:end].argmax()), number))
        parts = self._parts_of(number)
        return self._episode(
            number,
            position={arm: part[0] for arm, part in parts.items()},
            rotation={arm: part[1] for arm, part in parts.items()},
            gripper={arm: part[2] for arm, part in parts.items()},
            frames={arm: partial(self._frame, arm, start) for arm in self._pictures},
            timestamps=self._times(start, end, number),
            instruction=None,
        )

    def _numbers(self, arm: str, robot: int, total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Position, rotation and gripper numbers of an arm in all frames."""
        key = self.options.gripper_key or "data/robot{robot}_gripper_width"
        if len(self._robots_of) == 2 and "{robot}" not in key and "{arm}" not in key:
            raise ConfigError(
                f"{self.path}: --gripper-key {key} is one array for two robots. Say {{robot}} (0, 1) or {{arm}} in it."
            )
        name = key.replace("{robot}", str(robot)).replace("{arm}", arm)
        name = name if self._files.has(name) else f"data/{name}"
        gripper = None
        if (
            self.options.gripper_fixed is None
            and self.options.gripper_key is None
            and not self._files.has(name)
        ):
            self._ask_gripper("position and rotation are recorded", ())
        elif self.options.gripper_fixed is None:
            gripper = self._low_dim(name, total, 1)[:, 0]
        return (
            self._low_dim(f"data/robot{robot}_eef_pos", total, 3),
            self._low_dim(f"data/robot{robot}_eef_rot_axis_angle", total, 3),
            gripper,
        )

    def _parts_of(self, number: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Position, rotation and gripper numbers of each arm in one episode."""
        rows = slice(int(self._ends[number] - self.lengths[number]), int(self._ends[number]))
        return {
            arm: (position[rows], rotation[rows], None if gripper is None else gripper[rows])
            for arm, (position, rotation, gripper) in self._low.items()
        }

    def _clock(self, total: int) -> np.ndarray | None:
        """The recorded stamps of all frames, where there are any."""
        if not self._files.has(_CLOCK):
            return None
        array = self._array(_CLOCK)
        if array.shape not in ((total,), (total, 1)):
            raise RecordingError(
                f"{self.path}: {_CLOCK} is {array.shape}, expected ({total},) as episode_ends says."
            )
        return self._files.rows(array, 0, total).reshape(-1)

    def _times(self, start: int, end: int, number: int) -> np.ndarray:
        stamps = None if self._stamps is None else self._stamps[start:end]
        if self.options.fps is not None:
            return at_rate(self.options.fps, end - start, stamps)
        assert stamps is not None
        where = f"{self.path}: {_CLOCK}, {self.names[number]}"
        return to_seconds(stamps, where=where, unit=self.options.time_unit)

    def _array(self, name: str) -> Any:
        """An array whose rows without a chunk are remembered."""
        array = self._files.array(name)
        missing = self._files.missing_rows(name)
        if missing.any() and not (self.options.missing_chunks == "fill" and self._files.may_leave_out(name)):
            self._missing_rows[name] = missing
        return array

    def _lost(self, name: str, frame: int, number: int) -> str:
        lost = f"{self.path}: {name} lacks the chunk of frame {frame} of {self.names[number]}. "
        if not self._files.may_leave_out(name):
            return f"{lost}The file is incomplete: copy or convert it again."
        return (
            f"{lost}Zarr leaves out chunks that hold the fill value only (a black picture, a closed gripper), and a "
            f"lost one looks the same. If it was left out: --missing-chunks fill. If not, copy the recording again."
        )

    def _low_dim(self, name: str, total: int, columns: int) -> np.ndarray:
        array = self._array(name)
        if array.shape not in ((total, columns), (total,) if columns == 1 else ()):
            raise RecordingError(
                f"{self.path}: {name} is {array.shape}, expected ({total}, {columns}) as episode_ends says."
            )
        if columns == 3 and array.dtype.kind != "f":
            raise RecordingError(
                f"{self.path}: {name} holds {array.dtype}: poses of whole numbers have lost their fractions. "
                f"Store them as float32 or float64."
            )
        return self._files.rows(array, 0, total).astype(np.float64).reshape(total, columns)

    def _camera(self, arm: str, robot: int, total: int) -> Any:
        name = f"data/camera{robot}_rgb"
        if self.options.cameras is not None:
            name = f"data/{self.options.cameras[0 if arm == 'right' else 1]}"
        array = self._array(name)
        if array.ndim != 4 or array.shape[0] != total or array.shape[3] != 3 or array.dtype != np.uint8:
            raise RecordingError(
                f"{self.path}: {name} is {array.dtype} {array.shape}, expected uint8 ({total}, h, w, 3)."
            )
        if max(array.shape[1:3]) > MAX_SIDE:
            raise RecordingError(f"{self.path}: {name} is {array.shape}: no camera has such pictures.")
        return array

    def _frame(self, arm: str, start: int, number: int) -> np.ndarray:
        row = start + number
        # A chunk is decoded whole, so it is kept until another one is asked for.
        array = self._pictures[arm]
        size = array.chunks[0]
        block = row // size
        if arm not in self._block or self._block[arm][0] != block:
            self._block[arm] = (block, self._files.rows(array, block * size, (block + 1) * size))
        return self._block[arm][1][row - block * size]


_ORDER = {
    2: ("right-left", "robot 0 is the right hand in UMI's own recordings"),
    1: ("right", "one robot is recorded and nothing says which hand"),
}


def _checked_ends(ends: np.ndarray, path: Path) -> np.ndarray:
    ends = ends.astype(np.int64)
    if ends.ndim != 1 or len(ends) == 0 or ends[0] < 0 or (np.diff(ends) < 0).any():
        raise RecordingError(f"{path}: meta/episode_ends must be increasing frame numbers.")
    if ends[-1] > MAX_ROWS:
        raise RecordingError(f"{path}: episode_ends promises {ends[-1]} frames; at most {MAX_ROWS} are read.")
    return ends
