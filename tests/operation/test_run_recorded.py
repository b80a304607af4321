"""`rdt2 run` with a person who takes over, and with the last seconds that somebody keeps: the command as it is."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import termios

import fake_devices
import pytest
from fake_robot import FakeArm, fake_robot, fake_settings

pytest.importorskip("mujoco")
pytest.importorskip("mcap")

from running import ANSWERS, ASKED, Typist, arms, policies, running, soon

from rdt2.cli.main import main
from rdt2.control.pilots import require_guided
from rdt2.dashboard.desk import Desk
from rdt2.dashboard.messages import Asked
from rdt2.dashboard.options import Looking
from rdt2.data.recordings import find_recordings, read_recording
from rdt2.operation.opening import Opened

pytestmark = [pytest.mark.realtime, pytest.mark.usefixtures("fakes")]


@pytest.fixture
def terminal(monkeypatch):
    """Standard input is a terminal: what types into it, and the terminal itself."""
    ours, theirs = os.openpty()
    lines = os.fdopen(theirs, "r", buffering=1)
    monkeypatch.setattr("sys.stdin", lines)
    yield lambda text: os.write(ours, text.encode()), lines.fileno()
    os.close(ours)  # the thread that reads, which a session leaves behind, ends


def test_a_person_takes_over_with_keys_and_what_they_do_is_recorded(tmp_path, terminal, clock):
    (types, place), figures, folder = terminal, tmp_path / "run.json", tmp_path / "recordings"
    manners = termios.tcgetattr(place)
    words = (*ASKED, "--yes", "--episodes", "1", "--pilot", "keyboard", "--record", folder, "--json", figures)
    with running("--robot", fake_devices.robot_yaml(tmp_path), *words):
        soon(lambda: policies and len(policies[0].seen) > 2)
        types("take\n")
        soon(lambda: termios.tcgetattr(place) != manners)  # from here on single keys count
        right = arms()[0]
        height = right.state().pose[2, 3]

        def lifted():
            types("r")
            return right.state().pose[2, 3] > height + 0.02

        soon(lifted)
        types("b")
        soon(lambda: termios.tcgetattr(place) == manners)
        asked = len(policies[0].seen)
        soon(lambda: len(policies[0].seen) > asked + 2)
        types("success\n")
        soon(lambda: all(arm.health().stopped for arm in arms()))
        types("quit\n")
    (episode,) = json.loads(figures.read_text())["episodes"]
    assert (episode["ending"], episode["mark"]) == ("done", "success")
    (path,) = find_recordings(folder)
    recording = read_recording(path)
    assert not recording.cut
    assert (recording.notes.corrections, recording.notes.mark) == (1, "success")
    drove = [driver for driver in recording.values("/driver") if driver != "nobody"]
    assert drove == ["policy", "person", "policy"]


def test_keep_writes_the_last_seconds_and_says_so_where_there_are_none(tmp_path, monkeypatch, clock, capsys):
    """Regression: before the arms moved it wrote an empty file, and the notes were those of the whole episode."""
    typist, figures, folder = Typist(monkeypatch), tmp_path / "run.json", tmp_path / "recordings"
    words = (*ASKED, "--record", folder, "--record-last", "1", "--json", figures)
    told = []

    def says(text):
        told.append(capsys.readouterr().err)
        return text in "".join(told)

    with running("--robot", fake_devices.robot_yaml(tmp_path), *words):
        typist.types(*ANSWERS)
        soon(lambda: says("ready: go starts"))
        typist.types("keep")
        soon(lambda: says("nothing is kept: nothing of this episode has been recorded yet"))
        assert not list(folder.glob("*"))
        typist.types("go")
        soon(lambda: len(policies[0].seen) > 12)
        typist.types("keep")
        soon(lambda: says("s are kept: "))
        typist.types("success")
        soon(lambda: all(arm.health().stopped for arm in arms()))
        typist.types("quit")
    (episode,) = json.loads(figures.read_text())["episodes"]
    assert episode["seconds"] > 2
    (path,) = find_recordings(folder)
    notes = read_recording(path).notes
    assert (notes.clip, notes.ending, notes.mark, notes.corrections) == (True, "done", "success", 0)
    assert notes.seconds == pytest.approx(1.0, abs=0.1)


def refused(*words, capsys):
    with pytest.raises(SystemExit) as done:
        main(["run", *map(str, words)])
    assert done.value.code == 2
    assert not policies  # none was loaded for nothing
    return " ".join(capsys.readouterr().err.split())


def test_arms_that_nobody_can_move_by_hand_are_told_before_anything_is_enabled(tmp_path, monkeypatch, capsys):
    """Regression: only take found it out, and after a second of it the episode was over."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    said = refused("--robot", fake_devices.robot_yaml(tmp_path), *ASKED, "--pilot", "hand", capsys=capsys)
    assert "no arm of robot 'bimanual_ur5e' can be moved by hand (right arm, left arm)" in said
    assert "--pilot keyboard or --pilot space-mouse" in said
    assert len(arms()) == 2
    assert asked == []  # nor was anybody asked whether they may be enabled


def test_a_cell_whose_arms_nobody_can_move_by_hand_says_so_before_a_policy_is_loaded(monkeypatch, capsys):
    """Regression: as on a real robot."""

    @contextlib.contextmanager
    def opened(settings, scene, task=None):
        yield Opened(fake_robot(), fake_settings())

    monkeypatch.setattr("rdt2.operation.session.opened_cell", opened)
    said = refused("--robot", "cell_ur5e", "--yes", "--pilot", "hand", capsys=capsys)
    assert "can be moved by hand (right arm, left arm)" in said


def test_of_two_arms_the_one_that_nobody_can_move_by_hand_is_told(monkeypatch, capsys):
    robot = fake_robot()
    monkeypatch.setattr(FakeArm, "guide", lambda self, on: None, raising=False)
    require_guided(robot)
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    robot.arms["left"].guide = lambda on: None
    require_guided(robot)
    assert "the right arm cannot be moved by hand" in capsys.readouterr().err


def test_a_3_d_mouse_that_is_missing_is_told_before_a_robot_is_opened(tmp_path, monkeypatch, capsys):
    """Regression: it was looked for when the arms were enabled and the policy loaded."""
    monkeypatch.setitem(sys.modules, "pyspacemouse", None)
    words = (*ASKED, "--yes", "--pilot", "space-mouse")
    said = refused("--robot", fake_devices.robot_yaml(tmp_path), *words, capsys=capsys)
    assert "pip install pyspacemouse" in said
    assert not fake_devices.made


def test_why_nothing_is_kept_is_what_the_recorder_says():
    """Regression: also where the disk was full the page said that --record-last was missing."""
    with Desk(Looking(), goes_on=False, keep=lambda: None, unkept=lambda: "the disk is full") as desk:
        desk._do(Asked("keep"))
        soon(lambda: desk._state.problem == "nothing is kept: the disk is full")
