"""Reading a robot's yaml, and saying everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rdt2.errors import ConfigError
from rdt2.registry import did_you_mean

ModelT = TypeVar("ModelT", bound=BaseModel)

CONFIGS = Path(__file__).parents[1] / "configs" / "robots"


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one section: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_mapping(source: str | Path) -> tuple[Path, dict[str, Any], str]:
    """A robot's file as plain values in our own layout.

    Args:
        source: a path, or the name of a file in configs/robots.

    Returns:
        Its path, its values (those of a published file translated), and a remark for messages about its layout.

    Raises:
        ConfigError: it cannot be found or read, or is in neither layout.
    """
    from rdt2.robot.published import is_published, translate

    path = find(source)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(
            f"{path} is no yaml: {words}. Mend it there, or start from one of {CONFIGS}."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}, expected keys and values: name, kind, arms, safety. "
            f"Start from one of {CONFIGS}."
        )
    if not is_published(values):
        return path, values, ""
    remark = (
        "It is in the published layout, which does not say all that a robot must be told before it moves. Add what is "
        "missing to the same file, under these keys (arms: {right: ..., left: ...}, safety: ...). "
    )
    return path, {"name": path.stem, **translate(values, where=str(path))}, remark


def find(source: str | Path) -> Path:
    """The file of a robot: a path, or the name of one of the package's. Raises ConfigError: there is none."""
    path = Path(source).expanduser()
    if path.suffix.lower() in (".yaml", ".yml", ".json") or len(path.parts) != 1:
        if path.is_file():
            return path
        raise ConfigError(
            f"{path}: no such file.{did_you_mean(path.stem, shipped())} A robot is the path of a yaml file, or one of "
            f"{', '.join(shipped())}."
        )
    named = CONFIGS / f"{source}.yaml"
    if named.is_file():
        return named
    raise ConfigError(
        f"there is no robot called {str(source)!r}, only {', '.join(shipped())}.{did_you_mean(str(source), shipped())} "
        "A robot of your own is the path of its yaml file."
    )


def shipped() -> tuple[str, ...]:
    """Names of the robots whose yaml comes with the package."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def validated(kind: type[ModelT], values: Mapping[str, Any], *, where: str, layout: str = "") -> ModelT:
    """Settings made of plain values.

    Raises:
        ConfigError: everything that is wrong or missing, a line each: key, what came, what was expected, what it means.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = list(dict.fromkeys(_line(kind, detail) for detail in error.errors()))
        lines.sort(key=lambda line: ": is missing" in line)
        count = f"{len(lines)} settings are" if len(lines) > 1 else "a setting is"
        heading = f"{where}: {count} wrong or missing. {layout}".rstrip()
        raise ConfigError("\n  ".join((heading, *lines))) from None


def _line(kind: type[BaseModel], detail: ErrorDetails) -> str:
    place = tuple(part for part in detail["loc"] if part != "[key]")
    key = ".".join(str(part) for part in place) or "the file"
    section, description = _looked_up(kind, place)
    means = f" It means: {description}" if description else ""
    if detail["type"] == "missing":
        field = section.model_fields.get(str(place[-1])) if section else None
        inside = _section_of(field.annotation) if field else None
        return f"{key}: is missing.{means}" + (
            f" A section of {', '.join(inside.model_fields)}." if inside else ""
        )
    if detail["type"] == "extra_forbidden":
        known = tuple(section.model_fields) if section else ()
        return (
            f"{key}: is no setting.{did_you_mean(str(place[-1]), known)} Settings here: {', '.join(known)}."
        )
    if "[key]" in detail["loc"] and place[0] == "arms":
        return f"{key}: is no side of a robot, expected right or left."
    if detail["type"] == "value_error":
        expected = str(detail["ctx"]["error"])
    else:
        expected = detail["msg"].replace("Input should be", "expected").replace("a valid ", "a ")
    value = detail["input"]
    got = "" if isinstance(value, Mapping | BaseModel) else f"got {_short(value)}; "
    return f"{key}: {got}{expected}{'' if expected.endswith(('.', '?', '!')) else '.'}{means}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _looked_up(kind: type[BaseModel], place: Sequence[str | int]) -> tuple[type[BaseModel] | None, str]:
    """The section that holds the setting at `place`, and what the setting means."""
    section: type[BaseModel] | None = kind
    inside: Any = None
    description = ""
    for part in place:
        if inside is not None:  # a side of the arms
            section, inside = inside, None
            continue
        field = section.model_fields.get(str(part)) if section else None
        if field is None:
            return section, ""
        description = field.description or ""
        annotation = field.annotation
        if get_origin(annotation) is dict:
            inside = _section_of(get_args(annotation)[1])
        elif part != place[-1]:
            section = _section_of(annotation) or section
    return section, description


def _section_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
