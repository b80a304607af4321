"""Two runs in one folder at once: the second is refused by name, and the folder is free when the first has died."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rdt2.errors import ConfigError
from rdt2.training.lock import LOCK, alone, require_free

HOLDS = """
import os, sys, time
from pathlib import Path
from rdt2.training.lock import alone
with alone(Path(sys.argv[1])):
    if os.fork() == 0:  # a process that loads data lives on for a while
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    """A process that trains in tmp_path/run, and its child."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_run_is_refused_by_name_until_the_first_is_gone(tmp_path, other):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run")
    for out in (tmp_path / "run", link):
        words = (
            rf"{out}: another run trains in this folder now \(process {other.pid} on {socket.gethostname()}\)"
        )
        with pytest.raises(ConfigError, match=words), alone(out):
            pass
        with pytest.raises(ConfigError, match=r"--resume, or choose another --out"):
            require_free(out)
    other.kill()
    other.wait()
    require_free(link)  # though its child still lives
    with alone(link):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()


def test_fit_is_refused_beside_another_run(tmp_path, other):
    from toy import ToyStage, config

    from rdt2.training.loop import fit

    with pytest.raises(ConfigError, match=rf"another run trains .*process {other.pid}"):
        fit(ToyStage(), config(), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_is_free_when_a_run_has_ended(tmp_path):
    for _ in range(2):
        require_free(tmp_path / "new")
        with alone(tmp_path / "new"):
            pass


def test_no_locks_are_a_warning(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refused)
    with alone(tmp_path):
        require_free(tmp_path)
    assert "warning" in (said := capsys.readouterr().err)
    assert "knows no locks" in said
