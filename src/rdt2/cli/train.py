"""`rdt2 train`: one command a stage."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import UseAppendAction, arg

Stage = Literal["tokenizer", "pointing", "vq", "expert", "distill"]


@dataclass(kw_only=True)
class _Train:
    stage: ClassVar[Stage]

    data: str
    """Folder of shards, a tar, a URL, a range such as shards/shard-{000000..000044}.tar, or a dataset yaml."""
    out: Path
    """Folder of the run: checkpoints, metrics, and the finished model."""
    config: Path | None = None
    """Name of a preset that comes with the package, such as vq_tiny, or a yaml of your own; none is the
    published recipe."""
    overrides: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")] = ()
    """One setting on top of the preset; repeat it for more: --set steps=1000 --set seed=3. All are listed below,
    and by --set help alone."""
    resume: bool = False
    """Go on from the newest checkpoint in --out (from the start where there is none). Steps, learning rate and how
    often something is saved, evaluated or logged may be set anew: more steps extend a finished run."""
    json: Path | None = None
    """Write the final figures to this file. - is stdout, alone."""

    @classmethod
    def more_help(cls) -> None:
        """Print every setting of the stage, what it is without a preset, and what it means; its own come first."""
        from rich.console import Console
        from rich.padding import Padding
        from rich.text import Text

        from rdt2.training.config import CONFIGS, RunConfig
        from rdt2.training.settings import described

        shared = {field.name for field in dataclasses.fields(RunConfig)}
        console = Console(highlight=False)
        console.print(f"settings of {cls.stage}, as they are without a preset:")
        for name, value, meaning in sorted(described(CONFIGS[cls.stage]), key=lambda each: each[0] in shared):
            console.print(Padding(Text(f"--set {name}={value}"), (0, 0, 0, 2), expand=False))
            console.print(Padding(Text(meaning), (0, 0, 0, 6), expand=False))

    def run(self) -> None:
        """Train, and say what comes next."""
        from rdt2.cli.output import data_there, plain, save_json
        from rdt2.progress import note
        from rdt2.training.cli import run_training
        from rdt2.training.stopping import Stopped

        data_there(self.data)
        go_on = f"go on with: {self.resume_command(self.stage)}"
        try:
            result = run_training(
                self.stage,
                config=self.config,
                overrides=self.overrides,
                data=self.data,
                out=self.out,
                resume=self.resume,
            )
        except Stopped as stop:
            if _first_process():
                note(f"{stop}\n{go_on}")
            sys.exit(stop.exit_code)
        except KeyboardInterrupt:
            if _first_process():
                note(go_on)
            raise
        if not _first_process():
            return
        values: dict[str, Any] = plain(result)
        note(f"model: {result.model}\nnext: {_next(self.stage, result.model, self.data)}")
        save_json(self.json, {"stage": self.stage, **values})

    def resume_command(self, stage: str) -> str:
        """What to type so that an interrupted run goes on."""
        words = ["train", stage, "--data", str(self.data), "--out", str(self.out)]
        for option, value in (("--config", self.config), ("--json", self.json)):
            words += [option, str(value)] if value is not None else []
        for override in self.overrides:
            words += ["--set", override]
        return f"{_launcher()} {shlex.join([*words, '--resume'])}"


@dataclass(kw_only=True)
class TrainTokenizer(_Train):
    """Train the action tokenizer (residual VQ) on actions.

    For example:
      rdt2 train tokenizer --config tokenizer_tiny --data data/mixed --out runs/rvq
    """

    stage: ClassVar[Stage] = "tokenizer"


@dataclass(kw_only=True)
class TrainPointing(_Train):
    """Train a small vision-language model from scratch, to point.

    It learns to see colours and to find what a word names. It replaces the pretraining that the published model comes
    with; only the demo needs it.

    For example:
      rdt2 train pointing --config pointing_tiny --data data/mixed --out runs/pointing
    """

    stage: ClassVar[Stage] = "pointing"


@dataclass(kw_only=True)
class TrainVQ(_Train):
    """Train RDT2-VQ: the VLM learns to write the 27 action tokens.

    For example:
      rdt2 train vq --config vq_tiny --data data/demo --out runs/vq \\
        --set tokenizer=runs/tokenizer/model
    """

    stage: ClassVar[Stage] = "vq"


@dataclass(kw_only=True)
class TrainExpert(_Train):
    """Train RDT2-FM: a flow-matching expert on the frozen VLM.

    For example:
      rdt2 train expert --config expert_tiny --data data/tokens --out runs/fm --resume
    """

    stage: ClassVar[Stage] = "expert"


@dataclass(kw_only=True)
class TrainDistill(_Train):
    """Train a one-step expert (UltraFast).

    It jumps to where its teacher walks in five steps. The result is used as any expert; it says itself that it takes
    one step.

    For example:
      rdt2 train distill --config distill_tiny --data data/tokens --out runs/fast
    """

    stage: ClassVar[Stage] = "distill"


def _first_process() -> bool:
    """Whether this is the process that speaks, of those that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def _launcher() -> str:
    """What begins the command that started this process."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        return "rdt2"
    if world == os.environ.get("LOCAL_WORLD_SIZE") and not any(
        key.startswith("ACCELERATE_") for key in os.environ
    ):
        return f"torchrun --nproc-per-node {world} -m rdt2.cli.main"
    return "the launcher of before, then -m rdt2.cli.main"


def _next(stage: str, model: Path, data: str) -> str:
    """The command that most people give after a stage."""
    folder = shlex.quote(str(model))
    shards = shlex.quote(data)
    if stage == "tokenizer":
        # With the tokenizer a run encodes what it reads, and may mirror it and judge its chunks in metres; shards of
        # tokens are encoded once for all runs.
        return (
            f"rdt2 train vq --config PRESET --data {shards} --set {_setting('tokenizer', model)} --out RUN\n"
            f"or, where many runs read the same data, write the tokens once: rdt2 data tokenize {shards} "
            f"--tokenizer {folder} --out TOKENS, then --data TOKENS"
        )
    if stage == "pointing":
        start = _setting("start_from", model)
        return (
            f"rdt2 train vq --config PRESET --data {shards} --set {start} --set tokenizer=TOKENIZER --out RUN"
        )
    if stage == "vq" and (model / "adapter_config.json").is_file():
        return f"rdt2 export merge {folder} {shlex.quote(str(model.parent / 'merged'))}"
    if stage == "vq":
        return (
            f"rdt2 train expert --config PRESET --data {shards} --set vlm={folder} --out RUN, or "
            f"rdt2 export bundle --vlm {folder} --tokenizer TOKENIZER --out POLICY"
        )
    return f"rdt2 export bundle --vlm VLM --tokenizer TOKENIZER --expert {folder} --out POLICY"


def _setting(key: str, folder: Path) -> str:
    """``KEY=FOLDER`` for a shell."""
    return shlex.quote(f"{key}={folder}")
