"""LeRobotDataset v3.0 and v2.1 on disk, read with pyarrow and av; the lerobot package is not needed. Those kept in
Lance tables are read with pylance.

The state (``observation.state``, or ``--pose-key``) has to hold end-effector poses: for each arm position,
rotation and gripper, arms side by side. Joint angles are no poses and are refused where their names say so.
Datasets written by :mod:`rdt2.data.lerobot_writer` name their columns and leave nothing to guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS, FPS
from rdt2.data.clock import at_rate, to_seconds, usual_step
from rdt2.data.sources.base import Source, guess_cameras
from rdt2.data.sources.columns import flat_names
from rdt2.data.sources.hy_embodied import as_hy_embodied, is_hy_embodied
from rdt2.data.sources.lance_tables import LanceTables, lance_folders
from rdt2.data.sources.lerobot_tables import Clip, Entry, Tables, matrix
from rdt2.data.sources.numbers import require_finite
from rdt2.data.sources.pictures import NOT_COLOUR, decode_image
from rdt2.data.sources.video import VideoFrames, by_number, by_time, picture_stamps
from rdt2.errors import ConfigError, PoseError, RDT2Error, RecordingError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode
    from rdt2.data.sources.options import SourceOptions

STATE_NAMES = [
    f"{arm}_{name}"
    for arm in ARMS
    for name in ("x", "y", "z", "r00", "r10", "r20", "r01", "r11", "r21", "width")
]
"""Columns of a state written by this package: position (m), first two COLUMNS of R, gripper width (m)."""
_CLOCKS = ("timestamp", "frame_index")
_BOOKKEEPING = (*_CLOCKS, "episode_index", "index", "task_index")


class LeRobot(Source):
    """See the module. ``path`` is the folder that holds ``meta/info.json``, or a Lance table or a folder of them.
    Needs pyarrow and av, and for Lance pylance."""

    kind = "lerobot"
    meaningless = frozenset({"message_clock", "missing_chunks", "marks"})

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: files missing or damaged, or another version.
            ConfigError: a state that is no poses, options that contradict the dataset, or pylance is missing.
        """
        super().__init__(path, options)
        self._tables = LanceTables(self.path) if lance_folders(self.path) else Tables(self.path)
        self._features = self._tables.features
        self._entries: Sequence[Entry] = self._tables.entries
        if isinstance(self._tables, LanceTables) and is_hy_embodied(self._features, self.options):
            self.options, notes = as_hy_embodied(self._features, self.options)
            self.notes += notes
        self.names = [self._tables.name(entry) for entry in self._entries]
        self.lengths = [entry.length for entry in self._entries]
        self._read_layout()

    def _read_layout(self) -> None:
        with self._asking_as_well(self._ask_without_layout):
            own = self._read_poses()
        cameras = self._cameras(own)
        self._camera_of = {arm: cameras[0 if arm == "right" else 1] for arm in self._robots_of if cameras}
        self._settle_units(self._scan())
        self._ask_sentences()
        self._settle()

    def _read_poses(self) -> bool:
        """Where the poses and openings are; whether this package wrote them. Raises ConfigError."""
        key = self.options.pose_key or "observation.state"
        numbers = [
            name
            for name, value in self._features.items()
            if value.get("dtype") not in ("video", "image", "string")
        ]
        for named in (key, *self._gripper_keys(("right", "left"))):
            if named not in self._features:
                flag = "--pose-key" if named == key else "--gripper-key"
                raise ConfigError(
                    f"{self.path}: has no feature {named}; there are {', '.join(numbers)}. Name the one that holds "
                    f"{'end-effector poses' if named == key else 'the gripper openings'}: {flag} NAME"
                )
        # What LeRobot itself records of our robots has ".pos" behind each name.
        names = [name.removesuffix(".pos") for name in flat_names(self._features[key].get("names"))]
        self._width = self._tables.width(key)
        self._read_columns(
            key,
            names,
            self._first_state(key),
            left_first="LeRobot's two-armed robots list the left arm first",
            gripper_choices=[name for name in numbers if name not in (key, *_BOOKKEEPING)],
        )
        own = names == STATE_NAMES
        if own and self.options.gripper_unit is None:
            self.options = replace(self.options, gripper_unit="m")
        return own

    def _ask_without_layout(self) -> None:
        """Ask for what does not depend on where the poses are."""
        colour = self._colour_cameras()
        if len(colour) != 1:
            self._choose("cameras", lambda: guess_cameras(colour, where=str(self.path)))
        self._ask_sentences()

    def _ask_sentences(self) -> None:
        self._ask_instruction(
            next(
                (text for text in (*entry.tasks, *self._tables.tasks_of(entry).values()) if text.strip()),
                None,
            )
            for entry in self._entries
        )

    def _pictures(self) -> dict[str, dict[str, Any]]:
        return {
            name: value for name, value in self._features.items() if value.get("dtype") in ("video", "image")
        }

    def _colour_cameras(self) -> list[str]:
        return [name for name, value in self._pictures().items() if not _is_depth(value)]

    def _cameras(self, own: bool) -> tuple[str, ...]:
        """The right and the left wrist camera; () where they have to be named."""
        pictures, colour = self._pictures(), self._colour_cameras()
        given = self.options.cameras
        if given is None and len(self._robots_of) == 1 and len(colour) == 1:
            return (colour[0], colour[0])
        if given is None and own:
            return guess_cameras(colour, where=str(self.path))[0]
        found = self._choose("cameras", lambda: guess_cameras(colour, where=str(self.path)))
        for name in found or ():
            if name not in pictures:
                raise ConfigError(f"{self.path}: has no camera {name!r}; there are {', '.join(pictures)}.")
            if name not in colour:
                raise ConfigError(
                    f"{self.path}: camera {name!r} holds depth by its description. {NOT_COLOUR}"
                )
        return found or ()

    def _gripper_keys(self, arms: Iterable[str]) -> list[str]:
        """The features that hold gripper openings of these arms, if not the poses' own."""
        key = self.options.gripper_key
        if key is None:
            return []
        if "{arm}" in key:
            arms = self.options.arms.split("-") if self.options.arms else arms
            return [key.replace("{arm}", arm) for arm in arms]
        return [key]

    def _scan(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and numbers of the episodes that tell units and can be read; the others are damaged."""
        for number in self._tables.to_judge():
            entry = self._entries[number]
            try:
                wanted = [self._key, *self._gripper_keys(self._robots_of)]
                table = self._tables.rows(entry, wanted, optional=_CLOCKS)
                parts = self._numbers_of(entry, table)
                for arm, part in parts.items():
                    where = f"{self.path.name}, {self.names[number]}, {arm} arm"
                    require_finite(part[0], part[1], where=where)
            except (RecordingError, PoseError) as error:
                self.damaged[number] = error
                continue
            if (
                "timestamp" not in table.column_names
                and self.options.fps is None
                and self._tables.fps is None
            ):
                self._ask("has neither timestamps nor fps in info.json. Say it: --fps 30")
            yield self.names[number], parts

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names file and frame."""
        entry = self._entries[number]
        inside = [key for key in set(self._camera_of.values()) if self._features[key].get("dtype") == "image"]
        lance = self._tables if isinstance(self._tables, LanceTables) else None
        if lance is not None:
            inside = []  # its pictures come a few at a time
        wanted = [self._key, *self._gripper_keys(self._robots_of), *inside]
        table = self._tables.rows(entry, wanted, optional=(*_CLOCKS, "task_index"))
        times, offset, seconds = self._times(table, f"{entry.data}, episode {entry.index}")
        parts = self._numbers_of(entry, table)
        frames: dict[str, Any] = {}
        for arm, key in self._camera_of.items():
            where = f"{self.path}: {self.names[number]}, {key}"
            if lance is not None:
                frames[arm] = _stored_pictures(lance.pictures(entry, key), self.path, where)
            elif key in table.column_names:
                frames[arm] = _stored_pictures(table[key].to_pylist(), self.path, where)
            else:
                frames[arm] = _video_pictures(entry.videos[key], seconds, offset)
        return self._episode(
            number,
            position={arm: part[0] for arm, part in parts.items()},
            rotation={arm: part[1] for arm, part in parts.items()},
            gripper={arm: part[2] for arm, part in parts.items()},
            frames=frames,
            timestamps=times,
            instruction=self._sentences_of(entry, table),
        )

    def _first_state(self, key: str) -> np.ndarray:
        """(n, columns) state of the first episode that can be read."""
        first: RecordingError | None = None
        for entry in self._entries:
            try:
                return self._state(entry, self._tables.rows(entry, [key]), key)
            except RecordingError as error:  # named when that episode is asked for
                first = first or error
        raise first or RecordingError(f"{self.path}: holds no episode.")

    def _state(self, entry: Entry, table: Any, key: str) -> np.ndarray:
        where = f"{entry.data}, episode {entry.index}: {key}"
        state = matrix(table[key], where=where, fractions=True)
        if state.shape[1] != self._width:
            raise RecordingError(
                f"{where} has {state.shape[1]} columns, info.json promises {self._width}. Mend its shape there."
            )
        return state

    def _numbers_of(
        self, entry: Entry, table: Any
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Position, rotation and gripper numbers of each arm."""
        where = f"{entry.data}, episode {entry.index}"
        grippers = self._gripper_numbers(
            lambda key: matrix(table[key], where=f"{where}: {key}"),
            lambda key: flat_names(self._features[key].get("names")),
            where=where,
        )
        return self._parts(self._state(entry, table, self._key), grippers)

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
        if stamps.dtype.kind in "mM":
            stamps = stamps.astype(f"{stamps.dtype.kind}8[ns]")
        try:
            seconds = to_seconds(
                stamps, where=f"{where}: timestamp", unit=self.options.time_unit, rate=None if given else rate
            )
        except RDT2Error:
            if given is None:
                raise
            seconds = at_rate(rate or given, count)
            return at_rate(given, count, stamps), 0.0, seconds
        shown = stamps.astype(np.float64)
        offset = float(shown[0] / (shown[-1] - shown[0]) * seconds[-1]) if count > 1 else 0.0
        return (seconds if given is None else at_rate(given, count, stamps)), offset, seconds

    def _sentences_of(self, entry: Entry, table: Any) -> str | list[str | None] | None:
        """The task of each row by its task_index, else the only one of the episode."""
        only = entry.tasks[0] if len(entry.tasks) == 1 else None
        # A dataset that lists tasks and none here means none: task_index is 0 where nobody set it.
        if "task_index" in table.column_names and (entry.tasks or not self._tables.lists_tasks):
            numbers = matrix(table["task_index"], where=f"{entry.data}, episode {entry.index}: task_index")
            tasks = self._tables.tasks_of(entry)
            found = [tasks.get(number) for number in numbers[:, 0].tolist()]
            other = next((text for text in found if text and entry.tasks and text not in entry.tasks), None)
            if other is not None:
                raise RecordingError(
                    f"{self.path}: rows of episode {entry.index} have the task {other!r} by their task_index, the "
                    f"episode lists {', '.join(map(repr, entry.tasks))}. Mend one of them, or leave the episode out."
                )
            if any(text is not None for text in found):
                return [only if text is None else text for text in found]
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


def _stored_pictures(values: Any, folder: Path, where: str) -> Any:
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


def _is_depth(feature: dict[str, Any]) -> bool:
    """Whether a feature's description says depth or a single channel."""
    info = feature.get("info") or feature.get("video_info") or {}
    shape = feature.get("shape")
    single = isinstance(shape, list) and len(shape) == 3 and 1 in (shape[0], shape[2])
    gray = isinstance(info, dict) and str(info.get("video.pix_fmt", "")).startswith("gray")
    return single or gray or (isinstance(info, dict) and info.get("video.is_depth_map") is True)
