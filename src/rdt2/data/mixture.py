"""What a stream reads: data sets with weights, from folders, URLs, or the published dataset yaml.

A single data set::

    name: pick
    type: single
    shards_dir: .
    kwargs: {instruction_path: instructions.json, normalizer_path: normalizer.safetensors}

A mixture of such files. ``kwargs`` of the mixture stand for those that a file does not give itself::

    name: all
    type: blend
    kwargs: {instruction_path: instructions.json}
    train:
        pick: {config_path: pick/dataset.yaml, weight: 3}
        fold: {config_path: fold/dataset.yaml, weight: 1}

Paths are relative to the yaml they stand in; where nothing is there, those through folders (``data/pick``) to the
current one, as the published scripts have them. What these yamls hold besides is taken, too: sentences of their own
(``addtional_instructions``, as it is spelt there), and ``eval``, which training left aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rdt2.data.shards.reading import parse_instructions, read_instructions
from rdt2.data.shards.remote import expand_locations, find_instructions, instructions_beside, is_url
from rdt2.errors import ConfigError, ShardError
from rdt2.registry import did_you_mean

_KEYS = ("name", "dataset_name", "type", "shards_dir", "kwargs")
_MIXTURE_KEYS = ("name", "dataset_name", "type", "kwargs", "train", "eval")
_PATHS = ("instruction_path", "normalizer_path", "tokens_dir")
_MORE = "addtional_instructions"
"""Sentences beside those of the table, key by key: the published loader's spelling."""


