"""Training from scratch may begin as a linear transform coder."""

from __future__ import annotations

import numpy as np
import torch

from rdt2.metrics import action_errors
from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig, evaluate_reconstruction


def _motion(count: int, seed: int) -> np.ndarray:
    """Chunks (count, 24, 20), metres: straight ways of both hands with growing speed, and closing jaws."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 1, 24, dtype=np.float32)[:, None]
    chunks = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2, np.float32), (count, 24, 1))
    for chunk in chunks:
        for first in (0, 10):
            chunk[:, first : first + 3] = steps ** rng.uniform(1, 2) * rng.normal(0, 0.1, 3)
            chunk[:, first + 9 : first + 10] = 0.044 + 0.04 * steps * rng.uniform(-1, 1)
    return chunks.astype(np.float32)


def test_a_linear_start_knows_motion_before_any_step() -> None:
    chunks, others = _motion(1000, 0), _motion(100, 1)
    normalizer = LinearNormalizer.fit(chunks.reshape(-1, 20))
    errors = {}
    for name in ("random", "linear"):
        torch.manual_seed(0)
        tokenizer = ActionTokenizer(TokenizerConfig.tiny()).train()
        normalized = normalizer.normalize(torch.from_numpy(chunks))
        if name == "linear":
            tokenizer.start_linear(normalized, generator=torch.Generator().manual_seed(0))
        else:
            tokenizer(normalized, generator=torch.Generator().manual_seed(0))  # draws its first codes
        errors[name] = evaluate_reconstruction(tokenizer.eval(), normalizer, others).summary()
    assert errors["linear"]["position_mm"] < 6
    assert errors["linear"]["position_mm"] < 0.2 * errors["random"]["position_mm"]
    assert errors["linear"]["rotation_degrees"] < 0.5


def test_the_same_generator_gives_the_same_start() -> None:
    chunks = torch.from_numpy(_motion(300, 0))
    starts = []
    for _ in range(2):
        torch.manual_seed(0)
        tokenizer = ActionTokenizer(TokenizerConfig.tiny())
        tokenizer.start_linear(chunks, generator=torch.Generator().manual_seed(1))
        starts.append(tokenizer.state_dict())
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


def test_every_level_brings_the_motion_nearer() -> None:
    chunks, others = _motion(1000, 0), _motion(100, 1)
    normalizer = LinearNormalizer.fit(chunks)
    tokenizer = ActionTokenizer(TokenizerConfig.tiny()).eval()
    tokenizer.start_linear(normalizer.normalize(torch.from_numpy(chunks)))
    tokens = tokenizer.encode(normalizer.normalize(torch.from_numpy(others)))
    errors = [
        action_errors(
            normalizer.denormalize(tokenizer.decode(tokens, levels=levels)).numpy(), others
        ).position_mm
        for levels in range(1, 7)
    ]
    still = action_errors(_motion(100, 1)[:, :1].repeat(24, axis=1), others).position_mm
    assert errors[0] < 0.6 * still  # 256 codes for six independent directions a third
    assert errors == sorted(errors, reverse=True)


def test_gradients_reach_every_weight_after_a_step() -> None:
    chunks = _motion(200, 0)
    normalized = LinearNormalizer.fit(chunks).normalize(torch.from_numpy(chunks))
    normalized[..., 3:9] += 0.1 * torch.randn(200, 24, 6, generator=torch.Generator().manual_seed(0))
    tokenizer = ActionTokenizer(TokenizerConfig.tiny()).train()
    tokenizer.start_linear(normalized)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-6)
    for _ in range(
        2
    ):  # the residual blocks' last convolutions begin at zero and hold the others' gradients back
        optimizer.zero_grad()
        tokenizer(normalized).loss.backward()
        optimizer.step()
    assert not [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
