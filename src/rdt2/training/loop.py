"""The training loop: the same for the tokenizer, the VLM and the expert.

A run lives in one folder::

    out/config.json            what was asked for
    out/metrics.jsonl          one line a logged step or evaluation
    out/checkpoints/step-N/    everything needed to go on as if nothing had happened
    out/model/                 the trained model in its published layout, written at the end
    out/plots/step-N.png       predicted against recorded chunks of each evaluation
    out/loss.png               the loss curve
    out/.running               locked while a process trains, and which one that is

Randomness is a pure function of (seed, step, rank) and data order of (seed, position), so resuming
needs no recorded generator state: step N draws the same numbers whether or not the run was interrupted.
"""

from __future__ import annotations

import ctypes
import math
import os
import secrets
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from rdt2.data.loader import batches_ahead
from rdt2.data.shards.remote import Unreachable
from rdt2.errors import ConfigError, TrainingError
from rdt2.files import whole_file, whole_folder, write_whole
from rdt2.progress import note
from rdt2.threads import cores
from rdt2.training import engines, lock, run
from rdt2.training.average import WeightAverage
from rdt2.training.builds import require_no_dead_builds
from rdt2.training.checkpoints import Progress, checkpoints, restore
from rdt2.training.config import RunConfig, check_installed
from rdt2.training.log import Log
from rdt2.training.saving import Saver
from rdt2.training.stopping import Stopping

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState
    from torch.optim import Optimizer

    from rdt2.training.stage import Stage

KEPT = "The training itself is kept in checkpoints/: finish with --resume."
PATIENCE = timedelta(hours=1)
"""How long processes wait for the one that writes a model or a checkpoint: a large one takes longer than the ten
minutes after which a GPU's process gives up. One that died is seen at once."""
EXPLOSION_FACTOR = 100.0  # a loss this many times the recent median is not training any more


@dataclass(frozen=True)
class TrainingResult:
    """Where the model lies and what the last evaluation said."""

    model: Path
    steps: int
    metrics: dict[str, float]
    seconds: float


def processes() -> PartialState:
    """Which process this is, and of how many: one alone, or what torchrun or accelerate started.

    Raises:
        ConfigError: DeepSpeed would wait for a build that was killed.
    """
    _quieten()
    from accelerate import PartialState

    if engines.deepspeed_asked_for():
        require_no_dead_builds()
    if engines.deepspeed_asked_for() and not torch.cuda.is_available():
        return PartialState(backend="gloo", timeout=PATIENCE)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def _quieten() -> None:
    """Libraries do not tell what no user can mend."""
    if (
        not torch.cuda.is_available()
    ):  # DeepSpeed, which accelerate imports, would warn that it looked for one
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Weights that train stay float32 under autocast, so a norm of bfloat16 numbers is computed in the plain way.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight", category=UserWarning)


def reading_device(config: RunConfig) -> torch.device:
    """Where weights that will train are read to: this process's device, or the CPU where an engine splits them, for no
    GPU may have to hold them all.
    """
    split = config.shard or engines.deepspeed_asked_for()
    return torch.device("cpu") if split else processes().device


def reading_dtype(config: RunConfig) -> torch.dtype | None:
    """In which dtype weights that will train are read: float32, or as the files have them (none), in pages that all
    processes of a machine share, where each makes its part float32 afterwards: FSDP2, and DeepSpeed in bf16 (which
    rounds the whole to bf16 before, whatever it is given).
    """
    parts = config.shard or (engines.deepspeed_asked_for() and config.precision == "bf16")
    return None if parts else torch.float32


