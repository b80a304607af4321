"""Times, sampler, loss and one-step distillation."""

from __future__ import annotations

import copy

import pytest
import torch
from random_expert import BATCH, random_expert, random_kv
from torch import Tensor

from rdt2.expert import Expert, distillation_loss, flow_matching_loss, one_step, sample_timesteps, step_times

close = torch.testing.assert_close


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_network_gets_exact_times(expert: Expert, noise: Tensor, dtype: torch.dtype) -> None:
    """Regression: 0.2 added up in bfloat16 is 0.2002, 0.4004, 0.6016, 0.8008."""
    seen: list[Tensor] = []
    expert.to(dtype).model.t_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    expert.sample(expert.prepare(random_kv()), noise=noise, steps=5)
    expert.sample(expert.prepare(random_kv()), noise=noise, steps=5, state=torch.ones(BATCH, 20))
    from_table, from_loop = seen[0], torch.stack([t[0] for t in seen[1:]])
    exact = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8])
    close(from_table, exact, atol=0, rtol=0)
    close(from_loop, exact, atol=0, rtol=0)
    close(step_times(7), torch.tensor([k / 7 for k in range(7)]), atol=0, rtol=0)


def test_loss_is_the_error_of_the_velocity(expert: Expert, noise: Tensor) -> None:
    cond, actions, t = expert.prepare(random_kv()), torch.randn(BATCH, 24, 20), torch.tensor([0.0, 0.3, 1.0])
    with torch.no_grad():
        x_t = t[:, None, None] * actions + (1 - t[:, None, None]) * noise
        expected = ((expert.velocity(x_t, t, cond) - (actions - noise)) ** 2).mean()
        loss = flow_matching_loss(expert, cond, actions, noise=noise, t=t)
    close(loss, expected)


def test_training_times_follow_the_generator() -> None:
    first, second = (sample_timesteps(8, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    close(first, torch.randn(8, generator=torch.Generator().manual_seed(4)).sigmoid())


def test_distillation(expert: Expert, noise: Tensor) -> None:
    """The student's single step is pulled to the end of the teacher's walk; the teacher stays as it was."""
    cond, student = expert.prepare(random_kv()), copy.deepcopy(expert).train()
    target = expert.sample(cond, noise=noise, steps=5)
    with torch.no_grad():
        jump = one_step(student, cond, noise=noise)
        close(distillation_loss(student, expert, cond, noise=noise), ((target - jump) ** 2).mean())
        close(jump, student.sample(cond, noise=noise, steps=1))
        assert float(distillation_loss(student, expert, cond, noise=noise, steps=1)) < 1e-10
    student = random_expert(seed=5).train()  # far from the teacher, so that there is something to learn
    optimizer = torch.optim.Adam((p for p in student.parameters() if p.requires_grad), lr=3e-3)
    before = {name: p.clone() for name, p in expert.named_parameters()}
    losses = []
    for _ in range(15):
        loss = distillation_loss(student, expert, cond, noise=noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in expert.named_parameters())
