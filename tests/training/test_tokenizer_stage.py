"""Training the action tokenizer: on a small real recording, and from chunks that could have been recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import write_recordings
from toy import batch_of

from rdt2.data import ShardIndex
from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, evaluate_reconstruction
from rdt2.training.cli import run_training
from rdt2.training.config import TokenizerTraining
from rdt2.training.tokenizer import TokenizerStage

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "training"


def test_one_real_episode_teaches_the_motion_of_another(real: Path, tmp_path: Path) -> None:
    """The command of the README with its preset: episode 0 (448 samples) in, episode 1 reconstructed."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "shard-000000.tar").symlink_to(real / "shard-000000.tar")
    model = run_training(
        "tokenizer", config=PRESETS / "tokenizer_real.yaml", data=data, out=tmp_path / "run",
        overrides=[f"normalizer={real / 'normalizer.pt'}", "trackers=[]"],
    ).model  # fmt: skip
    other = ShardIndex(real / "shard-000001.tar", instructions="ignore").all_actions()
    figures = evaluate_reconstruction(
        ActionTokenizer.from_pretrained(model), LinearNormalizer.from_pretrained(model), other
    ).summary()
    assert figures["position_mm"] < 5
    assert figures["rotation_degrees"] < 2
    assert figures["grip_mm"] < 1


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_a_function_of_the_step(samples: Path, augment: bool) -> None:
    config = TokenizerTraining(size="tiny", batch_size=8, augment=augment)
    first, second = (TokenizerStage(config, samples) for _ in range(2))
    later = batch_of(first, 5)["actions"].numpy()
    assert np.array_equal(batch_of(second, 5)["actions"].numpy(), later)
    recorded = first.source.index.all_actions(first.source.samples_of(5)[0])
    assert np.array_equal(later, recorded) is not augment


@pytest.mark.parametrize("augment", [False, True])
def test_actions_of_a_large_data_set_are_read_when_they_are_learnt(
    samples: Path, augment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TokenizerTraining(size="tiny", batch_size=8, augment=augment, linear_start=50)
    small = TokenizerStage(config, samples)
    monkeypatch.setattr("rdt2.training.tokenizer.IN_MEMORY", 0)
    large = TokenizerStage(config, samples)
    for step in (0, 5):
        assert torch.equal(batch_of(large, step)["actions"], batch_of(small, step)["actions"])
    states = small.module.state_dict(), large.module.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_validation_set_of_its_own_is_what_is_evaluated(samples: Path, tmp_path: Path) -> None:
    other = write_recordings(tmp_path / "other")
    config = TokenizerTraining(size="tiny", batch_size=8, validation=str(other), evaluate_samples=4)
    stage = TokenizerStage(config, samples)
    recorded = ShardIndex(other).all_actions([0, 16, 31, 47])  # spread over all 48
    seen: list[torch.Tensor] = []
    stage.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["actions"]))
    with torch.no_grad():
        stage.evaluate(stage.module, torch.device("cpu"))
    assert np.array_equal(seen[0].numpy(), recorded)
    assert not np.array_equal(recorded, stage.source.index.all_actions(range(4)))


def test_number_of_codes_and_start_are_settings(samples: Path) -> None:
    config = TokenizerTraining(size="tiny", batch_size=8, num_embeddings=32, linear_start=100, augment=True)
    first, second = (TokenizerStage(config, samples).module.tokenizer for _ in range(2))
    assert first.num_embeddings == 32
    states = first.state_dict(), second.state_dict()
    assert all((value == states[1][name]).all() for name, value in states[0].items())
    assert first.pos_vqvae.vq.quantizers[0].initialised
