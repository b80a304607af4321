"""From a stage's name, a preset and overrides to a finished run. What is wrong with them is said before torch loads."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rdt2.errors import CheckpointError, ConfigError, TrainingError
from rdt2.hub import is_missing_folder
from rdt2.progress import note
from rdt2.training import lock, run
from rdt2.training.config import (
    BUILT_IN,
    CONFIGS,
    DistillTraining,
    ExpertTraining,
    PointingTraining,
    RunConfig,
    TokenizerTraining,
    VQTraining,
    check_installed,
)
from rdt2.training.settings import load_settings, shipped_presets, shipped_values

if TYPE_CHECKING:
    from rdt2.training.loop import TrainingResult
    from rdt2.training.stage import Stage

_READ = frozenset(("start_from", "vlm", "processor", "tokenizer", "normalizer"))
"""Settings that name what a run reads before it begins."""
StageName = Literal["tokenizer", "pointing", "vq", "expert", "distill"]


def run_training(
    stage: StageName,
    *,
    config: str | Path | None,
    overrides: Sequence[str] = (),
    data: str | Path,
    out: str | Path,
    resume: bool = False,
) -> TrainingResult:
    """Train one stage on a data set.

    Args:
        stage: what to train.
        config: yaml preset (configs/training), or none for the published recipe.
        overrides: ``key=value`` settings on top of it.
        data: folder of shards, tar, URL, range of tars, or dataset yaml.
        out: folder of the run.
        resume: go on from the newest checkpoint in ``out``.

    Raises:
        ConfigError, CheckpointError, ShardError, TrainingError, Stopped: see rdt2.training.loop.fit.
    """
    if stage not in CONFIGS:
        raise ConfigError(f"no stage '{stage}' to train; known are {', '.join(CONFIGS)}.")
    settings = load_settings(CONFIGS[stage], config, overrides)
    check_installed(settings)
    if config is not None:
        named = {override.partition("=")[0].strip() for override in overrides}
        _require_folders(stage, config, named)
    if getattr(settings, "compile", False) and os.environ.get("RANK", "0") == "0":
        note(
            "it compiles: the first step takes minutes. To see that all goes through, add --set compile=false"
        )
    lock.require_free(Path(out))
    run.look(Path(out), run.identity(stage, settings), settings, resume=resume)

    import torch

    from rdt2.training.engines import check_possible
    from rdt2.training.loop import fit

    check_possible(settings)
    try:
        return fit(_build_stage(settings, str(data), Path(out)), settings, out, resume=resume)
    except torch.OutOfMemoryError as error:
        size, parts = settings.batch_size, settings.accumulate
        fewer = max(1, size // 2)
        raise TrainingError(
            f"the GPU's memory is too small for this run ({error}). Go on with the same command and --resume --set "
            f"batch_size={fewer} --set accumulate={size * parts // fewer} (now {size} and {parts}), which learns the "
            "same, or with --resume --set gradient_checkpointing=true where the stage has it."
        ) from error


def _require_folders(stage: StageName, preset: str | Path, named: Collection[str]) -> None:
    """A folder that a shipped preset names, and not the user, is told as the preset's.

    Args:
        stage: what is trained.
        preset: its name or file.
        named: settings that the user gave a value.

    Raises:
        CheckpointError: one of those that are read is not there.
    """
    for key, value in shipped_values(preset).items():
        if key in named or key not in _READ or value in BUILT_IN or not is_missing_folder(str(value)):
            continue
        folder = Path(str(value)).parent
        if (folder / "config.json").is_file():
            continue  # a training that has not come to its end, which is told where the folder is read
        maker = f", made by 'rdt2 train {folder.name}' (docs/training.md)" if folder.name in CONFIGS else ""
        small = f"{stage}_small"
        other = f", or take --config {small}, which starts from nothing" if key == "start_from" else ""
        raise CheckpointError(
            f"{value}: no such folder. It is the preset's own: {key} of {preset}{maker}. Name yours with "
            f"--set {key}=FOLDER{other if small in shipped_presets() else ''}."
        )


def _build_stage(config: RunConfig, data: str, out: Path) -> Stage:
    """Import only the stage that is asked for: the VLM's library takes seconds."""
    from rdt2.training.loop import processes

    state = processes()
    place = {"rank": state.process_index, "world_size": state.num_processes}
    if isinstance(config, TokenizerTraining):
        from rdt2.training.tokenizer import TokenizerStage

        return TokenizerStage(config, data, **place)
    if isinstance(config, PointingTraining):
        from rdt2.demo.pointing import PointingStage

        return PointingStage(config, data, out, **place)
    if isinstance(config, VQTraining):
        from rdt2.training.vq import VQStage

        return VQStage(config, data, out, **place)
    if isinstance(config, DistillTraining):
        from rdt2.training.distill import DistillStage

        return DistillStage(config, data, **place)
    assert isinstance(config, ExpertTraining)
    from rdt2.training.expert import ExpertStage

    return ExpertStage(config, data, **place)