def step_generator(seed: int, step: int, rank: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on nothing but (seed, step, rank); ranks draw different noise."""
    mixed = (seed * 1_000_003 + step) * 8_191 + rank
    return torch.Generator(device=device).manual_seed(mixed % (2**63 - 1))


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0): linear warm-up, then constant or cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def fit(stage: Stage, config: RunConfig, out: str | Path, *, resume: bool = False) -> TrainingResult:
    """Train ``stage`` for ``config.steps`` steps.

    Args:
        stage: model, data and evaluation of what is trained.
        config: settings of the run.
        out: folder of the run; refused when it holds another run, unless ``resume``.
        resume: go on from the newest whole checkpoint in ``out`` (from the start when there is none), perhaps with
            those settings changed that may (rdt2.training.config.MAY_CHANGE); more steps extend a finished run.

    Raises:
        ConfigError: ``out`` holds a run already and ``resume`` is off, another run trains in it now, processes were
            started with different settings, or a setting does not go with the engine or with what is installed.
        CheckpointError: the checkpoint to resume from belongs to another model or configuration, or none is whole.
        TrainingError: loss or gradients are not finite, or the loss exploded (the batch is saved); or the disk is full.
        Stopped: a signal asked the run to end; its state is saved.
    """
    with ExitStack() as held:
        return _fit(stage, config, Path(out), resume, held)


def _fit(stage: Stage, config: RunConfig, out: Path, resume: bool, held: ExitStack) -> TrainingResult:
    """As :func:`fit`; ``held`` keeps other runs out of the folder."""
    check_installed(config)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    if not torch.cuda.is_available():
        keep_freed_memory()
    engines.check_possible(config)
    processes()
    AcceleratorState._reset_state()  # one training before this in the same process may have had another precision
    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available() and not engines.deepspeed_asked_for(),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.accumulate, sync_with_dataloader=False
        ),
    )
    torch.manual_seed(config.seed)
    engines.check_agreement(accelerator, run.identity(stage.name, config))
    if config.ema and (config.shard or engines.deepspeed_asked_for()):
        raise ConfigError(
            f"ema={config.ema} does not go with shard=true or DeepSpeed, which hold parts of the weights. Set ema=0, "
            "or launch with torchrun or configs/accelerate/ddp.yaml and shard=false."
        )
    notes = _claim_folder(out, stage, config, resume, accelerator, held)
    engine = engines.Engine(accelerator, stage.module, config, lambda module: _optimizer(module, config))
    module, optimizer = engine.module, engine.optimizer
    average = WeightAverage(module, config.ema) if config.ema else None
    start, batch_of_all = 0, config.batch_size * config.accumulate * accelerator.num_processes
    if resume:
        before, found = restore(engine, average, out, steps=config.steps)
        if before is not None:
            start = before.step
            stage.go_on(start * config.accumulate, before.samples)
            if before.batch != batch_of_all:
                found.append(
                    f"a step saw {before.batch} samples until now, and sees {batch_of_all} from here on"
                )
        more = "" if start < config.steps else ": all are done; to train on, set steps to more"
        notes += [*found, f"going on from step {start} of {config.steps}{more}"]
    if accelerator.is_main_process:
        if config.warmup_steps >= config.steps:
            notes.append(
                f"warmup_steps={config.warmup_steps} is no shorter than the run of {config.steps} steps: the learning "
                f"rate only comes to {learning_rate(config, config.steps - 1):.2g}"
            )
        for line in (*stage.notes, *notes):
            note(line)

    log = Log(out, stage.name, config, start, accelerator)

    def evaluate(step: int) -> dict[str, float]:
        if not stage.evaluates:
            return {}
        with average.in_place() if average else nullcontext():
            found = engine.evaluate(lambda inner: stage.evaluate(inner, accelerator.device))
        figures = {f"eval/{key}": value for key, value in found.items()}
        log.write(step, figures)
        log.draw_examples(step, stage.examples)
        return figures

    def save(step: int) -> Path:
        seen = stage.seen(step * config.accumulate)
        progress = Progress(step, seen, batch_of_all, accelerator.num_processes)
        return saver.save(progress)

    recent: deque[float] = deque(maxlen=100)
    began = time.perf_counter()
    module.train()
    with (
        Stopping(speaks=accelerator.is_main_process) as stopping,
        Saver(engine, average, out, keep=config.keep_checkpoints) as saver,
    ):
        positions = range(start * config.accumulate, config.steps * config.accumulate)
        batches = batches_ahead(
            stage.load, positions, workers=_loader_workers(config), prefetch=config.prefetch,
            pin=accelerator.device.type == "cuda",
        )  # fmt: skip
        with log.progress() as progress, closing(batches), _attention(config):
            for step in range(start, config.steps):
                rate = learning_rate(config, step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss_sum, metrics = 0.0, dict[str, Any]()
                for part in range(config.accumulate):
                    position = step * config.accumulate + part
                    try:
                        loaded = next(batches)
                    except Unreachable as error:
                        saver.finish()
                        raise TrainingError(f"step {step}: {error} {_kept(out)}") from None
                    stage.count_damage(loaded)
                    batch = stage.ready(loaded, accelerator.device)
                    generator = step_generator(config.seed, position, accelerator.process_index)
                    # Dropout draws from the global generator: seed it too, so that a resumed run agrees.
                    torch.manual_seed(generator.initial_seed())
                    with accelerator.accumulate(module):  # gradients are exchanged at the last part only
                        loss, metrics = engine.loss(batch, generator)
                        accelerator.backward(loss)
                    loss_sum += float(loss.detach()) / config.accumulate
                loss_mean, (stop, unsaved) = engines.mean_over_processes(
                    accelerator, loss_sum, bool(stopping.asked), saver.failed
                )
                if unsaved:
                    saver.wait()  # and tell why
                failed = out / f"failed-batch-step-{step}{engine.suffix}.pt"
                _check_loss(loss_mean, recent, step, batch, failed, config)
                grad_norm = engines.number(accelerator.clip_grad_norm_(module.parameters(), config.clip_norm))
                # DeepSpeed has made its step by now: then at least nothing of it is saved.
                _check_gradients(grad_norm, step, batch, failed, config)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    average.update()
                recent.append(loss_mean)

                done = step + 1
                progress(done, loss_mean, rate)
                if done % config.log_every == 0 or done == config.steps:
                    log.write(
                        done, {"loss": loss_mean, "lr": rate, "grad_norm": grad_norm, **_scalars(metrics)}
                    )
                if stop and done < config.steps:
                    folder = save(done)
                    saver.wait()
                    accelerator.end_training()  # trackers write what they hold
                    raise stopping.stopped(done, config.steps, folder)
                if done % config.save_every == 0 and done < config.steps:
                    save(done)  # before what may fail: an evaluation that does loses no training
                if config.evaluate_every and done % config.evaluate_every == 0 and done < config.steps:
                    evaluate(done)
        # Whatever evaluating and saving the model come to, the training is not lost; and it can be extended.
        if start < config.steps:
            save(config.steps)
            saver.wait()
        stopping.nothing_to_lose(config.steps)
        final = evaluate(config.steps)
        model_folder = out / "model"
        with average.in_place() if average else nullcontext(), engine.whole() as whole:
            if accelerator.is_main_process:
                with whole_folder(model_folder, replace=True, error=TrainingError, advice=KEPT) as folder:
                    stage.save(whole, folder)
                log.draw_loss()
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return TrainingResult(model_folder, config.steps, final, time.perf_counter() - began)


def _claim_folder(
    out: Path, stage: Stage, config: RunConfig, resume: bool, accelerator: Accelerator, held: ExitStack
) -> list[str]:
    """Refuse to mix two runs in one folder, now and later; lines to tell."""
    wanted = run.identity(stage.name, config, data=stage.data, processes=accelerator.num_processes)
    notes = run.look(out, wanted, config, resume=resume)
    accelerator.wait_for_everyone()  # all processes have looked before one writes

    def on_main(do: Callable[[], object]) -> None:
        problem = ""
        if accelerator.is_main_process:
            try:
                do()
            except ConfigError as error:
                problem = str(error)
        if problem := engines.from_main_process(accelerator, problem):
            raise ConfigError(problem)

    on_main(lambda: held.enter_context(lock.alone(out)))
    if accelerator.num_processes > 1:
        mark = out / engines.from_main_process(accelerator, f".seen-{secrets.token_hex(8)}")
        on_main(lambda: write_whole(mark, "", error=ConfigError))
        there = engines.all_agree(accelerator, mark.is_file())
        if accelerator.is_main_process:
            mark.unlink(missing_ok=True)
        if not there:
            raise ConfigError(
                f"{out}: a process does not find there what process 0 has just written: every machine must see the "
                "same --out, where each writes its part of a checkpoint. Choose one on a disk that all of them share."
            )
    on_main(lambda: run.claim(out, wanted))
    return notes


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees: handing large buffers back costs a page fault a page at every step.

    Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, 2**31 - 1)


def _attention(config: RunConfig) -> AbstractContextManager[None]:
    """Plain matrix products for bf16 on a CPU, where torch's fused backward is slow; else the fused attention, which
    needs less memory."""
    if torch.cuda.is_available() or config.precision != "bf16":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def _optimizer(module: nn.Module, config: RunConfig) -> Optimizer:
    """Weight decay on what has two axes or more (matrices, embeddings, learnt tokens): norms and biases keep their
    scale."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True,
    )  # fmt: skip


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items()}


