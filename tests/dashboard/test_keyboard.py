"""What is typed while arms move: instructions, words, and in doubt a stop."""

from __future__ import annotations

import io
import os
import termios
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from fake_robot import fake_robot, fake_settings

from rdt2.control.pilots import AXES, KeyboardPilot
from rdt2.dashboard.keyboard import ENDED, FAILED, LEFT, TYPED, Keyboard, meant
from rdt2.dashboard.messages import Asked, State
from rdt2.progress import wait_for_notes

RUNNING = State("running", "Pick up the apple.", False, None, False, False)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Pick up the  red cube.\n", "say"), ("拿起苹果\n", "say"), ("go\n", "go"), (" GO! \n", "go"),
        ("pause\n", "pause"),
        ("keep\n", "keep"), ("接管\n", "take"), ("success\n", "success"),
        ("failure\n", "failure"), ("next\n", "next"), ("q\n", "quit"), ("?\n", "help"),
        ("\n", "stop"), ("   \n", "stop"), ("stop\n", "stop"), ("STOP!!\n", "stop"), ("Stop it now\n", "stop"),
        ("halt, please\n", "stop"), ("停\n", "stop"), ("stpo\n", "stop"), ("...\n", "stop"), ("aargh\n", "stop"),
        *((f"{line}\n", "stop") for line in (
            "停！", "停。", "停……", "停～", "停？", "！停", "停 停 停", "停停停！", "停下", "停下来，别动",
            "停止！", "快停", "快停！！", "别动", "别动。", "住手", "住手！", "stop！", "Stop，别动", "ｓｔｏｐ",
            "。。。", "开始？", "please stop", "OK, stop now", "Robot: halt!", "wait a moment, please",
            "暂停一下", "请停下来！", "不要动", "等一下", "请别动",
        )),
        ("Take the S block.\n", "say"), ("Press the stop button with the left hand.\n", "say"),
        ("把小汽车停到盒子旁边\n", "say"), ("Open the drawer.\n", "say"),
        ("暂停。\n", "pause"), ("继续！\n", "go"), ("成功。\n", "success"), ("？\n", "help"),
        ("用左手拿起苹果，别动杯子。\n", "say"), ("快把苹果放下！\n", "say"), ("S-shaped blocks first.\n", "say"),
    ],
)  # fmt: skip
def test_what_a_line_means_while_the_arms_move(line, wanted):
    what, text = meant(line, running=True)
    assert what == wanted
    if line.startswith("Pick"):
        assert text == "Pick up the red cube."
    if line.startswith("用"):
        assert text == "用左手拿起苹果，别动杯子。"  # the policy hears it as it was typed


def test_a_word_that_nobody_knows_is_no_instruction_and_starts_nothing():
    for line in ("gp\n", "go?\n", "开始？\n"):
        assert meant(line, running=False)[0] == "help"


def listen(lines, *, obeyed=False, as_shown=False, state=RUNNING):
    heard, ended = [], threading.Event()
    keyboard = Keyboard(hear=heard.append, gone=ended.set, obeyed=obeyed, as_shown=as_shown, lines=lines)
    keyboard.put(state)
    return keyboard, heard, ended


def test_lines_reach_the_desk():
    """Regression (PITFALLS 37): there was no key to quit with."""
    said = "Place the cube in the bowl.\ngo\npause\n\nsuccess\nnext\nquit\n"
    _, heard, ended = listen(io.StringIO(said))
    assert ended.wait(20)
    assert heard == [
        Asked("say", "Place the cube in the bowl."), Asked("start"), Asked("pause"), Asked("stop", TYPED),
        Asked("finish", "success"), Asked("finish", ""), Asked("leave", LEFT), Asked("stop", ENDED),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "heard_first"), [("ready", []), ("running", [Asked("say", "Pick it up.")])]
)
def test_a_way_that_was_shown_takes_no_instruction(stage, heard_first, capsys):
    """Until it is driven; then whatever is said ends it."""
    end, begin = os.pipe()
    with open(end) as lines:
        _, heard, ended = listen(lines, as_shown=True, state=replace(RUNNING, stage=stage))
        os.write(begin, b"Pick it up.\n")
        os.close(begin)
        assert ended.wait(20)
    assert heard == [*heard_first, Asked("stop", ENDED)]
    wait_for_notes(20)
    said = capsys.readouterr().err
    assert "another line is another instruction" not in said
    assert ("no instruction is taken here" in said) == (stage == "ready")


def test_arms_that_started_by_themselves_need_nobody_who_types():
    _, heard, ended = listen(io.StringIO(""), obeyed=True)
    assert ended.wait(20)
    assert heard == []


def test_a_terminal_that_ends_stops_the_arms():
    """Also those that started by themselves: whoever watched them has gone."""
    own, other = os.openpty()
    with open(other) as lines:
        _, heard, ended = listen(lines, obeyed=True)
        os.write(own, b"\x04")  # Ctrl-D
        assert ended.wait(20)
    assert heard == [Asked("stop", ENDED)]
    os.close(own)


def pressed(pilot, key):
    axis, way = AXES[key]
    return way * np.stack([*pilot.steer().twists.values()])[0, axis] > 0


