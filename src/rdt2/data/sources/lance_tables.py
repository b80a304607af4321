"""LeRobot datasets kept in Lance tables: columns of numbers and pictures as bytes, read an episode at a time.

A table is a folder ``NAME.lance`` with its LeRobot v3 metadata beside it, in ``NAME_meta`` or ``meta``; a dataset is
one table or a folder of them. Its columns are the features with ``_`` in the place of ``.``. No more than an
episode's numbers and a block of its pictures is in memory at a time. Needs the extra ``lance``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.data.sources.lerobot_tables import (
    Entry,
    frame_rate,
    info_features,
    matrix,
    parquet,
    parquet_files,
    read_info,
    task_sentences,
    texts,
    whole,
)
from rdt2.errors import ConfigError, RDT2Error, RecordingError
from rdt2.files import unreadable

_BLOCK = 64
"""Pictures of a camera that are read at once."""
_JUDGED = 64
"""Episodes whose numbers are looked at to tell units; each of the others is checked when it is read."""


@dataclass
class LanceEntry(Entry):
    """An episode: ``length`` rows from row ``start`` of the table ``data``. name: unique in the dataset."""

    name: str = ""
    start: int = 0


def lance_folders(path: Path) -> list[Path]:
    """The ``.lance`` tables of a path: itself, those in it, or those one folder below; none of other data."""
    if path.suffix == ".lance" and path.is_dir():
        return [path]
    if not path.is_dir():
        return []
    for pattern in ("*.lance", "*/*.lance"):
        found = sorted(each for each in path.glob(pattern) if each.is_dir() and each.name[0] != ".")
        if found:
            return found
    return []


class LanceTables:
    """Metadata and rows of one or more Lance tables as one dataset; see `rdt2.data.sources.lerobot_tables.Tables`."""

    def __init__(self, root: Path) -> None:
        """
        Raises:
            ConfigError: pylance is not installed, or tables of different kinds lie together.
            RecordingError: metadata missing or damaged, or of another version.
        """
        try:
            import lance
        except ImportError:
            raise ConfigError(
                f"{root}: Lance tables are read with pylance, which is not installed. Install the extra: "
                f"pip install 'rdt2[lance]'"
            ) from None
        self._open = lance.dataset
        self.root = root
        self._opened: dict[Path, Any] = {}
        self._tasks: dict[Path, dict[int, str]] = {}
        self.entries: list[LanceEntry] = []
        folders = lance_folders(root)
        kinds: dict[str, Path] = {}
        for folder in folders:
            meta = _meta_of(folder, alone=sum(each.parent == folder.parent for each in folders) == 1)
            info = read_info(meta / "info.json")
            version = str(info.get("codebase_version", ""))
            if not version.startswith("v3"):
                raise RecordingError(
                    f"{meta}: LeRobot dataset version {version!r}; of Lance tables v3.x is read."
                )
            self.features, self.fps = info_features(info), frame_rate(info)
            shapes = {name: (each.get("dtype"), each.get("shape")) for name, each in self.features.items()}
            kinds.setdefault(f"{self.fps} {sorted(shapes.items())}", folder)
            if len(kinds) > 1:
                first, other = list(kinds.values())[:2]
                raise ConfigError(
                    f"{root}: {first.name} and {other.name} have other features or frame rates. Convert each apart."
                )
            self._tasks[folder] = task_sentences(meta / "tasks.parquet")
            prefix = f"{folder.stem}_" if len(folders) > 1 else ""
            self.entries += self._entries_of(folder, meta, prefix)
        if not self.entries:
            raise RecordingError(f"{root}: the dataset holds no episode.")
        self.lists_tasks = any(entry.tasks for entry in self.entries)
        self._pictures_are_bytes(folders[0])

    def tasks_of(self, entry: Entry) -> dict[int, str]:
        """task_index -> sentence, in the table of an episode."""
        assert entry.data is not None
        return self._tasks[entry.data]

    def name(self, entry: Entry) -> str:
        """What an episode is called."""
        assert isinstance(entry, LanceEntry)
        return entry.name

    def to_judge(self) -> list[int]:
        """Numbers of the episodes that tell units: some, evenly spread, as a table holds ten million rows."""
        count = len(self.entries)
        return np.unique(np.linspace(0, count - 1, min(count, _JUDGED)).astype(int)).tolist()

    def width(self, key: str) -> int:
        """How many numbers a feature has."""
        return matrix(self._some_rows(key)[key], where=f"{self.root}: {key}").shape[1]

    def rows(self, entry: Entry, columns: list[str], *, optional: tuple[str, ...] = ()) -> Any:
        """The rows of an episode as a pyarrow table, with those ``optional`` columns that there are.

        Raises:
            RecordingError: the episode is incomplete or damaged, belongs to another, or the table lacks a column.
        """
        assert isinstance(entry, LanceEntry)
        if entry.problem is not None:
            raise RecordingError(entry.problem)
        names = self._columns(entry, [*columns, "episode_index"], optional)
        table = self._read(entry, names, entry.start, entry.length)
        where = f"{entry.data}, episode {entry.index}"
        whose = np.unique(matrix(table["episode_index"], where=f"{where}: episode_index"))
        if len(table) != entry.length or whose.tolist() != [entry.index]:
            there = ", ".join(f"{each:g}" for each in whose) or "none"
            raise RecordingError(
                f"{where}: rows {entry.start} to {entry.start + entry.length - 1} should be this episode's by the "
                f"metadata; there are {len(table)}, of episode(s) {there}. Table and metadata are not of one version: "
                f"download both again."
            )
        return table

    def pictures(self, entry: Entry, key: str) -> _Blocks:
        """The stored pictures of an episode, of which a block is in memory."""
        assert isinstance(entry, LanceEntry)
        names = self._columns(entry, [key], ())

        def read(first: int, count: int) -> list[Any]:
            return self._read(entry, names, entry.start + first, count)[key].to_pylist()

        return _Blocks(entry.length, read)

    def _some_rows(self, key: str) -> Any:
        first: RecordingError | None = None
        for entry in self.entries:
            try:
                return self.rows(entry, [key])
            except (
                RecordingError
            ) as error:  # the next one may be whole; this one is named when it is asked for
                first = first or error
        raise first or RecordingError(f"{self.root}: holds no episode.")

    def _entries_of(self, folder: Path, meta: Path, prefix: str) -> Iterator[LanceEntry]:
        """The episodes of a table in their order."""
        files = parquet_files(meta / "episodes")
        if not files:
            raise RecordingError(f"{meta / 'episodes'}: holds no parquet file. Download it again.")
        there = self._rows_in(folder)
        wanted = ["episode_index", "dataset_from_index", "dataset_to_index"]
        rows = [
            row for file in files for row in parquet(file, columns=wanted, optional=("tasks",)).to_pylist()
        ]
        places = []
        for number, row in enumerate(rows):
            where = f"{meta / 'episodes'}, row {number}"
            places.append([whole(row[name], f"{where}: {name}") for name in wanted])
        for (index, start, stop), row in sorted(zip(places, rows, strict=True), key=lambda each: each[0][1]):
            entry = LanceEntry(index, stop - start, folder, texts(row.get("tasks")), start=start)
            entry.name = f"{prefix}episode_{index:06d}"
            if stop <= start:
                entry.length, entry.problem = (
                    0,
                    f"{meta}: episode {index}: has no frame. Leave the episode out.",
                )
            elif stop > there:
                entry.problem = (
                    f"{folder}: holds {there} rows, episode {index} ends at row {stop} by its metadata. The table is "
                    f"incomplete: download it again."
                )
            yield entry

    def _pictures_are_bytes(self, folder: Path) -> None:
        """Keep those cameras whose pictures stand in the table: LeRobot calls them videos there, too."""
        names = self._dataset(folder).schema.names
        for key, value in list(self.features.items()):
            if value.get("dtype") not in ("video", "image"):
                continue
            if key in names or _column(key) in names:
                self.features[key] = {**value, "dtype": "image"}
            else:
                del self.features[key]

    def _columns(self, entry: LanceEntry, wanted: list[str], optional: tuple[str, ...]) -> dict[str, str]:
        """feature -> the table's column."""
        assert entry.data is not None
        names = set(self._dataset(entry.data).schema.names)
        found = {key: name for key in (*wanted, *optional) for name in (_column(key), key) if name in names}
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise RecordingError(
                f"{entry.data}: lacks the columns {', '.join(map(_column, missing))}; there are "
                f"{', '.join(sorted(names))}."
            )
        return found

    def _read(self, entry: LanceEntry, columns: dict[str, str], first: int, count: int) -> Any:
        """Rows of a table as a pyarrow table with the features' names."""
        assert entry.data is not None
        with _whole_table(entry.data):
            scanner = self._dataset(entry.data).scanner(
                columns=list(columns.values()), offset=first, limit=count
            )
            return scanner.to_table().select(list(columns.values())).rename_columns(list(columns))

    def _rows_in(self, folder: Path) -> int:
        with _whole_table(folder):
            return int(self._dataset(folder).count_rows())

    def _dataset(self, folder: Path) -> Any:
        """The table, opened once by each process that reads it."""
        if folder not in self._opened:
            with _whole_table(folder):
                self._opened[folder] = self._open(str(folder))
        return self._opened[folder]


