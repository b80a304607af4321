"""UMI's ``dataset.zarr.zip`` (and the same as a folder): zarr v2, one chunk a picture, often JPEG XL.

    data/robot{i}_eef_pos              (n, 3)  metres
    data/robot{i}_eef_rot_axis_angle   (n, 3)  rotation vector
    data/robot{i}_gripper_width        (n, 1)  metres
    data/camera{i}_rgb                 (n, h, w, 3) uint8
    meta/episode_ends                  (episodes,) first frame AFTER each episode

All episodes follow each other in the arrays; 59.94 frames a second; robot 0 is the right hand.
"""

from __future__ import annotations

import json
import math
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.sources.base import Source
from rdt2.data.sources.options import SourceOptions, guess_gripper
from rdt2.data.sources.pictures import MAX_SIDE
from rdt2.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

UMI_FPS = 59.94
_MAX_FRAMES = 50_000_000
_MAX_CHUNK = 1 << 30
"""Bytes one chunk may decode to; a wrist picture is under 10 MB, UMI's pose arrays are one chunk each."""
_MAX_RATIO = 200
"""A zip member that inflates more than this is no recording."""
_UNSAFE_CODECS = {"pickle", "json2", "msgpack2", "vlen-utf8", "vlen-bytes", "vlen-array", "categorize"}


