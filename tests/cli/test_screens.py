"""What a newcomer sees first: a line a command, an example for each, one way to name things, figures alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdt2.cli import completion
from rdt2.cli.main import FAULT, commands, main, parse
from rdt2.cli.options import options
from rdt2.cli.screens import first_example, summary


def walk(tree, path=()):
    for key, member in tree.items():
        if key:
            yield (*path, key), member
            if isinstance(member, dict):
                yield from walk(member, (*path, key))


TREE = dict(walk(commands()))
LEAVES = {path: member for path, member in TREE.items() if not isinstance(member, dict)}
SILENT = {("serve",), ("robot", "serve"), ("device", "peer")}
"""Servers, which print no figures."""


def shown(capsys, *words, code=0):
    with pytest.raises(SystemExit) as done:
        main(list(words))
    assert done.value.code == code
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_screen_is_short(words, capsys):
    lines = shown(capsys, *words).splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) <= 80
    for verb in commands():
        if verb:
            (line,) = [line for line in lines if line.startswith(f"  {verb} ")]
            assert line.endswith(".") or line.endswith("?")


@pytest.mark.parametrize("path", [path for path, member in TREE.items() if isinstance(member, dict)])
def test_a_group_shows_a_line_a_command_and_examples(path, capsys):
    lines = shown(capsys, *path, "--help").splitlines()
    table = lines[: lines.index("For example:")]
    assert max(map(len, table)) <= 80
    for name in filter(None, TREE[path]):
        assert any(line.startswith(f"  {name} ") for line in table)
    assert lines[lines.index("For example:") + 1].startswith(f"  rdt2 {' '.join(path)} ")
    assert shown(capsys, *path, code=2).splitlines() == lines


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_a_line_an_example_and_figures(path):
    assert len(summary(LEAVES[path])) <= 80 - 2 - 13 - 2
    assert first_example(LEAVES[path])
    assert f"  rdt2 {' '.join(path)}" in LEAVES[path].__doc__.partition("For example:")[2]
    assert {"--json"} <= {option.name for option in options(LEAVES[path])} or path in SILENT


def test_a_help_fits_the_terminal_but_for_its_examples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in ("data convert", "run", "evaluate compare"):
        text = shown(capsys, *words.split(), "--help")
        told = [line for line in text.splitlines() if not line.startswith(("  rdt2 ", "    ", "usage:"))]
        assert max(map(len, told)) <= 80


def test_a_help_has_no_line_that_ends_early(capsys, monkeypatch):
    """Regression: each line of an option's docstring began a new one."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["calibrate", "table", "--help"])
    assert "is written to --out, with which later commands go on. (required)" in capsys.readouterr().out


@pytest.mark.parametrize("path", LEAVES)
def test_no_help_speaks_of_none(path, capsys):
    """Regression: "(default: None)" behind most options; nobody can type None, the parser refuses it."""
    assert not re.search(r"\bNone\b", shown(capsys, *path, "--help"))