@dataclass(frozen=True)
class DataSource:
    """One data set of a mixture.

    shards: paths or URLs of its tars. instructions: folder of tars -> instruction key -> sentence; one table for
    all is that of the folder "". weight: share of the samples seen, relative to the other sources' weights.
    """

    name: str
    shards: tuple[str, ...]
    instructions: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    weight: float = 1.0
    normalizer: str | None = None
    """Where the data set's own normalizer is, as its yaml says."""
    tokens: str | None = None
    """Folder of the token files of its shards (rdt2.data.shards.tokens); None: they lie beside the shards."""
    place: str | None = None
    """What names just these shards: a folder, tar, range or URL; None where no single one does."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise ConfigError(f"data set {self.name!r} has no shards.")
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"data set {self.name!r}: weight is {self.weight}, expected above 0.")

    def table(self, shard: str) -> Mapping[str, str]:
        """Instruction key -> sentence for the samples of a tar."""
        return self.instructions[self.folder(shard)]

    def folder(self, shard: str) -> str:
        """Whose table goes for a tar."""
        return "" if "" in self.instructions else shard.rpartition("/")[0]


def open_sources(
    location: str | Path | Iterable[str | Path] | Sequence[DataSource],
    *,
    instructions: Mapping[str, str] | Literal["file", "ignore"] = "file",
) -> list[DataSource]:
    """The sources of a folder, tars, URLs, a yaml file, or as they are given.

    instructions: "file" reads the table beside the shards, or where the yaml says; "ignore" leaves sentences out;
        or a table.

    Raises:
        ConfigError: a yaml that is neither form. ShardError: no shards, or no instructions beside them.
    """
    if isinstance(location, (str, Path)) and Path(location).suffix in (".yaml", ".yml"):
        sources = _read_yaml(Path(location))
    else:
        given = [location] if isinstance(location, (str, Path)) else list(location)
        sources = [each for each in given if isinstance(each, DataSource)]
        if len(sources) not in (0, len(given)):
            raise ConfigError("expected data sets, or places of shards, not some of each.")
        if not sources:
            shards = expand_locations(given)  # type: ignore[arg-type]
            place = str(given[0]) if len(given) == 1 else None
            sources = [DataSource(name=str(given[0]), shards=tuple(shards), place=place)]
    return [_with_instructions(source, instructions) for source in sources]


def _with_instructions(
    source: DataSource, instructions: Mapping[str, str] | Literal["file", "ignore"]
) -> DataSource:
    if not isinstance(instructions, str):
        return replace(source, instructions={"": instructions})
    if instructions == "ignore" or source.instructions:
        return source
    beside = {shard.rpartition("/")[0]: shard for shard in source.shards}
    return replace(
        source, instructions={folder: instructions_beside(shard) for folder, shard in beside.items()}
    )


def has_instructions(source: DataSource) -> bool:
    """Whether there is a table of sentences beside all tars of a source."""
    try:
        _with_instructions(source, "file")
    except ShardError:
        return False
    return True


def _read_yaml(path: Path) -> list[DataSource]:
    config = _load(path)
    if "train" not in config:
        return [_single(path, config, name=str(config.get("name", path.stem)), weight=1.0)]
    _require_known(path, config, _MIXTURE_KEYS)
    entries, common, more = config["train"], _paths(path, config), _more_sentences(path, config)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f"{path}: train is no table {{name: {{config_path, weight}}}}.")
    sources = []
    for name, entry in entries.items():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("config_path"), str)
            or set(entry) - {"config_path", "weight"}
        ):
            raise ConfigError(f"{path}: train.{name} is {entry!r}, expected {{config_path, weight}}.")
        weight = entry.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise ConfigError(f"{path}: train.{name}.weight is {weight!r}, expected a number above 0.")
        other = Path(_beside(path, entry["config_path"]))
        try:
            config = _load(other)
        except ConfigError as error:
            raise ConfigError(
                f"{path}: train.{name}.config_path is {entry['config_path']!r}: {error}"
            ) from None
        if "train" in config:
            raise ConfigError(
                f"{path}: train.{name}.config_path is {entry['config_path']!r}, which is a mixture itself. "
                "Name its data sets here, each with its weight."
            )
        sources.append(_single(other, config, name=str(name), weight=float(weight), common=common, more=more))
    return sources


def _single(
    path: Path,
    config: Mapping[str, Any],
    *,
    name: str,
    weight: float,
    common: Mapping[str, str] = MappingProxyType({}),
    more: Mapping[str, str] = MappingProxyType({}),
) -> DataSource:
    """common: paths of a mixture, for those that the config does not give. more: sentences of a mixture."""
    kind, place = config.get("type", "single"), config.get("shards_dir")
    if kind != "single" or not isinstance(place, str):
        raise ConfigError(
            f"{path}: type is {kind!r} and shards_dir is {place!r}, expected 'type: single' with a shards_dir, or "
            "'type: blend' with train."
        )
    _require_known(path, config, _KEYS)
    paths, more = {**common, **_paths(path, config)}, {**more, **_more_sentences(path, config)}
    try:
        shards = expand_locations(_beside(path, place))
    except ShardError as error:
        raise ShardError(f"{path}: shards_dir is {place!r}: {error}") from None
    tables: dict[str, Mapping[str, str]] = {}
    told = paths.get("instruction_path")
    if told is not None:
        tables = {"": instructions_beside(told) if is_url(told) else _table(Path(told))}
    if more:
        beside = {each.rpartition("/")[0]: each for each in shards}
        tables = tables or {folder: find_instructions(each) or {} for folder, each in beside.items()}
        tables = {folder if len(tables) > 1 else "": {**table, **more} for folder, table in tables.items()}
    return DataSource(
        name=name,
        shards=tuple(shards),
        instructions=tables,
        weight=weight,
        normalizer=paths.get("normalizer_path"),
        tokens=paths.get("tokens_dir"),
        place=_beside(path, place),
    )


def _paths(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """instruction_path, normalizer_path and tokens_dir as a yaml gives them, made whole."""
    kwargs = config.get("kwargs") or {}
    if not isinstance(kwargs, dict) or not all(isinstance(kwargs.get(name, ""), str) for name in _PATHS):
        raise ConfigError(
            f"{path}: kwargs is {kwargs!r}, expected {{instruction_path, normalizer_path, tokens_dir}} as text."
        )
    _require_known(f"{path}: kwargs", kwargs, (*_PATHS, _MORE))
    return {name: _beside(path, kwargs[name]) for name in _PATHS if name in kwargs}


def _more_sentences(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Instruction key -> sentence, of those that stand in a yaml itself."""
    told = (config.get("kwargs") or {}).get(_MORE) or {}
    if not isinstance(told, dict) or not all(isinstance(sentence, str) for sentence in told.values()):
        raise ConfigError(f"{path}: kwargs.{_MORE} is {told!r}, expected a table {{key: sentence}}.")
    return {str(key): sentence for key, sentence in told.items()}


def _require_known(where: str | Path, config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigError for a key that is none, with the nearest that is one."""
    for key in config:
        if key not in known:
            hint = did_you_mean(key, known) or f" There are: {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key {key!r}.{hint}")


def _table(path: Path) -> Mapping[str, str]:
    if path.is_file():
        return parse_instructions(path.read_bytes(), where=str(path))
    # The published yaml names a file that may be called instruction.json or instructions.json.
    table = read_instructions(path.parent) if path.parent.is_dir() else None
    if table is None:
        raise ShardError(f"{path}: no such instruction table. Correct instruction_path in the yaml.")
    return table


def _beside(path: Path, told: str) -> str:
    """A path of a yaml file: relative to that file; one through folders that is there only so, to the current one.

    A mere name is never taken from there: what lies about may be another data set's.
    """
    if is_url(told):
        return told
    here = Path(told).expanduser()
    place = path.parent / here
    return str(here if len(here.parts) > 1 and not _is_there(place) and _is_there(here) else place)


def _is_there(place: Path) -> bool:
    """Whether there is such a file or folder, or a range of files in such a folder."""
    return place.exists() or ("{" in place.name and place.parent.is_dir())


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as yaml in UTF-8 ({error}).") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a table with shards_dir, or with train.")
    return config
