"""What people mistype, places that cannot be written to, and what the system refuses: one line, before any work."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rdt2
from rdt2.cli.main import commands, main
from rdt2.cli.usage import typeable


def said(capsys, *arguments: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as done:
        main(list(arguments))
    assert done.value.code == code
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("predikt --left l.png", "'rdt2' has no command 'predikt'. Did you mean 'predict'?"),
        ("data chek folder", "'rdt2 data' has no command 'chek'. Did you mean 'check'?"),
        ("train exprt", "Did you mean 'expert'?"),
        ("tokeniser inspect", "Did you mean 'tokenizer'?"),
        ("xyz", "'rdt2' has no command 'xyz'. Its commands: demo, "),
        ("evaluate cell --polcy demo-fm", "'rdt2 evaluate cell' has no option --polcy. Did you mean '--policy'?"),
        ("evaluate cell --episode=3", "Did you mean '--episodes'?"),
        ("train vq --sets steps=3 --data d --out o", "Did you mean '--set'?"),
        ("data convert a b --frm hdf5", "Did you mean '--from'?"),
        ("data convert a b --from hdf5 --rotatoin xyzw", "Did you mean '--rotation'?"),
        ("data check folder --folder x", "'rdt2 data check' has no option --folder."),
        ("train --set help", "'rdt2 train' has no option --set. Say what is trained before it: rdt2 train vq --set"),
        ("demo --zzz", "'rdt2 demo' has no option --zzz. Its options: --policy"),
    ],
)  # fmt: skip
def test_the_nearest_command_or_option_is_proposed(line: str, meant: str, capsys):
    assert meant in said(capsys, *line.split())


def test_options_that_are_there_are_let_through(monkeypatch):
    from rdt2.cli.evaluate import EvaluateCell

    seen = []
    monkeypatch.setattr(EvaluateCell, "run", lambda command: seen.append(command))
    main(["evaluate", "cell", "--swap_instruction", "--episodes=3", "--seed", "4", "--task", "place"])
    assert (seen[0].swap_instruction, seen[0].episodes, seen[0].seed, seen[0].task) == (True, 3, 4, "place")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("evaluate cell --episodes two", "--episodes two: expected a whole number. See: rdt2 evaluate cell --help"),
        ("evaluate cell --episodes=2.5", "--episodes 2.5: expected a whole number"),
        ("evaluate cell --max-seconds long", "--max-seconds long: expected a number"),
        ("evaluate shards --data d --limit all", "--limit all: expected a whole number"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_said_in_words(line: str, told: str, capsys):
    assert told in said(capsys, *line.split())


PREDICT = "predict --left l.png --right r.png --instruction Go."


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"{PREDICT} --out FILE/x.npz", "FILE is a file, not a folder"),
        (f"{PREDICT} --plot FOLDER", "--plot FOLDER: is a folder"),
        (f"{PREDICT} --plot chunk.gif", "a drawing ends in .png, .svg, .pdf"),
        (f"{PREDICT} --out same --json same", "--out and --json are both same"),
        ("demo --out FOLDER", "--out FOLDER: is a folder"),
        ("demo --json FILE/x.json", "FILE is a file, not a folder"),
        ("evaluate cell --json FOLDER", "--json FOLDER: is a folder"),
        ("evaluate shards --data d --json FILE/x.json", "FILE is a file, not a folder"),
        ("data record --out FILE", "--out FILE: is a file"),
        ("data convert FOLDER FILE --from shards", "--out FILE: is a file"),
        ("data check FOLDER --report FOLDER", "--report FOLDER: is a folder"),
        ("data stats FOLDER --fit FILE", "--fit FILE: is a file"),
        ("data view FOLDER --rerun FOLDER", "--rerun FOLDER: is a folder"),
        ("data augment-sheet FOLDER --out FILE/x.png", "FILE is a file, not a folder"),
        ("tokenizer check FOLDER --tokenizer t --plot FOLDER", "--plot FOLDER: is a folder"),
        ("export bundle --vlm a --tokenizer b --out FILE", "--out FILE: is a file"),
        ("export merge FOLDER FILE", "--out FILE: is a file"),
    ],
)  # fmt: skip
def test_where_it_writes_is_looked_at_first(line: str, problem: str, tmp_path, capsys, monkeypatch):
    """regression: found bad only after the whole computation."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    for word, path in (("FILE", file), ("FOLDER", folder)):
        line, problem = line.replace(word, str(path)), problem.replace(word, str(path))
    heavy = [name for name in sys.modules if name.split(".")[0] == "mujoco"]
    assert problem in said(capsys, *line.split())
    assert [name for name in sys.modules if name.split(".")[0] == "mujoco"] == heavy


