"""The training loop: the same for the tokenizer, the VLM and the expert.

A run lives in one folder::

    out/config.json            what was asked for
    out/metrics.jsonl          one line a logged step or evaluation
    out/checkpoints/step-N/    everything needed to go on as if nothing had happened
    out/model/                 the trained model in its published layout, written at the end
    out/plots/step-N.png       predicted against recorded chunks of each evaluation
    out/loss.png               the loss curve

Randomness is a pure function of (seed, step, rank) and data order of (seed, position), so resuming
needs no recorded generator state: step N draws the same numbers whether or not the run was interrupted.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import os
import shutil
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rdt2.errors import CheckpointError, ConfigError, TrainingError
from rdt2.files import whole_folder
from rdt2.training import engines
from rdt2.training.average import WeightAverage
from rdt2.training.config import RunConfig, to_mapping

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

EXAMPLES = 4  # held-out samples that an evaluation draws
DEFAULT_TRACKER = "tensorboard"
TRACKERS = {DEFAULT_TRACKER: "train", "wandb": "wandb", "trackio": "trackio"}  # and the extra each comes with
EXPLOSION_FACTOR = 100.0  # a loss this many times the recent median is not training any more


class Stage(ABC):
    """What is particular to training one model.

    Attributes:
        name: "tokenizer", "vq", "expert", "distill".
        module: maps (batch, generator) to (scalar loss, dict of scalar metrics); holds exactly the
            modules that are trained.
        examples: predicted and recorded chunks, both (n, 24, 20) metres, that the last evaluation leaves to
            be drawn.
    """

    name: str
    module: nn.Module
    examples: tuple[np.ndarray, np.ndarray] | None = None

    @abstractmethod
    def batch(self, step: int) -> Any:
        """The batch of this process for optimizer step ``step``: a pure function of seed, rank and step."""

    @abstractmethod
    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on the held-out samples, without augmentation."""

    @abstractmethod
    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the trained model in its published layout."""


@dataclass(frozen=True)
class TrainingResult:
    """Where the model lies and what the last evaluation said."""

    model: Path
    steps: int
    metrics: dict[str, float]
    seconds: float


def processes() -> PartialState:
    """Which process this is, and of how many: one alone, or what torchrun or accelerate started."""
    from accelerate import PartialState

    if engines.deepspeed_asked_for() and not torch.cuda.is_available():
        return PartialState(backend="gloo")
    return PartialState(cpu=not torch.cuda.is_available())


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
        resume: go on from the newest whole checkpoint in ``out`` (from the start when there is none).

    Raises:
        ConfigError: ``out`` holds a run already and ``resume`` is off, processes were started with different
            settings, or a setting does not go with the engine or with what is installed.
        CheckpointError: the checkpoint to resume from belongs to another model or configuration.
        TrainingError: the loss is not finite or exploded (the batch is saved), or the disk is full.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin, send_to_device

    out = Path(out)
    if not torch.cuda.is_available():
        _keep_freed_memory()
    engines.check_possible()
    processes()
    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available() and not engines.deepspeed_asked_for(),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.accumulate, sync_with_dataloader=False
        ),
    )
    torch.manual_seed(config.seed)
    engine = engines.Engine(accelerator, stage.module, config)
    engines.check_agreement(accelerator, _identity(stage.name, config))
    _check_settings(config, engine)
    _claim_folder(out, stage, config, resume, accelerator)

    optimizer = torch.optim.AdamW(
        _parameter_groups(stage.module, config.weight_decay),
        lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True,
    )  # fmt: skip
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    engine.after_prepare(module)
    average = WeightAverage(module, config.ema) if config.ema else None
    if average is not None:
        accelerator.register_for_checkpointing(average)
    accelerator.register_save_state_pre_hook(_without_frozen)
    start = _restore(accelerator, out, config) if resume else 0

    log = _Log(out, stage.name, config, start, accelerator)

    def evaluate(step: int) -> dict[str, float]:
        with average.in_place() if average else nullcontext(), engine.whole(module) as whole:
            figures = _evaluate(stage, whole, accelerator)
        log.write(step, figures)
        log.draw_examples(step, stage.examples)
        return figures

    recent: deque[float] = deque(maxlen=100)
    began = time.perf_counter()
    module.train()
    with log.progress() as progress, _prefetch(stage, start, config) as batches, _attention(config):
        for step in range(start, config.steps):
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss_sum, metrics = 0.0, {}
            for part in range(config.accumulate):
                position = step * config.accumulate + part
                batch = send_to_device(next(batches), accelerator.device)
                generator = step_generator(config.seed, position, accelerator.process_index)
                # Dropout draws from the global generator: seed it too, so that a resumed run agrees.
                torch.manual_seed(generator.initial_seed())
                with accelerator.accumulate(module):  # gradients are exchanged at the last part only
                    loss, metrics = module(batch, generator)
                    accelerator.backward(loss)
                loss_sum += float(loss.detach()) / config.accumulate
            loss_mean = engines.mean_over_processes(accelerator, loss_sum)
            _check_loss(loss_mean, recent, step, batch, out / f"failed-batch-step-{step}{engine.suffix}.pt")
            grad_norm = engines.number(accelerator.clip_grad_norm_(module.parameters(), config.clip_norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update()
            recent.append(loss_mean)

            done = step + 1
            progress(done, loss_mean, rate)
            if done % config.log_every == 0 or done == config.steps:
                log.write(done, {"loss": loss_mean, "lr": rate, "grad_norm": grad_norm, **_scalars(metrics)})
            if config.evaluate_every and done % config.evaluate_every == 0 and done < config.steps:
                evaluate(done)
            if done % config.save_every == 0 and done < config.steps:
                _save_checkpoint(accelerator, out, done, config)

    final = evaluate(config.steps)
    model_folder = out / "model"
    with average.in_place() if average else nullcontext(), engine.whole(module) as whole:
        if accelerator.is_main_process:
            write_atomically(model_folder, lambda folder: stage.save(whole, folder))
            log.draw_loss()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return TrainingResult(model_folder, config.steps, final, time.perf_counter() - began)


def _check_settings(config: RunConfig, engine: engines.Engine) -> None:
    """What types alone do not say, before a folder is claimed. Raises ConfigError."""
    if config.ema and not 0 < config.ema < 1:
        raise ConfigError(
            f"ema is {config.ema}, expected a decay between 0 and 1 such as 0.999, or 0 for none."
        )
    if config.ema and not engine.plain:
        raise ConfigError(
            f"ema={config.ema} does not go with FSDP or DeepSpeed, which hold parts of the weights. "
            "Set ema=0, or launch with configs/accelerate/ddp.yaml."
        )
    for name in config.trackers:
        if name not in TRACKERS:
            raise ConfigError(
                f"no tracker '{name}'; known are {', '.join(TRACKERS)}, or trackers=[] for none."
            )
        # accelerate leaves out what is not installed with a warning: enough for what nobody asked for.
        if name != DEFAULT_TRACKER and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trackers names {name}, which is not installed: pip install 'rdt2[{TRACKERS[name]}]', "
                "or set trackers=[]."
            )


def _keep_freed_memory() -> None:
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


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms, biases and tokens keep their scale."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _without_frozen(modules: list[nn.Module], states: list[dict[str, Tensor]], folder: str) -> None:
    """Leave frozen parameters out of a checkpoint: they are loaded from where the run began.

    Beside a few megabytes of adapters the frozen VLM would be gigabytes.
    """
    for module, state in zip(modules, states, strict=False):  # sharded engines write their states themselves
        kept = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        kept.update(name for name, _ in module.named_buffers())
        for name in set(state) - kept:  # a quantised weight has several entries, all of which go
            del state[name]


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items()}


def _evaluate(stage: Stage, module: nn.Module, accelerator: Accelerator) -> dict[str, float]:
    """Evaluate on the main process; the generator state of training is left as it was."""
    if not accelerator.is_main_process:
        return {}
    module.eval()
    with torch.no_grad():
        figures = stage.evaluate(module, accelerator.device)
    module.train()
    return {f"eval/{key}": value for key, value in figures.items()}


def _check_loss(loss: float, recent: deque[float], step: int, batch: Any, path: Path) -> None:
    """Stop a run that has left the rails, keeping the batch that did it (each process its own)."""
    exploded = len(recent) == recent.maxlen and loss > EXPLOSION_FACTOR * max(statistics.median(recent), 1e-3)
    if math.isfinite(loss) and not exploded:
        return
    torch.save(batch, path)
    raise TrainingError(
        f"step {step}: the loss is {loss:.4g}, expected a finite value near {statistics.median(recent or [0]):.4g}. "
        f"The batch is saved in {path}. Look at it, lower learning_rate, and go on with --resume."
    )


class _prefetch:
    """Reads the next batches in a thread while the current one trains."""

    def __init__(self, stage: Stage, start: int, config: RunConfig, ahead: int = 3):
        self._positions = iter(range(start * config.accumulate, config.steps * config.accumulate))
        self._stage, self._ahead = stage, ahead

    def __enter__(self) -> Iterator[Any]:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        return self._read()

    def _read(self) -> Iterator[Any]:
        pending = deque(
            self._pool.submit(self._stage.batch, p)
            for _, p in zip(range(self._ahead), self._positions, strict=False)
        )
        while pending:
            batch = pending.popleft().result()
            position = next(self._positions, None)
            if position is not None:
                pending.append(self._pool.submit(self._stage.batch, position))
            yield batch

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


# Files of a run -------------------------------------------------------------------------------------


def _identity(stage_name: str, config: RunConfig) -> dict[str, Any]:
    return {"stage": stage_name, "config": to_mapping(config)}


def _claim_folder(out: Path, stage: Stage, config: RunConfig, resume: bool, accelerator: Accelerator) -> None:
    """Refuse to mix two runs in one folder."""
    path = out / "config.json"
    wanted = _identity(stage.name, config)
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    accelerator.wait_for_everyone()  # all processes have looked before one writes
    if found is not None:
        if not resume:
            raise ConfigError(
                f"{out}: holds a training run already. Choose another --out, or go on with --resume."
            )
        if found["stage"] != wanted["stage"]:
            raise CheckpointError(f"{out}: holds a run of '{found['stage']}', expected '{wanted['stage']}'.")
        settings = {**to_mapping(type(config)()), **found["config"]}  # settings that are newer than the run
        changed = sorted(k for k in wanted["config"] if settings[k] != wanted["config"][k])
        if changed:
            raise CheckpointError(
                f"{out}: was started with other settings of {', '.join(changed)}. "
                "Resume with the settings in its config.json, or start a new --out."
            )
    elif accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    accelerator.wait_for_everyone()


def write_atomically(folder: Path, write: Any) -> None:
    """Let ``write`` fill a temporary folder and rename it: a folder of this name is always whole."""
    advice = "Earlier checkpoints are whole: go on with --resume."
    with whole_folder(folder, replace=True, error=TrainingError, advice=advice) as partial:
        write(partial)


def _checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"))


def _save_checkpoint(accelerator: Accelerator, out: Path, step: int, config: RunConfig) -> None:
    """Save model, optimizer and position; drop the oldest beyond the limit."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    temporary = folder.with_name(f".{folder.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary), safe_serialization=False)
        if accelerator.is_main_process:
            (temporary / "progress.json").write_text(json.dumps({"step": step}), encoding="utf-8")
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"{folder}: could not be written ({error}). Earlier checkpoints are whole; free disk space and --resume."
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        os.replace(temporary, folder)
        for old in _checkpoints(out)[: -config.keep_checkpoints]:
            shutil.rmtree(old)


