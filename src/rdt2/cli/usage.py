"""What is typed, before the parser sees it: mistyped words are told with the nearest that there is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

from rdt2.cli.options import Option, options, spelled
from rdt2.errors import ConfigError
from rdt2.registry import did_you_mean

OTHER_WORDS = {
    "--policy": ("--model", "--checkpoint", "--ckpt", "--weights", "--server"),
    "--data": ("--dataset", "--source", "--shards", "--input", "--recordings", "--place"),
    "--out": ("--output", "--output-dir", "--out-dir", "--save", "--report"),
    "--report": ("--html", "--page", "--out"),
    "--fit": ("--out",),
    "--json": ("--figures", "--metrics"),
    "--set": ("--override", "--overrides"),
    "--config": ("--preset",),
}
"""What other tools, and earlier versions of this one, call an option."""
RENAMED = {("data check", "--html"): "--report"}
"""Options that scripts may still name as they were called; they are taken, with a word about it."""


def named(arguments: Sequence[str], commands: dict[str, Any]) -> tuple[list[str], Any]:
    """The words that name a command, and the command; or a group of commands where no more words name anything.

    Raises:
        ConfigError: a word that names no command, with the nearest.
    """
    said: list[str] = []
    member: Any = commands
    for word in arguments:
        if not isinstance(member, dict) or word.startswith("-"):
            break
        if word not in member or not word:
            names = tuple(name for name in member if name)
            group = " ".join(["rdt2", *said])
            raise ConfigError(
                f"'{group}' has no command {word!r}.{did_you_mean(word, names)} Its commands: {', '.join(names)}. "
                f"See: {group} --help"
            )
        said.append(word)
        member = member[word]
    return said, member


def checked(command: str, kind: Any, words: Sequence[str]) -> list[str]:
    """The words behind a command as the parser takes them: those without a name first, in their order.

    Args:
        command: its name, such as "data check".
        kind: its dataclass.
        words: as they were typed; ``--data X`` may stand for a word without a name.

    Raises:
        ConfigError: an option that the command does not have, or a choice that there is not, with the nearest.
    """
    known = list(options(kind))
    by_name = {option.name: option for option in known}
    free: list[str] = []
    by_place: dict[str, list[str]] = {}
    rest: list[str] = []
    for name, values in spelled(words, known):
        if not name:
            free += values
            continue
        if (command, name) in RENAMED:
            from rdt2.progress import note

            note(f"{name} is called {RENAMED[command, name]} now")
            name = RENAMED[command, name]
        option = by_name.get(name)
        if option is None:
            if not name.startswith(("--help", "--tyro")):
                _refuse_option(command, name, [each.name for each in known])
            rest.append(name)
            continue
        _check_choices(command, option, values)
        if option.positional:
            by_place[name] = values
        else:
            rest += [name, *values]
    for option in known:
        if option.positional and option.name not in by_place:
            count = len(free) if option.words is None else option.words
            by_place[option.name], free = free[:count], free[count:]
            _check_choices(command, option, by_place[option.name])
    return [*(word for option in known for word in by_place.get(option.name, ())), *free, *rest]


def _refuse_option(command: str, name: str, names: list[str]) -> None:
    meant = [ours for ours, theirs in OTHER_WORDS.items() if name in theirs and ours in names]
    hint = f" Did you mean {meant[0]!r}?" if meant else did_you_mean(name, tuple(names))
    raise ConfigError(
        f"'rdt2 {command}' has no option {name}.{hint} Its options: {', '.join(names)}. "
        f"See: rdt2 {command} --help"
    )


def _check_choices(command: str, option: Option, values: list[str]) -> None:
    for value in values:
        if option.choices and value not in option.choices:
            raise ConfigError(
                f"{option.name} {value}: expected {', '.join(option.choices)}."
                f"{did_you_mean(value, option.choices)} See: rdt2 {command} --help"
            )
        try:
            if option.number is not None:
                option.number(value)
        except ValueError:
            expected = "a whole number" if option.number is int else "a number"
            raise ConfigError(
                f"{option.name} {value}: expected {expected}. See: rdt2 {command} --help"
            ) from None


_KEYWORD = re.compile(r"(?<![\w./=-])(?<!--set )(?<![Ss]et )([a-z_]+)=('[^']*'|<[^>]*>|[\w./:@-]*[\w/])?")


def typeable(message: str, command: Any) -> str:
    """What an error says of options as Python writes them, as they are typed: ``--normalizer FILE`` for
    ``normalizer=FILE``, and after ``rdt2 train`` ``--set normalizer=FILE``; what the command has not stays as it is."""
    trains = hasattr(command, "overrides")
    known = (
        _settings_of_policies()
        if trains
        else {each.name.removeprefix("--") for each in options(type(command))}
    )

    def typed(found: re.Match[str]) -> str:
        name, value = found[1], (found[2] or "").strip("'")
        if name.replace("_", "-") not in known:
            return found[0]
        if trains:
            return f"--set {name}={value.lower() if value == 'True' else value}" if value else name
        return f"--{name.replace('_', '-')} {'' if value == 'True' else value}".rstrip()

    return _KEYWORD.sub(typed, message)


def _settings_of_policies() -> set[str]:
    """The options of policies that are settings of training, too."""
    from rdt2.policy.spec import PolicySpec
    from rdt2.training.config import CONFIGS

    settings = {field.name for kind in CONFIGS.values() for field in dataclasses.fields(kind)}
    return settings & {field.name for field in dataclasses.fields(PolicySpec)}


def fill_lines(kind: Any) -> None:
    """Give the options of a command their docstrings as one line each: where these go on behind an indent, tyro breaks
    them as they stand, whatever the width of the terminal. None, which nobody can type, is neither shown as a default
    nor named where a docstring says what it means."""
    from docstring_parser import parse_from_object
    from tyro.conf import arg

    told = {
        each.arg_name: re.sub(r"\bNone: ", "Without it: ", " ".join(each.description.split()))
        for owner in reversed(kind.__mro__)
        if dataclasses.is_dataclass(owner)
        for each in parse_from_object(owner).params
        if each.description
    }
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in told:
            field.metadata = MappingProxyType({**field.metadata, "help": told[field.name]})
        if field.default is None:
            kind.__annotations__[field.name] = Annotated[hints[field.name], arg(help_behavior_hint="")]
        inner = get_args(hints[field.name])[:1] or (hints[field.name],)
        if dataclasses.is_dataclass(inner[0]):
            fill_lines(inner[0])
