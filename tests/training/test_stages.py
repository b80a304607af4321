"""The three stages one after the other on a few recorded samples, to policies that run: the whole way, in seconds."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from made_up import SENTENCES, SHORT, write_recordings
from safetensors.torch import load_file, save_file

import rdt2.vlm
from rdt2.data import tokenize_shards
from rdt2.errors import CheckpointError, ConfigError, NormalizerError, ObservationError
from rdt2.normalizer import LinearNormalizer
from rdt2.observation import Observation
from rdt2.policy import load_policy
from rdt2.policy.export import export_policies
from rdt2.training.cli import run_training
from rdt2.training.evaluation import mean_over_batches


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Two steps of every stage."""
    out = tmp_path_factory.mktemp("runs")

    def train(stage, data, *overrides):
        return run_training(
            stage, config=None, overrides=[*SHORT, *overrides], data=data, out=out / stage
        ).model

    tokenizer = train("tokenizer", shards, "size=tiny")
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


def test_an_expert_is_used_with_the_vlm_it_learnt_on(runs, tmp_path, monkeypatch):
    parts = {name: runs[name] for name in ("tokenizer", "vlm", "expert")}
    other = shutil.copytree(runs["vlm"], tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.layers.5.self_attn.v_proj.weight"] *= 1.05
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    message = f"learnt on the VLM {runs['vlm']}, and {other} has other weights"
    with pytest.raises(ConfigError, match=message):
        load_policy(str(runs["expert"]), vlm=str(other))
    with pytest.raises(ConfigError, match=message):
        export_policies(tmp_path / "wrong", **{**parts, "vlm": other})
    assert not (tmp_path / "wrong").exists()
    (
        shutil.copytree(runs["expert"], tmp_path / "expert") / "vlm.json"
    ).unlink()  # as published: it says nothing
    load_policy(str(tmp_path / "expert"), vlm=str(other))

    asked = []
    load = rdt2.vlm.load_vlm
    monkeypatch.setattr(rdt2.vlm, "load_vlm", lambda *a, **k: asked.append(k) or load(*a, **k))
    bundle = export_policies(tmp_path / "half", **parts, dtype=torch.float16)[1]
    assert asked == [{"dtype": torch.float16}], "never whole in float32"
    written, read = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "half" / "vlm", runs["vlm"])
    )
    assert all(torch.equal(value, read[name].half()) for name, value in written.items())
    load_policy(bundle)
    with pytest.raises(ConfigError, match="has other weights"):
        load_policy(bundle, vlm=str(other))


def test_trained_parts_become_policies_that_predict(runs, tmp_path):
    parts = {name: runs[name] for name in ("tokenizer", "vlm", "expert")}
    own = LinearNormalizer.from_pretrained(runs["expert"])
    expert = shutil.copytree(runs["expert"], tmp_path / "expert")
    dataclasses.replace(own, scale=2 * own.scale, offset=2 * own.offset).save_pretrained(expert)
    parts["expert"] = expert
    bundles = export_policies(tmp_path / "policy", **parts)
    fm = load_policy(bundles[1])
    torch.testing.assert_close(fm.normalizer.scale, 2 * own.scale)  # that of the expert, not of the tokenizer
    vq = load_policy(bundles[0])
    torch.testing.assert_close(vq.normalizer.scale, own.scale)
    assert [bundle.name for bundle in bundles] == ["vq.json", "fm.json"]
    picture = np.full((384, 384, 3), 90, np.uint8)
    for bundle in bundles:
        (chunk,) = load_policy(bundle).predict([Observation(picture, picture, SENTENCES[0])], seed=0)
        assert chunk.valid
        assert chunk.values.shape == (24, 20)
    with pytest.raises(CheckpointError, match="not empty"):
        export_policies(tmp_path / "policy", **parts)


