"""What `rdt2` and `rdt2 GROUP` show: a line a command. Nothing of a command but its docstring is looked at."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from rdt2 import __version__

FIRST = """\
  rdt2 demo                            two simulated arms; then open the report
  rdt2 evaluate cell --episodes 20     how often does it succeed?
  rdt2 data check data/pick --json -   figures alone, for programs

'rdt2 COMMAND --help' has examples. --install-completion is for your shell.
Exit codes: 0 done, 1 problem found, 2 refused, 70 a fault, 130 interrupted"""


def screen(said: Sequence[str], group: dict[str, Any]) -> str:
    """The help of a group of commands, or of all.

    Args:
        said: the words that name the group, behind `rdt2`.
        group: its commands by name; its `""` is what it is for.
    """
    width = max(map(len, group))
    lines = [f"  {name:{width}}  {summary(member)}" for name, member in group.items() if name]
    if not said:
        return "\n".join([f"rdt2 {__version__}: {summary(group)}", "", *lines, "", FIRST])
    prefix = " ".join(["rdt2", *said])
    examples = [example for name, member in group.items() if name and (example := first_example(member))]
    return "\n".join(
        [summary(group), "", *lines, "", "For example:", *(f"  {each}" for each in examples[:3]), "",
         f"Each explains itself: {prefix} {next(filter(None, group))} --help"]
    )  # fmt: skip


def summary(member: Any) -> str:
    """What a command or a group is for, in a line."""
    return member[""] if isinstance(member, dict) else (inspect.getdoc(member) or "").partition("\n")[0]


def first_example(member: Any) -> str:
    """The first example in a command's help, in a line; nothing for a group."""
    text = "" if isinstance(member, dict) else (inspect.getdoc(member) or "").partition("For example:")[2]
    lines = text.strip().replace("\\\n", " ").splitlines()
    return " ".join(lines[0].partition("   ")[0].split()) if lines else ""


def description(member: Any) -> str:
    """A command's docstring in lines that the terminal has room for; examples stay as they are."""
    width = shutil.get_terminal_size().columns
    paragraphs = (inspect.getdoc(member) or "").split("\n\n")
    return "\n\n".join(
        paragraph if "\n  " in paragraph else textwrap.fill(paragraph, width, break_on_hyphens=False)
        for paragraph in paragraphs
    )
