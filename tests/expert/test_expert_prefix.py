"""Experts that are given the first rows of a chunk: what is learned, what comes out, and what stays as it was."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from random_expert import BATCH, random_expert, random_kv
from torch import Tensor

from rdt2.errors import CheckpointError, ConfigError
from rdt2.expert import Expert, ExpertConfig, Prefix, flow_matching_loss, sample_timesteps

close = torch.testing.assert_close


def with_prefix(prefix: int = 8) -> Expert:
    expert = random_expert()
    expert.config = dataclasses.replace(expert.config, prefix=prefix)
    return expert


def given_rows(*rows: int) -> Prefix:
    actions = torch.randn(len(rows), 24, 20, generator=torch.Generator().manual_seed(9))
    return Prefix.of(actions, torch.tensor(rows))


def test_the_config_says_so_and_says_nothing_without(tmp_path) -> None:
    assert ExpertConfig.from_dict(with_prefix().config.to_dict()).prefix == 8
    plain = random_expert().config.to_dict()
    assert "prefix" not in plain["config"]
    assert ExpertConfig.from_dict(plain).prefix == 0
    for wrong in (24, -1, "8", True):
        with pytest.raises(CheckpointError, match="prefix must be a whole number of 0 to 23"):
            ExpertConfig.from_dict({**plain, "config": {**plain["config"], "prefix": wrong}})
    with_prefix().save_pretrained(tmp_path)
    assert Expert.from_pretrained(tmp_path).config.prefix == 8


def test_the_loss_is_that_of_the_other_rows(expert: Expert, noise: Tensor) -> None:
    cond, prefix = expert.prepare(random_kv()), given_rows(5, 0, 2)
    t, actions = torch.tensor([0.2, 0.5, 0.7]), prefix.actions
    loss = flow_matching_loss(expert, cond, actions, noise=noise, t=t, given=prefix.given)
    x_t = t[:, None, None] * actions + (1 - t[:, None, None]) * noise
    errors = []
    for row, rows in enumerate((5, 0, 2)):
        x_t[row, :rows] = actions[row, :rows]
        one = cond.rows(slice(row, row + 1))
        got = expert.velocity(x_t[row : row + 1], t[row : row + 1], one, given=prefix.given[row : row + 1])
        errors.append((got - (actions - noise)[row : row + 1])[0, rows:])
    close(loss, torch.cat(errors).square().mean(), atol=1e-5, rtol=1e-4)
    other = noise.clone()
    other[0, :5] += 10  # the noise of given rows is in nothing
    close(flow_matching_loss(expert, cond, actions, noise=other, t=t, given=prefix.given), loss)


def test_nothing_given_is_as_before(expert: Expert, noise: Tensor) -> None:
    cond, t = expert.prepare(random_kv()), torch.full((BATCH,), 0.4)
    nothing = given_rows(0, 0, 0)
    close(expert.velocity(noise, t, cond, given=nothing.given), expert.velocity(noise, t, cond))
    trained = with_prefix()
    plain = expert.sample(cond, noise=noise)
    assert torch.equal(trained.sample(cond, noise=noise), plain)
    close(trained.sample(cond, noise=noise, known=nothing), plain)
    with pytest.raises(ConfigError, match="prefix is 0"):
        expert.sample(cond, noise=noise, known=nothing)


@pytest.mark.parametrize("frozen", [False, True])
def test_samples_are_steps_with_the_given_rows_held(noise: Tensor, frozen: bool) -> None:
    expert, prefix = with_prefix(), given_rows(5, 0, 2)
    cond = expert.prepare(random_kv(mask=True))
    x = noise
    with torch.no_grad():
        for k in range(5):
            x = prefix.over(x)
            x = x + expert.velocity(x, torch.full((3,), k / 5), cond, given=prefix.given) / 5
    state = torch.zeros(BATCH, 20)
    close(expert.sample(cond, noise=noise, known=prefix, state=state), prefix.over(x), atol=1e-5, rtol=1e-5)
    if frozen:
        expert.freeze_for_inference()
        close(expert.velocity(noise, torch.full((3,), 0.4), cond, given=prefix.given).shape, noise.shape)
    got = expert.sample(cond, noise=noise, known=prefix)
    close(got, prefix.over(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(got[0, :5], prefix.actions[0, :5])
    alone = Prefix(prefix.actions[:1], prefix.given[:1])
    close(expert.sample(cond.rows(slice(0, 1)), noise=noise[:1], known=alone), got[:1], atol=1e-5, rtol=1e-5)


def test_an_expert_learns_to_go_on_from_what_it_is_given() -> None:
    """Chunks are straight lines of any slope: given rows tell which."""
    config = dataclasses.replace(
        ExpertConfig.tiny(hidden_size=64, head_dim=16, selected_layers=(0, 2)), prefix=8
    )
    expert = Expert.from_config(config, seed=0)
    cond = expert.prepare(random_kv(batch=24))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW((p for p in expert.parameters() if p.requires_grad), lr=4e-3)

    def lines(n: int) -> Tensor:
        return torch.randn(n, 1, 1, generator=generator) * torch.linspace(0.5, 1.5, 24)[:, None].expand(
            24, 20
        )

    for _ in range(300):
        actions = lines(24)
        noise = torch.randn(24, 24, 20, generator=generator)
        t, rows = sample_timesteps(24, generator=generator), torch.randint(0, 9, (24,), generator=generator)
        given = Prefix.of(noise, rows).given
        loss = flow_matching_loss(expert, cond, actions, noise=noise, t=t, given=given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expert.eval()
    wanted = lines(24)
    noise = torch.randn(24, 24, 20, generator=generator)
    free, bound = (
        expert.sample(cond, noise=noise, known=known)
        for known in (None, Prefix.of(wanted, torch.full((24,), 6)))
    )
    errors = [(chunks - wanted)[:, 6:].square().mean().item() for chunks in (free, bound)]
    assert errors[1] < 0.3 * errors[0], errors
