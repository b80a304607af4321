"""Entry point of `rdt2`: finds the command, runs it, and turns expected errors into one message.

A command is a dataclass: its fields are the options, its docstring the help, its `run` the work. Nothing
heavy (torch, transformers, mujoco) is imported before `run`, so that `rdt2 --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

from rdt2 import __version__
from rdt2.cli.output import check_outputs
from rdt2.cli.usage import check_usage
from rdt2.errors import RDT2Error

EPILOG = """\
Start here:
  rdt2 demo                                        pick cubes with two UR5e arms, then open the report
  rdt2 demo --robot fr3 --task press               another robot, another task, the same weights
  rdt2 evaluate cell --policy demo-fm --episodes 20 --json result.json
  rdt2 data record --episodes 200 --out data/pick && rdt2 data check data/pick

Each command explains itself: rdt2 evaluate cell --help

RDT2_DEBUG=1 shows the traceback behind an error message."""

# What to install when a module of an extra is missing.
_EXTRAS = {
    "mujoco": "sim",
    "mink": "sim",
    "av": "sim",
    "matplotlib": "sim",
    "tensorboard": "train",
    **dict.fromkeys(("h5py", "jinja2", "numcodecs", "pyarrow", "zarr"), "data"),
    **dict.fromkeys(("mcap", "mcap_ros2"), "mcap"),
    "peft": "train",
    "bitsandbytes": "quant",
}


def commands() -> dict[str, Any]:
    """All commands: a dataclass for each, nested by group. A group's `""` is its one-line description."""
    from rdt2.cli import convert, data, demo, evaluate, export, predict, tokenizer, train

    return {
        "demo": demo.Demo,
        "predict": predict.Predict,
        "evaluate": {
            "": "Measure a policy: on recorded shards, or by what the simulated arms do.",
            "shards": evaluate.EvaluateShards,
            "cell": evaluate.EvaluateCell,
            "compare": evaluate.EvaluateCompare,
        },
        "data": {
            "": "Record, convert, check, describe, view and tokenize training data.",
            "record": data.DataRecord,
            "convert": convert.DataConvert,
            "to-lerobot": convert.DataToLerobot,
            "view": convert.DataView,
            "check": data.DataCheck,
            "stats": data.DataStats,
            "tokenize": data.DataTokenize,
            "augment-sheet": data.DataAugmentSheet,
        },
        "tokenizer": {
            "": "Look at an action tokenizer.",
            "inspect": tokenizer.TokenizerInspect,
            "check": tokenizer.TokenizerCheck,
        },
        "train": {
            "": "Train the models, one stage a command.",
            "tokenizer": train.TrainTokenizer,
            "pointing": train.TrainPointing,
            "vq": train.TrainVQ,
            "expert": train.TrainExpert,
            "distill": train.TrainDistill,
        },
        "export": {
            "": "Make trained models ready to use and to hand on.",
            "bundle": export.ExportBundle,
            "merge": export.ExportMerge,
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run `rdt2`. Exits with 0, with 2 after a usage or expected error, with 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"rdt2 {__version__}")
        return
    if not arguments:
        arguments = ["--help"]
    try:
        command = parse(arguments)
        check_outputs(command)
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) closed its end; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except RDT2Error as error:
        if os.environ.get("RDT2_DEBUG") == "1":
            raise
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None or os.environ.get("RDT2_DEBUG") == "1":
            raise
        _fail(f"{error.name} is not installed. This command needs it: pip install 'rdt2[{extra}]'", 2)
    except (OSError, MemoryError) as error:
        if os.environ.get("RDT2_DEBUG") == "1":
            raise
        _fail(_system_error(error), 2)


_ADVICE = {
    errno.ENOENT: "Look at the path; relative ones are taken from the current folder.",
    errno.EACCES: "Choose a place that you may read and write, or ask its owner.",
    errno.EPERM: "Choose a place that you may read and write, or ask its owner.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.EISDIR: "Name a file, not a folder.",
    errno.ENOTDIR: "A part of this path is a file, expected a folder.",
    errno.EEXIST: "Choose another name.",
    errno.ENOSPC: "Free some space, or choose another disk.",
    errno.EDQUOT: "Your share of the disk is used up: free some space, or choose another disk.",
    errno.EMFILE: "Too many files are open: raise the limit with 'ulimit -n 65536', or take fewer --workers.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def _system_error(error: OSError | MemoryError) -> str:
    """What the system refused, and what to do."""
    if isinstance(error, MemoryError):
        return f"the memory is used up ({error}). Take a smaller batch or fewer --workers."
    where = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "RDT2_DEBUG=1 shows where it happened.")
    return f"{where}: {what}. {advice}" if where else f"{what}. {advice}"


def parse(arguments: Sequence[str]) -> Any:
    """The command that `arguments` name, filled in. Exits with help or a usage error as argparse does.

    Raises:
        ConfigError: a command or an option that is not there.
    """
    import tyro
    from tyro import conf

    check_usage(arguments, commands())
    if len(arguments) > 1 and arguments[0] in commands():
        group = commands()[arguments[0]]
        # A group of one command is that command to tyro: its name is taken off here.
        if isinstance(group, dict) and [key for key in group if key] == [arguments[1]]:
            arguments = [arguments[0], *arguments[2:]]
    parsed = tyro.cli(
        _group("rdt2", commands()),
        prog="rdt2",
        args=list(arguments),
        description=f"RDT2 {__version__}: two wrist pictures and a sentence move two arms.\n\n{EPILOG}",
        config=(
            conf.OmitArgPrefixes,
            conf.OmitSubcommandPrefixes,
            conf.FlagCreatePairsOff,
            conf.DisallowNone,
        ),
    )
    while hasattr(parsed, "command"):
        parsed = parsed.command
    return parsed


def _group(name: str, members: dict[str, Any]) -> Any:
    """A dataclass with one field, `command`: any of the members."""
    import tyro

    options = []
    for key, member in members.items():
        if key == "":
            continue
        kind = _group(key, member) if isinstance(member, dict) else member
        options.append(Annotated[kind, tyro.conf.subcommand(name=key)])
    group = dataclasses.make_dataclass(name.capitalize(), [("command", Union[tuple(options)])])  # noqa: UP007
    group.__doc__ = members.get("", "")
    return group


def _fail(message: str, code: int) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))
    sys.exit(code)


if __name__ == "__main__":
    main()
