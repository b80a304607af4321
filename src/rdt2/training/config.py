"""Typed settings of a training run: defaults, a yaml preset, then ``--set key=value``.

The defaults of every stage are the published recipe (arXiv 2602.03310); a preset in
``configs/training`` changes what differs. Unknown keys are errors that name the nearest key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from rdt2.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="RunConfig")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every stage has in common."""

    steps: int = 10_000
    """Optimizer steps of the whole run."""
    batch_size: int = 64
    """Samples a step on each process."""
    accumulate: int = 1
    """Batches whose gradients are added before one optimizer step."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Learning rate after the warm-up: cosine to zero, or constant."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW momentum coefficients."""
    epsilon: float = 1e-8
    """AdamW epsilon."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Compute precision; master weights are always float32."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and saved; 0 for none."""
    seed: int = 0
    """Seed of initialisation, data order and noise: same seed, same losses."""
    save_every: int = 1000
    """Steps between checkpoints one can resume from."""
    keep_checkpoints: int = 2
    """How many of them stay on disk."""
    evaluate_every: int = 1000
    """Steps between evaluations on the held-out samples (0: only at the end)."""
    evaluate_samples: int = 512
    """Held-out samples an evaluation looks at."""
    log_every: int = 10
    """Steps between logged losses."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where figures go besides metrics.jsonl: tensorboard, wandb, trackio."""


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(RunConfig):
    """Action tokenizer: reconstruction and commitment losses, EMA codebooks."""

    batch_size: int = 1024
    precision: Literal["fp32"] = "fp32"  # type: ignore[assignment]  # the codebooks need it
    weight_decay: float = 0.0
    size: Literal["tiny", "published"] = "published"
    """Architecture when training from scratch."""
    num_embeddings: int | None = None
    """Codes of a codebook when training from scratch; none takes the size's own (tiny 256, published 1024)."""
    augment: bool = False
    """Learn from chunks that could have been recorded, not from those that were (rdt2.training.variation): for
    small data sets."""
    linear_start: int = 0
    """From scratch, begin as a linear transform coder of so many training chunks (rdt2.tokenizer.start); 0 for
    random weights. Only small learning rates (1e-6) leave such a start as good as it is."""
    start_from: str | None = None
    """Tokenizer folder or hub id to continue from; none starts from scratch."""
    normalizer: str | None = None
    """Normalizer file or folder; none uses the one beside the shards."""


@dataclass(frozen=True, kw_only=True)
class PointingTraining(RunConfig):
    """A small VLM from scratch learns to see colours and to find what a word names, on drawn and recorded pictures."""

    steps: int = 1500
    batch_size: int = 8
    learning_rate: float = 4e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 50
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """Compile the VLM's layers with torch.compile (needs a C++ compiler): faster steps after the first ones."""
    mirror: bool = True
    """See half of the recordings in a mirror between the arms (rdt2.data.mirror)."""
    normalizer: str | None = None
    """Normalizer file or folder; none uses the one beside the shards."""


@dataclass(frozen=True, kw_only=True)
class VQTraining(RunConfig):
    """RDT2-VQ: the vision-language model learns to write the 27 action tokens."""

    learning_rate: float = 1e-5
    schedule: Literal["cosine", "constant"] = "cosine"
    start_from: str = "robotics-diffusion-transformer/RDT2-VQ"
    """VLM folder or hub id to start from; 'tiny' builds a small model from scratch."""
    processor: str | None = None
    """Folder or hub id of the text and picture processing; none looks beside the VLM."""
    adapter: Literal["none", "lora", "qlora"] = "none"
    """What is trained: all weights (none), adapters in the language model (lora), beside 4-bit weights (qlora)."""
    frozen_layers: int = 0
    """Train only behind so many language layers: those, the embeddings and the vision tower keep their weights.
    0 trains everything."""
    lora_rank: int = 8
    """Rank of the adapters."""
    lora_alpha: int = 8
    """The adapters' output is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.1
    """Dropout on the adapters' input."""
    gradient_checkpointing: bool = False
    """Keep only the input of every layer and compute the rest again in the backward pass: less memory."""
    augment: bool = False
    """Corrupt the pictures of training as the released models' were (rdt2.data.augmentation)."""
    compile: bool = False
    """Compile the VLM's layers with torch.compile (needs a C++ compiler): faster steps after the first ones."""
    mirror: bool = False
    """See half of the samples in a mirror between the arms: for rigs that are their own mirror image
    (rdt2.data.mirror)."""
    tokenizer: str | None = None
    """Action tokenizer that encodes the chunks; none uses the tokens in the shards."""
    normalizer: str | None = None
    """Normalizer file or folder; none uses the one beside the shards."""


