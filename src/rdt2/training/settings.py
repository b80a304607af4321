"""How settings are read and checked: yaml presets, ``--set key=value``, types and ranges.

A range stands in the type of a setting, ``Annotated[int, at_least(1)]``, and what the setting means in the text below
it: messages quote both. Nothing here imports torch: a wrong setting is said at once.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import numbers
import os
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from rdt2.errors import ConfigError
from rdt2.registry import did_you_mean

PRESETS = Path(__file__).parents[1] / "configs" / "training"
SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have."""

    low: float
    high: float = math.inf
    above: bool = False
    """Whether ``low`` itself is too small."""
    below: bool = False
    """Whether ``high`` itself is too large."""

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and math.isfinite(value)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:.10g}"


def at_least(low: float) -> Range:
    """``low`` or more."""
    return Range(low)


def above(low: float, *, to: float = math.inf) -> Range:
    """More than ``low``, ``to`` at most."""
    return Range(low, to, above=True)


def between(low: float, high: float) -> Range:
    """``low`` to ``high``, both included."""
    return Range(low, high)


def share(low: float = 0) -> Range:
    """``low`` or more, less than 1."""
    return Range(low, 1, below=True)


def load_settings(
    settings_type: type[SettingsT], preset: str | Path | None = None, overrides: Sequence[str] = ()
) -> SettingsT:
    """Build settings from defaults, a yaml preset and ``key=value`` overrides.

    Args:
        settings_type: a dataclass whose fields are settings.
        preset: yaml file of flat ``key: value`` pairs, the name of one that is shipped (``vq_tiny``), or none.
        overrides: ``key=value`` strings, values in yaml syntax.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest known one), value of a wrong type or out of range.
            It says which of the preset and the overrides is at fault.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        for key, value in _read(_find(preset)).items():
            values[key] = checked(settings_type, key, value, where=str(preset))
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator:
            raise ConfigError(f"--set {override!r}: expected key=value, for example --set steps=1000.")
        where = f"--set {override}"
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{where}: the value cannot be read ({_place(error)}). Write it as in a yaml file, texts with "
                "special characters in quotes."
            ) from None
        values[key] = checked(settings_type, key, value, where=where)
    return settings_type(**values)


def to_mapping(settings: Any) -> dict[str, Any]:
    """Plain values of settings, as yaml and json write them."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(settings).items()
    }


def described(settings_type: type) -> Iterator[tuple[str, str, str]]:
    """(name, default as ``--set`` takes it, meaning) of every setting."""
    for key, value in to_mapping(settings_type()).items():
        written = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        yield key, written, _meaning(settings_type, key)


def checked(settings_type: type, key: Any, value: Any, *, where: str) -> Any:
    """The value of a setting, of its type and in its range.

    Args:
        settings_type: dataclass that has the setting.
        key: name of the setting.
        value: as yaml or a caller gave it.
        where: what the message begins with: the file or the option it comes from.

    Raises:
        ConfigError: no such setting, or a value that it cannot have.
    """
    hints = typing.get_type_hints(settings_type, include_extras=True)
    if key not in hints:
        hint = did_you_mean(key, hints) or f" Known are {', '.join(sorted(hints))}."
        raise ConfigError(f"{where}: no setting '{key}' of {settings_type.__name__}.{hint}")
    try:
        return _convert(value, hints[key])
    except _Unfit as unfit:
        meaning = _meaning(settings_type, key)
        given = "nothing" if value is None else repr(value)
        what = f" ({meaning})" if meaning else ""
        raise ConfigError(f"{where}: {key} is {given}, expected {unfit}{what}.") from None


class _Unfit(Exception):
    """What would have been expected, in words."""


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` wants it. Raises _Unfit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits: Range = arguments[1]
        number = _convert(value, arguments[0])
        if number not in limits:
            raise _Unfit(f"a {'whole ' if arguments[0] is int else ''}number, {limits}")
        return number
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in arguments):
            return value
        raise _Unfit(
            f"one of {', '.join(str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)}"
        )
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _Unfit("a list such as [a, b]")
        if arguments[-1] is Ellipsis:
            return tuple(_convert(item, arguments[0]) for item in value)
        if len(value) != len(arguments):
            raise _Unfit(f"{len(arguments)} values, not {len(value)}")
        return tuple(_convert(*pair) for pair in zip(value, arguments, strict=True))
    if hint in (int, float):
        return _number(value, hint)
    if hint is bool:
        if not isinstance(value, bool):
            raise _Unfit("true or false")
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, str) or not value.strip():
        raise _Unfit("a text")
    return value


def _number(value: Any, kind: type) -> int | float:
    """yaml reads 1e-4 as text, and libraries give numbers of their own types."""
    expected = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, str)):
        raise _Unfit(expected)
    if isinstance(value, numbers.Integral):
        return kind(value)
    try:
        number = float(value)
    except ValueError:
        raise _Unfit(expected) from None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise _Unfit(f"{expected}, finite" if kind is float else expected)
    return kind(number)


def _meaning(settings_type: type, key: str) -> str:
    """The text below a setting in the class that says it last; empty where there is no source to read."""
    for owner in settings_type.__mro__[:-1]:
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except (OSError, TypeError):
            continue
        assert isinstance(body, ast.ClassDef)
        for name, text in _documented(body):
            if name == key:
                return " ".join(text.split()).rstrip(".")
    return ""


def _documented(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """(field, text below it) of a dataclass."""
    for line, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            yield line.target.id, str(following.value.value)


class _OnceLoader(yaml.SafeLoader):
    """A key that stands twice is an error: which of the two was meant?"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = [key for number, key in enumerate(keys) if key in keys[:number]]
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"'{twice[0]}' stands there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def _find(preset: str | Path) -> Path:
    """The file of a preset: as it is given, or a shipped one of that name, wherever the package is installed."""
    path = Path(preset).expanduser()
    shipped = PRESETS / f"{preset}.yaml"
    return shipped if len(path.parts) == 1 and shipped.is_file() and not path.is_file() else path


def shipped_values(preset: str | Path) -> dict[str, Any]:
    """What a preset says, by setting, if it is one that comes with the package; nothing if it is somebody's own."""
    path = _find(preset)
    return dict(_read(path)) if path.parent == PRESETS else {}


def shipped_presets() -> tuple[str, ...]:
    """Names of the presets that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def _read(path: Path) -> Mapping[Any, Any]:
    """The pairs of a preset. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such configuration file.{did_you_mean(path.stem, shipped_presets())} Give the path of a yaml "
            f"file, or the name of a shipped preset: {', '.join(shipped_presets())}."
        )
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no yaml ({_place(error)}). Expected 'key: value' lines.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}). Expected a text file of 'key: value' lines."
        ) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"{path}: expected 'key: value' lines, got a {type(loaded).__name__}.")
    return loaded


def _place(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    mark = getattr(error, "problem_mark", None)
    return problem if mark is None else f"{problem}, line {mark.line + 1}"
