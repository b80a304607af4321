"""adaLN as a table: shift, scale and gate for the few times at which a sample asks for them.

adaLN holds 264 of the 488 million published parameters, yet depends only on the time and on a state that is
zero. Five rows replace them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from rdt2.errors import ConfigError
from rdt2.expert.flow import step_times

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.expert.model import Expert


class Tables(nn.Module):
    """Modulations of one expert at the times of its samples, with zero state.

    In evaluation mode a table is kept until a weight behind it is moved, cast, replaced or written to. Frozen tables
    outlive those weights. A part of the expert, it hears of what happens to all of it (`to`, `train`,
    `load_state_dict`); in files there is nothing of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen_steps: tuple[int, ...] = ()
        self._kept: dict[int, tuple[list[_Seen], Tensor]] = {}

    @torch.no_grad()
    def of(self, expert: Expert, steps: int) -> Float[Tensor, "steps m h"]:
        """Modulations at times k/steps, computed when first asked for; of an expert with a prefix also, last, at 1.

        (PyTorch does not notice writes through `parameter.data`: call `expert.eval()` after such a write.)

        Raises:
            ConfigError: the expert was frozen for other step counts.
        """
        if steps in self.frozen_steps:
            return self._frozen(steps)
        if expert.training or self.frozen_steps:
            return expert.modulations(_times(expert, steps))
        weights = _tabulated(expert)
        seen, table = self._kept.get(steps, ([], None))
        if table is None or not all(one.still(weight) for one, weight in zip(seen, weights, strict=True)):
            table = expert.modulations(_times(expert, steps))
            self._kept[steps] = [_Seen.now(weight) for weight in weights], table
        return table

    def freeze(self, expert: Expert, steps: Sequence[int]) -> None:
        """Tabulate for these step counts, and let go of the weights behind the tables and of what no action needs.

        Raises:
            ConfigError: frozen before.
        """
        if self.frozen_steps:
            raise ConfigError(
                f"the expert is already frozen for samples of {list(self.frozen_steps)} steps. "
                "Load it again for others."
            )
        expert.eval().requires_grad_(False)
        for count in dict.fromkeys(steps):
            self.register_buffer(f"steps_{count}", self.of(expert, count).clone(), persistent=False)
        self.frozen_steps = tuple(dict.fromkeys(steps))
        self._kept.clear()
        core = expert.model
        for block in core.stack:
            del block.adaLN_modulation, block.cond_norm, block.cross_attn.wkv, block.cross_attn.norm_k
        del core.final_layer.adaLN_modulation, core.t_embedder, core.state_pos_emb, expert.state_adaptor

    def look_up(self, t: Float[Tensor, " n"], state: Float[Tensor, "n 20"] | None) -> Float[Tensor, "n m h"]:
        """Rows of the frozen tables.

        Raises:
            ConfigError: a time or a state that is not in them.
        """
        advice = "Load the expert again without freeze_for_inference."
        if state is not None and bool(state.any()):
            raise ConfigError(
                f"the expert was frozen for a state of zeros, but a state that is not zero came. {advice}"
            )
        times = torch.cat([self._times_of(count, t.device) for count in self.frozen_steps])
        distance, row = (t.float()[:, None] - times).abs().min(dim=1)
        if float(distance.max()) > 1e-6:
            raise ConfigError(
                f"the expert was frozen for the times {[round(time, 4) for time in times.tolist()]}, "
                f"but t = {[round(time, 4) for time in t.tolist()]} came. {advice}"
            )
        return torch.cat([self._frozen(count) for count in self.frozen_steps])[row]

    def _times_of(self, steps: int, device: torch.device) -> Tensor:
        times = step_times(steps, device=device)
        return torch.cat([times, times.new_ones(len(self._frozen(steps)) - steps)])

    def _frozen(self, steps: int) -> Tensor:
        return self.get_buffer(f"steps_{steps}")

    # What follows happens to the expert: tables of the weights so far are forgotten.

    def train(self, mode: bool = True) -> Tables:
        """Forget what was tabulated: weights are about to change, or have."""
        self._kept.clear()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Tables:
        self._kept.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # a copy of the expert has weights of its own


class _Seen(NamedTuple):
    """A weight as a table was computed from it."""

    weight: weakref.ref[Tensor]
    place: int
    version: int

    @classmethod
    def now(cls, weight: Tensor) -> _Seen:
        return cls(weakref.ref(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version)

    def still(self, weight: Tensor) -> bool:
        """Whether the weight is that one, and nothing moved it or wrote to it."""
        return self.weight() is weight and self[1:] == _Seen.now(weight)[1:]


def _times(expert: Expert, steps: int) -> Float[Tensor, " rows"]:
    """Times that a table of so many steps has rows for."""
    times = step_times(steps, device=expert.device)
    return torch.cat([times, times.new_ones(1)]) if expert.config.prefix else times


def _tabulated(expert: Expert) -> list[Tensor]:
    """The weights that modulations depend on."""
    core = expert.model
    layers = [block.adaLN_modulation for block in core.stack]
    modules = (*layers, core.final_layer.adaLN_modulation, core.t_embedder, expert.state_adaptor)
    return [core.state_pos_emb, *(weight for module in modules for weight in module.parameters())]