class UmiZarr(Source):
    """See the module. Needs the zarr package, and imagecodecs for JPEG XL pictures."""

    kind = "umi-zarr"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: truncated, not in UMI's layout, object arrays, or sizes that are no recording.
            ConfigError: options that contradict the file.
        """
        from dataclasses import replace

        super().__init__(path, options)
        self._files = _Files(self.path)
        ends = self._files.array("meta/episode_ends")
        self._ends = _checked_ends(self._files.rows(ends, 0, _MAX_FRAMES), self.path)
        self.lengths = np.diff(self._ends, prepend=0).tolist()
        self.names = [f"episode_{number:06d}" for number in range(len(self.lengths))]
        count = 0
        while self._files.has(f"data/robot{count}_eef_pos"):
            count += 1
        if count == 0:
            raise RecordingError(f"{self.path}: no data/robot0_eef_pos. This is not UMI's layout.")
        self._robots_of = self._robots(count, *_ORDER[min(count, 2)])
        total = int(self._ends[-1])
        self._low: dict[str, dict[str, np.ndarray]] = {}
        for arm, robot in self._robots_of.items():
            self._low[arm] = {
                name: self._low_dim(f"data/robot{robot}_{key}", total, columns)
                for name, key, columns in (
                    ("position", "eef_pos", 3),
                    ("rotation", "eef_rot_axis_angle", 3),
                    ("gripper", "gripper_width", 1),
                )
            }
        if self.options.rotation not in (None, "rotvec"):
            raise ConfigError(
                f"{self.path}: stores rotations as axis times angle; --rotation {self.options.rotation} "
                f"contradicts its own array names."
            )
        widths = np.concatenate([low["gripper"][:, 0] for low in self._low.values()])
        self.options = replace(
            self.options,
            rotation="rotvec",
            fps=self._choose(
                "fps", lambda: (UMI_FPS, "the file has no timestamps; UMI's cameras run at 59.94")
            ),
            gripper_unit=self._choose("gripper_unit", lambda: guess_gripper(widths, where=str(self.path))),
        )
        self._pictures = {arm: self._camera(arm, robot, total) for arm, robot in self._robots_of.items()}
        self._block: dict[str, tuple[int, np.ndarray]] = {}

    def episode(self, number: int) -> Episode:
        """One episode. Raises RDT2Error that names file and frame."""
        start, end = int(self._ends[number] - self.lengths[number]), int(self._ends[number])
        assert self.options.fps is not None

        def part(name: str) -> dict[str, np.ndarray]:
            return {arm: low[name][start:end] for arm, low in self._low.items()}

        return self._episode(
            number,
            position=part("position"),
            rotation=part("rotation"),
            gripper={arm: values[:, 0] for arm, values in part("gripper").items()},
            frames={arm: partial(self._frame, arm, start) for arm in self._pictures},
            timestamps=np.arange(end - start) / self.options.fps,
            instruction=None,
        )

    def _low_dim(self, name: str, total: int, columns: int) -> np.ndarray:
        array = self._files.array(name)
        if array.shape not in ((total, columns), (total,) if columns == 1 else ()):
            raise RecordingError(
                f"{self.path}: {name} is {array.shape}, expected ({total}, {columns}) as episode_ends says."
            )
        if columns == 3:
            self._files.require_chunks(name, array)
        return self._files.rows(array, 0, total).astype(np.float64).reshape(total, columns)

    def _camera(self, arm: str, robot: int, total: int) -> Any:
        name = f"data/camera{robot}_rgb"
        if self.options.cameras is not None:
            name = f"data/{self.options.cameras[0 if arm == 'right' else 1]}"
        array = self._files.array(name)
        if array.ndim != 4 or array.shape[0] != total or array.shape[3] != 3 or array.dtype != np.uint8:
            raise RecordingError(
                f"{self.path}: {name} is {array.dtype} {array.shape}, expected uint8 ({total}, h, w, 3)."
            )
        if max(array.shape[1:3]) > MAX_SIDE:
            raise RecordingError(f"{self.path}: {name} is {array.shape}: no camera has such pictures.")
        self._files.require_chunks(name, array)
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
    lengths = np.diff(ends, prepend=0)
    if (lengths == 0).any():
        raise RecordingError(
            f"{path}: episode {int((lengths == 0).argmax())} has no frame (two equal episode_ends). "
            f"Take it out of meta/episode_ends."
        )
    if ends[-1] > _MAX_FRAMES:
        raise RecordingError(
            f"{path}: episode_ends promises {ends[-1]} frames; at most {_MAX_FRAMES} are read."
        )
    return ends


class _Files:
    """A zarr v2 hierarchy whose metadata are read and judged before zarr decodes anything."""

    def __init__(self, path: Path) -> None:
        import zarr

        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._register_codecs()
        if path.is_dir():
            self._store: Any = zarr.storage.LocalStore(path, read_only=True)
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise RecordingError(
                f"{path}: is no whole zip file ({error}). It was cut off: download or record it again."
            ) from None
        self._names = set(self._zip.namelist())
        for member in self._zip.infolist():
            if member.file_size > 1 << 20 and member.file_size > _MAX_RATIO * max(1, member.compress_size):
                raise RecordingError(
                    f"{path}: {member.filename} would inflate from {member.compress_size} to "
                    f"{member.file_size} bytes. That is no recording."
                )
        self._store = zarr.storage.ZipStore(path, mode="r", read_only=True)

    @staticmethod
    def _register_codecs() -> None:
        try:
            from imagecodecs.numcodecs import Jpegxl
        except ImportError:  # only recordings with such pictures need it; array() says so for them
            return
        from numcodecs.registry import register_codec

        register_codec(Jpegxl)

    def has(self, name: str) -> bool:
        return self._exists(f"{name}/.zarray")

    def array(self, name: str) -> Any:
        """An array, after its metadata were found harmless. Raises RecordingError."""
        import zarr

        meta = self._meta(name)
        where = f"{self._path}: {name}"
        try:
            dtype, shape, chunks = np.dtype(meta["dtype"]), tuple(meta["shape"]), tuple(meta["chunks"])
            compressor, filters = meta.get("compressor") or {}, meta.get("filters") or []
            codecs = {codec["id"] for codec in [*([compressor] if compressor else []), *filters]}
        except (KeyError, TypeError, ValueError) as error:
            raise RecordingError(f"{where} has unreadable .zarray metadata ({error}).") from None
        if dtype.hasobject or codecs & _UNSAFE_CODECS:
            raise RecordingError(f"{where} holds Python objects; loading them could run code. Store numbers.")
        if dtype.kind not in "fiu":
            raise RecordingError(f"{where} is {dtype}, expected numbers.")
        if math.prod(chunks) * dtype.itemsize > _MAX_CHUNK or min(chunks, default=1) < 1:
            raise RecordingError(f"{where} has chunks of {chunks} {dtype}: more than a recording needs.")
        if any(size < 0 for size in shape) or (shape and shape[0] > _MAX_FRAMES):
            raise RecordingError(f"{where} has shape {shape}: no recording is that long.")
        try:
            return zarr.open_array(self._store, path=name, mode="r", zarr_format=2)
        except (ValueError, KeyError, TypeError, OSError) as error:
            if "imagecodecs_jpegxl" in codecs and not _has_imagecodecs():
                raise RecordingError(
                    f"{where} is JPEG XL and imagecodecs is not installed: pip install 'rdt2[data]'"
                ) from None
            raise RecordingError(f"{where} cannot be opened ({error}).") from None

    def require_chunks(self, name: str, array: Any) -> None:
        """A missing chunk would be read as zeros, silently. Raises RecordingError."""
        separator = self._meta(name).get("dimension_separator", ".")
        counts = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
        for place in np.ndindex(*counts):
            if not self._exists(f"{name}/{separator.join(map(str, place))}"):
                raise RecordingError(
                    f"{self._path}: {name} lacks the chunk of frame {place[0] * array.chunks[0]}. "
                    f"The file is incomplete: copy or convert it again."
                )

    def rows(self, array: Any, start: int, end: int) -> np.ndarray:
        """Rows of an array. Raises RecordingError for a damaged chunk."""
        try:
            return np.asarray(array[start:end])
        except Exception as error:  # every codec has exceptions of its own
            raise RecordingError(
                f"{self._path}: {array.path or array.name}, frame {start} cannot be decoded "
                f"({type(error).__name__}: {error})."
            ) from error

    def _meta(self, name: str) -> dict[str, Any]:
        path = f"{name}/.zarray"
        if not self._exists(path):
            raise RecordingError(f"{self._path}: {name} is missing. This is not UMI's layout.")
        try:
            if self._zip is None:
                return json.loads((self._path / path).read_bytes())
            return json.loads(self._zip.read(path))
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise RecordingError(f"{self._path}: {path} cannot be read ({error}).") from None

    def _exists(self, path: str) -> bool:
        return (self._path / path).is_file() if self._zip is None else path in self._names


def _has_imagecodecs() -> bool:
    from importlib.util import find_spec

    return find_spec("imagecodecs") is not None
