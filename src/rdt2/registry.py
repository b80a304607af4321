"""Kinds that are found by name: a file each, in a package of ours or in one that somebody installed.

    TASKS = Registry("task", "rdt2.sim.tasks", variable="TASK", kind=TaskKind, error=TaskError)
    TASKS["pick"]          # the TASK of rdt2/sim/tasks/pick.py

A file in the package is a kind of the file's name. A kind of an installed package is an entry point of a group that is
called as the package is, for example in its pyproject.toml:

    [project.entry-points."rdt2.tasks"]
    wash = "my_package.wash:TASK"

Without a package, "my_module:MY_KIND" is a name as well: of any module that Python finds (PYTHONPATH=my_folder).

Names cost nothing; a kind is imported when it is first asked for.
"""

from __future__ import annotations

import difflib
import pkgutil
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from rdt2.errors import ConfigError, RDT2Error

T = TypeVar("T")
MODULE = re.compile(r"[\w.]+:[\w.]+")
"""A kind of any module: module:VARIABLE."""
_EXAMPLES = {
    "arm": "examples/new_arm.py",
    "arm driver": "examples/new_arm_driver.py",
    "gripper driver": "examples/new_gripper.py",
    "task": "examples/new_task.py",
}
"""A file to begin a new kind with, by what it is called."""


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """ " Did you mean 'pick'?" for a name that is nearly one of `names`, or a part of one, else nothing."""
    typed, bare = _bare(str(name)), {_bare(each): each for each in names}
    near = difflib.get_close_matches(typed, bare, n=1)
    if not near and len(typed) > 1:
        near = sorted((each for each in bare if typed in each or (len(each) > 2 and each in typed)), key=len)
    return f" Did you mean {bare[near[0]]!r}?" if near else ""


def _bare(name: str) -> str:
    return name.lstrip("-").lower().replace("_", "-")


def fault_of_a_user(error: BaseException, module: str = "") -> str | None:
    """Where somebody's own file went wrong, and how: "hoist.py, line 12: KeyError: 'bowl'".

    Args:
        error: what was raised.
        module: one whose file is meant wherever it lies; otherwise those of ours, of Python and of installed packages
            are not.

    Returns:
        None where no line of the traceback is of such a file.
    """
    places = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    said = str(error) if isinstance(error, RDT2Error) else f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
        said = f"{type(error).__name__}: {error.msg}"
    for name, line in reversed(places):
        file = Path(name)
        installed = not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
        others = installed or name.startswith("<") or any(map(file.is_relative_to, _NOT_OF_USERS))
        if not others or (module and ".".join(file.with_suffix("").parts).endswith(f".{module}")):
            return f"{file}, line {line}: {said.removesuffix(': ')}"
    return None


_NOT_OF_USERS = Path(__file__).parent, Path(sysconfig.get_paths()["stdlib"])


def kind_names(package: str) -> tuple[str, ...]:
    """Names of the kinds of a registry's package, without importing it: choices of a command line."""
    plugged = [place.name for place in entry_points(group=_group(package))]
    return tuple(sorted({*_files(package), *plugged}))


def _group(package: str) -> str:
    return "rdt2." + package.rpartition(".")[2]


def _files(package: str) -> list[str]:
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ConfigError(f"{package} is no package: a registry's kinds are the files of one.")
    names = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)]
    return [name for name in names if not name.startswith("_")]


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to kind, in the order of the alphabet.

    Args:
        what: a word for one of them, for messages.
        package: its files without a leading underscore are the kinds; its last name is the entry points' group's.
        variable: what a file calls its kind.
        kind: the type that it must be of.
        error: raised for a name that is not there; says which are, and the nearest.
    """

    def __init__(
        self, what: str, package: str, *, variable: str, kind: type[T], error: type[RDT2Error] = ConfigError
    ) -> None:
        self.what, self.package, self.variable = what, package, variable
        self._kind, self._error = kind, error
        self._loaded: dict[str, T] = {}

    @cached_property
    def _places(self) -> dict[str, EntryPoint]:
        group = _group(self.package)
        own = [
            EntryPoint(name, f"{self.package}.{name}:{self.variable}", group) for name in _files(self.package)
        ]
        found: dict[str, EntryPoint] = {}
        for place in (*own, *entry_points(group=group)):
            if found.setdefault(place.name, place).value != place.value:
                raise ConfigError(
                    f"two packages bring a {self.what} called {place.name!r}: {found[place.name].value} and "
                    f"{place.value}. Rename or uninstall one."
                )
        return dict(sorted(found.items()))

    def __getitem__(self, name: str) -> T:
        """The kind called `name`.

        Raises:
            the registry's error: no such name. ConfigError: its file has a mistake, told with its line, or brings
                nothing of the right type.
        """
        place = EntryPoint(name, name, "") if MODULE.fullmatch(name) else self._places.get(name)
        if place is None:
            example = _EXAMPLES.get(self.what, "rdt2/registry.py")
            raise self._error(
                f"there is no {self.what} called {name!r}, only {', '.join(self)}."
                f"{did_you_mean(name, tuple(self))} A new one is one file: see {example}."
            )
        if name not in self._loaded:
            try:
                kind = place.load()
            except Exception as error:  # anything may be wrong in a file that somebody writes
                said = (fault_of_a_user(error, place.module) or str(error)).rstrip(".")
                raise ConfigError(
                    f"the {self.what} {name!r} cannot be loaded from {place.value}: {said}."
                ) from error
            if not isinstance(kind, self._kind):
                raise ConfigError(
                    f"the {self.what} {name!r}: {place.value} is a {type(kind).__name__}, expected a "
                    f"{self._kind.__name__}."
                )
            self._loaded[name] = kind
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
