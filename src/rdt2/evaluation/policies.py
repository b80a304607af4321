"""The policies an evaluation can ask for: real ones, and the controls that show what a success is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.action import ActionChunk, Promise
    from rdt2.observation import Observation
    from rdt2.policy import Policy

UNTRAINED = "untrained"


class BlindPolicy:
    """A policy that is shown black pictures: what it still achieves, it does not achieve by seeing."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def keeps_promises(self) -> bool:
        """As the wrapped policy."""
        return self._policy.keeps_promises

    @property
    def patience(self) -> float | None:
        """As the wrapped policy."""
        return self._policy.patience

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """As the wrapped policy, on black pictures."""
        black = [replace(o, left=np.zeros_like(o.left), right=np.zeros_like(o.right)) for o in observations]
        return self._policy.predict(black, seed=seed, promised=promised)


def open_policy(policy: PolicySpec | str, *, blind: bool = False) -> Policy:
    """Load a policy; "untrained" is demo-fm with random weights.

    blind: show it black pictures.

    Raises:
        CheckpointError: not there, incomplete, or of another model.
    """
    from rdt2.policy import load_policy

    spec = PolicySpec.of(policy)
    untrained = spec.policy == UNTRAINED
    loaded: Policy = load_policy(replace(spec, policy="demo-fm") if untrained else spec)
    if untrained:
        _randomise(loaded)
    return BlindPolicy(loaded) if blind else loaded


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
                if name.startswith("tables."):  # what the expert's adaLN layers, let go of, came to
                    buffer.copy_(0.5 * torch.randn(buffer.shape, generator=generator))
