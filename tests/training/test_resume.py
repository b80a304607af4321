"""Going on with a run: what may change, what must not, and what is left of it after a full disk or a damaged file."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import ToyStage, config, rows

from rdt2.errors import CheckpointError, ConfigError, TrainingError
from rdt2.training import run, saving
from rdt2.training.checkpoints import write_state
from rdt2.training.config import MAY_CHANGE, VQTraining
from rdt2.training.loop import fit
from rdt2.training.settings import load_settings


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "model" / "weights.pt")


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(value, weights(b)[key]) for key, value in weights(a).items())


def checkpoint_names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def interrupted(out: Path, at: int = 10, **changes) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(ToyStage(interrupt_at=at), config(**changes), out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    fit(ToyStage(), config(), out)
    return out


# ------------------------------------------------------------------------------------------- what may change


def test_the_same_place_written_otherwise_is_no_other_setting(tmp_path, monkeypatch):
    (tmp_path / "vlm").mkdir()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "link").symlink_to("vlm")
    monkeypatch.chdir(tmp_path)

    def told(before: str, now: str, name: str = "start_from") -> list[str]:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        first, second = (VQTraining(**{name: value}) for value in (before, now))
        run.claim(out, run.identity("vq", first))
        return run.look(out, run.identity("vq", second), second, resume=True)

    for other in ("./vlm", "vlm/", str(tmp_path / "vlm"), "link", "tiny/../vlm"):
        assert told("vlm", other) == []
        assert told(other, "vlm") == []
    for before, now in (
        ("vlm", "tiny"),
        ("tiny", "./tiny"),
        ("./tiny", "tiny"),
        ("gone", "./gone"),
        ("a/vlm", "vlm"),
    ):
        with pytest.raises(CheckpointError, match="start_from was"):
            told(before, now)


def test_a_finished_run_is_extended_as_if_it_had_been_longer(tmp_path):
    long = {"schedule": "constant", "steps": 14}
    fit(ToyStage(), config(**long), tmp_path / "long")
    fit(ToyStage(), config(schedule="constant", steps=9), tmp_path / "short")
    fit(ToyStage(), config(**long), tmp_path / "short", resume=True)
    assert same(tmp_path / "short", tmp_path / "long")
    mine, theirs = ([row for row in rows(tmp_path / name) if "loss" in row] for name in ("short", "long"))
    assert mine == theirs
    assert json.loads((tmp_path / "short" / "config.json").read_text())["config"]["steps"] == 14


def test_what_may_change_on_resume_does(tmp_path, capsys):
    interrupted(tmp_path)
    changed = config(
        steps=16,
        learning_rate=0.01,
        schedule="constant",
        log_every=5,
        save_every=3,
        evaluate_every=0,
        clip_norm=0.5,
    )
    fit(ToyStage(), changed, tmp_path, resume=True)
    told = capsys.readouterr().err
    assert "learning_rate was 0.05, is 0.01" in told
    assert "going on from step 8 of 16" in told
    logged = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in logged] == [*range(1, 9), 10, 15, 16]
    assert [row["lr"] for row in logged[8:]] == [0.01] * 3
    assert checkpoint_names(tmp_path) == ["step-00000015", "step-00000016"]
    fit(ToyStage(), changed, tmp_path, resume=True)  # compared with what was asked for last


def test_a_finished_run_says_how_it_is_extended(tmp_path, capsys):
    fit(ToyStage(), config(), tmp_path)
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert "all are done; to train on, set steps to more" in capsys.readouterr().err
    assert [row["step"] for row in rows(tmp_path) if "eval/loss" in row] == [6, 12]
    with pytest.raises(CheckpointError, match=r"has done 12 steps, the run asks for 9. Set steps=12 or more"):
        fit(ToyStage(), config(steps=9), tmp_path, resume=True)


def test_everything_that_must_not_change_is_refused_with_both_values(tmp_path):
    before = VQTraining()
    run.claim(tmp_path, run.identity("vq", before))
    others = {
        "seed": 5, "ema": 0.5, "betas": [0.8, 0.9], "weight_decay": 0.5,
        "held_out": 0.1, "start_from": "tiny", "adapter": "lora", "augment": False, "epsilon": 1e-3,
    }  # fmt: skip
    for name, value in others.items():
        changed = load_settings(VQTraining, None, [f"{name}={json.dumps(value)}"])
        with pytest.raises(CheckpointError) as error:
            run.look(tmp_path, run.identity("vq", changed), changed, resume=True)
        assert re.search(f"{name} was .*, is ", str(error.value)), name
        assert "On --resume may change: accumulate, batch_size, clip_norm" in str(error.value)
    assert not MAY_CHANGE & others.keys()
    wanted = run.identity("vq", before, data="b", processes=2)
    run.claim(tmp_path, {**wanted, "data": "a"})
    with pytest.raises(CheckpointError, match="start a new --out"):
        run.look(tmp_path, wanted, before, resume=True)
    run.claim(tmp_path, {**wanted, "processes": 1})
    assert run.look(tmp_path, wanted, before, resume=True) == [
        "since the run began, the processes were 1, are 2",
        "since the run began, a step saw 64 samples, sees 128; --set batch_size=32 keeps 64",
    ]


@pytest.mark.parametrize(
    ("processes", "settings", "words"),
    [
        (1, [], "a step saw 32 samples, sees 16; --set accumulate=4 keeps 32"),
        (3, [], "a step saw 32 samples, sees 48"),  # 32 samples are no whole number for each of three
        (4, ["accumulate=1"], None),
        (8, [], "a step saw 32 samples, sees 128; --set batch_size=2 keeps 32"),
    ],
)
def test_other_processes_that_see_other_samples_a_step_are_told(tmp_path, processes, settings, words):
    start = load_settings(VQTraining, None, ["batch_size=8", "accumulate=2"])
    run.claim(tmp_path, run.identity("vq", start, processes=2))
    now = load_settings(VQTraining, None, ["batch_size=8", "accumulate=2", *settings])
    told = run.look(tmp_path, run.identity("vq", now, processes=processes), now, resume=True)
    assert [line for line in told if "a step" in line] == ([f"since the run began, {words}"] if words else [])


def test_the_advice_of_an_exploded_loss_can_be_followed(tmp_path):
    with pytest.raises(TrainingError) as error:
        fit(ToyStage(fail_at=5), config(), tmp_path)
    advice = shlex.split(str(error.value).partition("the same command with ")[2])
    assert advice[:2] == ["--resume", "--set"]
    rate = float(advice[2].removeprefix("learning_rate="))
    assert rate == 0.025
    fit(ToyStage(), config(learning_rate=rate), tmp_path, resume=True)
    assert rows(tmp_path)[-1]["step"] == 12


def test_resuming_nothing_is_said(tmp_path, capsys):
    fit(ToyStage(), config(steps=1), tmp_path / "new", resume=True)
    assert f"nothing to resume in {tmp_path / 'new'}: starting at step 0" in capsys.readouterr().err
    interrupted(tmp_path / "early", at=2)
    fit(ToyStage(), config(), tmp_path / "early", resume=True)
    assert "no checkpoint in" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- damage


def test_half_a_line_of_the_log_is_cut_off_and_said(tmp_path, whole, capsys):
    interrupted(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert rows(tmp_path) == rows(whole)
    assert "is no whole line, left out" in capsys.readouterr().err


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(b"linear.weight") if file.name == ".metadata" else len(content) // 3
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "progress.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole, capsys, name, damage):
    interrupted(tmp_path)
    damage(tmp_path / "checkpoints" / "step-00000008" / name)
    fit(ToyStage(), config(), tmp_path, resume=True)
    told = capsys.readouterr().err
    assert "step-00000008 is damaged" in told
    assert "going on from step 4 of 12" in told
    assert same(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)


def test_no_checkpoint_that_can_be_read_is_an_error(tmp_path):
    interrupted(tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        cut(folder / "__0_0.distcp")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read: step-00000008.*; step-00000004"):
        fit(ToyStage(), config(), tmp_path, resume=True)
    assert checkpoint_names(tmp_path) == ["step-00000004", "step-00000008"]


def test_what_a_killed_run_left_half_written_goes(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "checkpoints" / ".step-00000009.partial").mkdir()
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert not list(tmp_path.rglob("*.partial"))


# ------------------------------------------------------------------------------------------- no room, no right


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch, whole):
    def full_disk(state, folder, group):
        write_state(state, folder, group)
        if "00000008" in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write_state", full_disk)
    with pytest.raises(
        TrainingError, match=r"the disk is full.*step-00000004 is whole: go on from it with --resume"
    ):
        fit(ToyStage(), config(), tmp_path)
    assert checkpoint_names(tmp_path) == ["step-00000004"]
    monkeypatch.undo()
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert rows(tmp_path) == rows(whole)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
)
def test_a_model_that_cannot_be_saved_loses_no_training(tmp_path, whole, error):
    class Full(ToyStage):
        def save(self, module, folder):
            (folder / "half").write_text("a model")
            raise error

    with pytest.raises(TrainingError, match="kept in checkpoints/: finish with --resume"):
        fit(Full(), config(), tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert same(tmp_path, whole)
    assert rows(tmp_path) == rows(whole)


def test_an_evaluation_that_fails_loses_no_training(tmp_path, whole):
    class Failing(ToyStage):
        def evaluate(self, module, device):
            raise ValueError("a sample that cannot be read")

    with pytest.raises(ValueError, match="cannot be read"):
        fit(Failing(), config(evaluate_every=0), tmp_path)
    assert checkpoint_names(tmp_path)[-1] == "step-00000012"
    fit(ToyStage(), config(evaluate_every=0), tmp_path, resume=True)
    assert same(tmp_path, whole)


def test_an_evaluation_on_the_way_that_fails_loses_no_step(tmp_path, whole):
    class Failing(ToyStage):
        def evaluate(self, module, device):
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    settings = config(save_every=6, evaluate_every=6)
    with pytest.raises(torch.OutOfMemoryError):
        fit(Failing(), settings, tmp_path)
    assert checkpoint_names(tmp_path) == ["step-00000006"]
    fit(ToyStage(), settings, tmp_path, resume=True)
    assert same(tmp_path, whole)


# Each run under a limit of the size of files, and on without it: (OUT, LIMIT, SAVE_EVERY) of each.
LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from toy import ToyStage, config
from rdt2.errors import TrainingError
from rdt2.training.loop import fit

hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for out, limit, save_every in json.loads(sys.argv[1]):
    for most in (limit, hard):
        stage = ToyStage()
        stage.module.more = torch.nn.Linear(300, 300)  # 360 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            fit(stage, config(save_every=save_every), out, resume=True)
            print("done")
        except TrainingError as error:
            print([path.name for path in Path(out).rglob("*.partial")], error)
"""


