"""The files of a LeRobotDataset v3.0 or v2.1: which episodes there are, and where their rows, videos and tasks lie.

What is wrong with one episode is remembered and raised when that episode is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.errors import RecordingError
from rdt2.files import unreadable

# The published templates, for datasets that leave them out.
_DATA_PATH = {
    "v3": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
_VIDEO_PATH = {
    "v3": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "v2": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}


@dataclass
class Clip:
    """Where the pictures of an episode lie: seconds of a video file, and the number of the first picture if the
    file holds ``total`` pictures, as many as its episodes have rows."""

    path: Path
    start: float = 0.0
    end: float = math.inf
    first: int = 0
    total: int = 0


@dataclass
class Entry:
    """Where one episode lies. problem: why it cannot be read."""

    index: int
    length: int = 0
    data: Path | None = None
    tasks: list[str] = field(default_factory=list)
    videos: dict[str, Clip] = field(default_factory=dict)
    problem: str | None = None


class Tables:
    """The metadata and rows of the dataset in a folder."""

    def __init__(self, root: Path) -> None:
        """
        Raises:
            RecordingError: files missing or damaged, or another version.
        """
        self.root = root
        self._read: tuple[tuple[Any, ...], Any] = ((), None)
        info = read_info(root / "meta" / "info.json")
        self._info = info
        self.features = info_features(info)
        self.fps = frame_rate(info)
        version = str(info.get("codebase_version", ""))
        self._version = version[:2]
        if self._version not in _DATA_PATH:
            raise RecordingError(f"{root}: LeRobot dataset version {version!r}; v2.x and v3.x are read.")
        self._video_keys = [name for name, value in self.features.items() if value.get("dtype") == "video"]
        self.entries = list(self._entries_v3() if self._version == "v3" else self._entries_v2())
        if not self.entries:
            raise RecordingError(f"{root}: the dataset holds no episode.")
        self._count_clips()

    def tasks_of(self, _: Entry) -> dict[int, str]:
        """task_index -> sentence, which is the same for all episodes."""
        return self._tasks

    @cached_property
    def _tasks(self) -> dict[int, str]:
        return task_sentences(
            self.root / "meta" / ("tasks.parquet" if self._version == "v3" else "tasks.jsonl")
        )

    def name(self, entry: Entry) -> str:
        """What an episode is called."""
        return f"episode_{entry.index:06d}"

    def to_judge(self) -> list[int]:
        """Numbers of the episodes whose numbers tell units, and whether they can be read: all."""
        return list(range(len(self.entries)))

    @cached_property
    def lists_tasks(self) -> bool:
        """Whether episodes list their tasks."""
        return any(entry.tasks for entry in self.entries)

    def rows(self, entry: Entry, columns: list[str], *, optional: tuple[str, ...] = ()) -> Any:
        """The rows of an episode as a pyarrow table, with those ``optional`` columns that there are.

        Raises:
            RecordingError: the episode is incomplete or damaged, or lacks a column.
        """
        if entry.problem is not None:
            raise RecordingError(entry.problem)
        assert entry.data is not None
        where = f"{entry.data}, episode {entry.index}"
        found = self._rows_of(entry.data, entry, columns, optional) if entry.data.is_file() else None
        if found is None or found.num_rows != entry.length:
            # Numbers of files go stale when datasets are merged or split; the rows say themselves whose they are.
            found = self._rows_elsewhere(entry, columns, optional)
        if found is None:
            raise RecordingError(f"{entry.data}: no such file. The dataset is incomplete: download it again.")
        if found.num_rows != entry.length:
            raise RecordingError(
                f"{where}: {found.num_rows} rows, the episode table promises {entry.length}. "
                f"The dataset is incomplete: download it again."
            )
        return found

    def width(self, key: str) -> int:
        """How many numbers a feature has: of its shape, else of the first rows that can be read.

        Raises:
            RecordingError: neither is there.
        """
        shape = self.features[key].get("shape")
        if isinstance(shape, list) and shape and all(isinstance(size, int) and size > 0 for size in shape):
            return math.prod(shape)
        for entry in self.entries:
            try:
                return matrix(self.rows(entry, [key])[key], where=f"{entry.data}: {key}").shape[1]
            except RecordingError:  # the next one may be whole; this one is named when it is asked for
                continue
        raise RecordingError(f"{self.root}: no episode holds {key}, and info.json has no shape of it.")

    def _rows_of(self, file: Path, entry: Entry, columns: list[str], optional: tuple[str, ...]) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = (file, *columns, *optional)
        if self._read[0] != wanted:  # many episodes lie in one file, which is read once
            self._read = (wanted, parquet(file, columns=[*columns, "episode_index"], optional=optional))
        table = self._read[1]
        numbers = table["episode_index"]
        if not (pa.types.is_integer(numbers.type) or pa.types.is_floating(numbers.type)):
            raise RecordingError(f"{file}: episode_index holds {numbers.type}, expected whole numbers.")
        return table.filter(pc.equal(numbers, entry.index))

    def _rows_elsewhere(self, entry: Entry, columns: list[str], optional: tuple[str, ...]) -> Any:
        import pyarrow as pa

        files = self._files_of.get(entry.index, [])
        if not files:
            return None
        tables = [self._rows_of(file, entry, columns, optional) for file in files]
        try:
            return pa.concat_tables(tables)
        except pa.ArrowInvalid as error:
            raise RecordingError(
                f"{files[0]} and {files[-1].name} hold rows of episode {entry.index} in columns of different types "
                f"({str(error).splitlines()[0]}). Write them again with one."
            ) from None

    @cached_property
    def _files_of(self) -> dict[int, list[Path]]:
        """Which data files hold rows of which episode, by the rows themselves."""
        found: dict[int, list[Path]] = {}
        for file in parquet_files(self.root / "data"):
            try:
                numbers = parquet(file, columns=["episode_index"])["episode_index"].unique().to_pylist()
            except RecordingError:  # whoever needs this one is told that rows are missing
                continue
            for number in numbers:
                found.setdefault(number, []).append(file)
        return found

    def _entries_v3(self) -> Iterator[Entry]:
        rows: list[dict[str, Any]] = []
        files = parquet_files(self.root / "meta" / "episodes")
        if not files:
            raise RecordingError(f"{self.root}: meta/episodes holds no parquet file. Download it again.")
        for file in files:
            rows += parquet(file, leave_out="stats/").to_pylist()
        for row in _sorted(rows, self.root / "meta" / "episodes"):
            yield self._entry(
                row,
                place=lambda row: {
                    f"{name}_index": row.get(f"data/{name}_index") for name in ("chunk", "file")
                },
                clip=lambda row, key: {
                    name.removeprefix(f"videos/{key}/"): value
                    for name, value in row.items()
                    if name.startswith(f"videos/{key}/")
                },
            )

    def _entries_v2(self) -> Iterator[Entry]:
        size = self._info.get("chunks_size") or 1000
        path = self.root / "meta" / "episodes.jsonl"

        def place(row: dict[str, Any], *_: str) -> dict[str, Any]:
            return {
                "episode_chunk": row["episode_index"] // whole(size, "info.json: chunks_size"),
                "episode_index": row["episode_index"],
            }

        for row in _sorted(_lines(path), path):
            yield self._entry(row, place=place, clip=lambda row, _: {**place(row), "from_timestamp": 0.0})

    def _entry(self, row: dict[str, Any], *, place: Any, clip: Any) -> Entry:
        """place: row -> the numbers in the path of its data; clip: (row, camera) -> those of a video, and times."""
        entry = Entry(row["episode_index"], tasks=texts(row.get("tasks")))
        where = f"{self.root}: episode {entry.index}"
        try:
            entry.length = whole(row.get("length"), f"{where}, length")
            if entry.length == 0:
                raise RecordingError(f"{where}: has no frame.")
            entry.data = self._inside("data_path", _DATA_PATH, place(row), where)
            for key in self._video_keys:
                values = clip(row, key)
                start, end = values.pop("from_timestamp", None), values.pop("to_timestamp", None)
                if not _number(start):
                    raise RecordingError(f"{where}, {key}: from_timestamp is {start!r}, expected seconds.")
                path = self._inside(
                    "video_path", _VIDEO_PATH, {**values, "video_key": key}, f"{where}, {key}"
                )
                entry.videos[key] = Clip(path, float(start), float(end) if _number(end) else math.inf)
        except RecordingError as error:
            entry.problem = f"{error} Mend meta/episodes, or leave the episode out."
        return entry

    def _count_clips(self) -> None:
        """Number the pictures of each video file by its episodes, in the order of their times."""
        of_file: dict[Path, list[tuple[Clip, int]]] = {}
        for entry in self.entries:
            for clip in entry.videos.values():
                of_file.setdefault(clip.path, []).append((clip, entry.length))
        for clips in of_file.values():
            clips.sort(key=lambda each: each[0].start)
            first = 0
            for clip, length in clips:
                clip.first, first = first, first + length
            for clip, _ in clips:
                clip.total = first

    def _inside(self, name: str, published: dict[str, str], numbers: dict[str, Any], where: str) -> Path:
        """A file of the dataset; a template that leads out of its folder is refused."""
        template = self._info.get(name) or published[self._version]
        values = {
            key: value if key == "video_key" else whole(value, f"{where}, {key}")
            for key, value in numbers.items()
        }
        try:
            path = (self.root / str(template).format(**values)).resolve()
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise RecordingError(
                f"{where}: no file by the template {template!r} of info.json ({error})."
            ) from None
        if not path.is_relative_to(self.root.resolve()):
            raise RecordingError(f"{where}: info.json points outside the dataset ({template!r}).")
        return path


def matrix(column: Any, *, where: str, fractions: bool = False) -> np.ndarray:
    """A parquet column of numbers, or of lists of equally many, as (n, columns) float64.

    fractions: whole numbers are refused, as poses of integers have lost what is behind the point.

    Raises:
        RecordingError: other values, empty rows, or rows of different lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values, rows = column.combine_chunks(), len(column)
    while (
        pa.types.is_list(values.type)
        or pa.types.is_fixed_size_list(values.type)
        or pa.types.is_large_list(values.type)
    ):
        sizes = pc.list_value_length(values)
        if values.null_count or pc.min(sizes).as_py() != pc.max(sizes).as_py():
            raise RecordingError(f"{where} has empty rows, or rows of different lengths.")
        values = values.flatten()
    if rows and not len(values):
        raise RecordingError(f"{where} has empty rows.")
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise RecordingError(f"{where} holds {values.type}, expected numbers.")
    if fractions and not pa.types.is_floating(values.type):
        raise RecordingError(
            f"{where} holds {values.type}: poses of whole numbers have lost their fractions. Store them as float32."
        )
    return np.asarray(values, np.float64).reshape(rows, -1 if rows else 0)


