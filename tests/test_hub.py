"""Folders, hub ids, the hub's cache without a network, and what is said of all else."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from rdt2.errors import CheckpointError, NormalizerError
from rdt2.hub import locate, locate_any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of owner/name in the layout of the hub's cache, of which nothing else may be fetched."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--owner--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "1").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in ("config.json", "pytorch_model.bin"):
        (snapshot / name).symlink_to("../../blobs/1")
    return snapshot


def test_the_cache_is_read_without_a_network(cached: Path) -> None:
    assert locate("owner/name", ["config.json"]) == cached
    assert locate("owner/name@main", ["config.json"]) == cached
    assert locate(f"owner/name@{COMMIT}", ["config.json"]) == cached


def test_the_address_of_its_page_is_a_repository(cached: Path) -> None:
    for page in ("https://huggingface.co/owner/name", "https://hf.co/owner/name/"):
        assert locate(page, ["config.json"]) == cached
        assert locate(f"{page.rstrip('/')}/tree/main", ["config.json"]) == cached
        assert locate(f"{page.rstrip('/')}@main", ["config.json"]) == cached  # as --revision writes it
    for page in ("https://huggingface.co/datasets/owner/name", "https://example.com/owner/name"):
        with pytest.raises(CheckpointError, match="no such folder"):
            locate(page, ["config.json"])


def test_the_first_of_several_files_that_is_there(cached: Path) -> None:
    names = ("model.safetensors", "pytorch_model.bin")
    assert locate_any("owner/name", ["config.json"], names) == cached / "pytorch_model.bin"
    assert locate_any("owner/name", ["config.json"], ["other.bin"]) is None
    assert locate_any(cached, ["config.json"], names) == cached / "pytorch_model.bin"


def test_what_is_neither_here_nor_in_the_cache(cached: Path) -> None:
    with pytest.raises(CheckpointError, match=r"owner/other.*HF_HUB_OFFLINE.*hf download owner/other"):
        locate("owner/other", ["config.json"])
    with pytest.raises(CheckpointError, match="owner/name@v2"):
        locate("owner/name@v2", ["config.json"])
    with pytest.raises(NormalizerError, match="no such folder, expected that of a normalizer"):
        locate("/no/where", ["*"], what="a normalizer", error=NormalizerError)
    for path in ("runs/deep/model", "./model", "model", "~nobody/x"):
        with pytest.raises(CheckpointError, match="no such folder"):
            locate(path, ["config.json"])
    with pytest.raises(CheckpointError, match=r"is a file, expected the folder of a checkpoint"):
        locate(cached / "config.json", ["config.json"])
