from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rdt2.cli.main import commands, main

HEAVY = ("torch", "transformers", "mujoco", "matplotlib", "scipy", "webdataset", "av")


def test_help_imports_nothing_heavy():
    """`rdt2 --help` must answer at once: what takes seconds to import is imported by the commands."""
    code = (
        "import sys, contextlib\n"
        "from rdt2.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        f"print('heavy:', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    assert "rdt2 demo" in done.stdout


def leaves(tree, path=()):
    for key, member in tree.items():
        if isinstance(member, dict):
            yield from leaves(member, (*path, key))
        elif key:
            yield (*path, key), member


@pytest.mark.parametrize("words", [" ".join(path) for path, _ in leaves(commands())])
def test_every_command_explains_itself_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as done:
        main([*words.split(), "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert f"rdt2 {words}" in text
    assert "For example:" in text
    if not words.startswith(
        (
            "export",
            "data augment-sheet",
            "data view",
            "data mark",
            "data recover",
            "serve",
            "robot serve",
            "device peer",
            "reset",
        )
    ):  # they print no figures
        assert "--json" in text


def test_without_arguments_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 0
    assert "rdt2 demo" in capsys.readouterr().out


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("rdt2 ")


def test_an_expected_error_is_one_message_and_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["data", "check", str(tmp_path / "absent")])
    assert done.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "absent" in captured.err
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    from rdt2.errors import RDT2Error

    monkeypatch.setenv("RDT2_DEBUG", "1")
    with pytest.raises(RDT2Error):
        main(["data", "check", str(tmp_path / "absent")])


@pytest.mark.parametrize(
    "arguments", [["evaluate", "cell", "--robot", "ur10"], ["nonsense"], ["data", "check"]]
)
def test_wrong_usage_is_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2


def test_a_missing_extra_says_what_to_install(monkeypatch, capsys):
    from rdt2.cli.demo import Demo

    def run(self):
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setattr(Demo, "run", run)
    with pytest.raises(SystemExit) as done:
        main(["demo"])
    assert done.value.code == 2
    assert "pip install 'rdt2[sim]'" in capsys.readouterr().err


def test_a_fault_in_a_file_of_the_users_own_is_not_ours(monkeypatch, capsys):
    from rdt2.cli.demo import Demo

    def run(self):
        return {}["bowl"]

    monkeypatch.setattr(Demo, "run", run)
    with pytest.raises(SystemExit) as done:
        main(["demo"])
    assert done.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert (
        f"{__file__}, line {run.__code__.co_firstlineno + 1}: KeyError: 'bowl'. That file is no part of"
        in said
    )
    assert "please report" not in said


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch, capsys):
    from rdt2.cli import demo

    Demo, found = demo.Demo, {}
    exec(compile("def run(self): import rdt2.nothing", demo.__file__, "exec"), found)  # as a line of ours
    monkeypatch.setattr(Demo, "run", found["run"])
    with pytest.raises(SystemExit) as done:
        main(["demo"])
    assert done.value.code == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "rdt2.nothing" in said


def test_ctrl_c_is_code_130(monkeypatch, capsys):
    from rdt2.cli.demo import Demo

    def run(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Demo, "run", run)
    with pytest.raises(SystemExit) as done:
        main(["demo"])
    assert done.value.code == 130


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_closed_pipe_is_no_error():
    """Regression: `rdt2 data --help | head -1` ended in a traceback."""
    line = f"{sys.executable} -m rdt2.cli.main data record --help | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
