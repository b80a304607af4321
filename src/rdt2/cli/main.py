"""Entry point of `rdt2`: finds the command, runs it, and turns expected errors into one message.

A command is a dataclass: its fields are the options, its docstring the help, its `run` the work. Nothing
heavy (torch, transformers, mujoco) is imported before `run`, so that `rdt2 --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from rdt2 import __version__
from rdt2.cli import completion
from rdt2.cli.output import check_outputs, figures_alone
from rdt2.cli.screens import description, screen
from rdt2.cli.usage import checked, fill_lines, named, typeable
from rdt2.errors import ConfigError, RDT2Error
from rdt2.registry import did_you_mean, fault_of_a_user
from rdt2.threads import share_cores

# What to install when a module of an extra is missing.
_EXTRAS = {
    "mujoco": "sim",
    "mink": "sim",
    "ruckig": "sim",
    "numba": "sim",
    "av": "sim",
    "matplotlib": "sim",
    "tensorboard": "train",
    **dict.fromkeys(("h5py", "jinja2", "numcodecs", "pyarrow", "zarr"), "data"),
    **dict.fromkeys(("mcap", "mcap_ros2"), "mcap"),
    "peft": "train",
    "bitsandbytes": "quant",
    **dict.fromkeys(("viser", "trimesh"), "dashboard"),
    "franky": "fr3",
    "franky_sim": "peers",
    **dict.fromkeys(("websockets", "msgpack", "prometheus_client"), "serve"),
}


def commands() -> dict[str, Any]:
    """All commands: a dataclass for each, nested by group. A group's `""` says in a line what it is for."""
    from rdt2.cli import (
        calibrate,
        convert,
        data,
        demo,
        device,
        doctor,
        evaluate,
        export,
        predict,
        recordings,
        reset,
        robot,
        run,
        serve,
        tokenizer,
        train,
    )

    return {
        "": "two wrist pictures and a sentence move two arms",
        "demo": demo.Demo,
        "doctor": doctor.Doctor,
        "run": run.Run,
        "reset": reset.Reset,
        "calibrate": {
            "": "Find where tool, table and arms are, and how late devices.",
            "handeye": calibrate.CalibrateHandeye,
            "latency": calibrate.CalibrateLatency,
            "gripper": calibrate.CalibrateGripper,
            "table": calibrate.CalibrateTable,
            "arms": calibrate.CalibrateArms,
            "camera": calibrate.CalibrateCamera,
            "check": calibrate.CalibrateCheck,
        },
        "device": {
            "": "List and try devices of robots, or what stands in for them.",
            "list": device.DeviceList,
            "test": device.DeviceTest,
            "peer": device.DevicePeer,
        },
        "predict": predict.Predict,
        "serve": serve.Serve,
        "client": serve.Client,
        "robot": {
            "": "Let another machine move the robot of this one.",
            "serve": robot.RobotServe,
        },
        "evaluate": {
            "": "Measure a policy: on data, or by what simulated arms do.",
            "shards": evaluate.EvaluateShards,
            "cell": evaluate.EvaluateCell,
            "compare": evaluate.EvaluateCompare,
        },
        "data": {
            "": "Record, convert, check, describe and look at training data.",
            "record": data.DataRecord,
            "convert": convert.DataConvert,
            "to-lerobot": convert.DataToLerobot,
            "view": convert.DataView,
            "recordings": recordings.DataRecordings,
            "mark": recordings.DataMark,
            "recover": recordings.DataRecover,
            "check": data.DataCheck,
            "stats": data.DataStats,
            "tokenize": data.DataTokenize,
            "augment-sheet": data.DataAugmentSheet,
        },
        "tokenizer": {
            "": "Look at an action tokenizer, or try it on your data.",
            "inspect": tokenizer.TokenizerInspect,
            "check": tokenizer.TokenizerCheck,
        },
        "train": {
            "": "Train or fine-tune the models, one stage a command.",
            "tokenizer": train.TrainTokenizer,
            "pointing": train.TrainPointing,
            "vq": train.TrainVQ,
            "expert": train.TrainExpert,
            "distill": train.TrainDistill,
        },
        "export": {
            "": "Gather or merge trained models, to use and to hand on.",
            "bundle": export.ExportBundle,
            "merge": export.ExportMerge,
        },
    }


