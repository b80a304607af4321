"""What tokens mean goes with them: from the tokenizer to the data, to the VLM that learns them, to the policy."""

from __future__ import annotations

import shutil

import pytest
import torch

from rdt2.data import tokenize_shards
from rdt2.errors import CheckpointError
from rdt2.normalizer import LinearNormalizer, has_normalizer
from rdt2.origin import TokenOrigin, read_origin, write_origin
from rdt2.policy import load_policy
from rdt2.tokenizer import ActionTokenizer, TokenizerConfig
from rdt2.training.config import VQTraining
from rdt2.training.normalizer import LearntTokens
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
    with pytest.raises(CheckpointError, match=words):
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


def test_tokens_that_do_not_say_theirs_stay_unsaid(tiny_vlm, tokens, tmp_path):
    from rdt2.data import ShardIndex

    told = shutil.copytree(tokens, tmp_path / "untold")
    (told / "tokens.json").unlink()
    learnt = LearntTokens(None, None, ShardIndex(told), start="tiny")
    (tmp_path / "model").mkdir()
    learnt.save(tmp_path / "model")
    assert not has_normalizer(tmp_path / "model")
    assert read_origin(tmp_path / "model") is None
