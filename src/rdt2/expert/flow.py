"""Flow matching: the noisy chunk at time t, the loss, the times of training, and the sampler.

x_t = t * action + (1 - t) * noise        target velocity = action - noise        t = 0 is noise, t = 1 data
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from rdt2.errors import ActionError, ConfigError
from rdt2.expert.guidance import Guidance
from rdt2.expert.prefix import Clean, Prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float

    from rdt2.expert.conditioning import Conditioning
    from rdt2.expert.model import Expert


def step_times(steps: int, *, device: torch.device | str = "cpu") -> Float[Tensor, " steps"]:
    """Times k/steps of an Euler sample, float32 whatever the model's dtype.

    Added up in bfloat16 they would drift: 0.4004, 0.6016, 0.8008 instead of 0.4, 0.6, 0.8.

    Raises:
        ConfigError: fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"a sample needs at least one step, {steps} came")
    return torch.arange(steps, dtype=torch.float32, device=device) / steps


@torch.no_grad()
def sample(
    expert: Expert,
    cond: Conditioning,
    *,
    noise: Float[Tensor, "n 24 20"],
    state: Float[Tensor, "n 20"] | None = None,
    steps: int | None = None,
    known: Guidance | Prefix | None = None,
    run: Callable[..., Tensor],
) -> Float[Tensor, "n 24 20"]:
    """Normalised action chunks from noise in `steps` equal Euler steps (default: the configuration's).

    The chunk is kept in the dtype of the noise between steps; give float32 noise to a bfloat16 expert too.
    Without a state the modulations come from a table. Blocks go through `run` (see `Expert.denoise`). What is known of
    the chunks draws each step to it, or is given to an expert that was trained for that (see `Guidance`, `Prefix`).

    Raises:
        ActionError: noise of another shape than (cond.batch or a multiple, 24, 20).
        ConfigError: the expert was frozen for other step counts, or a prefix for one that was not trained with any.
    """
    steps = expert.config.steps if steps is None else steps
    prefix = known if isinstance(known, Prefix) else None
    if prefix is not None and not expert.config.prefix:
        raise ConfigError("this expert was not trained to go on from given rows (prefix is 0): use guidance.")
    if state is None:
        *each_step, last = expert.tabulate(steps).split(1)
        if not expert.config.prefix:
            each_step.append(last)
    else:
        times = step_times(steps, device=noise.device)
        each_step = [expert.modulations(t.expand(len(noise)), state) for t in times]
        last = expert.modulations(times.new_ones(len(noise)), state) if prefix else each_step[-1]
    clean = None if prefix is None else Clean(prefix.given, last)
    x = noise
    for k, modulations in enumerate(each_step):
        if isinstance(known, Guidance):
            velocity = known.velocity(expert, x, k, steps, modulations, cond, run=run)
        else:
            x = x if prefix is None else prefix.over(x)
            velocity = expert.denoise(x, modulations, cond, clean=clean, run=run)
        x = x + velocity / steps
    return x if prefix is None else prefix.over(x)


def sample_timesteps(
    batch: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, " batch"]:
    """Times of training, logistic-normal(0, 1): the sigmoid of a standard normal, float32 in (0, 1)."""
    return torch.randn(batch, generator=generator, device=device).sigmoid()


def flow_matching_loss(
    expert: Expert,
    cond: Conditioning,
    actions: Float[Tensor, "b 24 20"],
    *,
    noise: Float[Tensor, "kb 24 20"],
    t: Float[Tensor, " kb"],
    state: Float[Tensor, "b 20"] | None = None,
    given: Bool[Tensor, "kb 24"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity, float32.

    `actions` (normalised) and `state` have one row an observation. `noise` and `t` may hold k draws for each
    (row j*b + i is draw j of observation i): the VLM, which costs most, then runs once for k gradients.
    Rows that are `given` enter without noise, and no loss is theirs (see `Prefix`).

    Raises:
        ActionError: the rows of noise, t, state and actions do not go together.
    """
    b = len(actions)
    if (
        b != cond.batch
        or noise.shape[1:] != actions.shape[1:]
        or len(noise) % b
        or t.shape != noise.shape[:1]
    ):
        raise ActionError(
            f"for {cond.batch} observations actions must be ({cond.batch}, horizon, dim), noise "
            f"(k * {cond.batch}, horizon, dim) and t (k * {cond.batch},); they are {tuple(actions.shape)}, "
            f"{tuple(noise.shape)} and {tuple(t.shape)}"
        )
    draws = len(noise) // b
    actions = actions.float().repeat(draws, 1, 1)
    state = None if state is None else state.repeat(draws, 1)
    x_t = torch.lerp(noise.float(), actions, t.float()[:, None, None])
    if given is None:
        return F.mse_loss(expert(x_t, t, cond, state=state).float(), actions - noise.float())
    x_t = Prefix(actions, given).over(x_t)
    error = expert(x_t, t, cond, state=state, given=given).float() - (actions - noise.float())
    return error[~given].square().mean()
