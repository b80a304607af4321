"""What tokens mean goes with them: from the tokenizer to the data, to the VLM that learns them, to the policy."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from made_up import write_recordings

from rdt2.data import ShardIndex, tokenize_beside, tokenize_shards
from rdt2.errors import CheckpointError, ConfigError, NormalizerError
from rdt2.expert import Expert, ExpertConfig
from rdt2.normalizer import LinearNormalizer, has_normalizer
from rdt2.origin import TokenOrigin, read_origin, write_origin
from rdt2.policy import load_policy
from rdt2.policy.export import export_policies
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig
from rdt2.training.adapters import merge_adapters
from rdt2.training.config import TokenizerTraining, VQTraining
from rdt2.training.normalizer import LearntTokens, of_another
from rdt2.training.tokenizer import TokenizerStage
from rdt2.training.vq import VQStage


@pytest.fixture(scope="module")
def tokenizers(samples, tmp_path_factory):
    """Folders of two that differ, with the same normalizer."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("tokenizer")
        torch.manual_seed(seed)
        ActionTokenizer(TokenizerConfig.tiny()).save_pretrained(folder)
        LinearNormalizer.from_pretrained(samples).save_pretrained(folder)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def origins(tokenizers, samples):
    digest = LinearNormalizer.from_pretrained(samples).digest
    return [TokenOrigin(ActionTokenizer.from_pretrained(each).digest, digest) for each in tokenizers]


@pytest.fixture(scope="module")
def tokens(samples, tokenizers, tmp_path_factory):
    """The samples with tokens of the first."""
    folder = tmp_path_factory.mktemp("tokens")
    own = LinearNormalizer.from_pretrained(tokenizers[0])
    tokenize_shards(samples, folder, ActionTokenizer.from_pretrained(tokenizers[0]), own)
    own.save_pretrained(folder)
    return folder


@pytest.fixture
def vlm(tiny_vlm, tokenizers, origins, tmp_path):
    """One that writes tokens of the second tokenizer."""
    folder = shutil.copytree(tiny_vlm, tmp_path / "vlm")
    LinearNormalizer.from_pretrained(tokenizers[1]).save_pretrained(folder)
    write_origin(folder, origins[1])
    return folder


def settings(**changes) -> VQTraining:
    return VQTraining(**{"precision": "fp32", "augment": False, "batch_size": 2, "trackers": (), **changes})


def test_a_vlm_of_other_tokens_does_not_go_on_with_these(vlm, tokens, tokenizers, samples, origins, tmp_path):
    words = rf"another tokenizer \({origins[1].tokenizer} there, {origins[0].tokenizer} here\)"
    with pytest.raises(CheckpointError, match=words):
        VQStage(settings(start_from=str(vlm)), tokens, tmp_path)
    with pytest.raises(CheckpointError, match=words):
        VQStage(settings(start_from=str(vlm), tokenizer=str(tokenizers[0])), samples, tmp_path)
    VQStage(settings(start_from=str(vlm), tokenizer=str(tokenizers[1])), samples, tmp_path)


def test_a_policy_of_a_vlm_and_a_tokenizer_that_differ_is_refused(vlm, tokenizers, origins):
    words = rf"another tokenizer \({origins[1].tokenizer} there, {origins[0].tokenizer} here\)"
    with pytest.raises(CheckpointError, match=rf"{words}.*Name those it was trained with: tokenizer=FOLDER"):
        load_policy(vlm, tokenizer=tokenizers[0])
    load_policy(vlm, tokenizer=tokenizers[1])


def test_a_policy_with_the_normalizer_of_other_tokens_is_refused(vlm, tokenizers, origins):
    written = origins[1]._replace(normalizer="0123456789abcdef")
    write_origin(vlm, written)
    with pytest.raises(CheckpointError, match=r"another normalizer \(0123456789abcdef there"):
        load_policy(vlm, tokenizer=tokenizers[1])


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_trained_vlm_says_what_its_tokens_mean(adapter, tiny_vlm, tokens, origins, tmp_path):
    stage = VQStage(settings(start_from=str(tiny_vlm), adapter=adapter), tokens, tmp_path)
    stage.save(stage.module, tmp_path / "model")
    assert read_origin(tmp_path / "model") == origins[0]
    own = LinearNormalizer.from_pretrained(tmp_path / "model")
    assert own.digest == origins[0].normalizer
    if adapter == "lora":
        merged = merge_adapters(tmp_path / "model", tmp_path / "elsewhere" / "merged")
        assert read_origin(merged) == origins[0]
        assert LinearNormalizer.from_pretrained(merged).digest == own.digest


def test_tokens_that_do_not_say_theirs_stay_unsaid(tiny_vlm, tokens, tmp_path):
    from rdt2.data import ShardIndex

    told = shutil.copytree(tokens, tmp_path / "untold")
    (told / "tokens.json").unlink()
    learnt = LearntTokens(None, None, ShardIndex(told), start="tiny")
    assert any("do not say what made them, and are learnt as they are" in note for note in learnt.notes)
    assert not LearntTokens(None, None, ShardIndex(tokens), start="tiny").notes
    (tmp_path / "model").mkdir()
    learnt.save(tmp_path / "model")
    assert not has_normalizer(tmp_path / "model")
    assert read_origin(tmp_path / "model") is None


