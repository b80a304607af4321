"""`rdt2 train`: one command a stage."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg


@dataclass(kw_only=True)
class _Train:
    data: str
    """Folder of shards, a tar, a URL, a range such as shards/shard-{000000..000044}.tar, or a dataset yaml."""
    out: Path
    """Folder of the run: checkpoints, metrics, and the finished model."""
    config: Path | None = None
    """Yaml preset, such as configs/training/vq_tiny.yaml, or the name of a shipped one, such as vq_tiny; none is the
    published recipe."""
    overrides: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")] = ()
    """One setting on top of the preset; repeat it for more: --set steps=1000 --set seed=3."""
    resume: bool = False
    """Go on from the newest checkpoint in --out (from the start where there is none). Steps, learning rate and how
    often something is saved, evaluated or logged may be set anew: more steps extend a finished run."""
    json: Path | None = None
    """Write the final figures to this file."""

    def _run(self, stage: Literal["tokenizer", "pointing", "vq", "expert", "distill"]) -> None:
        from rdt2.cli.output import data_there, plain, save_json
        from rdt2.progress import note
        from rdt2.training.cli import run_training
        from rdt2.training.stopping import Stopped

        data_there(self.data)
        go_on = f"go on with: {self.resume_command(stage)}"
        try:
            result = run_training(
                stage,
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
        note(f"model: {result.model}\nnext: {_next(stage, result.model, self.data)}")
        save_json(self.json, {"stage": stage, **values})

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
    """Train the action tokenizer (residual VQ) on the actions of a folder of shards.

    For example:
      rdt2 train tokenizer --config configs/training/tokenizer_tiny.yaml --data data/mixed --out runs/rvq
    """

    def run(self) -> None:
        self._run("tokenizer")


@dataclass(kw_only=True)
class TrainPointing(_Train):
    """Train a small vision-language model from scratch to see colours and to find what a word names.

    It replaces the pretraining that the published model comes with; only the demo needs it. For example:
      rdt2 train pointing --config configs/training/pointing_tiny.yaml --data data/mixed --out runs/pointing
    """

    def run(self) -> None:
        self._run("pointing")


@dataclass(kw_only=True)
class TrainVQ(_Train):
    """Train RDT2-VQ: the vision-language model learns to write the 27 action tokens.

    For example:
      rdt2 train vq --config configs/training/vq_tiny.yaml --data data/demo --out runs/vq \\
        --set tokenizer=runs/tokenizer/model
    """

    def run(self) -> None:
        self._run("vq")


@dataclass(kw_only=True)
class TrainExpert(_Train):
    """Train RDT2-FM: the flow-matching expert learns on the frozen vision-language model.

    For example:
      rdt2 train expert --config configs/training/expert_tiny.yaml --data data/tokens --out runs/fm --resume
    """

    def run(self) -> None:
        self._run("expert")


@dataclass(kw_only=True)
class TrainDistill(_Train):
    """Train a one-step expert (UltraFast): it jumps to where its teacher walks in five steps.

    The result is used as any expert; it says itself that it takes one step.

    For example:
      rdt2 train distill --config configs/training/distill_tiny.yaml --data data/tokens --out runs/fast
    """

    def run(self) -> None:
        self._run("distill")


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
        tokenize = f"rdt2 data tokenize --data {shards} --tokenizer {folder} --out TOKENS"
        return f"{tokenize}, then rdt2 train vq --data TOKENS --out RUN"
    if stage == "pointing":
        return f"rdt2 train vq --data TOKENS --set start_from={folder} --out RUN"
    if stage == "vq" and (model / "adapter_config.json").is_file():
        return f"rdt2 export merge {folder} {shlex.quote(str(model.parent / 'merged'))}"
    if stage == "vq":
        return (
            f"rdt2 train expert --data {shards} --set vlm={folder} --out RUN, or "
            f"rdt2 export bundle --vlm {folder} --tokenizer TOKENIZER --out POLICY"
        )
    return f"rdt2 export bundle --vlm VLM --tokenizer TOKENIZER --expert {folder} --out POLICY"
