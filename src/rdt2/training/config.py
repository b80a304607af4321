"""Typed settings of a training run: defaults, a yaml preset, then ``--set key=value``.

The defaults of every stage are the published recipe (arXiv 2602.03310); a preset in
``configs/training`` changes what differs. Types and ranges are checked when settings are made (rdt2.training.settings).
"""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from rdt2.errors import ConfigError
from rdt2.training.settings import above, at_least, between, checked, share

DEFAULT_TRACKER: Final = "tensorboard"
TRACKERS = {DEFAULT_TRACKER: "train", "wandb": "wandb", "trackio": "trackio"}  # and the extra each comes with


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every stage has in common."""

    steps: Annotated[int, at_least(1)] = 10_000
    """Optimizer steps of the whole run."""
    batch_size: Annotated[int, at_least(1)] = 64
    """Samples a step on each process."""
    accumulate: Annotated[int, at_least(1)] = 1
    """Batches whose gradients are added before one optimizer step."""
    learning_rate: Annotated[float, above(0, to=1)] = 1e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Learning rate after the warm-up: cosine to zero, or constant."""
    warmup_steps: Annotated[int, at_least(0)] = 500
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, between(0, 1)] = 0.01
    """AdamW weight decay."""
    betas: tuple[Annotated[float, share()], Annotated[float, share()]] = (0.9, 0.999)
    """AdamW momentum coefficients."""
    epsilon: Annotated[float, above(0, to=1)] = 1e-8
    """AdamW epsilon."""
    clip_norm: Annotated[float, above(0)] = 1.0
    """Gradients are scaled down to this global norm; a large one such as 1e9 never does."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Compute precision; master weights are always float32."""
    shard: bool = False
    """Split weights, gradients and optimizer state over the processes (FSDP2) that torchrun starts, where a GPU cannot
    hold them all; the losses stay the same. The frozen VLM beside an expert is split, too, unless it is compiled or
    quantized or its keys and values are kept on disk (kv_cache): then each GPU holds it whole."""
    ema: Annotated[float, share()] = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and saved; 0 for none."""
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    """Seed of initialisation, data order and noise: same seed, same losses."""
    save_every: Annotated[int, at_least(1)] = 1000
    """Steps between checkpoints one can resume from; the last step always leaves one. They are written while training
    goes on, from a copy in the CPU's memory (not under DeepSpeed)."""
    keep_checkpoints: Annotated[int, at_least(1)] = 2
    """How many of them stay on disk."""
    evaluate_every: Annotated[int, at_least(0)] = 1000
    """Steps between evaluations on the held-out samples (0: only at the end)."""
    held_out: Annotated[float, between(0, 0.5)] = 0.05
    """Share of the episodes that is never trained on but evaluated, at least one episode; 0 trains on all and
    evaluates nothing."""
    validation: str | None = None
    """Data to evaluate on instead: folder, URL or dataset yaml; then nothing of the training data is held out."""
    shuffle_window: Annotated[int, at_least(0)] = 0
    """A sample is seen at most about so many samples before or after its stored place, for disks that are slow at
    reading here and there; 0 shuffles everything."""
    max_damaged: Annotated[int, at_least(0)] = 0
    """Damaged samples, and rests of damaged shards, that are left out and counted; one more ends the run."""
    loader_workers: Annotated[int, at_least(0)] | None = None
    """Processes that read, decode and corrupt; none takes up to 8 of a GPU's share of the cores, and no process of
    their own on a CPU, which training uses itself."""
    prefetch: Annotated[int, at_least(1)] = 2
    """Batches that each of them makes ahead."""
    evaluate_samples: Annotated[int, at_least(1)] = 512
    """Held-out samples an evaluation looks at."""
    log_every: Annotated[int, at_least(1)] = 10
    """Steps between logged losses."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = (DEFAULT_TRACKER,)
    """Where figures go besides metrics.jsonl: tensorboard, wandb, trackio."""

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigError: a value of a wrong type or out of its range, or settings that contradict each other.
        """
        for field in dataclasses.fields(self):
            value = checked(type(self), field.name, getattr(self, field.name), where=type(self).__name__)
            object.__setattr__(self, field.name, value)
        if contradiction := self.contradiction():
            raise ConfigError(contradiction)

    def contradiction(self) -> str:
        """What two settings say against each other; empty where they agree."""
        return ""

    def packages(self) -> dict[str, tuple[str, str]]:
        """Packages that this run needs and not every installation has: the extra each comes with, and what to set
        to do without it."""
        needed = {"matplotlib": ("train", "")}
        for name in self.trackers:
            if (
                name != DEFAULT_TRACKER
            ):  # accelerate leaves it out with a warning: enough for what nobody asked for
                needed[name] = (TRACKERS[name], "trackers=[]")
        return needed


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(RunConfig):
    """Action tokenizer: reconstruction and commitment losses, EMA codebooks."""

    batch_size: Annotated[int, at_least(1)] = 1024
    precision: Literal["fp32"] = "fp32"  # type: ignore[assignment]  # the codebooks need it
    weight_decay: Annotated[float, between(0, 1)] = 0.0
    size: Literal["tiny", "published"] = "published"
    """Architecture when training from scratch."""
    num_embeddings: Annotated[int, between(2, 1024)] | None = None
    """Codes of a codebook when training from scratch; none takes the size's own (tiny 256, published 1024)."""
    augment: bool = False
    """Learn from chunks that could have been recorded, not from those that were (rdt2.training.variation): for
    small data sets."""
    linear_start: Annotated[int, at_least(0)] = 0
    """From scratch, begin as a linear transform coder of so many training chunks (rdt2.tokenizer.start); 0 for
    random weights. Only small learning rates (1e-6) leave such a start as good as it is."""
    start_from: str | None = None
    """Tokenizer folder or hub id to continue from; none starts from scratch."""
    normalizer: str | None = None
    """Normalizer file, folder or hub id; none uses that of the tokenizer to start from, from scratch the data's."""

    def contradiction(self) -> str:
        """Settings that exclude one another, and what to do; empty where there are none."""
        if self.ema:
            return (
                f"ema={self.ema} is not for the tokenizer: its codes are running means already, and averaged "
                "projections would meet codes of other ones. Set ema=0."
            )
        if self.shard and self.start_from is None and not self.linear_start:
            return (
                "shard=true does not go with a tokenizer from random weights: its first codes are drawn with whole "
                "weights. Set shard=false (it is small), linear_start=50000, or start_from=FOLDER."
            )
        return ""