def on_a_terminal(pilot):
    """A pseudo-terminal to type into, what was heard, and a wait."""
    ours, theirs = os.openpty()
    heard, ended = [], threading.Event()
    keyboard = Keyboard(
        hear=heard.append,
        gone=ended.set,
        obeyed=False,
        pilot=pilot,
        lines=os.fdopen(theirs, "r", buffering=1),
    )
    keyboard.put(RUNNING)

    def until(true):
        end = time.monotonic() + 20
        while not true():
            assert time.monotonic() < end
            time.sleep(0.005)

    return keyboard, heard, ours, theirs, until


def test_a_person_takes_over_with_single_keys_and_gives_back_or_stops():
    pilot = KeyboardPilot(fake_settings())
    keyboard, heard, ours, theirs, until = on_a_terminal(pilot)
    manners = termios.tcgetattr(theirs)
    for ends in (b"b", b"\n"):
        os.write(ours, b"take\n")
        until(lambda: pilot.hands.taken and termios.tcgetattr(theirs) != manners)
        assert heard == []
        os.write(ours, b"\tw")
        until(lambda: pressed(pilot, "w"))
        os.write(ours, ends)
        until(lambda: not pilot.hands.taken and termios.tcgetattr(theirs) == manners)
    assert heard == [Asked("stop", TYPED)]
    # the end of an episode takes the arms from the person, and the terminal is a terminal again
    heard.clear()
    os.write(ours, b"take\n")
    until(lambda: pilot.hands.taken)
    keyboard.put(State("over", "Pick up the apple.", False, None, False, False))
    until(lambda: not pilot.hands.taken and termios.tcgetattr(theirs) == manners)
    os.write(ours, b"take\n")
    os.write(ours, b"pause\n")
    until(lambda: heard == [Asked("pause")])
    assert not pilot.hands.taken
    keyboard.close()
    os.close(ours)


def test_take_says_what_is_missing_and_keep_is_heard(capsys):
    _, heard, ended = listen(io.StringIO("take\nkeep\n"))
    assert ended.wait(20)
    wait_for_notes(20)
    assert "--pilot keyboard" in capsys.readouterr().err
    assert Asked("keep") in heard


@pytest.mark.parametrize(
    "asked",
    [
        Asked("pause"),
        Asked("finish", "success"),
        Asked("finish"),
        Asked("say", "Wait, my hand is there."),
        Asked("stop"),
    ],
)
def test_a_way_that_was_shown_ends_by_whatever_is_said(asked, monkeypatch):
    """Of rdt2 reset and rdt2 calibrate: no pause, mark or sentence means anything else there."""
    from rdt2.dashboard.desk import Desk
    from rdt2.dashboard.figure import Figure
    from rdt2.dashboard.options import Looking

    with Desk(Looking(), goes_on=False, welcomed=True) as desk:
        desk._do(Asked("say", "Go on then."))  # before it begins it is nothing that stops it
        desk.begin(fake_robot(), Figure.of_robot(fake_settings()), "Calibrate.", title="a way")
        permit = desk.as_shown()
        assert permit() == ""
        desk._do(asked)
        assert permit() != ""


def test_a_terminal_that_takes_nothing_holds_nobody_up(monkeypatch):
    """Regression: Ctrl-S held up whoever heard the page's clicks, and with it a stop."""
    takes = threading.Event()
    monkeypatch.setattr("rdt2.progress.note", lambda text: takes.wait(20))
    try:
        keyboard, heard, ended = listen(io.StringIO("help\n" * 200 + "stop\n"))
        for number in range(200):  # more than may wait
            keyboard.put(replace(RUNNING, sentence=f"Pick up apple {number}."))
        assert ended.wait(5)
        assert heard == [Asked("stop", TYPED), Asked("stop", ENDED)]
    finally:
        takes.set()
        wait_for_notes(20)


@pytest.mark.parametrize("error", [OSError("no space left on device"), SystemExit(1)])
def test_a_terminal_that_is_broken_ends_nobody(monkeypatch, error):
    """Regression: a full disk, or a pipe that is broken, where rich ends the program."""
    told = []

    def broken(text):
        told.append(text)
        raise error

    monkeypatch.setattr("rdt2.progress.note", broken)
    keyboard, heard, ended = listen(io.StringIO("help\nstop\n"))
    keyboard.put(replace(RUNNING, sentence="Pick up the pear."))
    assert ended.wait(20)
    wait_for_notes(20)
    assert heard == [Asked("stop", TYPED), Asked("stop", ENDED)]
    assert len(told) > 1


def test_a_line_that_fails_stops_and_the_next_is_heard():
    """Regression: whatever was raised ended the listening, and nobody heard a stop any more."""
    heard, ended = [], threading.Event()

    def hear(asked):
        if asked.what == "say":
            raise RuntimeError("nobody is there")
        heard.append(asked)

    Keyboard(hear=hear, gone=ended.set, obeyed=False, lines=io.StringIO("Pick up the pear.\nsuccess\n"))
    assert ended.wait(20)
    assert heard == [Asked("stop", FAILED), Asked("finish", "success"), Asked("stop", ENDED)]
