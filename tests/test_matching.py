"""A model's own normalizer goes before the data's, and those that meet and differ are said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from rdt2.data.mixture import DataSource
from rdt2.data.normalizers import data_normalizer
from rdt2.errors import CheckpointError, NormalizerError
from rdt2.matching import (
    PUBLISHED_DIGEST,
    Held,
    differs,
    own_normalizer,
    require_made_by,
    resolve,
)  # fmt: skip
from rdt2.normalizer import UMI_FILE_NAME, LinearNormalizer
from rdt2.origin import TokenOrigin, read_origin, write_origin


def normalizer(scale: float = 2.0) -> LinearNormalizer:
    ones = torch.ones(20)
    return LinearNormalizer(scale * ones, 0 * ones, -ones, ones)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of owner/name in the hub's cache, of which nothing else may be fetched."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo, commit = cache / "models--owner--name", "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def test_the_published_name_is_found_in_folders_and_repositories(hub: Path, tmp_path: Path) -> None:
    normalizer().save_published(hub / UMI_FILE_NAME)
    normalizer().save_published(tmp_path / "model" / UMI_FILE_NAME)
    for model in ("owner/name", tmp_path / "model"):
        held = own_normalizer(model)
        assert held is not None
        assert held.normalizer.digest == normalizer().digest == LinearNormalizer.from_pretrained(model).digest


def test_the_published_one_is_known_by_its_numbers(real: Path) -> None:
    assert LinearNormalizer.from_pretrained(real / "normalizer.pt").digest == PUBLISHED_DIGEST


def test_a_models_own_goes_before_the_datas(hub: Path, tmp_path: Path) -> None:
    normalizer().save_published(hub / UMI_FILE_NAME)
    fitted = Held(normalizer(3.0), "data", of_model=False)
    for given in ({"models": {}, "start": "owner/name"}, {"models": {"the action tokenizer": "owner/name"}}):
        assert resolve(None, data=lambda: fitted, **given).normalizer.digest == normalizer().digest


def test_weights_without_their_own_never_take_a_fitted_one(hub: Path) -> None:
    fitted = Held(normalizer(3.0), "data", of_model=False)
    for given in ({"models": {}, "start": "owner/name"}, {"models": {"the expert": "owner/name"}}):
        with pytest.raises(
            NormalizerError, match=r"owner/name has no normalizer.*normalizer=FILE.*umi_normalizer"
        ):
            resolve(None, data=lambda: fitted, **given)
    of_tokens = dataclasses.replace(fitted, of_model=True)
    assert resolve(None, models={}, start="owner/name", data=lambda: of_tokens) is of_tokens


def test_two_that_differ_are_named_with_how_far(tmp_path: Path) -> None:
    normalizer(2.0).save_pretrained(tmp_path / "rvq")
    normalizer(4.0).save_pretrained(tmp_path / "other")
    with pytest.raises(NormalizerError, match=r"other .*rvq.*1000 mm"):
        resolve(tmp_path / "other", models={"the action tokenizer": tmp_path / "rvq"})
    # what is trained anew may learn another one that is named
    found = resolve(tmp_path / "other", models={}, start=tmp_path / "rvq")
    assert found.normalizer.digest == normalizer(4.0).digest
    assert differs(normalizer(), normalizer()) == ""


def test_two_in_one_folder_that_differ_are_refused(tmp_path: Path) -> None:
    normalizer().save_pretrained(tmp_path)
    normalizer().save_published(tmp_path / "normalizer.pt")
    LinearNormalizer.from_pretrained(tmp_path)
    normalizer(3.0).save_published(tmp_path / UMI_FILE_NAME)
    with pytest.raises(NormalizerError, match=f"normalizer.safetensors.*{UMI_FILE_NAME}"):
        LinearNormalizer.from_pretrained(tmp_path)


def test_a_policys_folder_brings_that_of_its_parts_but_shards_do_not(tmp_path: Path) -> None:
    (tmp_path / "policy" / "tokenizer").mkdir(parents=True)
    normalizer().save_pretrained(tmp_path / "policy")
    assert own_normalizer(tmp_path / "policy" / "tokenizer") is not None
    (tmp_path / "policy" / "shard-000000.tar").touch()
    assert own_normalizer(tmp_path / "policy" / "tokenizer") is None


def test_sources_whose_normalizers_differ_are_both_named(tmp_path: Path) -> None:
    for name, scale in (("a", 2.0), ("b", 2.5)):
        normalizer(scale).save_pretrained(tmp_path / name)
    sources = [DataSource(name, (str(tmp_path / name / "shard-000000.tar"),)) for name in "ab"]
    with pytest.raises(NormalizerError, match=r"/a .*/b .*200 mm.*rdt2 data stats DATA --fit"):
        data_normalizer(sources)
    told = [dataclasses.replace(source, normalizer=str(tmp_path / "a")) for source in sources]
    found = data_normalizer(told)
    assert found is not None
    assert found.normalizer.digest == normalizer().digest
    assert not found.of_model
    found = data_normalizer(told, TokenOrigin("t", normalizer().digest))
    assert found is not None
    assert found.of_model


def test_a_yaml_that_names_a_missing_normalizer_is_at_fault(tmp_path: Path) -> None:
    source = DataSource("a", (str(tmp_path / "shard-000000.tar"),), normalizer=str(tmp_path / "none.pt"))
    with pytest.raises(
        NormalizerError, match=r"normalizer_path of data set 'a' is .*none\.pt: there is no such"
    ):
        data_normalizer([source])


def test_a_remote_folder_brings_its_normalizer(tmp_path: Path) -> None:
    import fsspec

    normalizer().save_published(tmp_path / "n.pt")
    fsspec.filesystem("memory").pipe_file(f"/matching/{UMI_FILE_NAME}", (tmp_path / "n.pt").read_bytes())
    found = data_normalizer([DataSource("a", ("memory://matching/shard-000000.tar",))])
    assert found is not None
    assert found.normalizer.digest == normalizer().digest
    assert data_normalizer([DataSource("a", ("memory://nothing/shard-000000.tar",))]) is None


def test_tokens_of_another_tokenizer_are_said(tmp_path: Path) -> None:
    made = TokenOrigin("aaaa", "bbbb")
    write_origin(tmp_path, made)
    assert read_origin(tmp_path) == made
    require_made_by(made, "data", other=made, by="model")
    with pytest.raises(
        CheckpointError, match=r"data were made with another tokenizer \(aaaa there, cccc here\)"
    ):
        require_made_by(made, "data", other=TokenOrigin("cccc", "bbbb"), by="model")
    (tmp_path / "tokens.json").write_text(json.dumps(["no"]))
    with pytest.raises(CheckpointError, match=r"tokens\.json"):
        read_origin(tmp_path)
