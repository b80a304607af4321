"""One-step distillation (UltraFast): a student that jumps in one step to where the teacher walks in five.

From the same noise A0 and the same keys and values the frozen teacher walks to F; the student, which starts
as a copy of the teacher, minimises || F - (A0 + v(A0, t = 0)) ||^2. Inference is then
`student.sample(cond, noise=A0, steps=1)`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.expert.conditioning import Conditioning
    from rdt2.expert.model import Expert


def one_step(
    student: Expert,
    cond: Conditioning,
    *,
    noise: Float[Tensor, "n 24 20"],
    state: Float[Tensor, "n 20"] | None = None,
) -> Float[Tensor, "n 24 20"]:
    """A0 + v(A0, t = 0), with gradients."""
    t = noise.new_zeros(len(noise)).float()
    return noise + student(noise, t, cond, state=state)


def several_steps(
    teacher: Expert,
    cond: Conditioning,
    *,
    noise: Float[Tensor, "n 24 20"],
    state: Float[Tensor, "n 20"] | None = None,
    steps: int | None = None,
) -> Float[Tensor, "n 24 20"]:
    """What the teacher comes to, without gradients; `cond` may have been prepared for a student of another dtype.

    DeepSpeed keeps a student in bfloat16, and knows no autocast: a float32 teacher's products are then rounded as
    autocast would round both.
    """
    dtype = cond.keys[0].dtype
    rounded: AbstractContextManager[Any] = nullcontext()
    if dtype != teacher.dtype:
        rounded = torch.autocast(noise.device.type, dtype=dtype)
    with rounded:
        return teacher.sample(cond, noise=noise, state=state, steps=steps)


def distillation_loss(
    student: Expert,
    teacher: Expert,
    cond: Conditioning,
    *,
    noise: Float[Tensor, "n 24 20"],
    state: Float[Tensor, "n 20"] | None = None,
    steps: int | None = None,
) -> Float[Tensor, ""]:
    """Mean squared distance of the student's one step from the teacher's `steps` (default: `config.steps`).

    The teacher runs without gradients; in evaluation mode its adaLN is a table. n is cond.batch, or a
    multiple of it for several draws.
    """
    target = several_steps(teacher, cond, noise=noise, state=state, steps=steps)
    return F.mse_loss(one_step(student, cond, noise=noise, state=state).float(), target.float())
