"""The policies an evaluation can ask for: real ones, and the controls that show what a success is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.observation import Observation
    from rdt2.policy import Policy

UNTRAINED = "untrained"


class BlindPolicy:
    """A policy that is shown black pictures: what it still achieves, it does not achieve by seeing."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def predict(
        self, observations: Sequence[Observation], *, seed: int | Sequence[int] | None = None
    ) -> list[ActionChunk]:
        """As the wrapped policy, on black pictures."""
        black = [replace(o, left=np.zeros_like(o.left), right=np.zeros_like(o.right)) for o in observations]
        return self._policy.predict(black, seed=seed)


@dataclass(frozen=True)
class PolicySource:
    """Where a policy comes from. Plain values, so that worker processes can load it for themselves."""

    name: str
    """A folder, policy.json, hub id, "demo-fm", "demo-vq", or "untrained": demo-fm with random weights."""
    vlm: str | None = None
    tokenizer: str | None = None
    normalizer: str | None = None
    draft: str | None = None
    temperature: float | None = None
    draws: int | None = None
    compile: bool = False
    quantize: Literal["int8", "int4"] | None = None
    offload: int = 0
    device: str = "cpu"
    blind: bool = False
    """Show it black pictures."""


def open_policy(source: PolicySource | str) -> Policy:
    """Load a policy.

    Raises:
        CheckpointError: not there, incomplete, or of another model.
    """
    from rdt2.policy import load_policy

    if isinstance(source, str):
        source = PolicySource(source)
    policy: Policy = load_policy(
        "demo-fm" if source.name == UNTRAINED else source.name,
        vlm=source.vlm,
        tokenizer=source.tokenizer,
        normalizer=source.normalizer,
        draft=source.draft,
        temperature=source.temperature,
        draws=source.draws,
        compile=source.compile,
        quantize=source.quantize,
        offload=source.offload,
        device=source.device,
    )
    if source.name == UNTRAINED:
        _randomise(policy)
    return BlindPolicy(policy) if source.blind else policy


def _randomise(policy: Policy) -> None:
    """Random weights for every module of a policy: matrices by fan-in, gains 1, other vectors 0."""
    import torch
    from torch import nn

    from rdt2.packed import PackedLinear

    generator = torch.Generator().manual_seed(0)

    def drawn(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5

    modules = [value for value in vars(policy).values() if isinstance(value, nn.Module)]
    assert modules, "a policy holds its models as attributes"
    with torch.no_grad():
        for module in modules:
            for part in module.modules():
                if isinstance(part, PackedLinear):
                    part.pack(drawn(part.weight.shape))
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(drawn(parameter.shape))
                else:
                    parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            for name, buffer in module.named_buffers():
                if name.startswith("table_"):  # what the expert's adaLN layers, let go of, came to
                    buffer.copy_(0.5 * torch.randn(buffer.shape, generator=generator))
