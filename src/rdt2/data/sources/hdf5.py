"""HDF5 recordings, one file an episode: FastUMI's two-robot layout and ALOHA's with end-effector poses.

FastUMI (robot 0 is the LEFT hand; quaternion x y z w)::

    robot_{i}/observations/qpos            (n, 7) or (n, 8)  position, quaternion[, clamp]
    robot_{i}/action                       (n, 8)            the same, and the clamp where qpos lacks it
    robot_{i}/observations/images/{camera} (n, h, w, 3) uint8, or JPEG bytes a frame

ALOHA-style (absolute end-effector poses of all arms side by side)::

    observations/{eef_pose, ee_pose, ...}  (n, arms * (3 + rotation + 1))
    observations/images/{camera}

Poses of an arm each may lie in a dataset each: ``pose_key`` with {arm} in it names both, which are read side by side.

FastUMI's one-armed files have ``observations/qpos`` at the root; their unit quaternions tell them from ALOHA's joint
angles of the same name. An attribute of the dataset (``names``, ``columns``, ...) may say what its columns are.

Timestamps are read from ``timestamp``, ``timestamps`` or ``observations/timestamp(s)``, in any unit.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from rdt2.action import ARMS
from rdt2.data.clock import at_rate, to_seconds
from rdt2.data.sources.base import Source, guess_cameras
from rdt2.data.sources.columns import ArmColumns, counted, sides
from rdt2.data.sources.hdf5_files import (
    MAX_VALUES,
    Frames,
    arm_hint,
    arm_keys,
    column_names,
    is_colour,
    numbers,
    pictures,
    pose_column_names,
    pose_numbers,
    reading,
    require_pictures,
    sentences,
)
from rdt2.data.sources.layout import read_layout
from rdt2.data.sources.numbers import ROTATION_SIZE, is_quaternion, require_finite
from rdt2.data.sources.options import ArmOrder, Rotation, SourceOptions
from rdt2.errors import ConfigError, PoseError, RecordingError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

_QPOS = "observations/qpos"
_IMAGES = "observations/images"
_POSE_KEYS = ("eef_pose", "ee_pose", "eef_poses", "ee_poses", "end_effector", "eef", "eef_state")
_TIME_KEYS = ("timestamp", "timestamps", "observations/timestamp", "observations/timestamps")
_NO_CLOCK = (
    "{}: has neither timestamps nor a rate. Say how fast it was recorded, for example --fps 30. "
    "A wrong rate makes every motion too fast or too slow."
)


@dataclass(frozen=True)
class _Facts:
    """What one file holds: robots of FastUMI's layout, datasets that may be poses, cameras by their whole paths."""

    robots: int
    pose_keys: tuple[str, ...]
    columns: int
    cameras: tuple[str, ...]


