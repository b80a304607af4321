"""The three stages one after the other on a few recorded samples, to policies that run: the whole way, in seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdt2.data import ShardWriter, fit_normalizer, tokenize_shards, write_dataset_yaml
from rdt2.errors import CheckpointError, ConfigError
from rdt2.observation import Observation
from rdt2.policy import load_policy
from rdt2.policy.export import export_policies
from rdt2.training.cli import run_training

SENTENCES = ("Pick up the red cube with the left hand.", "Press the blue button with the right hand.")
SHORT = (
    "steps=2",
    "batch_size=4",
    "warmup_steps=1",
    "log_every=1",
    "evaluate_samples=4",
    "trackers=[]",
    "precision=fp32",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """48 samples of 4 episodes: smooth random motion of both hands under random pictures."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number in range(48):
            steps = np.linspace(0, 1, 24, dtype=np.float32)[:, None]
            action = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2, np.float32), (24, 1))
            for first in (0, 10):
                action[:, first : first + 3] = steps * rng.normal(0, 0.1, 3).astype(np.float32)
                action[:, first + 9 : first + 10] = 0.044 + 0.04 * steps * rng.uniform(-1, 1)
            writer.write(
                picture=rng.integers(0, 255, (384, 768, 3), dtype=np.uint8), action=action,
                instruction=SENTENCES[number % 2], meta={"episode": number // 12},
            )  # fmt: skip
    fit_normalizer(folder).save_pretrained(folder)
    write_dataset_yaml(folder, name="toy")
    return folder


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Two steps of every stage."""
    out = tmp_path_factory.mktemp("runs")

    def train(stage, data, *overrides):
        return run_training(
            stage, config=None, overrides=[*SHORT, *overrides], data=data, out=out / stage
        ).model

    tokenizer = train("tokenizer", shards, "size=tiny")
    from rdt2.normalizer import LinearNormalizer
    from rdt2.tokenizer import ActionTokenizer

    tokenize_shards(
        shards,
        out / "tokens",
        ActionTokenizer.from_pretrained(tokenizer),
        LinearNormalizer.from_pretrained(tokenizer),
    )
    pointing = train("pointing", out / "tokens")
    vlm = train("vq", out / "tokens", f"start_from={pointing}")
    expert = train("expert", out / "tokens", "start_from=tiny", f"vlm={vlm}", "draws=2")
    return {"tokenizer": tokenizer, "vlm": vlm, "expert": expert, "out": out}


def test_trained_parts_become_policies_that_predict(runs, tmp_path):
    parts = {name: runs[name] for name in ("tokenizer", "vlm", "expert")}
    bundles = export_policies(tmp_path / "policy", **parts)
    assert [bundle.name for bundle in bundles] == ["vq.json", "fm.json"]
    picture = np.full((384, 384, 3), 90, np.uint8)
    for bundle in bundles:
        (chunk,) = load_policy(bundle).predict([Observation(picture, picture, SENTENCES[0])], seed=0)
        assert chunk.valid
        assert chunk.values.shape == (24, 20)
    with pytest.raises(CheckpointError, match="not empty"):
        export_policies(tmp_path / "policy", **parts)


def test_a_run_leaves_metrics_and_a_loss_curve(runs):
    for stage in ("tokenizer", "pointing", "vq", "expert"):
        folder = runs["out"] / stage
        assert (folder / "loss.png").stat().st_size > 1000
        assert "eval/loss" in (folder / "metrics.jsonl").read_text()


def test_shards_without_tokens_need_a_tokenizer(shards, tmp_path):
    with pytest.raises(ConfigError, match="hold no action tokens"):
        run_training(
            "vq", config=None, overrides=[*SHORT, "start_from=tiny"], data=shards, out=tmp_path / "vq"
        )


def test_pointing_needs_instructions_that_point(shards, tmp_path):
    data = tmp_path / "words"
    data.mkdir()
    (data / "shard-000000.tar").symlink_to(shards / "shard-000000.tar")
    table = json.loads((shards / "instructions.json").read_text())
    (data / "instructions.json").write_text(json.dumps(dict.fromkeys(table, "Pick up the apple.")))
    with pytest.raises(ConfigError, match="name a hand and a colour"):
        run_training("pointing", config=None, overrides=SHORT, data=data, out=tmp_path / "run")


def test_a_dataset_smaller_than_a_batch_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match="one step needs 64"):
        run_training(
            "tokenizer", config=None, overrides=["size=tiny", "batch_size=64"], data=shards, out=tmp_path
        )


def test_no_normalizer_is_said(shards, tmp_path):
    data = tmp_path / "bare"
    data.mkdir()
    for name in ("shard-000000.tar", "instructions.json"):
        (data / name).symlink_to(shards / name)
    with pytest.raises(ConfigError, match="no normalizer beside the shards"):
        run_training(
            "tokenizer", config=None, overrides=[*SHORT, "size=tiny"], data=data, out=tmp_path / "run"
        )