def parquet(
    path: Path,
    *,
    columns: list[str] | None = None,
    optional: tuple[str, ...] = (),
    leave_out: str | None = None,
) -> Any:
    """A table. Raises RecordingError for a damaged file or a missing column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if leave_out is not None:
                columns = [name for name in names if not name.startswith(leave_out)]
            missing = set(columns or ()) - set(names)
            if missing:
                raise RecordingError(f"{path}: lacks the columns {', '.join(sorted(missing))}.")
            if columns is not None:
                columns = list(dict.fromkeys([*columns, *(name for name in optional if name in names)]))
            table = file.read(columns=columns)
            table.validate(full=True)  # damaged text would only show where it is used
            return table
    except RecordingError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError: damaged names of columns
        raise RecordingError(
            unreadable(path, f"is no whole parquet file ({error}). Download it again.")
        ) from None


def parquet_files(folder: Path) -> list[Path]:
    """Those below a folder in name order, without the shadows (``._x``) that macOS writes beside them."""
    return sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("._"))


def task_sentences(path: Path) -> dict[int, str]:
    """task_index -> sentence of tasks.parquet or tasks.jsonl; {} where there is none."""
    if not path.is_file():
        return {}
    if path.suffix == ".jsonl":
        rows = _lines(path)
    else:
        # Written by pandas with the sentence as index: its column is called task, or __index_level_0__.
        rows = [
            {"task": text, **row}
            for row in parquet(path).to_pylist()
            for text in [next((value for value in row.values() if isinstance(value, str)), None)]
        ]
    return {
        whole(row.get("task_index"), f"{path}: task_index"): row["task"].strip()
        for row in rows
        if isinstance(row.get("task"), str)
    }


def info_features(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Features by name as info.json describes them."""
    features = _dict(info.get("features"))
    return {str(name): value for name, value in features.items() if isinstance(value, dict)}


