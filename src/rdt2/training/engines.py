"""What the training loop must know of the engines that `accelerate launch` starts: DDP, FSDP2, DeepSpeed.

RDT2's models call the layers inside their blocks themselves (see rdt2.vlm.text), so a block as a whole is not
what an engine sees being called: its linear layers are. Those are what FSDP2 shards one by one
(configs/accelerate/fsdp2.yaml); everything else belongs to the outermost module.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


def check_possible() -> None:
    """FSDP was asked for where accelerate would run plain DDP without a word. Raises ConfigError."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and not torch.cuda.is_available():
        raise ConfigError(
            "FSDP was asked for, but no GPU is there, and accelerate shards on GPUs only. "
            "Launch with configs/accelerate/ddp.yaml, or with zero1.yaml to zero3.yaml."
        )


class Engine:
    """How the weights are held, and how to get at all of them.

    Attributes:
        plain: every process holds all weights (one process, or DDP).
        suffix: of files that each process writes for itself; empty for one process.
    """

    def __init__(self, accelerator: Accelerator, module: nn.Module, config: RunConfig):
        from accelerate import DistributedType

        self._accelerator = accelerator
        deepspeed = accelerator.state.deepspeed_plugin
        self.plain = deepspeed is None and accelerator.distributed_type != DistributedType.FSDP
        self._zero3 = deepspeed is not None and deepspeed.zero_stage == 3
        sharded = self._zero3 or accelerator.distributed_type == DistributedType.FSDP
        self._shadow = _without_weights(module) if sharded else None
        self.suffix = f"-rank-{accelerator.process_index}" if accelerator.num_processes > 1 else ""
        if deepspeed is not None:
            deepspeed.deepspeed_config.update(
                train_micro_batch_size_per_gpu=config.batch_size,
                gradient_accumulation_steps=config.accumulate,
                gradient_clipping=config.clip_norm,
            )

    def after_prepare(self, module: nn.Module) -> None:
        """Tell ZeRO-3 which parameters are read without their module being called."""
        if not self._zero3:
            return
        from deepspeed.runtime.zero import register_external_parameter

        outermost = self._accelerator.unwrap_model(module)
        for each in outermost.modules():
            if each is not outermost and not isinstance(each, CALLED):
                for parameter in each.parameters(recurse=False):
                    register_external_parameter(outermost, parameter)

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[nn.Module]:
        """The module with all its weights, on the main process, to evaluate and to save.

        All processes must enter together. Where weights are sharded this is a copy that exists until the end
        of the block.
        """
        if self._shadow is None:
            yield self._accelerator.unwrap_model(module)
            return
        state = self._accelerator.get_state_dict(module)
        if self._accelerator.is_main_process:
            self._shadow.load_state_dict(state, assign=True)
            self._shadow.to(self._accelerator.device)
            yield self._shadow
            self._shadow = _without_weights(self._shadow)
        else:
            yield self._shadow
        self._accelerator.wait_for_everyone()


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


def mean_over_processes(accelerator: Accelerator, value: float, asked: bool) -> tuple[float, bool]:
    """The mean of each process's value, and whether any of them is asked to stop: the same on all of them."""
    if accelerator.num_processes == 1:
        return value, asked
    tensor = torch.tensor([value, float(asked)], dtype=torch.float64, device=accelerator.device)
    mean, stop = accelerator.reduce(tensor, reduction="mean").tolist()
    return mean, stop > 0


def all_agree(accelerator: Accelerator, well: bool) -> bool:
    """Whether it went well on all processes."""
    if accelerator.num_processes == 1:
        return well
    failed = torch.tensor(float(not well), device=accelerator.device)
    return float(accelerator.reduce(failed, reduction="sum")) == 0


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