def test_tokens_of_a_normalizer_that_is_not_there_are_told(tokens, samples, tmp_path):
    told = shutil.copytree(tokens, tmp_path / "tokens")
    own = LinearNormalizer.from_pretrained(samples)
    LinearNormalizer(2 * own.scale, own.offset, own.minimum, own.maximum).save_pretrained(told)
    (note,) = LearntTokens(None, None, ShardIndex(told), start="tiny").notes
    assert f"made with the normalizer {own.digest}, which does not lie beside the shards" in note
    assert not LearntTokens(None, str(samples), ShardIndex(told), start="tiny").notes


def test_what_does_not_fit_is_not_exported(vlm, tokenizers, origins, tmp_path):
    words = rf"another tokenizer \({origins[1].tokenizer} there, {origins[0].tokenizer} here\)"
    with pytest.raises(CheckpointError, match=words):
        export_policies(tmp_path / "out", vlm=vlm, tokenizer=tokenizers[0])
    torch.manual_seed(0)
    Expert.from_config(ExpertConfig.tiny()).save_pretrained(tmp_path / "expert")
    parts = {"vlm": vlm, "tokenizer": tokenizers[1], "expert": tmp_path / "expert"}
    with pytest.raises(
        NormalizerError, match=r"the expert .*expert has no normalizer beside it.*not the published"
    ):
        export_policies(tmp_path / "out", **parts)
    assert not (tmp_path / "out").exists()
    export_policies(tmp_path / "out", **parts, normalizer=tokenizers[1])
    assert has_normalizer(tmp_path / "out" / "expert")


@pytest.mark.parametrize("form", ["shards", "sidecars", "blend"])
def test_data_with_tokens_of_another_tokenizer_are_not_encoded_over(
    form, tiny_vlm, tokens, tokenizers, samples, origins, tmp_path
):
    data = tokens
    if form != "shards":
        own = LinearNormalizer.from_pretrained(tokenizers[0])
        maker = ActionTokenizer.from_pretrained(tokenizers[0])
        tokenize_beside(samples, maker, own, out_dir=tmp_path / "beside")
        data = tmp_path / "beside" / "dataset.yaml"
    if form == "blend":
        blend = f"{{one: {{config_path: {data}}}, two: {{config_path: {tokens}/dataset.yaml}}}}"
        data = tmp_path / "blend.yaml"
        data.write_text(f"name: both\ntrain: {blend}\n")
    words = (
        rf"the data hold .*another tokenizer \({origins[0].tokenizer} there, {origins[1].tokenizer} here\)"
    )
    with pytest.raises(CheckpointError, match=words):
        VQStage(settings(start_from=str(tiny_vlm), tokenizer=str(tokenizers[1])), data, tmp_path)
    VQStage(settings(start_from=str(tiny_vlm), tokenizer=str(tokenizers[0])), data, tmp_path)


def test_evaluated_data_have_the_tokens_that_are_learnt(
    tiny_vlm, tokens, tokenizers, samples, origins, tmp_path
):
    own, other = (LinearNormalizer.from_pretrained(tokenizers[0]), tmp_path / "other")
    tokenize_shards(samples, other, ActionTokenizer.from_pretrained(tokenizers[1]), own)
    start = str(tiny_vlm)
    words = (
        rf"evaluated hold .*another tokenizer \({origins[1].tokenizer} there, {origins[0].tokenizer} here\)"
    )
    with pytest.raises(CheckpointError, match=words):
        VQStage(settings(start_from=start, validation=str(other)), tokens, tmp_path)
    with pytest.raises(CheckpointError, match="one of the two does not say what made them"):
        VQStage(settings(start_from=start, validation=str(samples)), tokens, tmp_path)
    bare = write_recordings(tmp_path / "bare")
    with pytest.raises(ConfigError, match=rf"{bare}: 1 of 1 shards hold no action tokens.*shard-000000\.tar"):
        VQStage(settings(start_from=start, validation=str(bare)), tokens, tmp_path)


def test_tokens_that_do_not_say_theirs_are_left_aside_aloud(tiny_vlm, tokens, tokenizers, tmp_path):
    told = shutil.copytree(tokens, tmp_path / "untold")
    (told / "tokens.json").unlink()
    stage = VQStage(settings(start_from=str(tiny_vlm), tokenizer=str(tokenizers[1])), told, tmp_path)
    assert any("do not say what made them, and are left aside" in note for note in stage.notes)


def test_what_nothing_has_taught_is_not_kept_still(tokens, tmp_path):
    stage = VQStage(settings(start_from="tiny", frozen_layers=4), tokens, tmp_path)
    assert all(parameter.requires_grad for parameter in stage.module.parameters())
    assert any("all layers are trained: frozen_layers=4" in note for note in stage.notes)


def test_weights_that_go_on_with_another_normalizer_are_told(tokenizers, samples, tmp_path):
    start, own = str(tokenizers[0]), LinearNormalizer.from_pretrained(samples)
    assert of_another(own, start) == of_another(own, None) == of_another(own, "scratch") == []
    (told,) = of_another(LinearNormalizer(0.5 * own.scale, own.offset, own.minimum, own.maximum), start)
    assert f"{start} was trained with the normalizer {start}, and goes on with another" in told
    assert "mm apart" in told
    bare = shutil.copytree(start, tmp_path / "bare")
    (bare / "normalizer.safetensors").unlink()
    (told,) = of_another(own, str(bare))
    assert "does not say which normalizer it was trained with" in told
    settings = TokenizerTraining(
        size="tiny", batch_size=4, trackers=(), start_from=str(bare), normalizer=str(samples)
    )
    assert told in TokenizerStage(settings, samples).notes
    assert not any(
        "learn anew" in note for note in TokenizerStage(replace(settings, start_from=start), samples).notes
    )
