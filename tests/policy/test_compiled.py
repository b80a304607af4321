"""The compiled policy gives the same chunks, and really runs compiled code, once for all instructions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from rdt2.errors import CheckpointError
from rdt2.policy import CompiledFMPolicy, FMPolicy, load_policy


@pytest.fixture
def counter() -> CompileCounter:
    torch._dynamo.reset()
    return CompileCounter()


def test_two_frames_are_compiled_and_serve_all_instructions(
    bundles: dict[str, Path], fm: FMPolicy, samples: SimpleNamespace, counter: CompileCounter
):
    own = load_policy(bundles["fm"])
    assert isinstance(own, FMPolicy)
    policy = CompiledFMPolicy(
        vlm=own.vlm, processor=own.processor, expert=own.expert, normalizer=own.normalizer, backend=counter
    )
    assert counter.frame_count == 2  # the prompt's layers, and a step of the expert
    noise = torch.randn(1, 24, 20, generator=torch.Generator().manual_seed(0))
    lengths = set()
    for picture, instruction in zip(samples.pictures, samples.instructions, strict=True):
        lengths.add(fm.processor.prompt([picture], [instruction])["input_ids"].shape[1])
        (ours,) = policy.predict_pictures([picture], [instruction], noise=noise)
        (expected,) = fm.predict_pictures([picture], [instruction], noise=noise)
        np.testing.assert_allclose(ours.values, expected.values, atol=1e-4)
    padded = {length // 32 for length in lengths}
    assert len(lengths) > len(padded)
    assert counter.frame_count == 2 + 2 * len(padded)  # these pictures are smaller than the warm-up's


def test_compiling_is_for_fm(bundles: dict[str, Path]):
    with pytest.raises(CheckpointError, match="compile=True"):
        load_policy(bundles["vq"], compile=True)
