"""Mistyped commands and options, told with the nearest that there is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from rdt2.errors import ConfigError


def check_usage(arguments: Sequence[str], commands: dict[str, Any]) -> None:
    """Refuse words that name no command and options that the command does not have; the rest is the parser's.

    Raises:
        ConfigError: what is not there, what is nearest, and all there are.
    """
    said, member = ["rdt2"], commands
    for number, word in enumerate(arguments):
        if word.startswith("-"):
            return
        if word not in member:
            names = [name for name in member if name]
            group = " ".join(said)
            raise ConfigError(
                f"'{group}' has no command {word!r}.{_nearest(word, names)} Its commands: {', '.join(names)}. "
                f"See: {group} --help"
            )
        said.append(word)
        if not isinstance(member[word], dict):
            _check_options(" ".join(said), arguments[number + 1 :], list(_options(member[word])))
            return
        member = member[word]


def _check_options(command: str, arguments: Sequence[str], options: list[str]) -> None:
    for word in arguments:
        name = word.split("=")[0].replace("_", "-")
        if not name.startswith("--") or name in options or name.startswith(("--help", "--tyro")):
            continue
        raise ConfigError(
            f"'{command}' has no option {name}.{_nearest(name, options)} Its options: {', '.join(options)}. "
            f"See: {command} --help"
        )


def _options(command: Any) -> Iterator[str]:
    """The options of a command: its fields, and those of the dataclasses among them."""
    from tyro.conf import Positional, arg

    hints = get_type_hints(command, include_extras=True)
    positional = get_args(Positional[int])[1:]
    settings: Any = type(arg())
    for field in dataclasses.fields(command):
        kind, name = hints[field.name], field.name
        told = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
        if dataclasses.is_dataclass(kind):
            yield from _options(kind)
        elif not any(each in positional for each in told):
            names = [each.name for each in told if isinstance(each, settings) and each.name]
            yield "--" + (names[0] if names else name).replace("_", "-")


def _nearest(word: str, names: Sequence[str]) -> str:
    bare = {name.lstrip("-"): name for name in names}
    typed = word.lstrip("-").lower()
    found = difflib.get_close_matches(typed, bare, n=1, cutoff=0.6)
    found = found or [name for name in bare if len(typed) > 1 and name.startswith(typed)]
    return f" Did you mean {bare[found[0]]!r}?" if found else ""
