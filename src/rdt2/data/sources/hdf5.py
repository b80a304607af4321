"""HDF5 recordings, one file an episode: FastUMI's two-robot layout and ALOHA's with end-effector poses.

FastUMI (robot 0 is the LEFT hand; quaternion x y z w)::

    robot_{i}/observations/qpos            (n, 7) or (n, 8)  position, quaternion[, clamp]
    robot_{i}/action                       (n, 8)            the same, and the clamp where qpos lacks it
    robot_{i}/observations/images/{camera} (n, h, w, 3) uint8, or JPEG bytes a frame

ALOHA-style (absolute end-effector poses of all arms side by side)::

    observations/{eef_pose, ee_pose, ...}  (n, arms * (3 + rotation + 1))
    observations/images/{camera}

Timestamps are read from ``timestamp``, ``timestamps`` or ``observations/timestamp(s)``, in any unit.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.clock import at_rate, to_seconds
from rdt2.data.sources.base import Source, guess_cameras, guess_rotation
from rdt2.data.sources.options import ROTATION_SIZE, SourceOptions, guess_gripper
from rdt2.data.sources.pictures import MAX_SIDE, NOT_COLOUR, decode_image
from rdt2.errors import ConfigError, RecordingError
from rdt2.files import unreadable

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

_POSE_KEYS = ("eef_pose", "ee_pose", "eef_poses", "ee_poses", "end_effector", "eef", "eef_state")
_TIME_KEYS = ("timestamp", "timestamps", "observations/timestamp", "observations/timestamps")
_TEXT_KEYS = ("instruction", "language_instruction", "task", "language_raw")
_NO_CLOCK = (
    "{}: has neither timestamps nor a rate. Say how fast it was recorded, for example --fps 30. "
    "A wrong rate makes every motion too fast or too slow."
)
_MAX_VALUES = 1 << 27
"""Numbers a pose or time array may hold; a day at 30 Hz is 52 million."""


class Hdf5(Source):
    """See the module. ``path`` is one file or a folder of them. Needs h5py."""

    kind = "hdf5"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: a truncated file, another layout, or object arrays.
            ConfigError: options that are missing or contradict the files.
        """
        super().__init__(path, options)
        files = [self.path] if self.path.is_file() else _episodes_of(self.path)
        if not files:
            raise RecordingError(f"{self.path}: holds no .hdf5 or .h5 file.")
        self._paths = files
        root = self.path.parent if self.path.is_file() else self.path
        self.names = [path.relative_to(root).with_suffix("").as_posix() for path in files]
        with _open(files[0]) as first:
            self._fastumi = "robot_0" in first and self.options.pose_key is None
            if self._fastumi:
                self._read_fastumi_layout(first)
            else:
                self._read_aloha_layout(first)
            has_times = any(key in first for key in _TIME_KEYS)
            grippers = np.concatenate([self._poses(first, robot)[1] for robot in self._robots_of.values()])
        if not has_times and self.options.fps is None:
            raise ConfigError(_NO_CLOCK.format(files[0]))
        unit = self._choose("gripper_unit", lambda: guess_gripper(grippers, where=str(files[0])))
        color = self._choose("color", lambda: ("rgb", "nothing is recorded; OpenCV users often store bgr"))
        self.options = replace(self.options, gripper_unit=unit, color=color)  # type: ignore[arg-type]
        self.lengths = [self._length(path) for path in files]

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names file and frame."""
        path = self._paths[number]
        with _open(path) as file:
            parts = {arm: self._poses(file, robot) for arm, robot in self._robots_of.items()}
            count = self.lengths[number]
            times = self._times(file, count)
            text = _text(file, count)
            for arm in parts:
                _require_pictures(file, self._camera_of[arm], count, path)
        return self._episode(
            number,
            position={arm: part[0][:, :3] for arm, part in parts.items()},
            rotation={arm: part[0][:, 3:] for arm, part in parts.items()},
            gripper={arm: part[1] for arm, part in parts.items()},
            frames={arm: _Frames(path, self._camera_of[arm]) for arm in parts},
            timestamps=times,
            instruction=text,
        )

    def _read_fastumi_layout(self, file: Any) -> None:
        count = 2 if "robot_1" in file else 1
        guess = ("left-right", "robot_0 is the left hand in FastUMI's recordings") if count == 2 else (
            "left", "robot_0 is the left hand in FastUMI's recordings"
        )  # fmt: skip
        self._robots_of = self._robots(count, *guess)
        rotation = self._choose("rotation", lambda: ("xyzw", "FastUMI stores quaternions x y z w"))
        self.options = replace(self.options, rotation=rotation)  # type: ignore[arg-type]
        self._camera_of = {}
        for arm, robot in self._robots_of.items():
            folder = f"robot_{robot}/observations/images"
            names = sorted(file[folder]) if folder in file else []
            if self.options.cameras is not None:
                name = self.options.cameras[0 if arm == "right" else 1]
            elif len(names) == 1:
                name = names[0]
            else:
                raise ConfigError(
                    f"{file.filename}: {folder} holds {', '.join(names) or 'no camera'}. "
                    f"Name the wrist cameras: --cameras RIGHT LEFT"
                )
            self._camera_of[arm] = f"{folder}/{name}"

    def _read_aloha_layout(self, file: Any) -> None:
        key = self.options.pose_key
        if key is None:
            found = [f"observations/{name}" for name in _POSE_KEYS if f"observations/{name}" in file]
            if len(found) != 1:
                raise ConfigError(
                    f"{file.filename}: no end-effector poses under observations/ by any usual name "
                    f"({', '.join(_POSE_KEYS)}). Say where they are: --pose-key observations/NAME. "
                    f"ALOHA's qpos are joint angles, which are no poses."
                )
            key = found[0]
        self._pose_key = key
        columns = _numbers(file, key, 2).shape[1]
        arms = self._arms_of_columns(columns, "ALOHA writes the left arm first")
        rotation = self._choose("rotation", lambda: guess_rotation(columns, arms, where=file.filename))
        if columns != arms * (4 + ROTATION_SIZE[rotation]):
            raise ConfigError(
                f"{file.filename}: {key} has {columns} columns; {arms} arm(s) of position, {rotation}, gripper "
                f"have {arms * (4 + ROTATION_SIZE[rotation])}. Choose another --rotation or --arms."
            )
        self.options = replace(self.options, rotation=rotation)  # type: ignore[arg-type]
        names = sorted(file["observations/images"]) if "observations/images" in file else []
        if arms == 1 and self.options.cameras is None and len(names) == 1:
            cameras = (names[0], names[0])
        else:
            cameras = self._choose("cameras", lambda: guess_cameras(names, where=file.filename))
        self._camera_of = {
            arm: f"observations/images/{cameras[0 if arm == 'right' else 1]}" for arm in self._robots_of
        }

    def _poses(self, file: Any, robot: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3 + rotation) pose numbers and (n,) gripper numbers of one robot."""
        assert self.options.rotation is not None
        size = 3 + ROTATION_SIZE[self.options.rotation]
        if not self._fastumi:
            values = _numbers(file, self._pose_key, 2)
            part = values[:, robot * (size + 1) : (robot + 1) * (size + 1)]
            return part[:, :size], part[:, size]
        values = _numbers(file, f"robot_{robot}/observations/qpos", 2)
        if values.shape[1] == size:
            clamp = _numbers(file, f"robot_{robot}/action", 2)
            if clamp.shape != (len(values), size + 1):
                raise RecordingError(
                    f"{file.filename}: neither robot_{robot}/observations/qpos {values.shape} nor "
                    f"robot_{robot}/action {clamp.shape} holds the gripper as column {size}."
                )
            return values, clamp[:, size]
        if values.shape[1] != size + 1:
            raise RecordingError(
                f"{file.filename}: robot_{robot}/observations/qpos has {values.shape[1]} columns, expected "
                f"{size} or {size + 1} with {self.options.rotation!r} rotations."
            )
        return values[:, :size], values[:, size]

    def _times(self, file: Any, count: int) -> np.ndarray:
        """(count,) seconds from the first frame."""
        key = next((key for key in _TIME_KEYS if hasattr(file.get(key), "shape")), None)
        stamps = None if key is None or file[key].size > _MAX_VALUES else file[key][()]
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

    def _length(self, path: Path) -> int:
        key = "robot_0/observations/qpos" if self._fastumi else self._pose_key
        with _open(path) as file:
            if key not in file:
                raise RecordingError(f"{path}: has no {key}, which {self._paths[0].name} has.")
            return int(file[key].shape[0])


