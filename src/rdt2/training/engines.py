"""What the training loop must know of the engines that hold the weights: one process, DDP, FSDP2, DeepSpeed.

RDT2's models call the layers inside their blocks themselves (see rdt2.vlm.text), so a block as a whole is not
what an engine sees being called: its linear layers are. Those are what FSDP2 shards one by one; everything else
belongs to the outermost module, inside whose forward both training and evaluation run.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rdt2.errors import ConfigError
from rdt2.training.config import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

CALLED = (nn.Linear, nn.Embedding)
"""Modules that are always called themselves, so that their parameters can be gathered just then."""


def deepspeed_asked_for() -> bool:
    """Whether `accelerate launch` was given a DeepSpeed configuration."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def check_possible(config: RunConfig) -> None:
    """Raises ConfigError where what was launched and what is set contradict each other."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ConfigError(
            "accelerate was told to use FSDP, whose plugin would round what goes into and out of the model. Launch "
            "with torchrun or configs/accelerate/ddp.yaml, and --set shard=true, which splits the weights (FSDP2)."
        )
    if not config.shard:
        return
    if deepspeed_asked_for():
        raise ConfigError(
            "shard=true does not go with DeepSpeed, which splits the weights itself: zero3.yaml."
        )
    if "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "shard=true splits the weights over processes, and this is one alone. Launch with "
            "'torchrun --nproc-per-node 8 -m rdt2.cli.main train ...', or set shard=false."
        )


class Outermost(nn.Module):
    """What an engine wraps and calls. Whatever runs inside finds the weights gathered."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: Any, run: Callable[[nn.Module], Any] | None = None) -> Any:
        """``inner(*arguments)``, or what ``run(inner)`` returns."""
        return self.inner(*arguments) if run is None else run(self.inner)


class Engine:
    """The model and its optimizer as they are held, and how to get at them.

    Attributes:
        module: an :class:`Outermost`, wrapped.
        optimizer: of its parameters.
        deepspeed: whether DeepSpeed holds them.
        plain: every process holds all weights (one process, or DDP).
        suffix: of files that each process writes for itself; empty for one process.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        inner: nn.Module,
        config: RunConfig,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    ):
        self.accelerator = accelerator
        plugin = accelerator.state.deepspeed_plugin
        self.deepspeed = plugin is not None
        self.plain = plugin is None and not config.shard
        self.suffix = f"-rank-{accelerator.process_index}" if accelerator.num_processes > 1 else ""
        self._shard = config.shard
        module: nn.Module = Outermost(inner)
        zero3 = plugin is not None and plugin.zero_stage == 3
        self._shadow = _without_weights(module) if zero3 or config.shard else None
        if plugin is not None:
            plugin.deepspeed_config.update(
                train_micro_batch_size_per_gpu=config.batch_size,
                gradient_accumulation_steps=config.accumulate,
                gradient_clipping=config.clip_norm,
            )
        if config.shard:
            _shard(module, bf16=config.precision == "bf16", frozen=getattr(inner, "frozen_dtype", None))
            self.module, self.optimizer = module, accelerator.prepare(make_optimizer(module))
        else:
            self.module, self.optimizer = accelerator.prepare(module, make_optimizer(module))
        if zero3:
            _tell_zero3(accelerator.unwrap_model(self.module))

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Loss and metrics of a batch."""
        with self._precision():
            return self.module(batch, generator)

    def evaluate(self, figures: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        """What ``figures`` says of the module, inside the engine and in the precision of training.

        All processes must enter together.
        """
        self.module.eval()
        with torch.no_grad(), self._precision():
            found = self.module(run=figures)
        self.module.train()
        return found

    def _precision(self) -> Any:
        """What accelerate adds to the modules that it wraps."""
        return self.accelerator.autocast() if self._shard else ExitStack()

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The module with all its weights, on the main process, to be saved.

        All processes must enter together. Where weights are sharded this is a copy in the CPU's memory that exists
        until the end of the block.
        """
        if self._shadow is None:
            yield _inner(self.accelerator.unwrap_model(self.module))
            return
        state = self._whole_state()
        if self.accelerator.is_main_process:
            shadow = copy.deepcopy(self._shadow)
            shadow.load_state_dict(state, assign=True)
            yield _inner(shadow)
        else:
            yield _inner(self._shadow)
        self.accelerator.wait_for_everyone()

    def _whole_state(self) -> dict[str, Any]:
        if not self._shard:
            return self.accelerator.get_state_dict(self.module)
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(
            self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )


@contextmanager
def gathered(*modules: nn.Module) -> Iterator[None]:
    """The weights of modules that are called themselves are whole inside, to be read without calling them.

    All processes must enter together.
    """
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in modules if isinstance(module, FSDPModule)]
    zero3 = [p for module in modules for p in module.parameters() if hasattr(p, "ds_id")]
    with ExitStack() as stack:
        if zero3:
            from deepspeed.runtime.zero import GatheredParameters

            stack.enter_context(GatheredParameters(zero3))
        for module in sharded:
            module.unshard()
            stack.callback(module.reshard)
        yield


def split_frozen(model: nn.Module, dtype: torch.dtype) -> Outermost:
    """A model that does not train, split over all processes in ``dtype``; all call it together, through what returns.

    Weights that are mapped from files are never whole in the memory of a process.
    """
    module = Outermost(model.requires_grad_(False))
    _shard(module, bf16=False, frozen=dtype)
    return module


def _shard(module: nn.Module, *, bf16: bool, frozen: torch.dtype | None) -> None:
    """Split weights, and with them gradients and optimizer state, over all processes (FSDP2), in place.

    The arithmetic is that of one process under autocast: the matrices of linear layers travel and multiply in the
    compute precision, all else (norms, embeddings, convolutions, tied weights) travels in the dtype that it is held in,
    gradients are summed in float32, and what goes in or comes out is not rounded. Held are weights that train in
    float32, and frozen ones in ``frozen`` (none leaves them), which they become layer by layer: files in another
    precision are never whole in memory.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    compute = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    uses = Counter(id(p) for each in module.modules() for p in each.parameters(recurse=False))
    for each in list(module.modules()):
        own = list(each.parameters(recurse=False))
        if type(each) in CALLED and own and all(uses[id(p)] == 1 for p in own):  # tied ones stay outermost
            _convert(own, frozen)
            fully_shard(each, mp_policy=compute if type(each) is nn.Linear else exact)
    _convert(module.parameters(), frozen)
    fully_shard(module, mp_policy=exact)


def _convert(parameters: Iterable[nn.Parameter], frozen: torch.dtype | None) -> None:
    for parameter in parameters:
        wanted = torch.float32 if parameter.requires_grad else frozen or parameter.dtype
        if parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)