@dataclass(frozen=True, kw_only=True)
class PointingTraining(RunConfig):
    """A small VLM from scratch learns to see colours and to find what a word names, on drawn and recorded pictures."""

    steps: Annotated[int, at_least(1)] = 1500
    batch_size: Annotated[int, at_least(1)] = 8
    learning_rate: Annotated[float, above(0, to=1)] = 4e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Annotated[int, at_least(0)] = 50
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """Compile the VLM's layers with torch.compile (needs a C++ compiler): faster steps after a first that takes
    minutes. For trying, leave it false."""
    mirror: bool = True
    """See half of the recordings in a mirror between the arms (rdt2.data.mirror)."""
    augment: Literal[False, "colours"] = False
    """'colours' varies colours and light of half the recorded pictures (rdt2.data.augmentation)."""
    normalizer: str | None = None
    """Normalizer file, folder or hub id; none uses the data's."""


@dataclass(frozen=True, kw_only=True)
class VQTraining(RunConfig):
    """RDT2-VQ: the vision-language model learns to write the 27 action tokens."""

    learning_rate: Annotated[float, above(0, to=1)] = 1e-5
    schedule: Literal["cosine", "constant"] = "cosine"
    start_from: str = "robotics-diffusion-transformer/RDT2-VQ"
    """VLM folder or hub id to start from; 'tiny' builds a small model from scratch. A folder of adapters: with
    adapter=lora or qlora they train on, with adapter=none they are merged into the weights that train."""
    processor: str | None = None
    """Folder or hub id of the text and picture processing; none takes the one beside the VLM, else that of
    Qwen2.5-VL-7B-Instruct, with which the released models were trained."""
    adapter: Literal["none", "lora", "qlora"] = "none"
    """What is trained: all weights (none), adapters in the language model (lora), beside 4-bit weights (qlora)."""
    frozen_layers: Annotated[int, at_least(0)] = 0
    """Train only behind so many language layers: those, the embeddings and the vision tower keep their weights.
    0 trains everything, and so does start_from=tiny, whose layers nothing has taught yet."""
    lora_rank: Annotated[int, at_least(1)] = 8
    """Rank of the adapters."""
    lora_alpha: Annotated[int, at_least(1)] = 8
    """The adapters' output is scaled by lora_alpha / lora_rank."""
    lora_dropout: Annotated[float, share()] = 0.1
    """Dropout on the adapters' input."""
    gradient_checkpointing: bool = False
    """Keep only the input of every layer and compute the rest again in the backward pass: less memory."""
    augment: Literal[True, False, "colours"] = True
    """Corrupt the pictures of training as the released models' were (rdt2.data.augmentation); 'colours' varies colours
    and light only, of half the pictures, for small models."""
    compile: bool = False
    """Compile the VLM's layers with torch.compile (needs a C++ compiler): faster steps after a first that takes
    minutes. For trying, leave it false."""
    mirror: bool = False
    """See half of the samples in a mirror between the arms: for rigs that are their own mirror image
    (rdt2.data.mirror)."""
    tokenizer: str | None = None
    """Action tokenizer that encodes the chunks; none uses the tokens in the shards. Shards that hold tokens of another
    one are refused."""
    normalizer: str | None = None
    """Normalizer file, folder or hub id that the tokenizer was trained with; none uses the one beside it."""

    def contradiction(self) -> str:
        """Settings that exclude one another, and what to do; empty where there are none."""
        if self.mirror and self.tokenizer is None:
            return (
                "mirror=true needs the tokenizer: mirrored chunks have other tokens than the shards say. "
                "Name it with --set tokenizer=FOLDER."
            )
        if self.shard and self.adapter == "qlora":
            return (
                "shard=true does not go with adapter=qlora, whose 4-bit weights cannot be split. Set one off."
            )
        if self.frozen_layers and self.adapter != "none":
            return (
                f"frozen_layers={self.frozen_layers} is for adapter=none: beside adapters all weights keep still. "
                "Set frozen_layers=0."
            )
        return ""

    def packages(self) -> dict[str, tuple[str, str]]:
        """Modules the settings need: module -> (extra that brings it, setting that does without)."""
        peft, quant = {"peft": ("train", "adapter=none")}, {"bitsandbytes": ("quant", "adapter=lora")}
        needed = {"none": {}, "lora": peft, "qlora": {**peft, **quant}}
        return {**super().packages(), **needed[self.adapter]}


