"""What the expert spares must not change what it computes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_expert import BATCH, LENGTH, random_expert, random_kv
from torch import Tensor
from torch.nn import functional as F

from rdt2.errors import ActionError, CheckpointError, ConfigError
from rdt2.expert import Expert, ExpertConfig, flow_matching_loss, sample_timesteps, step_times

close = torch.testing.assert_close


def euler(expert: Expert, cond, x: Tensor, steps: int) -> Tensor:
    """A sample in so many words: modulations computed anew at each step."""
    with torch.no_grad():
        for k in range(steps):
            x = x + expert.velocity(x, torch.full((len(x),), k / steps), cond) / steps
    return x


def test_attention_equals_repeated_heads(expert: Expert) -> None:
    attention = expert.model.stack[0].cross_attn
    kv, x = random_kv(mask=True), torch.randn(BATCH, 28, 64)
    mask = kv.mask[:, None, None]
    q = attention.norm_q(attention.wq(x).view(BATCH, 28, 4, 16)).transpose(1, 2)
    keys, values = (tensor.repeat_interleave(2, dim=1) for tensor in (kv.keys[0], kv.values[0]))
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    expected = attention.wo(out.transpose(1, 2).reshape(BATCH, 28, 64))
    close(attention(x, kv.keys[0], kv.values[0], mask), expected, atol=1e-6, rtol=1e-5)


def test_all_true_mask_is_dropped_and_changes_nothing(expert: Expert, noise: Tensor) -> None:
    open_mask, no_mask = expert.prepare(random_kv(mask=False)), expert.prepare(random_kv())
    assert open_mask.mask is None
    close(expert.sample(open_mask, noise=noise), expert.sample(no_mask, noise=noise), atol=0, rtol=0)


def test_masked_tokens_have_no_influence(expert: Expert, noise: Tensor) -> None:
    kv = random_kv(mask=True)
    cond = expert.prepare(kv)
    assert cond.mask is not None
    expected = expert.sample(cond, noise=noise)
    for tensor in (*kv.keys, *kv.values):
        tensor[2, :, :2] = 1e3  # row 2 is padded by two tokens
    close(expert.sample(expert.prepare(kv), noise=noise), expected, atol=1e-6, rtol=1e-5)
    alone = SimpleNamespace(
        keys=[k[2:, :, 2:] for k in kv.keys], values=[v[2:, :, 2:] for v in kv.values], mask=None
    )
    close(expert.sample(expert.prepare(alone), noise=noise[2:]), expected[2:], atol=1e-5, rtol=1e-5)


def test_rows_of_a_conditioning(expert: Expert, noise: Tensor) -> None:
    cond = expert.prepare(random_kv(mask=True))
    expected = expert.sample(cond, noise=noise)
    close(expert.sample(cond.rows(slice(1, 2)), noise=noise[1:2]), expected[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_table_and_frozen_expert_equal_direct_computation(expert: Expert, noise: Tensor, steps: int) -> None:
    cond = expert.prepare(random_kv(mask=True))
    expected = euler(expert, cond, noise, steps)
    close(expert.sample(cond, noise=noise, steps=steps), expected, atol=1e-5, rtol=1e-5)
    zeros = torch.zeros(BATCH, 20)
    close(expert.sample(cond, noise=noise, steps=steps, state=zeros), expected, atol=1e-5, rtol=1e-5)
    expert.freeze_for_inference(steps)
    close(expert.sample(cond, noise=noise, steps=steps), expected, atol=1e-5, rtol=1e-5)
    close(euler(expert, cond, noise, steps), expected, atol=1e-5, rtol=1e-5)


def test_table_is_computed_once(expert: Expert) -> None:
    assert expert.tabulate(5) is expert.tabulate(5)
    assert expert.tabulate(5).shape == (5, 9 * 2 + 2, 64)
    assert not expert.tabulate(5).requires_grad


def test_table_follows_the_weights(expert: Expert) -> None:
    """A table that outlives a weight would make every later chunk wrong, without a word."""

    def stale() -> bool:
        return not torch.equal(expert.tabulate(5), expert.modulations(step_times(5)))

    expert.tabulate(5)
    for parameter in (
        expert.model.stack[1].adaLN_modulation[1].weight,
        expert.model.final_layer.adaLN_modulation[1].bias,
        expert.model.t_embedder.mlp[0].weight,
        expert.model.state_pos_emb,
        expert.state_adaptor[0].bias,
    ):
        with torch.no_grad():
            parameter.add_(0.1)
        assert not stale()
    expert.load_state_dict(random_expert(seed=7).state_dict())
    assert not stale()
    expert.to(torch.bfloat16).to(torch.float32)
    assert not stale()
    optimizer = torch.optim.SGD(expert.parameters(), lr=0.1)
    cond = expert.prepare(random_kv())
    for _ in range(2):  # an optimizer step between evaluations, without leaving evaluation mode
        flow_matching_loss(
            expert,
            cond,
            torch.ones(BATCH, 24, 20),
            noise=torch.zeros(BATCH, 24, 20),
            t=torch.full((BATCH,), 0.5),
        ).backward()
        optimizer.step()
        assert not stale()
    expert.train()
    expert.tabulate(5)
    assert not expert.tables._kept


def test_frozen_expert_lets_go_of_what_it_does_not_need(expert: Expert, noise: Tensor, tmp_path) -> None:
    before = sum(p.numel() for p in expert.parameters())
    expert.freeze_for_inference()
    names = {name for name, _ in expert.named_parameters()}
    assert not any("adaLN" in n or "t_embedder" in n or "state" in n or "cond_norm" in n for n in names)
    assert not any("cross_attn.wkv" in n or "cross_attn.norm_k" in n for n in names)
    assert sum(p.numel() for p in expert.parameters()) < before / 2
    cond = expert.prepare(random_kv())
    with pytest.raises(ConfigError, match=r"frozen for the times \[0.0, 0.2, 0.4, 0.6, 0.8\], but t = \[0.5"):
        expert.velocity(noise, torch.full((BATCH,), 0.5), cond)
    with pytest.raises(ConfigError, match="state that is not zero"):
        expert.velocity(noise, torch.zeros(BATCH), cond, state=torch.ones(BATCH, 20))
    with pytest.raises(ConfigError, match="frozen for the times"):
        expert.sample(cond, noise=noise, steps=3)
    with pytest.raises(ConfigError, match="already frozen"):
        expert.freeze_for_inference(1)
    with pytest.raises(CheckpointError, match="frozen for inference"):
        expert.save_pretrained(tmp_path)


def test_frozen_expert_can_be_cast(expert: Expert, noise: Tensor) -> None:
    exact = expert.sample(expert.prepare(random_kv()), noise=noise)
    expert.freeze_for_inference().to(torch.bfloat16)
    got = expert.sample(expert.prepare(random_kv()), noise=noise)
    assert got.dtype == torch.float32
    assert float((got - exact).norm() / exact.norm()) < 0.02


def test_published_expert_frozen_for_inference_is_less_than_half() -> None:
    """0.49 billion parameters, of which 0.21 remain resident (and the table: 5 x 128 x 1024)."""
    with torch.device("meta"):
        expert = Expert(ExpertConfig()).eval()
    total = sum(p.numel() for p in expert.parameters())
    expert.freeze_for_inference(5)
    kept = sum(p.numel() for p in expert.parameters())
    assert total == 487_691_284
    assert kept + expert.tabulate(5).numel() < 0.44 * total


def test_several_draws_share_one_conditioning(expert: Expert) -> None:
    """One prefill for k draws gives the loss and gradients of k repeated prefills."""
    kv, k = random_kv(mask=True), 4
    generator = torch.Generator().manual_seed(3)
    actions, state = (
        torch.randn(BATCH, 24, 20, generator=generator),
        torch.randn(BATCH, 20, generator=generator),
    )
    noise = torch.randn(k * BATCH, 24, 20, generator=generator)
    t = sample_timesteps(k * BATCH, generator=generator)
    shared = flow_matching_loss(expert, expert.prepare(kv), actions, noise=noise, t=t, state=state)
    shared.backward()
    gradients = {name: p.grad.clone() for name, p in expert.named_parameters() if p.grad is not None}
    expert.zero_grad()
    repeated = SimpleNamespace(
        keys=[x.repeat(k, 1, 1, 1) for x in kv.keys],
        values=[x.repeat(k, 1, 1, 1) for x in kv.values],
        mask=kv.mask.repeat(k, 1),
    )
    copied = flow_matching_loss(
        expert, expert.prepare(repeated), actions.repeat(k, 1, 1), noise=noise, t=t, state=state.repeat(k, 1)
    )
    copied.backward()
    close(shared, copied, atol=1e-6, rtol=1e-5)
    for name, parameter in expert.named_parameters():
        if parameter.grad is not None:
            close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)
    one_by_one = [
        flow_matching_loss(
            expert, expert.prepare(kv), actions, noise=noise[rows], t=t[rows], state=state
        )  # the same draws, one prefill each
        for rows in (slice(j * BATCH, (j + 1) * BATCH) for j in range(k))
    ]
    close(shared, torch.stack(one_by_one).mean(), atol=1e-6, rtol=1e-5)


def test_untrained_expert_predicts_no_motion() -> None:
    expert = Expert.from_config(ExpertConfig.tiny(), seed=0)
    kv = SimpleNamespace(
        keys=[torch.randn(2, 2, 5, 64) for _ in range(expert.config.depth)],
        values=[torch.randn(2, 2, 5, 64) for _ in range(expert.config.depth)],
        mask=None,
    )
    x = torch.randn(2, 24, 20)
    assert not expert.velocity(x, torch.rand(2), expert.prepare(kv)).any()


def test_seed_decides_the_first_weights_and_nothing_else() -> None:
    config = ExpertConfig.tiny(hidden_size=64, head_dim=16, selected_layers=(0,))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = Expert.from_config(config, seed=1), Expert.from_config(config, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(
        Expert.from_config(config, seed=2).act_adaptor[0].weight, first.act_adaptor[0].weight
    )


def test_training_learns_from_scratch() -> None:
    """The zero gates must not be a dead end: a few steps on one batch bring the loss down."""
    expert = Expert.from_config(
        ExpertConfig.tiny(hidden_size=64, head_dim=16, selected_layers=(0, 2)), seed=0
    )
    cond = expert.prepare(random_kv())
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(BATCH, 24, 20, generator=generator)
    optimizer = torch.optim.AdamW((p for p in expert.parameters() if p.requires_grad), lr=3e-3)
    losses = []
    for _ in range(40):
        noise = torch.randn(4 * BATCH, 24, 20, generator=generator)
        t = sample_timesteps(4 * BATCH, generator=generator)
        loss = flow_matching_loss(expert, cond, actions, noise=noise, t=t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_copy_has_its_own_tables(expert: Expert) -> None:
    before = expert.tabulate(5)
    student = copy.deepcopy(expert)
    with torch.no_grad():
        student.model.t_embedder.mlp[2].weight.add_(1.0)
    assert not torch.equal(student.tabulate(5), before)
    assert torch.equal(expert.tabulate(5), before)


def test_other_vlm_is_named(expert: Expert) -> None:
    kv = random_kv()
    wide = SimpleNamespace(
        keys=[torch.zeros(1, 4, 7, 128)] * 2, values=[torch.zeros(1, 4, 7, 128)] * 2, mask=None
    )
    with pytest.raises(CheckpointError, match=r"4 heads of 128, the expert attends to 2 heads of 16"):
        expert.prepare(wide)
    with pytest.raises(CheckpointError, match=r"2 layers of the VLM \(\[0, 2\]\), but keys of 1"):
        expert.prepare(SimpleNamespace(keys=kv.keys[:1], values=kv.values, mask=None))
    short = SimpleNamespace(keys=kv.keys, values=[kv.values[0], kv.values[1][:, :, 1:]], mask=None)
    with pytest.raises(CheckpointError, match="values of VLM layer 2"):
        expert.prepare(short)


def test_masks_that_cannot_be_are_refused(expert: Expert) -> None:
    kv = random_kv(mask=True)
    with pytest.raises(CheckpointError, match=rf"mask is \(3, {LENGTH - 1}\)"):
        expert.prepare(SimpleNamespace(keys=kv.keys, values=kv.values, mask=kv.mask[:, 1:]))
    kv.mask[1] = False
    with pytest.raises(CheckpointError, match="hides every token"):
        expert.prepare(kv)


def test_actions_of_another_shape_are_refused(expert: Expert, noise: Tensor) -> None:
    cond = expert.prepare(random_kv())
    with pytest.raises(ActionError, match=r"\(k \* 3, 24, 20\), they are \(2, 24, 20\)"):
        expert.sample(cond, noise=noise[:2])
    with pytest.raises(ActionError, match="for 3 observations"):
        flow_matching_loss(expert, cond, noise, noise=noise, t=torch.zeros(2))
    with pytest.raises(ConfigError, match="at least one step"):
        expert.sample(cond, noise=noise, steps=0)


def test_table_follows_weights_that_take_the_place_of_others(expert: Expert) -> None:
    """Another weight may lie where the one before it lay, as new as that was."""
    expert.tabulate(5)
    layer = expert.state_adaptor[0]
    values = layer.bias.detach().clone() + 1
    place = layer.bias.data_ptr()
    for _ in range(64):  # until the memory that was let go is given out again
        del layer.bias
        layer.register_parameter("bias", torch.nn.Parameter(values.clone()))
        if layer.bias.data_ptr() == place:
            break
    assert torch.equal(expert.tabulate(5), expert.modulations(step_times(5)))
    other = random_expert(seed=7).state_dict()
    expert.load_state_dict(other, assign=True)
    assert not expert.tables._kept
    assert torch.equal(expert.tabulate(5), expert.modulations(step_times(5)))


def test_tables_go_where_the_expert_goes_and_into_no_file(expert: Expert, tmp_path: Path) -> None:
    names = set(expert.state_dict())
    expert.tabulate(5)
    assert set(expert.state_dict()) == names
    again = pickle.loads(pickle.dumps(expert))
    assert not again.tables._kept
    assert torch.equal(again.tabulate(5), expert.tabulate(5))
    frozen = copy.deepcopy(expert).freeze_for_inference(5, 1)
    assert frozen.tables.frozen_steps == (5, 1)
    assert frozen.to(torch.float64).tabulate(1).dtype == torch.float64
    assert torch.equal(frozen.to(torch.float32).tabulate(5), expert.tabulate(5))
    assert not any(name.startswith("tables.") for name in frozen.state_dict())
