"""The reconstruction report: figures in millimetres and degrees."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from rdt2.errors import ActionError
from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig, evaluate_reconstruction


class Displaced(ActionTokenizer):
    """Gives chunks back with known errors: right 3 mm in x and 2 mm of width, left 4 degrees about z."""

    def encode(self, actions: Tensor) -> Tensor:
        self.seen = actions.clone()
        return (torch.arange(27)[None] + torch.arange(len(actions))[:, None]) % 4

    def decode(self, tokens: Tensor, *, levels: int) -> Tensor:
        out = self.seen.clone()
        out[..., 0] += 0.003
        out[..., 9] -= 0.002
        angle = np.radians(4.0)
        out[..., 13:19] = torch.tensor([np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0])
        return out


@pytest.fixture
def identity() -> LinearNormalizer:
    one = torch.ones(20)
    return LinearNormalizer(scale=one, offset=0 * one, minimum=-one, maximum=one)


@pytest.fixture
def recorded() -> np.ndarray:
    actions = np.random.default_rng(0).normal(0, 0.1, (600, 24, 20)).astype(np.float32)
    actions[..., [3, 7, 13, 17]] = 1
    actions[..., [4, 5, 6, 8, 14, 15, 16, 18]] = 0
    return actions


def test_known_errors_are_reported_in_their_units(identity: LinearNormalizer, recorded: np.ndarray) -> None:
    report = evaluate_reconstruction(Displaced(TokenizerConfig.tiny()), identity, recorded)
    np.testing.assert_allclose(report.position_mm, np.tile([3.0, 0.0], (24, 1)), atol=1e-4)
    np.testing.assert_allclose(report.position_axis_mm[:, 0], np.tile([3.0, 0, 0], (24, 1)), atol=1e-4)
    np.testing.assert_allclose(report.rotation_degrees, np.tile([0.0, 4.0], (24, 1)), atol=1e-4)
    np.testing.assert_allclose(report.grip_mm, np.tile([2.0, 0.0], (24, 1)), atol=1e-4)
    summary = report.summary()
    assert summary["position_mm"] == pytest.approx(1.5, abs=1e-4)
    assert summary["rotation_degrees"] == pytest.approx(2.0, abs=1e-4)
    assert summary["grip_mm"] == pytest.approx(1.0, abs=1e-4)
    assert report.chunks == 600
    assert json.loads(json.dumps(report.as_dict()))["chunks"] == 600


def test_code_use_counts_codes_a_codebook(identity: LinearNormalizer, recorded: np.ndarray) -> None:
    report = evaluate_reconstruction(Displaced(TokenizerConfig.tiny()), identity, recorded)
    assert {part: len(use) for part, use in report.code_use.items()} == {"pos": 6, "rot": 2, "grip": 1}
    assert report.code_use["grip"] == [4 / 256]  # tokens 0..3 of 256
    assert report.perplexity["pos"][0] == pytest.approx(4.0, abs=0.05)


def test_no_chunks(identity: LinearNormalizer) -> None:
    with pytest.raises(ActionError, match="no chunk"):
        evaluate_reconstruction(ActionTokenizer(TokenizerConfig.tiny()), identity, np.zeros((0, 24, 20)))
