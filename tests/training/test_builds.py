"""Builds of DeepSpeed's parts that were killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdt2.errors import ConfigError
from rdt2.training.builds import require_no_dead_builds
from rdt2.training.loop import processes

pytest.importorskip("deepspeed", reason="pip install 'rdt2[deepspeed]'")


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As a killed build leaves it."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    file = tmp_path / "deepspeed_shm_comm" / "lock"
    file.parent.mkdir()
    file.touch()
    return file


def test_a_killed_build_is_named(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """regression: every later start waited for it without a word."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=f"build was killed.* rm {lock}"):
        processes()
    assert lock.exists()


def test_a_build_that_somebody_is_at_goes_on(lock: Path) -> None:
    with lock.open("rb"):
        require_no_dead_builds()


def test_what_others_build_is_theirs(lock: Path) -> None:
    lock.parent.rename(lock.parent.with_name("an_extension"))
    require_no_dead_builds()


def test_where_torch_builds_by_itself(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TORCH_EXTENSIONS_DIR: the folder that torch itself would take."""
    from torch.utils import cpp_extension

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(cpp_extension, "get_default_build_root", lambda: str(tmp_path))
    build = Path(cpp_extension._get_build_directory("deepspeed_shm_comm", verbose=False))
    (build / "lock").touch()
    with pytest.raises(ConfigError, match=str(build / "lock")):
        require_no_dead_builds()