@dataclass(frozen=True, kw_only=True)
class ExpertTraining(RunConfig):
    """RDT2-FM: the flow-matching expert learns on the frozen VLM's KV cache."""

    steps: Annotated[int, at_least(1)] = 50_000
    vlm: str = "robotics-diffusion-transformer/RDT2-VQ"
    """Frozen VLM folder or hub id; of adapters too, which are merged into it."""
    start_from: str = "robotics-diffusion-transformer/RDT2-FM"
    """Expert folder or hub id; 'scratch' or 'tiny' start from random weights."""
    normalizer: str | None = None
    """Normalizer file, folder or hub id; none uses that of the expert to start from, from scratch the data's."""
    processor: str | None = None
    """Folder or hub id of the text and picture processing; none takes the one beside the VLM, else that of
    Qwen2.5-VL-7B-Instruct, with which the released models were trained."""
    draws: Annotated[int, at_least(1)] = 1
    """Noise and time draws that share one prefill of the VLM."""
    gradient_checkpointing: bool = False
    """Keep only the input of every block and compute the rest again in the backward pass: less memory."""
    augment: Literal[True, False, "colours"] = True
    """Corrupt the pictures of training as the released models' were (rdt2.data.augmentation); 'colours' varies colours
    and light only, of half the pictures, for small models."""
    compile: bool = False
    """Compile the VLM's layers with torch.compile (needs a C++ compiler): faster steps after a first that takes
    minutes. For trying, leave it false."""
    mirror: bool = False
    """See half of the samples in a mirror between the arms: for rigs that are their own mirror image
    (rdt2.data.mirror)."""
    state: bool = False
    """Let the expert see where the arms are (absolute poses and widths, from each sample's meta). The released models
    never did; policies of such an expert need Observation(state=...), which the control loop gives."""
    prefix: Annotated[int, between(0, 23)] = 0
    """Real-time chunking: of each sample a random number of leading rows, 0 to this many, is given without noise, and
    only the rest is learned (arXiv 2512.05964). Such an expert goes on from what the arms will do anyway at no cost,
    and from no more than that: set it to the steps (of 1/30 s) that may pass from a picture until the arms do what its
    chunk says, latencies of camera and arm included; 10 for many robots. The policy then uses it unasked."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Keep the matrices of the frozen VLM in 8 or 4 bits: half and a third of its memory, for small cards. Give the
    policy the same quantize=. int4 needs the extra quant."""
    kv_cache: str | None = None
    """Folder to keep the frozen VLM's keys and values in: small data sets only, and not with augment."""

    def contradiction(self) -> str:
        """Settings that exclude one another, and what to do; empty where there are none."""
        if self.augment and self.kv_cache is not None:
            return (
                f"kv_cache={self.kv_cache} does not go with augment={str(self.augment).lower()}: no picture would come "
                "twice. Set one of the two off."
            )
        return ""

    def packages(self) -> dict[str, tuple[str, str]]:
        """Modules the settings need: module -> (extra that brings it, setting that does without)."""
        needed = {"bitsandbytes": ("quant", "quantize=int8")} if self.quantize == "int4" else {}
        return {**super().packages(), **needed}


