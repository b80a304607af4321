"""Files and folders that are whole or not there; and what the system refuses, said in words."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rdt2 import files
from rdt2.errors import CheckpointError, RecordingError
from rdt2.files import (
    begin_folder,
    require_file,
    require_writable,
    set_aside,
    whole_file,
    whole_folder,
    write_json,
    write_whole,
)

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """The usual umask, whatever the machine's is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def as_nobody(call: str, argument: Path) -> str:
    """What a function of rdt2.files raises for a user who may read and write little."""
    code = f"""
import os, sys
from rdt2.files import require_file, require_writable, write_whole
if os.geteuid() == 0:
    os.setuid({NOBODY})  # after the imports: it may not even read Python's own files
try:
    {call}
except Exception as error:
    print(type(error).__name__, error)
"""
    return subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True).stdout


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A folder in which every user may look; pytest's own are closed again whenever another session starts."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_weights_get_the_usual_mode_and_not_only_their_owners(tmp_path: Path, umask: None) -> None:
    with whole_file(tmp_path / "new" / "model.safetensors") as partial:
        save_file({"a": torch.zeros(2)}, partial)
    assert mode(tmp_path / "new" / "model.safetensors") == 0o644
    with whole_folder(tmp_path / "adapters") as partial:
        (partial / "deep").mkdir()
        save_file({"a": torch.zeros(2)}, partial / "deep" / "model.safetensors")
    assert mode(tmp_path / "adapters" / "deep" / "model.safetensors") == 0o644
    os.umask(0o027)
    assert mode(write_whole(tmp_path / "group.json", "{}")) == 0o640


def test_a_full_disk_keeps_the_old_file_whole_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    target = write_whole(tmp_path / "report.html", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordingError, match=r"report\.html.*the disk is full .*Free some space"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError(
            "[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file data/0"
        ),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_in_the_words_of_each_library(tmp_path: Path, problem: Exception) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("whole")

    def save() -> None:
        advice = "Then go on with --resume."
        with whole_folder(tmp_path / "model", replace=True, error=CheckpointError, advice=advice) as partial:
            (partial / "half").write_text("")
            raise problem

    with pytest.raises(CheckpointError, match=r"model.*the disk is full .*go on with --resume"):
        save()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


def test_other_errors_pass_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), whole_folder(tmp_path / "out"):
        raise RuntimeError("mine")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_a_link_and_a_mount_point_are_written_to(tmp_path: Path, monkeypatch) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    with whole_folder(tmp_path / "link") as partial:
        (partial / "a").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert (real / "a").read_text() == "1"

    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == real)
    with whole_folder(tmp_path / "link", replace=True) as partial:
        assert partial.parent == real  # another file system: nothing can be renamed into its place
        (partial / "b").write_text("2")
    assert [path.name for path in real.iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecordingError, match="is a file"):
        begin_folder(tmp_path / "file", replace=True)
    with pytest.raises(RecordingError, match="not empty"):
        begin_folder(tmp_path)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "kept").symlink_to("file")
    write_whole(tmp_path / "kept", "new")
    assert (tmp_path / "kept").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_pipes_and_devices_are_written_to_and_not_replaced() -> None:
    code = "from rdt2.files import write_whole; write_whole('/dev/stdout', 'result'); write_whole('/dev/null', 'x')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("result", "")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert require_writable(tmp_path / "a" / "b.json") == tmp_path / "a" / "b.json"
    assert not (tmp_path / "a").exists()
    with pytest.raises(
        RecordingError, match=r"b\.json: could not be written: .*file is a file, not a folder"
    ):
        require_writable(tmp_path / "file" / "b.json")
    with pytest.raises(RecordingError, match=r"b\.json: could not be written"):
        write_whole(tmp_path / "file" / "b.json", "")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
def test_a_file_system_that_takes_no_files_is_found_before_the_work() -> None:
    with pytest.raises(RecordingError, match=r"b\.json: could not be written"):
        require_writable("/proc/a/b.json")


def test_who_may_not_write_is_told_so(open_tmp: Path) -> None:
    if os.geteuid() != 0:
        open_tmp.chmod(0o555)
    told = as_nobody("write_whole(sys.argv[1], '')", open_tmp / "a.json")
    assert "RecordingError" in told
    assert "a.json: could not be written: no permission" in told
    told = as_nobody("require_writable(sys.argv[1])", open_tmp / "a")
    assert "no permission to write in" in told
    open_tmp.chmod(0o755)


def test_a_folder_that_may_not_even_be_looked_into_is_told_as_well(open_tmp: Path) -> None:
    closed = open_tmp / "closed"
    (closed / "inside").mkdir(parents=True)
    closed.chmod(0o700 if os.geteuid() == 0 else 0)
    for call in ("write_whole(sys.argv[1], '')", "require_writable(sys.argv[1])"):
        told = as_nobody(call, closed / "inside" / "a.json")
        assert "RecordingError" in told
        assert "a.json: could not be written: no permission" in told
    closed.chmod(0o700)


def test_who_may_not_read_is_told_so_and_not_that_nothing_is_there(open_tmp: Path) -> None:
    file = write_whole(open_tmp / "model.safetensors", b"weights")
    file.chmod(0 if os.geteuid() else 0o600)
    told = as_nobody("require_file(sys.argv[1])", file)
    assert "CheckpointError" in told
    assert "model.safetensors: permission denied" in told
    assert "chmod a+rX" in told


def test_files_that_are_not_themselves(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a\.bin in .*found none\. Train one"):
        require_file(tmp_path / "a.bin", advice="Train one.")
    (tmp_path / "a.bin").symlink_to("../blobs/1234")  # a cache copied without what it points to
    with pytest.raises(CheckpointError, match=r"is a link to \.\./blobs/1234"):
        require_file(tmp_path / "a.bin")
    pointer = write_whole(
        tmp_path / "b.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(CheckpointError, match="git lfs pull"):
        require_file(pointer)
    with pytest.raises(CheckpointError, match="cannot be read"):
        require_file(tmp_path)


def test_one_room_alone_gives_files_their_names() -> None:
    """What writes aside and renames by itself forgets a mode, a link or a disk's last bytes."""
    source = Path(files.__file__).parent
    renames = re.compile(r"os\.re(place|name)\(|shutil\.move\(|\.rename\(|\.replace\(\w+\)")
    found = {
        file.relative_to(source) for file in source.rglob("*.py") if renames.search(file.read_text("utf-8"))
    }
    assert found == {Path("files.py")}


def test_what_is_set_aside_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    for content in ("first", "second"):
        write_whole(tmp_path / "step-1" / "a", content)
        assert set_aside(tmp_path / "step-1", "damaged-step-1") == tmp_path / "damaged-step-1"
    assert [file.read_text() for file in tmp_path.rglob("a")] == ["second"]


def test_values_of_all_kinds_become_json(tmp_path):
    path = write_json(
        tmp_path / "deep" / "r.json",
        {
            "a": np.float32(0.5),
            "b": np.arange(2),
            "nan": float("nan"),
            "path": tmp_path,
            "t": (1, None),
            "字": "字",
        },
    )
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values == {"a": 0.5, "b": [0, 1], "nan": None, "path": str(tmp_path), "t": [1, None], "字": "字"}


def test_a_folder_for_json_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match=r"r\.json"):
        write_json(tmp_path / "file" / "r.json", {})
