"""The real recording: a tokenizer that saw one episode rebuilds the other."""

from __future__ import annotations

import numpy as np

from rdt2.data import ShardIndex
from rdt2.normalizer import LinearNormalizer
from rdt2.tokenizer import ActionTokenizer, evaluate_reconstruction
from rdt2.training.cli import run_training


def test_trained_on_one_episode_rebuilds_the_other(real, tmp_path, request):
    preset = request.config.rootpath / "configs" / "training" / "tokenizer_tiny.yaml"
    data = tmp_path / "data"
    data.mkdir()
    (data / "shard-000000.tar").symlink_to(real / "shard-000000.tar")
    LinearNormalizer.from_pretrained(real / "normalizer.pt").save_pretrained(data)
    overrides = ["steps=600", "batch_size=64", "evaluate_every=0", "save_every=1000", "trackers=[]"]
    result = run_training("tokenizer", config=preset, overrides=overrides, data=data, out=tmp_path / "run")
    other = ShardIndex(real / "shard-000001.tar", instructions="ignore").all_actions()
    report = evaluate_reconstruction(
        ActionTokenizer.from_pretrained(result.model), LinearNormalizer.from_pretrained(result.model), other
    ).summary()
    assert other.shape == (266, 24, 20)
    assert np.isfinite(list(report.values())).all()
    assert report["position_mm"] < 5
    assert report["rotation_degrees"] < 2
