"""A few samples and one untrained tiny VLM for the tests of the stages that read pictures."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.data import ShardWriter, fit_normalizer

SENTENCES = ("Pick up the red cube with the left hand.", "Press the blue button with the right hand.")


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder of 32 samples of 4 episodes with tokens, and its normalizer."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number in range(32):
            action = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2, np.float32), (24, 1))
            action[:, [0, 1, 2, 9, 10, 11, 12, 19]] += rng.uniform(0, 0.03, 8).astype(np.float32)
            writer.write(
                picture=rng.integers(0, 255, (384, 768, 3), dtype=np.uint8), action=action,
                tokens=rng.integers(0, 1024, 27), instruction=SENTENCES[number % 2],
                meta={"episode": number // 8},
            )  # fmt: skip
    fit_normalizer(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory):
    """Folder of a Qwen2.5-VL of three narrow layers."""
    from rdt2.vlm import TinyConfig, create_tiny_vlm

    folder = tmp_path_factory.mktemp("vlm")
    shape = TinyConfig(
        hidden_size=64, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=96, vision_depth=2,
        vision_hidden_size=32, vision_num_heads=2, vision_intermediate_size=48, full_attention_block=1,
    )  # fmt: skip
    create_tiny_vlm(folder, sentences=SENTENCES, config=shape)
    return folder


@pytest.fixture(scope="session")
def demo_vlm(tmp_path_factory):
    """Folder of a VLM of the shape that the tiny expert reads."""
    from rdt2.vlm import create_tiny_vlm

    folder = tmp_path_factory.mktemp("demo_vlm")
    create_tiny_vlm(folder, sentences=SENTENCES)
    return folder