def frame_rate(info: dict[str, Any]) -> float | None:
    """Frames a second as info.json has them; None where it says nothing usable."""
    rate = info.get("fps")
    usable = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < math.inf
    return float(rate) if usable else None  # type: ignore[arg-type]


def _sorted(rows: list[dict[str, Any]], where: Path) -> list[dict[str, Any]]:
    """Rows by their episode_index, which becomes an int."""
    for number, row in enumerate(rows):
        row["episode_index"] = whole(row.get("episode_index"), f"{where}, row {number}: episode_index")
    return sorted(rows, key=lambda row: row["episode_index"])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(value: Any, where: str) -> int:
    """A whole number, which pandas may have stored as a float. Raises RecordingError."""
    if not _number(value) or value != int(value) or value < 0:
        raise RecordingError(f"{where} is {value!r}, expected a whole number.")
    return int(value)


def texts(value: Any) -> list[str]:
    """The sentences of an episode, each once, without blank ones."""
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return list(dict.fromkeys(text.strip() for text in values if isinstance(text, str) and text.strip()))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def read_info(path: Path) -> dict[str, Any]:
    """info.json. Raises RecordingError for a missing or damaged one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RecordingError(
            unreadable(path, f"cannot be read ({error}). This is no LeRobot dataset.")
        ) from None
    if not isinstance(value, dict):
        raise RecordingError(f"{path}: expected a JSON object.")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [
            json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()
        ]
    except (OSError, ValueError) as error:
        raise RecordingError(unreadable(path, f"cannot be read ({error}).")) from None
    if not all(isinstance(line, dict) for line in lines):
        raise RecordingError(f"{path}: expected a JSON object in every line.")
    return lines