@dataclass(frozen=True, kw_only=True)
class ExpertTraining(RunConfig):
    """RDT2-FM: the flow-matching expert learns on the frozen VLM's KV cache."""

    steps: int = 50_000
    vlm: str = "robotics-diffusion-transformer/RDT2-VQ"
    """Frozen VLM folder or hub id."""
    start_from: str = "robotics-diffusion-transformer/RDT2-FM"
    """Expert folder or hub id; 'scratch' or 'tiny' start from random weights."""
    normalizer: str | None = None
    """Normalizer file or folder; none uses that of the expert to start from, else the one beside the shards."""
    processor: str | None = None
    """Folder or hub id of the text and picture processing; none looks beside the VLM."""
    draws: int = 1
    """Noise and time draws that share one prefill of the VLM."""
    gradient_checkpointing: bool = False
    """Keep only the input of every block and compute the rest again in the backward pass: less memory."""
    augment: bool = False
    """Corrupt the pictures of training as the released models' were (rdt2.data.augmentation)."""
    compile: bool = False
    """Compile the VLM's layers with torch.compile (needs a C++ compiler): faster steps after the first ones."""
    mirror: bool = False
    """See half of the samples in a mirror between the arms: for rigs that are their own mirror image
    (rdt2.data.mirror)."""
    state: bool = False
    """Let the expert see where the arms are (absolute poses and widths, from each sample's meta). The released models
    never did; policies of such an expert need Observation(state=...), which the control loop gives."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Keep the matrices of the frozen VLM in 8 or 4 bits: half and a third of its memory, for small cards. Give the
    policy the same quantize=. int4 needs the extra quant."""
    kv_cache: str | None = None
    """Folder to keep the frozen VLM's keys and values in: small data sets only, and not with augment."""


@dataclass(frozen=True, kw_only=True)
class DistillTraining(ExpertTraining):
    """UltraFast: a student of the expert learns to jump in one step to where its teacher walks in several."""

    steps: int = 20_000
    batch_size: int = 96
    start_from: str = "robotics-diffusion-transformer/RDT2-FM"
    """The teacher, an expert folder or hub id; the student begins as its copy."""
    teacher_steps: int | None = None
    """Euler steps of the teacher; none takes its own number (5 as published)."""


def load_config(
    config_type: type[ConfigT], preset: str | Path | None = None, overrides: Sequence[str] = ()
) -> ConfigT:
    """Build a configuration from defaults, a yaml preset and ``key=value`` overrides.

    Args:
        config_type: one of the dataclasses above.
        preset: yaml file of flat ``key: value`` pairs, or none.
        overrides: ``key=value`` strings, values in yaml syntax.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest known one), value of a wrong type.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        path = Path(preset)
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file. Presets are in configs/training.")
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(loaded, Mapping):
            raise ConfigError(f"{path}: expected 'key: value' lines, got a {type(loaded).__name__}.")
        values.update(loaded)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override!r}: expected key=value, for example --set steps=1000.")
        values[key.strip()] = yaml.safe_load(text)
    return from_mapping(config_type, values, where=str(preset or "--set"))


def from_mapping(config_type: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Check names and types of ``values`` and build the dataclass. Raises ConfigError."""
    hints = typing.get_type_hints(config_type)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known keys: {', '.join(sorted(hints))}."
            raise ConfigError(f"{where}: unknown key '{key}' for {config_type.__name__}.{hint}")
        checked[key] = _convert(value, hints[key], f"{where}: {key}")
    return config_type(**checked)


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """Plain values of a configuration, as yaml and json write them."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as ``hint`` wants it, or raise a ConfigError that says what it wants."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {value!r}.")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where}: expected {len(arguments)} values, got {len(value)}.")
        return tuple(_convert(item, arguments[0], where) for item in value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # yaml reads 1e-4 as text
        except ValueError:
            raise ConfigError(f"{where}: expected a number, got {value!r}.") from None
    if hint is int and isinstance(value, bool):
        raise ConfigError(f"{where}: expected a whole number, got {value!r}.")
    if not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}.")
    return value
