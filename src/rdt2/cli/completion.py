"""Completion in bash, zsh and fish: the shell asks `rdt2 --complete WORDS`, so that what it offers is never stale."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdt2.cli.options import Option, options, spelled
from rdt2.errors import ConfigError, RDT2Error
from rdt2.registry import did_you_mean

SCRIPTS = {
    "bash": """\
_rdt2() {
  local IFS=$'\\n'
  COMPREPLY=($(rdt2 --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _rdt2 rdt2
""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_rdt2() {
  local -a found
  found=(${(f)"$(rdt2 --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  if (( ! $#found )); then _files
  elif [[ $found[1] == *= ]]; then compadd -S '' -- $found
  else compadd -- $found; fi
}
compdef _rdt2 rdt2
""",
    "fish": """\
complete -c rdt2 -a '(rdt2 --complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}


def script(shell: str | None) -> str:
    """What a shell has to read. Raises ConfigError: not for this shell."""
    return SCRIPTS[_shell(shell)]


def install(shell: str | None) -> str:
    """Write a shell's script where it is read from now on; what was done, in words.

    Raises:
        ConfigError: not for this shell. OSError: the files cannot be written.
    """
    name, home = _shell(shell), Path.home()
    if name == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        place = config / "fish" / "completions" / "rdt2.fish"
    else:
        place = (
            Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "rdt2" / f"completion.{name}"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(SCRIPTS[name])
    told = f"completion for {name}: {place}"
    if name != "fish":
        start = (Path(os.environ.get("ZDOTDIR") or home) if name == "zsh" else home) / f".{name}rc"
        line = f'[ -f "{place}" ] && . "{place}"  # completion of rdt2\n'
        before = start.read_text() if start.is_file() else ""
        if line not in before:
            with start.open("a") as file:
                file.write(("" if before.endswith("\n") or not before else "\n") + line)
        told += f", read by {start}"
    return f"{told}. It works in the next shell that you open."


def _shell(name: str | None) -> str:
    shell = name or Path(os.environ.get("SHELL", "")).name
    if shell not in SCRIPTS:
        raise ConfigError(
            f"completion is for {', '.join(SCRIPTS)}; this shell is {shell or 'unknown'!r}."
            f"{did_you_mean(shell, tuple(SCRIPTS))} Say which one: rdt2 --install-completion bash"
        )
    return shell


def completions(words: Sequence[str], commands: dict[str, Any]) -> list[str]:
    """What the last of `words` may become; none where the shell's own, file names, are right.

    Args:
        words: what is typed behind `rdt2`; the last one is not finished.
        commands: all.
    """
    from rdt2.cli.usage import named

    *before, typed = words or [""]
    try:
        said, member = named(before, commands)
    except RDT2Error:
        return []
    if isinstance(member, dict):
        offered = [*filter(None, member), "--help"]
        return [word for word in offered if word.startswith(typed)]
    known = list(options(member))
    groups = list(spelled(before[len(said) :], known))
    name, values = groups[-1] if groups else ("", [])
    asked = next(
        (o for o in known if o.name == name and o.words != 0 and (o.words or 99) > len(values)), None
    )
    free = sum(not name for name, _ in groups)
    if typed.startswith("-"):
        offered = [*(option.name for option in known), "--help"]
    elif asked is not None:
        offered = _values(asked, member)
    else:
        waiting = [option for option in known if option.positional][free:]
        offered = _values(waiting[0], member) if waiting else []
    return [word for word in offered if word.startswith(typed)]


def _values(option: Option, command: Any) -> list[str]:
    """What an option is likely to be given."""
    if option.choices:
        return list(option.choices)
    if option.name == "--policy":
        from rdt2.policy.spec import BUILT_IN

        return list(BUILT_IN)
    if option.name == "--robot":
        from rdt2.robot.reading import shipped

        return list(shipped())
    stage = getattr(command, "stage", None)
    if stage and option.name == "--config":
        from rdt2.training.settings import shipped_presets

        return [name for name in shipped_presets() if name.startswith(stage)]
    if stage and option.name == "--set":
        from rdt2.training.config import CONFIGS
        from rdt2.training.settings import described

        return [f"{name}=" for name, _, _ in described(CONFIGS[stage])]
    return []