def test_a_place_without_permission_is_said_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "no permission to write" in said(capsys, "evaluate", "cell", "--json", str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "data/x.tar"), "data/x.tar: Permission denied. Choose"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "data"), "data: Is a directory. Name a file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: Not a directory. A part"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "Read-only file system. Choose a place"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: No such file or directory. Look"),
        (OSError("cannot seek"), "cannot seek. RDT2_DEBUG=1"),
        (MemoryError("8 GiB"), "memory is used up"),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_one_message(error, told: str, capsys, monkeypatch):
    """regression: a traceback and code 1."""
    from rdt2.cli.demo import Demo

    def run(self):
        raise error

    monkeypatch.setattr(Demo, "run", run)
    assert told in said(capsys, "demo")


def test_without_a_terminal_work_is_told_in_lines(capsys, monkeypatch):
    """regression: nothing was printed until the end."""
    from rdt2 import progress

    monkeypatch.setattr(progress, "LINE_EVERY", (0.05, 0.05))
    with progress.progress("episodes", 4) as advance:
        time.sleep(0.2)
        advance(1, "1 succeeded")
        time.sleep(0.2)
        advance(3, "3 succeeded")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("episodes: 0 of 4, ")
    assert any(line.startswith("episodes: 1 of 4, ") and line.endswith("1 succeeded") for line in lines)
    assert lines[-1].startswith("episodes: 4 of 4, ")
    assert len(lines) >= 4
    with progress.working("loading"):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("loading: at work, ")
    assert lines[-1].endswith(" s")
    monkeypatch.setattr(progress, "LINE_EVERY", (10.0, 60.0))  # a busy machine makes nothing long of it
    with progress.progress("quick", 1) as advance:
        advance(0)
        advance()
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_workers_end_with_the_process_that_was_interrupted(tmp_path):
    """regression: Ctrl-C printed a traceback of each worker."""
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from rdt2.workers import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(2) as pool:\n"
        "        jobs = [pool.submit(time.sleep, 60) for _ in range(4)]\n"
        "        print('begun', flush=True)\n"
        "        jobs[0].result()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=30)
    assert errors.count("Traceback") == 1  # this small program's own
    assert "Process Spawn" not in errors


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_workers_end_with_the_process_that_was_killed(tmp_path):
    """Regression: they waited for ever for the next job, each with a policy in memory."""
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from rdt2.workers import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(2) as pool:\n"
        "        jobs = [pool.submit(time.sleep, 60) for _ in range(2)]\n"
        "        print(*pool._processes, flush=True)\n"
        "        jobs[0].result()\n"
    )
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while left := [number for number in workers if _runs(number)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def _runs(number):
    stat = Path(f"/proc/{number}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("command", "said", "typed"),
    [
        ("evaluate shards", "Pass vlm=<folder or hub id> as well", "Pass --vlm <folder or hub id> as well"),
        ("predict", "Use quantize='int8' or offload=<layers>", "Use --quantize int8 or --offload <layers>"),
        ("demo", "leave out offload= or compile=True.", "leave out --offload or --compile."),
        (
            "evaluate cell",
            "Name one with normalizer=FILE (published)",
            "Name one with --normalizer FILE (published)",
        ),
        ("evaluate cell", "runs/vlm=3/steps=4: no file", "runs/vlm=3/steps=4: no file"),
        ("data check", "Name it: normalizer=FILE.", "Name it: --normalizer FILE."),
        ("data check", "pass it as processor=FOLDER", "pass it as processor=FOLDER"),
        ("train vq", "Name it: normalizer=FILE.", "Name it: --set normalizer=FILE."),
        ("train vq", "Set steps=4, or --set tokenizer=FOLDER", "Set steps=4, or --set tokenizer=FOLDER"),
        ("train expert", "leave out compile=True", "leave out --set compile=true"),
    ],
)
def test_advice_of_an_error_is_what_can_be_typed(command, said, typed):
    kind = commands()
    for word in command.split():
        kind = kind[word]
    filled = object.__new__(kind)
    assert typeable(said, filled) == typed


def test_a_policy_without_its_parts_is_told_the_options_of_the_command_line(tmp_path, capsys):
    expert = Path(rdt2.__file__).parent / "checkpoints" / "demo" / "expert"
    shutil.copytree(expert, tmp_path / "expert")
    with pytest.raises(SystemExit):
        main(["evaluate", "cell", "--policy", str(tmp_path / "expert"), "--episodes", "1"])
    assert "Pass --vlm <folder or hub id>" in " ".join(capsys.readouterr().err.split())