class _Blocks:
    """Values by number, read by ``read(first, count)`` in blocks of which the last one is kept."""

    def __init__(self, count: int, read: Callable[[int, int], list[Any]]) -> None:
        self._count, self._read = count, read
        self._first = 0
        self._values: list[Any] = []

    def __getitem__(self, number: int) -> Any:
        if not self._first <= number < self._first + len(self._values):
            self._first = number - number % _BLOCK
            self._values = self._read(self._first, min(_BLOCK, self._count - self._first))
        return self._values[number - self._first]


@contextmanager
def _whole_table(folder: Path) -> Iterator[None]:
    """A context in which what Lance says of a damaged table becomes a RecordingError."""
    try:
        yield
    except RDT2Error:
        raise
    except BaseException as error:
        # A table whose bytes make no sense ends in a panic of the library, which is no Exception.
        if (
            not isinstance(error, OSError | ValueError | RuntimeError)
            and type(error).__name__ != "PanicException"
        ):
            raise
        reason = " ".join(str(error).split()).split(", /")[0][
            :200
        ]  # a place in the library's sources follows
        words = f"is no whole Lance table ({reason}). Download it again."
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        told = (unreadable(file, words) for file in files)
        instead = next((line for line in told if not line.endswith(words)), f"{folder}: {words}")
        raise RecordingError(instead) from None


def _column(key: str) -> str:
    """The column of a feature: Lance reads a dot as a path into a struct."""
    return key.replace(".", "_")


def _meta_of(folder: Path, *, alone: bool) -> Path:
    """Where the metadata of a table lies. alone: no other table lies beside it, which might own ``meta``."""
    choices = [folder.parent / f"{folder.stem}_meta", *([folder.parent / "meta"] if alone else [])]
    for choice in choices:
        if (choice / "info.json").is_file():
            return choice
    names = " or ".join(f"{choice.name}/info.json" for choice in choices)
    raise RecordingError(
        f"{folder}: its LeRobot metadata is missing: expected {names} in {folder.parent}. Download the table's whole "
        f"folder; a Lance table without it does not say where its episodes begin."
    )