class Hdf5(Source):
    """See the module. ``path`` is one file or a folder of them. Needs h5py.

    The layout is that of most files; a file that cannot be read, or lacks what the others have, is ``damaged``.
    """

    kind = "hdf5"
    meaningless = frozenset({"message_clock", "missing_chunks", "marks"})

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: no file can be read.
            ConfigError: options that are missing or contradict the files.
        """
        super().__init__(path, options)
        if "{arm}" in (self.options.pose_key or "") and self.options.arms is None:
            # The datasets' names tell the arms, so that this order is no guess.
            told = "-".join(sides(self.options.pose_names or ()))
            order = told if told in get_args(ArmOrder) else "left-right"
            self.options = replace(self.options, arms=order)  # type: ignore[arg-type]
        self._paths = [self.path] if self.path.is_file() else _episodes_of(self.path)
        if not self._paths:
            raise RecordingError(f"{self.path}: holds no .hdf5 or .h5 file.")
        root = self.path.parent if self.path.is_file() else self.path
        self.names = [path.relative_to(root).with_suffix("").as_posix() for path in self._paths]
        facts: dict[int, _Facts] = {}
        for number, file_path in enumerate(self._paths):
            try:
                with reading(file_path) as file:
                    facts[number] = self._facts(file)
            except RecordingError as error:
                self.damaged[number] = error
        if not facts:
            raise self.damaged[0]
        with_poses = {number: each for number, each in facts.items() if each.columns}
        counts = Counter((with_poses or facts).values())
        common = max(counts, key=counts.__getitem__)
        self._seen = {camera for each in facts.values() for camera in each.cameras}
        reference = next(number for number, each in facts.items() if each == common)
        color = self._choose("color", lambda: ("rgb", "nothing is recorded; OpenCV users often store bgr"))
        self.options = replace(self.options, color=color)  # type: ignore[arg-type]
        with reading(self._paths[reference]) as file:
            if self.options.fps is None and _time_key(file) is None:
                self._ask(_NO_CLOCK.format(file.filename))
            self._fastumi = common.robots > 0
            with self._asking_as_well(lambda: self._ask_without_layout(file, common.robots)):
                if self._fastumi:
                    self._read_fastumi_layout(file, common.robots)
                else:
                    self._read_aloha_layout(file, common)
        self.lengths = [0] * len(self._paths)
        texts: list[str | None] = []
        self._settle_units(self._scan(texts))
        self._ask_instruction(texts)
        self._settle()

    def _ask_without_layout(self, file: Any, robots: int) -> None:
        """Ask for what does not depend on where the poses are."""
        if not robots and (self.options.cameras or len(_cameras(file)) != 1):
            self._choose_cameras(file, (self.options.arms or "right-left").split("-"))
        if sentences(file, 1) is None:
            self._ask_instruction([None] * len(self._paths))

    def _scan(self, texts: list[str | None]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and numbers of all files that have what the layout asks for; the others are damaged."""
        for number, path in enumerate(self._paths):
            if number in self.damaged:
                continue
            try:
                with reading(path) as file:
                    parts = self._numbers_of(file)
                    for arm, part in parts.items():
                        where = f"{self.path.name}, {self.names[number]}, {arm} arm"
                        require_finite(part[0], part[1], where=where)
                    count = self.lengths[number] = len(next(iter(parts.values()))[0])
                    for key in self._camera_of.values():
                        require_pictures(file, key, count, path)
                    text = sentences(file, count)
            except (RecordingError, PoseError) as error:
                self.damaged[number] = error
                continue
            texts.append(text if isinstance(text, str) or text is None else min(text, key=len))
            yield self.names[number], parts

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names file and frame."""
        path = self._paths[number]
        with reading(path) as file:
            parts = self._numbers_of(file)
            count = self.lengths[number]
            times = self._times(file, count)
            text = sentences(file, count)
        return self._episode(
            number,
            position={arm: part[0] for arm, part in parts.items()},
            rotation={arm: part[1] for arm, part in parts.items()},
            gripper={arm: part[2] for arm, part in parts.items()},
            frames={arm: Frames(path, self._camera_of[arm]) for arm in parts},
            timestamps=times,
            instruction=text,
        )

    def _facts(self, file: Any) -> _Facts:
        demos = [name for name in _inside(file, "data") if name.startswith("demo")]
        if len(demos) > 1:
            raise RecordingError(
                f"{file.filename}: holds {len(demos)} demonstrations in one file (data/{demos[0]} ..), as robomimic "
                f"writes them. Each file is read as one episode: copy each of these groups to a file of its own."
            )
        given = self.options.pose_key
        robots = 0 if given else sum(f"robot_{number}" in file for number in (0, 1))
        keys = [given] if given else [f"observations/{name}" for name in _POSE_KEYS]
        keys = [key for key in keys if not self._missing_keys(file, key)]
        if not keys and not robots and given is None and _is_quaternion_qpos(file):
            keys = [_QPOS]
        # Read here, so that the layout is never taken from a file whose poses cannot be read.
        first = f"robot_0/{_QPOS}" if robots else keys[0] if keys else None
        shape = pose_numbers(file, first, self.options.arms).shape if first else (0, 0)
        folders = [f"robot_{number}/{_IMAGES}" for number in range(robots)] or [_IMAGES]
        usual = [f"{folder}/{name}" for folder in folders for name in _inside(file, folder)]
        named = [name for name in self.options.cameras or () if hasattr(file.get(name), "shape")]
        cameras = dict.fromkeys([*(usual or pictures(file)), *named])
        return _Facts(robots, tuple(keys), shape[1] if shape[0] else 0, tuple(cameras))

    def _missing_keys(self, file: Any, key: str) -> list[str]:
        """Which of the datasets that a pose key names are not in the file."""
        return [
            each for each in arm_keys(key, self.options.arms).values() if not hasattr(file.get(each), "shape")
        ]

    def _camera_key(self, folder: str, name: str) -> str | None:
        """Where the pictures of a camera are, which is named as in its group or by its whole path; None, and asked
        for, where no file has it."""
        inside = f"{folder}/{name}"
        if name in self._seen and ("/" in name or inside not in self._seen):
            return name
        if inside in self._seen:
            return inside
        self._ask(
            f"no file has a camera {name}, neither in {folder} nor as a whole path. There are "
            f"{', '.join(sorted(self._seen)[:12]) or 'no pictures'}: --cameras RIGHT LEFT"
        )
        return None

    def _choose_cameras(self, file: Any, arms: Iterable[str]) -> dict[str, str]:
        """arm -> dataset of its pictures; without those that have to be asked for."""
        how = f", as in {_IMAGES} or by their whole paths in the file"
        found = self._choose("cameras", lambda: guess_cameras(_cameras(file), where=file.filename, how=how))
        names = dict(zip(ARMS, found, strict=True)) if found else {}
        keys = {arm: self._camera_key(_IMAGES, names[arm]) for arm in arms if arm in names}
        return {arm: key for arm, key in keys.items() if key is not None}

    def _read_fastumi_layout(self, file: Any, count: int) -> None:
        reason = "robot_0 is the left hand in FastUMI's recordings"
        self._robots_of = self._robots(count, "left-right" if count == 2 else "left", reason)
        self._columns, self._camera_of = {}, {}
        for arm, robot in self._robots_of.items():
            key = f"robot_{robot}/{_QPOS}"
            self._columns[arm] = self._columns_of_robot(file, key)
            action = getattr(file.get(f"robot_{robot}/action"), "shape", ())
            if self._columns[arm].gripper is None and action[1:] != (self._width + 1,):
                choices = _datasets(file, columns=1, count=len(file[key]))
                self._ask_gripper(f"{key} has {self._width} columns, a position and a quaternion", choices)
            folder = f"robot_{robot}/{_IMAGES}"
            names = _inside_colour(file, folder)
            if self.options.cameras is not None:
                names = [self.options.cameras[0 if arm == "right" else 1]]
            if len(names) == 1:
                key = self._camera_key(folder, names[0]) or ""
                self._camera_of.update({arm: key} if key else {})
            else:
                there = "" if names else f" (there are {', '.join(pictures(file)[:12]) or 'no pictures'})"
                self._ask(
                    f"{file.filename}: {folder} holds {', '.join(names) or 'no camera'}{there}. "
                    f"Name the wrist cameras, as there or by their whole paths in the file: --cameras RIGHT LEFT"
                )

    def _columns_of_robot(self, file: Any, key: str) -> ArmColumns:
        values = numbers(file, key, 2)
        self._width = values.shape[1]
        names = [*(self.options.pose_names or column_names(file, key))]
        if names:
            alone = replace(self.options, arms=None)
            layout = read_layout(key, names, values, alone, where=f"{file.filename}: {key}")
            self.options = replace(self.options, rotation=layout.rotation, **layout.units)  # type: ignore[arg-type]
            return layout.arms[0]
        usual: Rotation = "xyzw"
        rotation = self._choose("rotation", lambda: (usual, "FastUMI stores quaternions x y z w"))
        assert rotation is not None
        self.options = replace(self.options, rotation=rotation)
        size = 3 + ROTATION_SIZE[rotation]
        if self._width not in (size, size + 1):
            raise ConfigError(
                f"{file.filename}: {key} has {self._width} columns, expected {size} or {size + 1} with {rotation!r} "
                f"rotations. Choose another --rotation, or name the columns: --pose-names x y z qx qy qz qw gripper"
            )
        (columns,) = counted(1, rotation, gripper=self._width == size + 1)
        return columns

    def _read_aloha_layout(self, file: Any, facts: _Facts) -> None:
        datasets = _datasets(file)
        choices, hint = ", ".join(datasets) or "no numbers", arm_hint(datasets)
        given = self.options.pose_key
        if not facts.pose_keys and given is not None:
            missing = self._missing_keys(file, given)
            instead = "Name one with --pose-key"
            if len(missing) == 1 and "{arm}" in given and len(arm_keys(given, self.options.arms)) == 2:
                there = next(
                    arm for arm, key in arm_keys(given, self.options.arms).items() if key not in missing
                )
                instead += f", or of one arm alone say which: --arms {there} --missing-arm still"
            raise ConfigError(
                f"{file.filename}: has no dataset {' and no '.join(missing)}. {instead}; there are {choices}.{hint}"
            )
        if len(facts.pose_keys) != 1:
            found = f"several: {', '.join(facts.pose_keys)}" if facts.pose_keys else "none by any usual name"
            raise ConfigError(
                f"{file.filename}: end-effector poses under observations/: {found} ({', '.join(_POSE_KEYS)}). Say "
                f"where they are: --pose-key NAME (there are {choices}). "
                f"ALOHA's qpos are joint angles, which are no poses.{hint}"
            )
        (key,) = facts.pose_keys
        if key == _QPOS and self.options.pose_key is None:
            reason = "columns 4 to 7 are unit quaternions, as in FastUMI's one-armed files"
            self._choose("pose_key", lambda: (key, reason))
        values = pose_numbers(file, key, self.options.arms)
        self._width = values.shape[1]
        self._other_arm = arm_hint(datasets, key)
        self._read_columns(
            key,
            pose_column_names(file, key, self.options.arms),
            values,
            left_first="ALOHA writes the left arm first",
            gripper_choices=_datasets(file, columns=2, count=len(values)),
        )
        names = _cameras(file)
        if len(self._robots_of) == 1 and self.options.cameras is None and len(names) == 1:
            only = self._camera_key(_IMAGES, names[0])
            self._camera_of = {arm: only for arm in self._robots_of if only is not None}
        else:
            self._camera_of = self._choose_cameras(file, self._robots_of)

    def _numbers_of(self, file: Any) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Position, rotation and gripper numbers of each arm."""
        grippers = self._gripper_numbers(
            lambda key: numbers(file, key, 1, 2), lambda key: column_names(file, key), where=file.filename
        )
        if not self._fastumi:
            return self._parts(self._table(file, self._key), grippers)
        parts = {}
        for arm, robot in self._robots_of.items():
            values = self._table(file, f"robot_{robot}/{_QPOS}")
            part = self._parts(values, grippers)[arm]
            if part[2] is None and self.options.gripper_fixed is None and not self._missing:
                clamp = numbers(file, f"robot_{robot}/action", 2)
                if clamp.shape != (len(values), self._width + 1):
                    raise RecordingError(
                        f"{file.filename}: neither robot_{robot}/{_QPOS} {values.shape} nor robot_{robot}/action "
                        f"{clamp.shape} holds the gripper as column {self._width}."
                    )
                part = (*part[:2], clamp[:, self._width])
            parts[arm] = part
        return parts

    def _table(self, file: Any, key: str) -> np.ndarray:
        values = pose_numbers(file, key, self.options.arms)
        if values.shape[1] != self._width:
            raise RecordingError(
                f"{file.filename}: {key} has {values.shape[1]} columns, in most files {self._width}."
            )
        return values

    def _times(self, file: Any, count: int) -> np.ndarray:
        """(count,) seconds from the first frame."""
        key = _time_key(file)
        stamps = None if key is None or file[key].size > MAX_VALUES else file[key][()]
        if self.options.fps is not None:
            return at_rate(self.options.fps, count, stamps)
        if stamps is None:
            raise RecordingError(_NO_CLOCK.format(file.filename))
        times = to_seconds(stamps, where=f"{file.filename}: {key}", unit=self.options.time_unit)
        if len(times) != count:
            raise RecordingError(
                f"{file.filename}: {len(times)} timestamps in {key} for {count} poses. If the frames are even, "
                f"say how fast it was recorded: --fps 30"
            )
        return times