def test_an_expert_that_sees_where_the_arms_are(runs, tmp_path):
    settings = [
        *SHORT,
        "start_from=tiny",
        f"vlm={runs['vlm']}",
        "state=true",
        "learning_rate=0.05",
        "draws=2",
    ]
    data = runs["out"] / "tokens"
    expert = run_training("expert", config=None, overrides=settings, data=data, out=tmp_path / "expert").model
    fast = [*SHORT, f"start_from={expert}", f"vlm={runs['vlm']}", "state=true"]
    student = run_training("distill", config=None, overrides=fast, data=data, out=tmp_path / "fast").model
    picture = np.full((384, 384, 3), 90, np.uint8)
    for model in (expert, student):
        fm = load_policy(str(model), vlm=str(runs["vlm"]), normalizer=str(runs["expert"]))
        here, there = (
            fm.predict([Observation(picture, picture, SENTENCES[0], state=np.full(20, s))], seed=0)[0].values
            for s in (0.1, 1.0)
        )
        assert np.abs(here - there).max() > 1e-5
        with pytest.raises(ObservationError, match="state"):
            fm.predict([Observation(picture, picture, SENTENCES[0])], seed=0)
    with pytest.raises(ConfigError, match="state=true"):
        run_training("expert", config=None, overrides=fast[:-1], data=data, out=tmp_path / "without")


def test_every_model_says_what_its_numbers_and_tokens_mean(runs):
    from rdt2.origin import read_origin
    from rdt2.tokenizer import ActionTokenizer

    names = ("tokenizer", "vlm", "expert")
    digests = {name: LinearNormalizer.from_pretrained(runs[name]).digest for name in names}
    assert len(set(digests.values())) == 1
    made = read_origin(runs["vlm"])
    assert made == (ActionTokenizer.from_pretrained(runs["tokenizer"]).digest, digests["vlm"])


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


def test_frozen_layers_keep_their_weights(runs):
    start = runs["out"] / "pointing" / "model"
    run_training(
        "vq", config=None, data=runs["out"] / "tokens", out=runs["out"] / "frozen",
        overrides=[*SHORT, f"start_from={start}", "frozen_layers=3"],
    )  # fmt: skip
    before, after = (
        load_file(folder / "model.safetensors") for folder in (start, runs["out"] / "frozen" / "model")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(
        name.startswith(("model.layers.3", "model.layers.4", "model.layers.5", "model.norm", "lm_head"))
        for name in moved
    )


def test_as_many_frozen_layers_as_there_are_is_refused(runs):
    start = runs["out"] / "pointing" / "model"
    with pytest.raises(ConfigError, match="frozen_layers=6, expected 0 to 5"):
        run_training(
            "vq", config=None, data=runs["out"] / "tokens", out=runs["out"] / "all-frozen",
            overrides=[*SHORT, f"start_from={start}", "frozen_layers=6"],
        )  # fmt: skip


def test_a_processor_with_more_words_than_the_vlm(samples, tiny_vlm, tmp_path):
    """regression: an index out of range in the first step."""
    other = tmp_path / "processor"
    shutil.copytree(tiny_vlm, other)
    words = json.loads((other / "tokenizer.json").read_text())
    last = words["added_tokens"][-1]
    more = [{**last, "id": last["id"] + 1 + n, "content": f"<|more_{n}|>"} for n in range(4000)]
    (other / "tokenizer.json").write_text(json.dumps(words | {"added_tokens": words["added_tokens"] + more}))
    for stage, settings in (
        ("vq", (f"start_from={tiny_vlm}",)),
        ("expert", (f"vlm={tiny_vlm}", "start_from=tiny")),
        ("distill", (f"vlm={tiny_vlm}",)),
    ):
        with pytest.raises(CheckpointError, match=r"processor knows \d+ words, but the VLM .* has rows for"):
            run_training(
                stage, config=None, overrides=(*SHORT, *settings, f"processor={other}"), data=samples,
                out=tmp_path / stage,
            )  # fmt: skip


def test_no_normalizer_is_said(shards, tmp_path):
    data = tmp_path / "bare"
    data.mkdir()
    for name in ("shard-000000.tar", "instructions.json"):
        (data / name).symlink_to(shards / name)
    with pytest.raises(NormalizerError, match=r"no normalizer beside the shards.*with normalizer=FILE"):
        run_training(
            "tokenizer", config=None, overrides=[*SHORT, "size=tiny"], data=data, out=tmp_path / "run"
        )


def test_an_evaluation_says_how_many_samples_it_looked_at():
    """Regression: those of one batch."""
    assert mean_over_batches(3, lambda i: {"loss": i, "samples": 4}) == {"loss": 1.0, "samples": 12.0}
