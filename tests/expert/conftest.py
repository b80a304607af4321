"""Fixtures of the expert's tests."""

from __future__ import annotations

import pytest
import torch
from random_expert import BATCH, random_expert

from rdt2.expert import Expert


@pytest.fixture
def expert() -> Expert:
    return random_expert()


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(BATCH, 24, 20, generator=torch.Generator().manual_seed(2))