def _inner(outermost: Any) -> nn.Module:
    assert isinstance(outermost, Outermost)
    return outermost.inner


def _tell_zero3(outermost: nn.Module) -> None:
    """Which parameters are read without their module being called."""
    from deepspeed.runtime.zero import register_external_parameter

    for each in outermost.modules():
        if each is not outermost and not isinstance(each, CALLED):
            for parameter in each.parameters(recurse=False):
                register_external_parameter(outermost, parameter)


def check_agreement(accelerator: Accelerator, identity: dict[str, Any]) -> None:
    """All processes must have been started with the same settings. Raises ConfigError."""
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import gather_object

    found = gather_object([identity])
    for rank, other in enumerate(found):
        mine, theirs = ({"stage": each["stage"], **each["config"]} for each in (found[0], other))
        different = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        if different:
            raise ConfigError(
                f"process {rank} was started with other settings than process 0: "
                + ", ".join(f"{k} is {theirs.get(k)!r} there and {mine.get(k)!r} here" for k in different)
                + ". Give all machines the same preset and the same --set."
            )


def mean_over_processes(accelerator: Accelerator, value: float, *flags: bool) -> tuple[float, list[bool]]:
    """The mean of each process's value, and of each flag whether any of them has it set: the same on all of them."""
    if accelerator.num_processes == 1:
        return value, list(flags)
    tensor = torch.tensor([value, *map(float, flags)], dtype=torch.float64, device=accelerator.device)
    mean, *found = accelerator.reduce(tensor, reduction="mean").tolist()
    return mean, [flag > 0 for flag in found]


def all_agree(accelerator: Accelerator, well: bool) -> bool:
    """Whether it went well on all processes."""
    if accelerator.num_processes == 1:
        return well
    failed = torch.tensor(float(not well), device=accelerator.device)
    return float(accelerator.reduce(failed, reduction="sum")) == 0


def from_main_process(accelerator: Accelerator, value: str) -> str:
    """What the main process has there, on all of them."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    told: str = broadcast_object_list([value])[0]
    return told


def number(norm: Any) -> float:
    """A gradient norm as a float: a tensor, sharded or not, or DeepSpeed's number (none before its first step)."""
    if isinstance(norm, Tensor):
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    return float(norm or 0.0)


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy whose parameters take no memory; its buffers are real, for not all of them are in a state."""
    empty: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return copy.deepcopy(module, empty)
