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
NEUTRAL = "Do something."
"""What a policy is told where it is to be told nothing: an observation with an empty sentence is refused."""


class Deprived:
    """A policy from which something is kept: what it still achieves, it does not achieve by that.

    Args:
        policy: the whole one.
        blind: it is shown black pictures.
        deaf: it is told `NEUTRAL` in place of every sentence.
    """

    def __init__(self, policy: Policy, *, blind: bool = False, deaf: bool = False) -> None:
        self.whole, self.blind, self.deaf = policy, blind, deaf

    @property
    def keeps_promises(self) -> bool:
        """As the whole policy."""
        return self.whole.keeps_promises

    @property
    def longest_promise(self) -> int:
        """As the whole policy."""
        return self.whole.longest_promise

    @property
    def patience(self) -> float | None:
        """As the whole policy."""
        return self.whole.patience

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """As the whole policy, on what is left of the observations."""
        return self.whole.predict([self._left(o) for o in observations], seed=seed, promised=promised)

    def _left(self, observation: Observation) -> Observation:
        if self.blind:
            black = np.zeros_like(observation.left)
            observation = replace(observation, left=black, right=black)
        return replace(observation, instruction=NEUTRAL) if self.deaf else observation


def open_policy(policy: PolicySpec | str) -> Policy:
    """Load a policy; "untrained" is demo-fm with random weights.

    Raises:
        CheckpointError: not there, incomplete, or of another model.
    """
    from rdt2.policy import load_policy

    spec = whole_spec(PolicySpec.of(policy))
    loaded: Policy = load_policy(spec)
    if PolicySpec.of(policy).policy == UNTRAINED:
        _randomise(loaded)
    return loaded


def whole_spec(spec: PolicySpec) -> PolicySpec:
    """Which policy's files a spec is about: those of demo-fm for "untrained"."""
    return replace(spec, policy="demo-fm") if spec.policy == UNTRAINED else spec


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
