"""What a command takes, as its dataclass says it: for messages, completion and words in any order."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Option:
    """One option, or one of the words that a command takes without a name.

    name: as it is typed, ``--data``; a positional word may be given by its name, too.
    words: how many follow it: 0 for a switch, None for as many as come.
    choices: what it may be; empty where anything may.
    number: int or float, where nothing but such a number may follow.
    """

    name: str
    positional: bool
    words: int | None
    choices: tuple[str, ...] = ()
    number: type[int] | type[float] | None = None


def options(command: Any) -> Iterator[Option]:
    """All of a command: its fields, and those of the dataclasses among them."""
    from tyro.conf import Positional, UseAppendAction, arg

    hints = get_type_hints(command, include_extras=True)
    positional, appended = (get_args(marker[int])[1:] for marker in (Positional, UseAppendAction))
    settings: Any = type(arg())
    for field in dataclasses.fields(command):
        kind, told = hints[field.name], list[Any]()
        if get_origin(kind) is Annotated:
            kind, *told = get_args(kind)
        if dataclasses.is_dataclass(kind):
            yield from options(kind)
            continue
        names = [each.name for each in told if isinstance(each, settings) and each.name]
        name = "--" + (names[0] if names else field.name).replace("_", "-")
        words, choices = _words(kind)
        if any(each in appended for each in told):
            words = 1
        yield Option(name, any(each in positional for each in told), words, choices, _number(kind))


def _words(kind: Any) -> tuple[int | None, tuple[str, ...]]:
    """How many words a type takes, and which they may be."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(inner[0])
    if origin in (Union, types.UnionType):
        return _words(next(each for each in inner if each is not type(None)))
    if origin is Literal:
        return 1, tuple(map(str, inner))
    if origin is tuple:
        return (None if inner[-1] is Ellipsis else len(inner)), _words(inner[0])[1]
    return (0 if kind is bool else 1), ()


def _number(kind: Any) -> type[int] | type[float] | None:
    """The type of number that all words of a type are, if they are."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is None:
        return kind if kind in (int, float) else None
    if origin is Annotated:
        return _number(inner[0])
    if origin is Literal:
        return None
    kinds = {_number(each) for each in inner if each not in (type(None), Ellipsis)}
    return kinds.pop() if len(kinds) == 1 else None


def spelled(words: Sequence[str], known: Sequence[Option]) -> Iterator[tuple[str, list[str]]]:
    """Words of a command line in groups: (name of the option, what follows it), ("", [word]) for one without a name.

    ``--name=value`` and ``--some_name`` are taken for ``--name value`` and ``--some-name``.
    """
    counts = {option.name: option.words for option in known}
    place = 0
    while place < len(words):
        word, place = words[place], place + 1
        if not word.startswith("--"):
            yield "", [word]
            continue
        name, sign, value = word.partition("=")
        name, values = name.replace("_", "-"), [value] if sign else []
        count = 0 if sign else counts.get(name, 1)
        while (
            place < len(words)
            and (count is None or len(values) < count)
            and not words[place].startswith("--")
        ):
            values.append(words[place])
            place += 1
        yield name, values
