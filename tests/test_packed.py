"""Packed layers compute what plain ones do, compiled or not, and refuse what they cannot do."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from rdt2.errors import CheckpointError
from rdt2.expert import Expert, ExpertConfig
from rdt2.packed import PackedLinear, pack_linears

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="this PyTorch comes without MKL or oneDNN, so nothing is packed",
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (2, 1, 48), (3, 37, 48)])
def test_results_are_those_of_the_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 37, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)


def test_an_input_that_is_a_view_counts_as_what_it_shows() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 16)
    x = torch.randn(2, 48, 30).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)


def test_only_float32_linear_layers_are_packed() -> None:
    model = nn.ModuleDict(
        {
            "first": nn.Sequential(nn.Linear(4, 4), nn.SiLU()),
            "bf16": nn.Linear(4, 4, dtype=torch.bfloat16),
            "last": nn.LayerNorm(4),
        }
    )
    pack_linears(model)
    assert isinstance(model["first"][0], PackedLinear)  # type: ignore[index]
    assert type(model["bf16"]) is nn.Linear
    assert not any(p.dtype == torch.float32 and p.ndim == 2 for p in model.parameters())  # let go of
    pack_linears(model)  # twice is as once
    assert model["first"](torch.ones(1, 4)).shape == (1, 4)


def test_compiled_layers_share_their_code() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(12)]
    x = torch.randn(3, 8)
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True)
    def run(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return layer(2 * x)

    for plain in layers:
        packed = PackedLinear(plain)
        with torch.no_grad():
            torch.testing.assert_close(run(packed, x), plain(2 * x), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1


def test_copies_share_the_weights() -> None:
    layer = PackedLinear(nn.Linear(4, 4))
    assert copy.deepcopy(nn.Sequential(layer))[0] is layer


def test_a_packed_model_is_not_saved(tmp_path: Path) -> None:
    expert = Expert.from_config(ExpertConfig.tiny(), seed=0)
    pack_linears(expert)
    with pytest.raises(CheckpointError, match="load the checkpoint again"):
        expert.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_of_the_input_is_that_of_the_plain_layer(bias: bool) -> None:
    """regression: the gradient was lost on the way, with no more than a warning."""
    torch.manual_seed(0)
    linear = nn.Linear(48, 37, bias=bias)
    packed = PackedLinear(linear)
    gradients = []
    for layer in (linear, packed):
        x = torch.ones(2, 3, 48, requires_grad=True)
        layer(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    packed.pack(torch.zeros(37, 48))
    (none,) = torch.autograd.grad(packed(x).sum(), x)
    assert not none.any()