def _check_loss(
    loss: float, recent: deque[float], step: int, batch: Any, path: Path, config: RunConfig
) -> None:
    """Stop a run that has left the rails, keeping the batch that did it (each process its own)."""
    exploded = len(recent) == recent.maxlen and loss > EXPLOSION_FACTOR * max(statistics.median(recent), 1e-3)
    if not math.isfinite(loss) or exploded:
        near = statistics.median(recent or [0])
        what = f"step {step}: the loss is {loss:.4g}, expected a finite value near {near:.4g}."
        _give_up(what, batch, path, config)


def _check_gradients(norm: float, step: int, batch: Any, path: Path, config: RunConfig) -> None:
    """Stop before gradients that are none change a weight: a finite loss can have such ones. The norm is that of all
    processes."""
    if not math.isfinite(norm):
        what = f"step {step}: the norm of the gradients is {norm:.4g}, expected a finite value."
        _give_up(what, batch, path, config)


def _give_up(what: str, batch: Any, path: Path, config: RunConfig) -> NoReturn:
    """Keep the batch and raise TrainingError."""
    try:
        with whole_file(path, error=TrainingError) as partial:
            torch.save(batch, partial)
        kept = f"The batch is saved in {path}."
    except TrainingError as error:  # a full disk must not hide why the run ends
        kept = f"The batch is lost: {error}"
    raise TrainingError(
        f"{what} {kept} Look at it, then go on from the last checkpoint with a lower rate: "
        f"the same command with --resume --set learning_rate={config.learning_rate / 2:.3g}"
    )


def _kept(out: Path) -> str:
    """Which state of a run that ends before its time there is, and how it goes on."""
    found = checkpoints(out)
    if not found:
        return "No checkpoint was written before."
    return f"The last checkpoint is {found[-1]}: the same command with --resume goes on there."


def _loader_workers(config: RunConfig) -> int:
    """Processes that load: as the settings say, else up to 8 of each GPU's share of the cores, and none on a CPU."""
    if config.loader_workers is not None:
        return config.loader_workers
    if not torch.cuda.is_available():
        return 0
    return max(1, min(8, cores() // max(1, torch.cuda.device_count()) - 1))
