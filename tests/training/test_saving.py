"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest
import torch
from toy import ToyStage, config, rows

from rdt2.errors import TrainingError
from rdt2.training import saving
from rdt2.training.checkpoints import write_state
from rdt2.training.loop import fit
from rdt2.training.stopping import Stopped


class Watched(ToyStage):
    """Calls back before each step."""

    def __init__(self, before):
        super().__init__()
        self.before = before

    def load(self, step):
        self.before(step)
        return super().load(step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    fit(ToyStage(), config(), out)
    return out


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch, whole):
    later = threading.Event()
    seen = {}

    def slow(state, folder, group):
        if "00000004" in folder.name:
            assert later.wait(60), "training stands still"
        write_state(state, folder, group)

    def before(step):
        if step == 6:
            seen["while"] = names(tmp_path)
            later.set()

    monkeypatch.setattr(saving, "write_state", slow)
    fit(Watched(before), config(), tmp_path)
    assert not [name for name in seen["while"] if name.startswith("step-")]
    assert names(tmp_path) == ["step-00000008", "step-00000012"]
    assert rows(tmp_path) == rows(whole)


def test_a_checkpoint_holds_the_step_at_which_it_began(tmp_path, monkeypatch, whole):
    """Though weights, optimizer and average were changed in place before it was written."""
    later = threading.Event()

    def slow(state, folder, group):
        if "00000008" in folder.name:
            assert later.wait(60)
        write_state(state, folder, group)

    def before(step):
        if step == 10:
            later.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(saving, "write_state", slow)
    settings = config(ema=0.8)
    with pytest.raises(KeyboardInterrupt):
        fit(Watched(before), settings, tmp_path / "cut")
    assert names(tmp_path / "cut") == ["step-00000004", "step-00000008"], "what was being written is finished"
    monkeypatch.undo()
    fit(ToyStage(), settings, tmp_path / "cut", resume=True)
    fit(ToyStage(), settings, tmp_path / "whole")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    mine, theirs = (torch.load(tmp_path / name / "model" / "weights.pt") for name in ("cut", "whole"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_one_is_written_at_a_time_and_only_whole_ones_make_old_ones_go(tmp_path, monkeypatch):
    going, most, there = [], [], []

    def slow(state, folder, group):
        going.append(folder)
        most.append(len(going))
        there.append([name for name in names(tmp_path) if name.startswith("step-")])
        time.sleep(0.02)
        write_state(state, folder, group)
        going.pop()

    monkeypatch.setattr(saving, "write_state", slow)
    fit(ToyStage(), config(save_every=1, keep_checkpoints=2), tmp_path)
    assert most == [1] * 12
    assert [len(found) for found in there] == [0, 1] + [2] * 10
    assert names(tmp_path) == ["step-00000011", "step-00000012"]


def test_a_write_that_fails_in_the_background_ends_the_run_at_the_next_step(tmp_path, monkeypatch, whole):
    failed = threading.Event()
    seen = []

    def full_disk(state, folder, group):
        write_state(state, folder, group)
        if "00000008" in folder.name:
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")

    def before(step):
        seen.append(step)
        if step == 9:
            assert failed.wait(60)
            while [name for name in names(tmp_path) if name.startswith(".")]:
                time.sleep(0.01)
            time.sleep(0.2)  # and the thread, having cleaned up, is done

    monkeypatch.setattr(saving, "write_state", full_disk)
    with pytest.raises(
        TrainingError, match=r"step-00000008: could not be written: the disk is full.*step-00000004 is whole"
    ):
        fit(Watched(before), config(), tmp_path)
    assert seen[-1] in (9, 10)
    assert names(tmp_path) == ["step-00000004"]
    monkeypatch.undo()
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert rows(tmp_path) == rows(whole)


def test_the_last_checkpoint_that_fails_is_said_though_no_step_follows(tmp_path, monkeypatch, whole):
    def full_disk(state, folder, group):
        if "00000012" in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_state(state, folder, group)

    monkeypatch.setattr(saving, "write_state", full_disk)
    with pytest.raises(TrainingError, match="step-00000012: could not be written"):
        fit(ToyStage(), config(), tmp_path)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    fit(ToyStage(), config(), tmp_path, resume=True)
    assert rows(tmp_path) == rows(whole)


def test_a_run_that_ends_for_another_reason_still_tells_that_a_write_failed(tmp_path, monkeypatch, capsys):
    def refused(state, folder, group):
        raise PermissionError(errno.EACCES, "Permission denied")

    def before(step):
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(saving, "write_state", refused)
    with pytest.raises(KeyboardInterrupt):
        fit(Watched(before), config(), tmp_path)
    assert "step-00000004: could not be written: no permission" in capsys.readouterr().err


def test_a_signal_waits_for_what_is_being_written_and_saves_after_it(tmp_path, monkeypatch):
    def slow(state, folder, group):
        time.sleep(0.2)
        write_state(state, folder, group)

    def before(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(saving, "write_state", slow)
    with pytest.raises(Stopped, match=r"after step 5 of 12; all is saved in .*step-00000005"):
        fit(Watched(before), config(), tmp_path)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]
