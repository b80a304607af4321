"""adaLN as a table: shift, scale and gate for the few times at which a sample asks for them.

adaLN holds 264 of the 488 million published parameters, yet depends only on the time and on a state that is
zero. Five rows replace them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rdt2.errors import ConfigError
from rdt2.expert.flow import step_times

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.expert.model import Expert


@torch.no_grad()
def tabulate(expert: Expert, steps: int) -> Float[Tensor, "steps m h"]:
    """Modulations at times k/steps with zero state, computed when first asked for.

    In evaluation mode the table is kept until a weight that it depends on moves, is cast, or is written to.
    (PyTorch does not notice writes through `parameter.data`: call `expert.eval()` after such a write.)

    Raises:
        ConfigError: the expert was frozen for other step counts.
    """
    if steps in expert.frozen_steps:
        return expert.get_buffer(f"table_{steps}")
    if expert.training or expert.frozen_steps:
        return expert.modulations(step_times(steps, device=expert.device))
    weights = tuple(
        (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
        for module in _tabulated(expert)
        for parameter in (module.parameters() if isinstance(module, torch.nn.Module) else [module])
    )
    if steps not in expert.tables or expert.tables[steps][0] != weights:
        expert.tables[steps] = (weights, expert.modulations(step_times(steps, device=expert.device)))
    return expert.tables[steps][1]


def freeze(expert: Expert, steps: tuple[int, ...]) -> Expert:
    """Tabulate for these step counts and free what the tables replace and what no action depends on.

    Raises:
        ConfigError: the expert was frozen before.
    """
    if expert.frozen_steps:
        raise ConfigError(
            f"the expert is already frozen for samples of {list(expert.frozen_steps)} steps. "
            "Load it again for others."
        )
    expert.eval().requires_grad_(False)
    for count in dict.fromkeys(steps):
        expert.register_buffer(f"table_{count}", tabulate(expert, count).clone(), persistent=False)
    expert.frozen_steps = tuple(dict.fromkeys(steps))
    expert.tables.clear()
    core = expert.model
    for block in core.stack:
        del block.adaLN_modulation, block.cond_norm, block.cross_attn.wkv, block.cross_attn.norm_k
    del core.final_layer.adaLN_modulation, core.t_embedder, core.state_pos_emb, expert.state_adaptor
    return expert


def look_up(
    expert: Expert, t: Float[Tensor, " n"], state: Float[Tensor, "n 20"] | None
) -> Float[Tensor, "n m h"]:
    """Rows of a frozen expert's tables.

    Raises:
        ConfigError: a time or a state that is not in them.
    """
    advice = "Load the expert again without freeze_for_inference."
    if state is not None and bool(state.any()):
        raise ConfigError(
            f"the expert was frozen for a state of zeros, but a state that is not zero came. {advice}"
        )
    times = torch.cat([step_times(count, device=t.device) for count in expert.frozen_steps])
    distance, row = (t.float()[:, None] - times).abs().min(dim=1)
    if float(distance.max()) > 1e-6:
        raise ConfigError(
            f"the expert was frozen for the times {[round(time, 4) for time in times.tolist()]}, "
            f"but t = {[round(time, 4) for time in t.tolist()]} came. {advice}"
        )
    return torch.cat([expert.get_buffer(f"table_{count}") for count in expert.frozen_steps])[row]


def _tabulated(expert: Expert) -> list[torch.nn.Module | Tensor]:
    """What the modulations depend on."""
    core = expert.model
    layers = [*core.stack, core.final_layer]
    return [
        *(layer.adaLN_modulation for layer in layers),
        core.t_embedder,
        expert.state_adaptor,
        core.state_pos_emb,
    ]