def _time_key(file: Any) -> str | None:
    return next((key for key in _TIME_KEYS if hasattr(file.get(key), "shape")), None)


def _is_quaternion_qpos(file: Any) -> bool:
    """FastUMI's one-armed files keep poses under the name that ALOHA has for joint angles."""
    found = file.get(_QPOS)
    if len(getattr(found, "shape", ())) != 2 or found.dtype.kind not in "fiu" or found.shape[1] not in (7, 8):
        return False
    return is_quaternion(numbers(file, _QPOS, 2)[:, 3:7])


def _datasets(file: Any, *, columns: int | None = None, count: int | None = None) -> list[str]:
    """Names of datasets with a row of numbers a frame: of at most ``columns`` and ``count`` rows, if given."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        shape = getattr(item, "shape", None)
        if shape is None or len(shape) not in (1, 2) or item.dtype.kind not in "fiu" or name in _TIME_KEYS:
            return
        wide = shape[1] if len(shape) == 2 else 1
        if (columns is None and len(shape) == 2 and wide < 100) or (
            (columns or 0) >= wide and shape[0] == count
        ):
            found.append(os.fsdecode(name))

    file.visititems(visit)
    return found


def _inside(file: Any, folder: str) -> list[str]:
    """Names in a group; a damaged one, which HDF5 gives as bytes, as text that can be shown."""
    group = file.get(folder, ())
    return [] if hasattr(group, "shape") else sorted(os.fsdecode(name) for name in group)


def _cameras(file: Any) -> list[str]:
    """Cameras of files that are not FastUMI's; by their whole paths, where there are none in the usual group."""
    return _inside_colour(file, _IMAGES) or pictures(file)


def _inside_colour(file: Any, folder: str) -> list[str]:
    """Cameras of a group with colour pictures; all, where there are none."""
    names = _inside(file, folder)
    return [name for name in names if is_colour(file[f"{folder}/{name}"])] or names


def _episodes_of(folder: Path) -> list[Path]:
    """The recordings of a folder, episode_2 before episode_10."""

    def natural(path: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]

    files = [*folder.rglob("*.hdf5"), *folder.rglob("*.h5")]
    # ._name is what macOS keeps beside a file on other file systems: no recording.
    return sorted((path for path in files if not path.name.startswith("._")), key=natural)