FAULT = 70  # EX_SOFTWARE: what scripts must not take for "a problem was found"


def main(argv: Sequence[str] | None = None) -> None:
    """Run `rdt2`.

    Ends with 0 when done, 1 where a command found a problem in what it looked at, 2 after wrong use or an expected
    error, 70 after a fault of rdt2 itself, 130 after Ctrl-C, 128 + N after signal N (docs/command_line.md).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    share_cores()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    command = None
    try:
        if arguments and arguments[0] in _ASIDE:
            _ASIDE[arguments[0]](arguments[1:])
            return
        command = parse(arguments)
        check_outputs(command)
        with figures_alone(command):
            command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) closed its end; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except Exception as error:
        if os.environ.get("RDT2_DEBUG") == "1":
            raise
        message = _expected(error)
        if message is None:
            import traceback

            traceback.print_exc()
            if theirs := fault_of_a_user(error):
                _fail(f"{theirs}. That file is no part of rdt2: mend it there.", 2)
            _fail(
                f"this is a fault of rdt2 {__version__}: please report what is above, and the command.", FAULT
            )
        _fail(message if command is None else typeable(message, command), 2)


_ASIDE: dict[str, Callable[[list[str]], None]] = {
    **dict.fromkeys(("--version", "-V"), lambda _: print(f"rdt2 {__version__}")),
    "--show-completion": lambda words: print(completion.script(words[0] if words else None), end=""),
    "--install-completion": lambda words: print(completion.install(words[0] if words else None)),
    "--complete": lambda words: print(*completion.completions(words, commands()), sep="\n"),
}
"""What is asked of `rdt2` itself."""


def _expected(error: Exception) -> str | None:
    """What to tell of an error that can be expected; None for a fault of our own."""
    if isinstance(error, RDT2Error):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        return extra and f"{error.name} is not installed. This command needs it: pip install 'rdt2[{extra}]'"
    if isinstance(error, (OSError, MemoryError)):
        return _system_error(error)
    return None


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
        ConfigError: a command, an option or a choice that is not there.
    """
    said, kind = named(arguments, commands())
    words = list(arguments[len(said) :])
    helps = bool({"-h", "--help"} & {*words})
    if isinstance(kind, dict):
        if words and not helps:
            group, names = " ".join(["rdt2", *said]), ("--help", *([] if said else _ASIDE))
            hint = did_you_mean(words[0], names)
            if said == ["train"] and words[0].startswith("--set"):
                hint = f" Say what is trained before it: {group} vq --set help."
            raise ConfigError(f"'{group}' has no option {words[0]}.{hint} See: {group} --help")
        print(screen(said, kind))
        sys.exit(0 if helps or not said else 2)
    if hasattr(kind, "overrides") and ("--set=help" in words or ("--set", "help") in pairwise(words)):
        kind.more_help()
        sys.exit(0)

    import tyro
    from tyro import conf

    name = " ".join(said)
    if helps:
        print(f"{description(kind)}\n")
        fill_lines(kind)
    try:
        return tyro.cli(
            kind,
            prog=f"rdt2 {name}",
            description="",
            args=["--help"] if helps else checked(name, kind, words),
            config=(conf.OmitArgPrefixes, conf.FlagCreatePairsOff, conf.DisallowNone),
        )
    except SystemExit:
        if helps and hasattr(kind, "more_help"):
            kind.more_help()
        raise


def _fail(message: str, code: int) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))
    sys.exit(code)


if __name__ == "__main__":
    main()
