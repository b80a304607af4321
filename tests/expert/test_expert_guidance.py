"""Chunks that go on from what was promised: the weights, the gradient, and what guidance must not change."""

from __future__ import annotations

import math

import pytest
import torch
from random_expert import BATCH, random_expert, random_kv
from torch import Tensor

from rdt2.expert import Expert, Guidance, promise_weights
from rdt2.expert.guidance import STRONGEST, strength
from rdt2.packed import pack_linears

close = torch.testing.assert_close


def promise(*, fixed: int = 4, known: int = 16, rows: int = BATCH) -> Guidance:
    promised = torch.randn(rows, 24, 20, generator=torch.Generator().manual_seed(9))
    return Guidance(promised, promise_weights(fixed, known, 24).repeat(rows, 1))


def test_weights_are_one_then_decay_then_zero() -> None:
    weights = promise_weights(2, 6, 10)
    for row, left in enumerate([1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0, 0, 0, 0]):
        assert float(weights[row]) == pytest.approx(left * math.expm1(left) / math.expm1(1), abs=1e-6)
    assert promise_weights(0, 0, 24).sum() == 0
    assert promise_weights(5, 5, 24).tolist() == [1.0] * 5 + [0.0] * 19
    assert promise_weights(24, 24, 24).tolist() == [1.0] * 24


def test_the_strength_is_that_of_the_paper() -> None:
    assert strength(0.0) == STRONGEST
    for t in (0.2, 0.5, 0.8, 0.99):
        r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        assert strength(t) == pytest.approx(min(5, (1 - t) / (t * r2)))


@pytest.mark.parametrize("packed", [False, True])
def test_the_pull_is_the_gradient_of_the_distance(expert: Expert, noise: Tensor, packed: bool) -> None:
    cond, guidance, table = expert.prepare(random_kv(mask=True)), promise(), expert.tabulate(5)
    if packed:
        pack_linears(expert)
    step, t = 2, 0.4

    @torch.no_grad()
    def distance(x: Tensor) -> Tensor:
        estimate = x + (1 - t) * expert.denoise(x, table[2:3], cond)
        gap = (guidance.promised - estimate).double()
        return 0.5 * (guidance.weights[..., None] * gap.square()).sum((1, 2))

    drawn = guidance.velocity(expert, noise, step, 5, table[2:3], cond, run=plain_run)
    with torch.no_grad():
        added = (drawn - expert.denoise(noise, table[2:3], cond)).double()
    way = torch.randn(noise.shape, generator=torch.Generator().manual_seed(4))
    slope = (distance(noise + 1e-2 * way) - distance(noise - 1e-2 * way)) / 2e-2
    # Each row's addition is its gradient, downhill, times a number of 0 to the strength.
    factor = -(added * way).sum((1, 2)) / slope
    assert ((factor > 0) & (factor < strength(t) * 1.02)).all(), factor
    down = distance(noise + 1e-2 * added.float()) - distance(noise - 1e-2 * added.float())
    close(down / 2e-2, -added.square().sum((1, 2)) / factor, rtol=0.02, atol=1e-3)


def plain_run(block, *inputs):
    return block(*inputs)


def test_an_expert_that_exaggerates_is_not_driven_past_the_promise(noise: Tensor) -> None:
    """regression: with the paper's strength alone, steps overshot by the square of the expert's gain."""
    expert = random_expert()
    with torch.no_grad():
        expert.model.final_layer.ffn.fc2.weight.mul_(40)
    cond, guidance = expert.prepare(random_kv()), promise()

    def distance(chunks: Tensor) -> float:
        return float((guidance.weights[..., None] * (chunks - guidance.promised).square()).mean())

    without = distance(expert.sample(cond, noise=noise))
    assert distance(expert.sample(cond, noise=noise, known=guidance)) < without


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inference", [False, True])
def test_chunks_come_near_the_promise_and_rows_stay_apart(
    expert: Expert, noise: Tensor, dtype: torch.dtype, inference: bool
) -> None:
    expert.to(dtype)
    with torch.inference_mode(inference):
        cond, guidance = expert.prepare(random_kv(mask=True)), promise()
        plain = expert.sample(cond, noise=noise)
        drawn = expert.sample(cond, noise=noise, known=guidance)
        assert drawn.dtype == torch.float32
        assert not drawn.requires_grad
        gap = [(chunks[:, :4] - guidance.promised[:, :4]).abs().mean() for chunks in (plain, drawn)]
        assert gap[1] < 0.7 * gap[0]
        some = Guidance(guidance.promised, guidance.weights * torch.tensor([1.0, 0.0, 1.0])[:, None])
        mixed = expert.sample(cond, noise=noise, known=some)
        tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
        close(mixed[1], plain[1], **tolerance)
        close(mixed[::2], drawn[::2], **tolerance)
        alone = Guidance(guidance.promised[2:], guidance.weights[2:])
        close(
            expert.sample(cond.rows(slice(2, 3)), noise=noise[2:], known=alone),
            drawn[2:],
            **tolerance,
        )
    assert all(parameter.grad is None for parameter in expert.parameters())


def test_guidance_with_a_state(expert: Expert, noise: Tensor) -> None:
    cond, guidance = expert.prepare(random_kv()), promise()
    zeros = torch.zeros(BATCH, 20)
    expected = expert.sample(cond, noise=noise, known=guidance)
    close(expert.sample(cond, noise=noise, state=zeros, known=guidance), expected, atol=1e-4, rtol=1e-4)