@dataclass(frozen=True, kw_only=True)
class DistillTraining(ExpertTraining):
    """UltraFast: a student of the expert learns to jump in one step to where its teacher walks in several."""

    steps: Annotated[int, at_least(1)] = 20_000
    batch_size: Annotated[int, at_least(1)] = 96
    start_from: str = "robotics-diffusion-transformer/RDT2-FM"
    """The teacher, an expert folder or hub id; the student begins as its copy."""
    teacher_steps: Annotated[int, at_least(2)] | None = None
    """Euler steps of the teacher; none takes its own number (5 as published)."""

    def contradiction(self) -> str:
        """Settings that exclude one another, and what to do; empty where there are none."""
        if self.start_from in BUILT_IN:
            return (
                f"start_from is '{self.start_from}', expected the folder or hub id of a trained expert: a "
                "student needs a teacher. Train one with 'rdt2 train expert'."
            )
        if self.prefix:
            return (
                f"prefix={self.prefix} is for 'rdt2 train expert': students are not taught it. Set prefix=0."
            )
        return super().contradiction()


CONFIGS: dict[str, type[RunConfig]] = {
    "tokenizer": TokenizerTraining,
    "pointing": PointingTraining,
    "vq": VQTraining,
    "expert": ExpertTraining,
    "distill": DistillTraining,
}

BUILT_IN = frozenset(("tiny", "scratch"))
"""Values of start_from that are no place, whatever lies in the current folder."""

MAY_CHANGE = frozenset(
    (
        *("batch_size", "accumulate", "shard"),
        *("steps", "learning_rate", "schedule", "warmup_steps", "clip_norm", "precision"),
        *("save_every", "keep_checkpoints", "evaluate_every", "evaluate_samples", "log_every", "trackers"),
        *("validation", "max_damaged", "loader_workers", "prefetch"),
        *("compile", "gradient_checkpointing", "kv_cache"),
    )
)
"""What a resumed run may set otherwise than before: how it goes on, not what it is made of or has seen."""


def check_installed(config: RunConfig) -> None:
    """Raises ConfigError where a run needs a package that is not installed."""
    for package, (extra, instead) in config.packages().items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"this run needs {package}, which is not installed: pip install 'rdt2[{extra}]'"
                f"{f', or set {instead}' if instead else ''}."
            )
