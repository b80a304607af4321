"""LeRobotDataset v3.0 and v2.1 on disk, read with pyarrow and av; the lerobot package is not needed.

The state (``observation.state``, or ``--pose-key``) has to hold end-effector poses: for each arm position,
rotation and gripper, arms side by side. Joint angles are no poses and are refused where their names say so.
Datasets written by :mod:`rdt2.data.lerobot_writer` name their columns and leave nothing to guess.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS, FPS
from rdt2.data.clock import at_rate, to_seconds, usual_step
from rdt2.data.sources.base import Source, guess_cameras, guess_rotation
from rdt2.data.sources.lerobot_tables import Clip, Entry, Tables, matrix
from rdt2.data.sources.options import ROTATION_SIZE, SourceOptions, guess_gripper
from rdt2.data.sources.pictures import decode_image
from rdt2.data.sources.video import VideoFrames, by_number, by_time, picture_stamps
from rdt2.errors import ConfigError, RDT2Error, RecordingError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

STATE_NAMES = [
    f"{arm}_{name}"
    for arm in ARMS
    for name in ("x", "y", "z", "r00", "r10", "r20", "r01", "r11", "r21", "width")
]
"""Columns of a state written by this package: position (m), first two COLUMNS of R, gripper width (m)."""
_JOINT_WORDS = ("joint", "motor", "shoulder", "elbow", "waist", "forearm", ".pos")


class LeRobot(Source):
    """See the module. ``path`` is the folder that holds ``meta/info.json``. Needs pyarrow and av."""

    kind = "lerobot"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: files missing or damaged, or another version.
            ConfigError: a state that is no poses, or options that contradict the dataset.
        """
        super().__init__(path, options)
        self._tables = Tables(self.path)
        self._features = self._tables.features
        self._entries = self._tables.entries
        self.names = [f"episode_{entry.index:06d}" for entry in self._entries]
        self.lengths = [entry.length for entry in self._entries]
        self._read_layout()

    def _read_layout(self) -> None:
        key = self.options.pose_key or "observation.state"
        if key not in self._features:
            raise ConfigError(
                f"{self.path}: has no feature {key}; there are {', '.join(self._features)}. "
                f"Name the one that holds end-effector poses: --pose-key NAME"
            )
        self._pose_key = key
        names = _flat_names(self._features[key].get("names"))
        columns = self._columns = self._tables.width(key)
        own = names == STATE_NAMES
        if (
            not own
            and self.options.pose_key is None
            and any(word in name.lower() for name in names for word in _JOINT_WORDS)
        ):
            raise ConfigError(
                f"{self.path}: {key} holds joint angles ({', '.join(names[:3])}, ...), which are no poses. "
                f"Point --pose-key at end-effector poses."
            )
        if own:
            self.options = replace(self.options, arms="right-left", rotation="columns", gripper_unit="m")
        arms = self._arms_of_columns(columns, "LeRobot's two-armed robots list the left arm first")
        rotation = self._choose("rotation", lambda: guess_rotation(columns, arms, where=str(self.path)))
        self._size = 4 + ROTATION_SIZE[rotation]
        if columns != arms * self._size:
            raise ConfigError(
                f"{self.path}: {key} has {columns} columns; {arms} arm(s) of position, {rotation}, gripper have "
                f"{arms * self._size}. Choose another --rotation or --arms."
            )
        pictures = [
            name for name, value in self._features.items() if value.get("dtype") in ("video", "image")
        ]
        if arms == 1 and self.options.cameras is None and len(pictures) == 1:
            cameras = (pictures[0], pictures[0])
        elif own and self.options.cameras is None:
            cameras = guess_cameras(pictures, where=str(self.path))[0]
        else:
            cameras = self._choose("cameras", lambda: guess_cameras(pictures, where=str(self.path)))
        self._camera_of = {arm: cameras[0 if arm == "right" else 1] for arm in self._robots_of}
        for name in self._camera_of.values():
            if name not in pictures:
                raise ConfigError(f"{self.path}: has no camera {name!r}; there are {', '.join(pictures)}.")
        self.options = replace(self.options, rotation=rotation)  # type: ignore[arg-type]
        if self.options.gripper_unit is None:
            state = self._first_state()
            grippers = np.concatenate(
                [state[:, (robot + 1) * self._size - 1] for robot in self._robots_of.values()]
            )
            unit = self._choose("gripper_unit", lambda: guess_gripper(grippers, where=str(self.path)))
            self.options = replace(self.options, gripper_unit=unit)

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names file and frame."""
        entry = self._entries[number]
        state, table = self._table(entry)
        times, offset, seconds = self._times(table, f"{entry.data}, episode {entry.index}")
        part = {
            arm: state[:, robot * self._size : (robot + 1) * self._size]
            for arm, robot in self._robots_of.items()
        }
        frames: dict[str, Any] = {}
        for arm, key in self._camera_of.items():
            if key in table.column_names:
                where = f"{self.path}: {self.names[number]}, {key}"
                frames[arm] = _stored_pictures(table[key].to_pylist(), self.path, where)
            else:
                frames[arm] = _video_pictures(entry.videos[key], seconds, offset)
        return self._episode(
            number,
            position={arm: values[:, :3] for arm, values in part.items()},
            rotation={arm: values[:, 3:-1] for arm, values in part.items()},
            gripper={arm: values[:, -1] for arm, values in part.items()},
            frames=frames,
            timestamps=times,
            instruction=self._sentences_of(entry, table),
        )

    def _first_state(self) -> np.ndarray:
        """(n, columns) state of the first episode that can be read."""
        first: RecordingError | None = None
        for entry in self._entries:
            try:
                return self._table(entry)[0]
            except RecordingError as error:  # named when that episode is asked for
                first = first or error
        raise RecordingError(f"{self.path}: no episode can be read; the first: {first}")

    def _table(self, entry: Entry) -> tuple[np.ndarray, Any]:
        """(n, columns) state, and the rows with clock, tasks and pictures stored inside."""
        inside = [key for key in set(self._camera_of.values()) if self._features[key].get("dtype") == "image"]
        table = self._tables.rows(
            entry, [self._pose_key, *inside], optional=("timestamp", "frame_index", "task_index")
        )
        state = matrix(table[self._pose_key], where=f"{entry.data}, episode {entry.index}: {self._pose_key}")
        if entry.length and state.shape[1] != self._columns:
            raise RecordingError(
                f"{entry.data}, episode {entry.index}: {self._pose_key} has {state.shape[1]} columns, info.json "
                f"promises {self._columns}. Mend its shape there."
            )
        return state, table

    def _times(self, table: Any, where: str) -> tuple[np.ndarray, float, np.ndarray]:
        """Seconds of the rows, what the recorded clock shows at the first one (s), and its own seconds."""
        count, given, rate = table.num_rows, self.options.fps, self._tables.fps
        recorded = next((name for name in ("timestamp", "frame_index") if name in table.column_names), None)
        stamps = None if recorded is None else np.asarray(table[recorded])
        if recorded != "timestamp":
            if given is None and rate is None:
                raise ConfigError(
                    f"{self.path}: has neither timestamps nor fps in info.json. Say it: --fps 30"
                )
            times = at_rate(given or rate or 0.0, count, stamps)
            return times, 0.0, times
        assert stamps is not None
        try:
            seconds = to_seconds(
                stamps, where=f"{where}: timestamp", unit=self.options.time_unit, rate=None if given else rate
            )
        except RDT2Error:
            if given is None:
                raise
            seconds = at_rate(rate or given, count)
            return at_rate(given, count, stamps), 0.0, seconds
        span = float(stamps[-1] - stamps[0]) if count > 1 else 0.0
        offset = float(stamps[0]) * seconds[-1] / span if span else 0.0
        return (seconds if given is None else at_rate(given, count, stamps)), offset, seconds

    def _sentences_of(self, entry: Entry, table: Any) -> str | list[str | None] | None:
        """The task of each row by its task_index, else the only one of the episode."""
        only = entry.tasks[0] if len(entry.tasks) == 1 else None
        if "task_index" in table.column_names:
            found = [self._tables.tasks.get(number, only) for number in table["task_index"].to_pylist()]
            if any(text is not None for text in found):
                return found
        if len(entry.tasks) > 1 and not self.options.instruction:
            raise RecordingError(
                f"{self.path}: episode {entry.index} lists {len(entry.tasks)} tasks, and no task_index says which "
                f"frame has which. Give one sentence for all: --instruction 'Pick up the apple.'"
            )
        return only


def _video_pictures(clip: Clip, seconds: np.ndarray, offset: float) -> VideoFrames:
    """The pictures of an episode's rows: by number where the file has as many as its episodes have rows (its
    stamps may be those of another rate), else by time."""
    if len(picture_stamps(clip.path)[0]) == clip.total:
        return by_number(clip.path, clip.first, len(seconds))
    return by_time(
        clip.path, seconds, offset=offset, start=clip.start, end=clip.end, step=usual_step(seconds) or 1 / FPS
    )


def _stored_pictures(values: list[Any], folder: Path, where: str) -> Any:
    """Pictures inside a table: bytes, or the path of a file of the dataset."""

    def read(number: int) -> np.ndarray:
        value = values[number]
        data = value.get("bytes") if isinstance(value, dict) else value
        name = value.get("path") if isinstance(value, dict) else None
        if not data and name:
            path = (folder / name).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                raise RecordingError(f"{where}, frame {number}: the dataset has no picture file {name}.")
            data = path.read_bytes()
        if not isinstance(data, bytes) or not data:
            raise RecordingError(f"{where}, frame {number}: the table holds no picture bytes.")
        return decode_image(data, where=f"{where}, frame {number}")

    return read


def _flat_names(names: Any) -> list[str]:
    if isinstance(names, dict):
        return [str(name) for part in names.values() for name in (part if isinstance(part, list) else [part])]
    return [str(name) for name in names] if isinstance(names, list) else []