def _restore(accelerator: Accelerator, out: Path, config: RunConfig) -> int:
    """Load the newest whole checkpoint; the number of steps it has done."""
    found = _checkpoints(out)
    if not found:
        return 0
    # Frozen weights are not in it. DeepSpeed keeps them, and has another word for strict.
    accelerator.load_state(str(found[-1]), **({} if engines.deepspeed_asked_for() else {"strict": False}))
    step = int(json.loads((found[-1] / "progress.json").read_text(encoding="utf-8"))["step"])
    if step > config.steps:
        raise CheckpointError(f"{found[-1]}: has done {step} steps, the run asks for {config.steps}.")
    return step


class _Log:
    """metrics.jsonl, trackers, the progress line and the loss curve; only the main process writes."""

    def __init__(self, out: Path, name: str, config: RunConfig, start: int, accelerator: Accelerator):
        self._path, self._name, self._config, self._start = out / "metrics.jsonl", name, config, start
        self._accelerator, self._main = accelerator, accelerator.is_main_process
        if self._main and self._path.exists():  # lines after the checkpoint will be written again
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= start]
            self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._trackers = self._open_trackers(out)

    def _open_trackers(self, out: Path) -> bool:
        if not (self._main and self._config.trackers):
            return False
        from accelerate.tracking import filter_trackers

        self._accelerator.log_with = filter_trackers(list(self._config.trackers), str(out))
        self._accelerator.project_configuration.set_directories(str(out))
        self._accelerator.init_trackers(f"rdt2-{self._name}")
        return True

    def write(self, step: int, figures: dict[str, float]) -> None:
        if not (self._main and figures):
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._trackers:
            self._accelerator.log(figures, step=step)

    def progress(self) -> _ProgressLine:
        return _ProgressLine(self._name, self._config, self._start, enabled=self._main)

    def draw_examples(self, step: int, examples: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Predicted against recorded chunks, in plots/ and where TensorBoard is used there."""
        if not self._main or examples is None:
            return
        from rdt2.training.plots import chunks_figure, save_figure

        figure = chunks_figure(*examples, title=f"{self._name}, step {step}")
        save_figure(figure, self._path.parent / "plots" / f"step-{step:08d}.png")
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.tracker.add_figure("chunks", figure, global_step=step)

    def draw_loss(self) -> None:
        """The loss curve as a picture, smoothed over 20 logged points, with the evaluations."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        rows = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        held_out = [(row["step"], row["eval/loss"]) for row in rows if "eval/loss" in row]
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        axes.plot(*zip(*train, strict=True), color="0.8", label="training")
        smooth = [
            (step, statistics.fmean(v for _, v in train[max(0, i - 19) : i + 1]))
            for i, (step, _) in enumerate(train)
        ]
        axes.plot(*zip(*smooth, strict=True), color="tab:blue", label="training, smoothed")
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o-", color="tab:orange", label="held out")
        axes.set(xlabel="step", ylabel="loss", title=f"{self._name}", yscale="log")
        axes.legend(loc="upper right")  # looking for the best place can take a second, and then warns
        figure.savefig(self._path.with_name("loss.png"), dpi=120)
        plt.close(figure)


class _ProgressLine:
    """A rich progress bar: loss, learning rate, samples a second, memory, time left."""

    def __init__(self, name: str, config: RunConfig, start: int, *, enabled: bool):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._samples = config.batch_size * config.accumulate
        self._start, self._total, self._name = start, config.steps, name
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(), disable=not enabled,
        )  # fmt: skip

    def __enter__(self) -> _ProgressLine:
        self._bar.start()
        self._task = self._bar.add_task(self._name, total=self._total, completed=self._start, figures="")
        self._began = time.perf_counter()
        return self

    def __call__(self, done: int, loss: float, rate: float) -> None:
        speed = (done - self._start) * self._samples / (time.perf_counter() - self._began)
        figures = f"loss {loss:.4f}  lr {rate:.1e}  {speed:.1f} samples/s  {_memory_gib():.1f} GiB"
        self._bar.update(self._task, completed=done, figures=figures)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _memory_gib() -> float:
    """Peak memory: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux reports KiB


def mean_metrics(rows: list[dict[str, Tensor | float]]) -> dict[str, float]:
    """Mean of each figure over evaluation batches of equal size."""
    return {key: statistics.fmean(float(row[key]) for row in rows) for key in rows[0]}