class _Frames:
    """Reads frames of one camera; the file stays open from one frame to the next."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._file: Any = None

    def __call__(self, number: int) -> np.ndarray:
        if self._file is None:
            self._file = _open(self._path)
        try:
            value = self._file[self._key][number]
        except OSError as error:
            raise RecordingError(
                f"{self._path}: {self._key}, frame {number} cannot be read ({error})."
            ) from None
        if isinstance(value, np.ndarray) and value.ndim == 3:
            return value
        while isinstance(value, np.ndarray) and value.dtype == object:
            value = value[0]
        data = value if isinstance(value, bytes) else value.tobytes()
        return decode_image(data, where=f"{self._path}: {self._key}, frame {number}")


def _episodes_of(folder: Path) -> list[Path]:
    """The recordings of a folder, episode_2 before episode_10."""

    def natural(path: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]

    return sorted([*folder.rglob("*.hdf5"), *folder.rglob("*.h5")], key=natural)


def _open(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise RecordingError(
            unreadable(path, f"is no whole HDF5 file ({error}). It was cut off: copy or record it again.")
        ) from None


def _numbers(file: Any, key: str, dimensions: int) -> np.ndarray:
    """A numeric array as float64, whatever its byte order. Raises RecordingError."""
    if key not in file or not hasattr(file[key], "shape"):
        raise RecordingError(f"{file.filename}: has no dataset {key}.")
    found = file[key]
    if found.dtype.kind not in "fiu":
        raise RecordingError(f"{file.filename}: {key} holds {found.dtype}, expected numbers.")
    if found.ndim != dimensions or found.size > _MAX_VALUES:
        raise RecordingError(
            f"{file.filename}: {key} is {found.shape}, expected {dimensions} dimensions and at most "
            f"{_MAX_VALUES} numbers."
        )
    return found[()].astype(np.float64)


def _text(file: Any, count: int) -> str | list[str] | None:
    """The sentence of an episode, or one for each of its ``count`` frames."""
    for key in _TEXT_KEYS:
        if key in file.attrs:
            value = file.attrs[key]
        elif key in file and hasattr(file[key], "shape") and file[key].size in (1, count):
            value = file[key][()]
        else:
            continue
        found = [_decoded(each) for each in np.asarray(value, dtype=object).reshape(-1)]
        if any(found):
            return found[0] if len(found) == 1 else found
    return None


def _decoded(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.strip() if isinstance(value, str) else ""


def _require_pictures(file: Any, key: str, count: int, path: Path) -> None:
    if key not in file or not hasattr(file[key], "shape"):
        raise RecordingError(f"{path}: has no camera {key}. Name it with --cameras RIGHT LEFT.")
    found = file[key]
    if found.shape[:1] != (count,):
        raise RecordingError(
            f"{path}: {key} has {found.shape[0] if found.shape else 0} pictures for {count} poses."
        )
    raw = found.dtype == np.uint8 and found.ndim == 4 and found.shape[3] in (3, 4)
    if not (raw or _is_packed(found)):
        raise RecordingError(
            f"{path}: {key} is {found.dtype} {found.shape}, expected uint8 (n, h, w, 3) or JPEG bytes a frame. "
            f"{NOT_COLOUR}"
        )
    if raw and max(found.shape[1:3]) > MAX_SIDE:
        raise RecordingError(f"{path}: {key} is {found.shape}: no camera has such pictures.")


def _is_packed(found: Any) -> bool:
    """JPEG or PNG bytes a frame: rows padded with zeros, byte strings, or arrays of variable length."""
    import h5py

    if found.ndim == 2 and found.shape[1] > 1:
        return found.dtype == np.uint8
    string = h5py.check_string_dtype(found.dtype)
    bytes_of_any_length = h5py.check_vlen_dtype(found.dtype) in (np.uint8, np.int8)
    single = found.ndim == 1 or found.shape[1:] == (1,)
    return single and (string is not None or found.dtype.kind == "V" or bytes_of_any_length)
