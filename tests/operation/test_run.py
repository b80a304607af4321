"""`rdt2 run` on devices made of nothing, driven by a policy made of nothing: what moves, when, and who says so."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time

import fake_devices
import numpy as np
import pytest

pytest.importorskip("mujoco")

from running import ANSWERS, ASKED, Typist, arms, failed, moved, policies, running, soon

from rdt2.cli.main import main
from rdt2.control.loop import STOPPED
from rdt2.errors import RobotError

pytestmark = [pytest.mark.realtime, pytest.mark.usefixtures("fakes")]


def test_a_dry_run_shows_the_chunk_and_enables_nothing(tmp_path, capsys):
    robot, figures = fake_devices.robot_yaml(tmp_path), tmp_path / "dry.json"
    main(["run", "--robot", str(robot), *ASKED, "--dry-run", "--yes", "--json", str(figures)])
    assert moved() == [0, 0]
    said = capsys.readouterr()
    assert "Nothing was enabled" in said.err
    values = json.loads(figures.read_text())
    last = [row for row in values["rows"] if row["step"] == 24]
    assert [row["side"] for row in last] == ["right", "left"]
    for row in last:  # 24 steps of 0.5 mm along the policy frame's x axis, and the guard follows
        assert np.linalg.norm(row["move"]) == pytest.approx(0.012, abs=1e-4)
        np.testing.assert_allclose(row["made"], row["move"], atol=2e-3)
        assert row["width"] == pytest.approx((0.08 - 0.024) * 0.1 / 0.088)
    assert all(not arm.calls for arm in arms())


def test_a_dry_run_is_shown_in_3_d(tmp_path):
    pytest.importorskip("rerun")
    pytest.importorskip("trimesh")
    robot, film = fake_devices.robot_yaml(tmp_path), tmp_path / "dry.rrd"
    main(["run", "--robot", str(robot), *ASKED, "--dry-run", "--yes", "--rerun", str(film)])
    assert film.stat().st_size > 10_000


def test_nothing_moves_before_go_an_empty_line_stops_and_only_go_goes_on(tmp_path, monkeypatch, clock):
    typist, figures = Typist(monkeypatch), tmp_path / "run.json"
    with running("--robot", fake_devices.robot_yaml(tmp_path), *ASKED, "--json", figures):
        typist.types(*ANSWERS)
        soon(lambda: policies and all(arm.health().enabled for arm in arms()))
        time.sleep(0.5)
        assert moved() == [0, 0]
        typist.types("go")
        soon(lambda: min(moved()) > 10 and len(policies[0].seen) > 3)
        typist.types("Pick up the other apple.")
        soon(lambda: policies[0].seen[-1].instruction == "Pick up the other apple.")
        typist.types("")
        soon(lambda: all(arm.health().stopped for arm in arms()))
        still = moved()
        time.sleep(0.5)
        assert moved() == still
        typist.types("next")  # another episode is prepared: still nothing moves
        time.sleep(0.5)
        assert moved() == still
        typist.types("go")
        soon(lambda: min(moved()) > max(still) + 10)
        typist.types("success")
        soon(lambda: all(arm.health().stopped for arm in arms()))
        typist.types("quit")
    first, second = json.loads(figures.read_text())["episodes"]
    assert first["ending"].startswith("stopped at the keyboard")
    assert (first["instruction"], first["mark"]) == ("Pick up the other apple.", None)
    assert (second["ending"], second["mark"], second["success"]) == ("done", "success", True)


def test_who_leaves_before_go_is_told_and_the_command_fails(tmp_path, monkeypatch, clock, capsys):
    typist, figures = Typist(monkeypatch), tmp_path / "run.json"
    with running("--robot", fake_devices.robot_yaml(tmp_path), *ASKED, "--json", figures):
        typist.types(*ANSWERS, "quit")
    (ended,) = failed
    assert (ended.code, moved()) == (2, [0, 0])
    assert "not begun: you left before go. Nothing has moved." in capsys.readouterr().err
    assert json.loads(figures.read_text())["episodes"] == []


def test_ctrl_c_ends_the_command_and_no_next_episode_begins(tmp_path, monkeypatch, clock):
    """Regression (PITFALLS 37): it ended the episode, and the next one began."""
    typist, figures, over = Typist(monkeypatch), tmp_path / "run.json", threading.Event()
    robot = fake_devices.robot_yaml(tmp_path)

    def presses():
        soon(lambda: len(arms()) == 2 and min(moved()) > 10)
        os.kill(os.getpid(), signal.SIGINT)
        while not over.wait(0.2):
            typist.types("next", "go")  # whatever is typed after it

    failed.clear()
    thread = threading.Thread(target=presses, daemon=True)
    thread.start()
    try:
        with pytest.raises(SystemExit) as done:
            main(["run", "--robot", str(robot), *ASKED, "--yes", "--episodes", "3", "--json", str(figures)])
    finally:
        over.set()
        thread.join()
    assert done.value.code == 130
    (episode,) = json.loads(figures.read_text())["episodes"]
    assert episode["ending"] == STOPPED
    assert all(arm.holds for arm in arms())
    assert not any(device.health().connected for device in fake_devices.made)


def test_a_pause_lets_the_arms_rest_and_takes_none_of_the_time(tmp_path, monkeypatch, clock):
    typist, figures = Typist(monkeypatch), tmp_path / "run.json"
    words = (*ASKED[:4], "--max-seconds", "3", "--yes", "--episodes", "1")
    with running("--robot", fake_devices.robot_yaml(tmp_path), *words, "--json", figures):
        soon(lambda: policies and len(policies[0].seen) > 4)
        typist.types("pause")
        where = [arm.state().pose for arm in arms()]

        def rests():
            nonlocal where
            before, where = where, [arm.state().pose for arm in arms()]
            time.sleep(0.1)
            return np.allclose(before, where, atol=1e-6)

        soon(rests)
        asked, since = len(policies[0].seen), clock.now()
        soon(lambda: clock.now() > since + 4)
        assert len(policies[0].seen) <= asked + 1
        assert not any(arm.health().stopped for arm in arms())
        typist.types("go")
        soon(lambda: len(policies[0].seen) > asked + 2)
        soon(lambda: all(arm.health().stopped for arm in arms()))
        typist.types("quit")
    (episode,) = json.loads(figures.read_text())["episodes"]
    assert episode["ending"] == "time is up"
    assert episode["seconds"] > 6.5
    assert [pause["reason"] for pause in episode["pauses"]].count("paused by the operator") == 1


def test_a_device_that_is_not_set_up_as_the_yaml_says_is_not_enabled(tmp_path, capsys):
    def wrong(values):
        values["arms"]["left"]["device"]["says"] = 1.5

    with pytest.raises(SystemExit) as done:
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path, wrong)), *ASKED, "--yes"])
    assert done.value.code == 2
    assert "left arm: payload is 1.5 kg, expected 0.82 kg" in capsys.readouterr().err
    assert not any(arm.health().connected for arm in arms())


def test_the_cells_small_model_moves_no_real_arm_by_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path)), "--instruction", "Fold it.", "--yes"])
    assert done.value.code == 2
    assert "is not the simulated cell, and no policy was named: write --policy" in capsys.readouterr().err
    assert not fake_devices.made


def test_what_a_device_can_tell_is_not_asked(tmp_path, monkeypatch, capsys):
    def right(values):
        values["arms"]["right"]["device"]["says"] = 0.82

    asked = []
    monkeypatch.setattr(
        "builtins.input", lambda text: asked.append(text) or ("y" if len(asked) < 10 else "n")
    )
    with pytest.raises(SystemExit):
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path, right)), *ASKED])
    assert len(asked) == 10
    assert not any("right arm: is the payload on" in text for text in asked)
    assert any("left arm: is the payload on its controller 0.82 kg?" in text for text in asked)
    assert any("right arm: does its controller limit the speed" in text for text in asked)
    assert any("is the TCP on its controller 0, 0, 300 mm from the flange" in text for text in asked)
    assert any("left camera: is the exposure" in text for text in asked)


def test_a_device_that_does_not_answer_is_named_and_the_others_are_closed(tmp_path, capsys):
    def broken(values):
        values["arms"]["left"]["device"]["broken"] = True

    with pytest.raises(SystemExit) as done:
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path, broken)), *ASKED, "--yes"])
    assert done.value.code == 2
    assert "the left arm cannot be connected: no route to host" in capsys.readouterr().err
    assert not any(device.health().connected for device in fake_devices.made)


def test_nobody_who_could_start_the_arms_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 11))
    with pytest.raises(SystemExit) as done:
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path)), *ASKED])
    assert done.value.code == 2
    assert "nobody can start the arms" in capsys.readouterr().err
    assert moved() == [0, 0]


def test_a_real_robot_needs_to_be_told_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path)), *ASKED[:2], "--yes"])
    assert '--instruction "Pick up the apple."' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["n"], "not confirmed: Enable the arms and grippers?"),
        (["y", ""], "not confirmed: right arm: is the payload on its controller 0.82 kg?"),
    ],
)
def test_what_is_not_confirmed_moves_nothing(tmp_path, monkeypatch, capsys, answers, wanted):
    said = iter(answers)
    monkeypatch.setattr("builtins.input", lambda text: next(said))
    with pytest.raises(SystemExit) as done:
        main(["run", "--robot", str(fake_devices.robot_yaml(tmp_path)), *ASKED])
    assert done.value.code == 2
    assert wanted in capsys.readouterr().err
    assert moved() == [0, 0]
    assert not any(arm.health().enabled for arm in arms())
    assert not policies  # nor was a policy loaded for nothing


def test_go_brings_back_an_arm_that_was_lost_and_nothing_else_does(tmp_path, monkeypatch, clock, capsys):
    """Regression: the next episode enabled it before anybody could type go, and the command ended."""
    typist, figures = Typist(monkeypatch), tmp_path / "run.json"
    with running("--robot", fake_devices.robot_yaml(tmp_path), *ASKED, "--json", figures):
        told = []

        def says(text):
            told.append(capsys.readouterr().err)
            return text in "".join(told)

        typist.types(*ANSWERS)
        soon(lambda: says("ready: go starts"))
        typist.types("go")
        soon(lambda: min(moved()) > 10)
        arm, plugged, looked = arms()[1], False, []

        def recover():
            if not plugged:
                raise RobotError("no route to host")
            arm._connected = True
            type(arm).recover(arm)

        def checks():
            looked.append((arm.health().ok, moved() == still))
            return []

        monkeypatch.setattr(arm, "recover", recover)
        monkeypatch.setattr(arm, "checks", checks, raising=False)
        arm.fail("its controller is gone")
        arm._connected = False
        soon(lambda: says("over: "))
        told.clear()
        typist.types("next")
        soon(lambda: says("ready: go starts"))
        still = moved()
        typist.types("go")
        soon(lambda: says("left arm cannot go on: no route to host"))
        assert moved() == still
        plugged = True
        time.sleep(0.3)
        assert moved() == still
        assert looked == []
        typist.types("go")
        soon(lambda: min(moved()) > max(still) + 10)
        assert looked == [(True, True)]
        typist.types("success")
        soon(lambda: all(arm.health().stopped for arm in arms()))
        typist.types("quit")
    first, second = json.loads(figures.read_text())["episodes"]
    assert "its controller is gone" in first["ending"]
    assert second["ending"] == "done"


def test_what_was_driven_is_written_also_where_the_session_ends_with_an_error(
    tmp_path, monkeypatch, clock, capsys
):
    typist, figures = Typist(monkeypatch), tmp_path / "run.json"
    with running("--robot", fake_devices.robot_yaml(tmp_path), *ASKED, "--json", figures):
        typist.types(*ANSWERS)
        soon(lambda: "ready: go starts" in capsys.readouterr().err)
        typist.types("go")
        soon(lambda: min(moved()) > 10)
        typist.ends()  # and with it whoever could start the next one
    assert isinstance(failed.pop(), SystemExit)
    (episode,) = json.loads(figures.read_text())["episodes"]
    assert episode["ending"].startswith("stopped: the terminal")
