"""One untrained tiny VLM for all tests of this folder (importing Qwen2.5-VL is the slow part)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rdt2.vlm import TinyConfig, create_tiny_vlm

SENTENCES = [
    f"{verb} the {colour} {shape} with the {hand} hand."
    for verb in ("Pick up", "Press")
    for colour in ("red", "blue")
    for shape in ("cube", "button")
    for hand in ("left", "right")
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """folder, processor and model of a small Qwen2.5-VL whose windows are of unequal size."""
    folder: Path = tmp_path_factory.mktemp("tiny_vlm")
    config = TinyConfig(
        hidden_size=64,
        num_layers=3,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=96,
        vision_hidden_size=32,
        vision_num_heads=2,
        vision_intermediate_size=48,
        window_size=112,
        full_attention_block=1,
    )
    processor, model = create_tiny_vlm(folder, sentences=SENTENCES, config=config)
    return SimpleNamespace(folder=folder, processor=processor, model=model.eval())


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Two smooth pictures of the size that two 384 x 384 wrist cameras make."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 12, 24, 3), dtype=np.uint8)
    return list(coarse.repeat(32, 1).repeat(32, 2))