def test_every_command_names_data_policy_and_output_alike():
    for path, kind in LEAVES.items():
        names = {option.name for option in options(kind)}
        assert not names & {
            "--model",
            "--checkpoint",
            "--dataset",
            "--source",
            "--place",
            "--output",
            "--html",
        }, path
        if path[0] == "data" and path[1] != "record":
            assert next(option.name for option in options(kind) if option.positional) == "--data"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("data convert --data a --out b --from hdf5", {"data": "a", "out": "b", "kind": "hdf5"}),
        ("data convert --from hdf5 a --out b", {"data": "a", "out": "b"}),
        ("data convert --out b --pose-names x y z --from hdf5 --data a", {"data": "a", "out": "b"}),
        ("data tokenize --data a --tokenizer t --sidecar", {"data": "a", "sidecar": True}),
        ("data tokenize a --tokenizer t", {"data": "a"}),
        ("export merge --out b a", {"adapter": "a", "out": "b"}),
        ("data mark --data a success", {"data": "a", "mark": "success"}),
        ("data check a --html page.html", {"report": "page.html"}),
        ("evaluate cell --max_seconds=3", {"max_seconds": 3.0}),
    ],
)
def test_words_may_be_named_and_in_any_order(line, meaning):
    command = parse(line.split())
    for name, value in meaning.items():
        found = getattr(command, name)
        assert (str(found) if isinstance(found, Path) else found) == value


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("evaluate cell --task pik", "Did you mean 'pick'?"),
        ("evaluate cell --robot ur5", "Did you mean 'cell_ur5e'?"),
        ("evaluate cell --scene unsen", "Did you mean 'unseen'?"),
        ("demo --robot fr", "Did you mean 'fr3'?"),
        ("demo --policy demo-fn --out {out}", "Did you mean 'demo-fm'?"),
        ("demo --model demo-vq", "Did you mean '--policy'?"),
        ("predict --output x", "Did you mean '--out'?"),
        ("evaluate shards --dataset x", "Did you mean '--data'?"),
        ("evaluate cell --html x", "Did you mean '--report'?"),
        ("data convert a b --from hdf", "Did you mean 'hdf5'?"),
        ("data mark a sucess", "Did you mean 'success'?"),
        ("train vq --config vq_tin --data . --out {out}", "Did you mean 'vq_tiny'?"),
        ("train vq --config vq_tiny --data . --out {out} --set step=3", "Did you mean 'steps'?"),
        ("run --robot cel_ur5e", "Did you mean 'cell_ur5e'?"),
        ("run --robot robots/cell_ur5.yaml", "Did you mean 'cell_ur5e'?"),
        ("device peer urr", "Did you mean 'ur'?"),
        ("device peer ur adress=3", "Did you mean 'address'?"),
        ("device test zhixin --robot bimanual_ur5e --side left", "Did you mean 'zhixing'?"),
        ("--hepl", "Did you mean '--help'?"),
    ],
)  # fmt: skip
def test_the_nearest_valid_name_is_told(line, meant, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(line.format(out=tmp_path / "out").split())
    assert done.value.code == 2
    assert meant in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("line", ["train vq --set help", "train expert --config x --set=help"])
def test_the_settings_are_listed_without_anything_else(line, capsys):
    text = shown(capsys, *line.split())
    assert "--set learning_rate=" in text
    assert "Steps" in text


def test_figures_are_alone_on_stdout(still, shards, tmp_path, capsys):
    main(["data", "check", str(shards), "--json", "-"])
    said = capsys.readouterr()
    assert json.loads(said.out)["counts"]["samples"] == 12
    assert "samples" in said.err
    main(["evaluate", "shards", "--data", str(shards), "--split", "all", "--json", "-"])
    said = capsys.readouterr()
    assert json.loads(said.out)["samples"] == 12
    assert "still" in said.err
    main(["data", "stats", str(shards), "--json", str(tmp_path / "s.json")])
    assert "samples" in capsys.readouterr().out


def test_what_libraries_print_is_not_between_the_figures(shards, monkeypatch, capsys):
    from rdt2.cli.data import DataStats
    from rdt2.cli.output import save_json

    def run(self):
        print("a library's greeting")
        save_json(self.json, {"value": float("nan")})

    monkeypatch.setattr(DataStats, "run", run)
    main(["data", "stats", str(shards), "--json", "-"])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"value": None}
    assert "greeting" in said.err


def test_a_fault_of_our_own_has_its_own_code(monkeypatch, capsys):
    """regression: 1, which says that a command found a problem in what it looked at."""
    from rdt2.cli import doctor

    found = {}
    exec(
        compile("def run(self): raise ZeroDivisionError", doctor.__file__, "exec"), found
    )  # as a line of ours
    monkeypatch.setattr(doctor.Doctor, "run", found["run"])
    with pytest.raises(SystemExit) as done:
        main(["doctor"])
    assert done.value.code == FAULT == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "please report" in said


def test_exit_codes_are_told_where_people_look(request, capsys):
    text = (request.config.rootpath / "docs" / "command_line.md").read_text(encoding="utf-8")
    for code in (0, 1, 2, FAULT, 130, 143):
        assert f"| {code} |" in text
    assert "130 interrupted" in shown(capsys)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ev"], ["evaluate"]),
        (["evaluate", ""], ["shards", "cell", "compare", "--help"]),
        (["evaluate", "cell", "--sc"], ["--scene"]),
        (["evaluate", "cell", "--scene", "u"], ["unseen"]),
        (["evaluate", "cell", "--blind", "--policy", ""], ["demo-fm", "demo-vq"]),
        (["run", "--robot", "cell_f"], ["cell_fr3"]),
        (["train", "vq", "--config", "vq_t"], ["vq_tiny"]),
        (["train", "vq", "--set", "lora_r"], ["lora_rank="]),
        (["data", "mark", "x.mcap", "s"], ["success"]),
        (["data", "check", ""], []),
        (["nonsense", "x"], []),
    ],
)
def test_completion_offers(words, offered):
    found = completion.completions(words, commands())
    assert [word for word in found if word in offered] == offered
    assert len(found) == len(offered)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_works_in_the_shell(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    main(["--install-completion", shell])
    main(["--install-completion", shell])
    place = Path(capsys.readouterr().out.split(": ")[1].split(", read")[0].split(". It works")[0])
    assert place.read_text() == completion.script(shell)
    if shell != "fish":
        assert (tmp_path / f".{shell}rc").read_text().count(str(place)) == 2  # one line, which names it twice
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "rdt2").write_text(f'#!/bin/sh\nexec {sys.executable} -m rdt2.cli.main "$@"\n')
    (tmp_path / "rdt2").chmod(0o755)
    line = {
        "bash": f". {place}; COMP_WORDS=(rdt2 evaluate cell --scene uns); COMP_CWORD=4; "
        '_rdt2; echo "${COMPREPLY[@]}"',
        "fish": "complete -C 'rdt2 evaluate cell --scene uns'",
        "zsh": f'compdef() {{ :; }}; . {place}; compadd() {{ echo "${{@[-1]}}"; }}; '
        "words=(rdt2 evaluate cell --scene uns) CURRENT=5; _rdt2",
    }[shell]
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert "unseen" in done.stdout, done.stderr