def test_files_that_may_not_grow_are_said_and_leave_nothing(tmp_path):
    """A real refusal of the system, of the log and of a checkpoint."""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    log, checkpoint = runs = [str(tmp_path / "log"), str(tmp_path / "checkpoint")]
    command = [sys.executable, "-c", LIMITED, json.dumps([(log, 1100, 100), (checkpoint, 30_000, 4)])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    refused_log, went_on, refused_checkpoint, went_on_too = done.stdout.splitlines()
    assert refused_log.startswith("[] ")
    assert "metrics.jsonl" in refused_log
    assert refused_checkpoint.startswith("[] ")
    assert "step-00000004" in refused_checkpoint
    assert went_on == went_on_too == "done"
    assert [rows(Path(out))[-1]["step"] for out in runs] == [12, 12]


def test_a_folder_that_is_none_is_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"stage": "to')
    for name, message in (
        ("file", "is a file, expected a folder"),
        ("file/below", "is a file, not a folder"),
        ("link", "is a link to nowhere"),
        ("model", "is not that of a training run"),
        ("half", "cannot be read"),
        ("n" * 300, "cannot be used|could not be written"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=message):
            run.look(tmp_path / name, run.identity("toy", config()), config(), resume=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="no permission"):
        run.look(tmp_path / "new", run.identity("toy", config()), config(), resume=False)


def test_folders_reached_by_links_stay_links(tmp_path, whole):
    for name in ("out", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "model").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "checkpoints").symlink_to(tmp_path / "elsewhere-too")
    (tmp_path / "elsewhere-too").mkdir()
    fit(ToyStage(), config(), tmp_path / "run")
    assert (tmp_path / "out" / "model").is_symlink()
    assert (tmp_path / "elsewhere" / "weights.pt").is_file()
    assert len(list((tmp_path / "elsewhere-too").iterdir())) == 2
    assert same(tmp_path / "run", whole)
