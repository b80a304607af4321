"""`rdt2 train` as people and clusters use it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rdt2.cli.main import main
from rdt2.data import fit_normalizer
from rdt2.training.config import CONFIGS
from rdt2.training.settings import load_settings

TINY = ("size=tiny", "batch_size=2", "trackers=[]", "warmup_steps=0", "evaluate_samples=4")


def command(data: Path, out: Path, *settings: str) -> list[str]:
    words = ["train", "tokenizer", "--data", str(data), "--out", str(out)]
    for setting in (*TINY, *settings):
        words += ["--set", setting]
    return words


@pytest.fixture
def data(shards):
    fit_normalizer(shards).save_pretrained(shards)
    return shards


def test_training_says_where_the_model_is_and_what_comes_next(data, tmp_path, capsys):
    out = tmp_path / "a run"
    main([*command(data, out, "steps=3"), "--resume"])
    told = capsys.readouterr().err
    assert f"nothing to resume in {out}: starting at step 0" in told
    assert "training on 9 samples of 3 episodes; 3 samples of 1 episode are held out" in told
    assert "looked through the actions of all 12 samples" in told
    # This is no terminal.
    lines = [line for line in told.splitlines() if line.startswith("tokenizer: step: ")]
    assert [lines[k].split(",")[0] for k in (0, -1)] == ["tokenizer: step: 1 of 3", "tokenizer: step: 3 of 3"]
    assert all("loss" in line and "lr 1.0e-04" in line for line in lines)
    assert " left  " in lines[0]
    assert f"model: {out / 'model'}" in told
    following, other = told.splitlines()[-2:]
    # Without a preset it would be the published recipe.
    assert following.startswith("next: rdt2 train vq --config PRESET ")
    assert f"tokenizer={out / 'model'}" in shlex.split(following)
    assert other.startswith(
        "or, where many runs read the same data, write the tokens once: rdt2 data tokenize "
    )
    words = shlex.split(
        other.split("once: ")[1].split(", then")[0].replace("TOKENS", str(tmp_path / "tokens"))
    )
    main(words[1:])
    assert (tmp_path / "tokens" / "shard-000000.tar").is_file()


def test_ctrl_c_says_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rdt2.training.cli.run_training", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(command(data, tmp_path / "out", "betas=[0.8, 0.9]"))
    assert stop.value.code == 130
    told = capsys.readouterr().err.replace("\n", " ")
    assert f"go on with: rdt2 train tokenizer --data {data} --out {tmp_path / 'out'}" in told
    assert "--set 'betas=[0.8, 0.9]' --resume" in told


def test_a_cluster_ends_the_run_and_the_printed_command_goes_on(data, tmp_path, capsys):
    rdt2 = [sys.executable, "-m", "rdt2.cli.main"]
    first = [*command(data, tmp_path / "out", "steps=60", "log_every=1"), "--json", str(tmp_path / "f.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([*rdt2, *first], stderr=subprocess.PIPE, text=True, env=environment)
    assert run.stderr is not None
    for line in run.stderr:
        if "step: 1 of 60" in line:
            break
    run.send_signal(signal.SIGTERM)
    told = run.stderr.read()
    assert run.wait() == 143, told
    assert "stopped by SIGTERM after step" in told
    assert not (tmp_path / "f.json").exists()
    printed = next(line for line in told.splitlines() if line.startswith("go on with: "))
    words = shlex.split(printed.removeprefix("go on with: "))
    assert words[0] == "rdt2"
    main(words[1:])
    assert "going on from step" in capsys.readouterr().err
    assert json.loads((tmp_path / "f.json").read_text())["steps"] == 60
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if "loss" in row] == list(range(1, 61))


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_a_terminal_that_is_closed_loses_nothing(data, tmp_path):
    """regression: saved, but what was to be told to the terminal that was gone ended in code 1."""
    import pty

    out, words = tmp_path / "out", [sys.executable, "-m", "rdt2.cli.main"]
    words += command(data, tmp_path / "out", "steps=100000", "log_every=1")
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, words, {**os.environ, "OMP_NUM_THREADS": "1"})
    while not (out / "metrics.jsonl").is_file():
        os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert list((out / "checkpoints").iterdir())


def test_only_the_first_process_speaks_and_writes(data, tmp_path, capsys, monkeypatch):
    from rdt2.training.loop import TrainingResult

    result = TrainingResult(tmp_path / "model", 3, {}, 1.0)
    monkeypatch.setattr("rdt2.training.cli.run_training", lambda *_, **__: result)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        main([*command(data, tmp_path / "out"), "--json", str(tmp_path / f"{rank}.json")])
    assert (tmp_path / "0.json").is_file()
    assert not (tmp_path / "1.json").exists()
    assert capsys.readouterr().err.count("model: ") == 1


def test_the_command_that_goes_on_begins_as_the_first_did(tmp_path, monkeypatch):
    from rdt2.cli.train import TrainVQ

    asked = TrainVQ(data=Path("data"), out=Path("runs/vq"))
    assert asked.resume_command("vq") == "rdt2 train vq --data data --out runs/vq --resume"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert asked.resume_command("vq").startswith("torchrun --nproc-per-node 2 -m rdt2.cli.main train vq ")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert asked.resume_command("vq").startswith("the launcher of before, then -m rdt2.cli.main train vq ")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--set", "stepz=3", "--set stepz=3: no setting 'stepz' of TokenizerTraining. Did you mean 'steps'?"),
        ("--json", "no/such/file/x.json", None),
        ("--json", "file/x.json", "is a file, not a folder"),
        ("--json", ".", "--json .: is a folder"),
        ("--out", "file", "is a file, expected a folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    data, tmp_path, capsys, monkeypatch, option, value, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    words = [*command(data, tmp_path / "out", "steps=1"), option, value]
    if message is None:
        main(words)
        assert (tmp_path / value).is_file()
        return
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["tokenizer", "pointing", "vq", "expert", "distill"])
def test_help_lists_every_setting_with_its_meaning(stage, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", stage, "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out.partition(f"settings of {stage}")[2].splitlines()[1:]
    names = [
        line.strip().removeprefix("--set ").partition("=")[0] for line in told if line.startswith("  --")
    ]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(CONFIGS[stage]))
    for line, below in itertools.pairwise(told):
        if line.startswith("  --"):
            assert below.startswith("      "), f"{line.strip()} has no meaning"
    written = [line.strip().removeprefix("--set ") for line in told if line.startswith("  --")]
    assert load_settings(CONFIGS[stage], None, written) == CONFIGS[stage]()  # what it says can be typed
