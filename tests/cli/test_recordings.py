"""`rdt2 run --record`: what is recorded of what is driven. What is done with it: tests/test_readme.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings

pytest.importorskip("mcap")

from rdt2.cli.main import main
from rdt2.cli.recording import Recording
from rdt2.cli.run import Run
from rdt2.data.recordings import find_recordings, read_recording
from rdt2.errors import ConfigError
from rdt2.operation.opening import Opened
from rdt2.operation.session import Episode
from rdt2.policy.spec import PolicySpec

SENTENCE = "Pick up the red cube with the left hand."


def nothing_more():
    yield from ()


def test_run_records_what_it_drives_and_the_mark(tmp_path, capsys):
    robot, settings = fake_robot(), fake_settings()

    class Done:
        success = followed = done = False

    command = Run(
        spec=PolicySpec(),
        robot="cell_ur5e",
        yes=True,
        episodes=1,
        max_seconds=1.0,
        recording=Recording(record=tmp_path / "r"),
    )
    records: list = []
    command._drive(
        Episode(0, Opened(robot, settings, Done()), SENTENCE),
        nothing_more(),
        ConstantPolicy(),
        records,
        None,
    )
    assert [record["ending"] for record in records] == ["time is up"]
    (path,) = find_recordings(tmp_path / "r")
    recording = read_recording(path)
    assert not recording.cut
    assert recording.notes.instructions == (SENTENCE,)
    assert recording.notes.title == "fake, episode 1"
    assert recording.notes.policy["policy"] == "demo-fm"
    assert (recording.notes.mark, recording.notes.marked_by) == ("failure", "the judge of the cell")
    assert len(recording.times("/left/camera")) > 20
    assert f"recorded: {path}" in capsys.readouterr().err.replace("\n", "")
    main(["data", "recordings", str(tmp_path / "r")])
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if path.name in line]
    assert line.split()[-1] == "failure"
    assert [line.strip() for line in lines if "ending" in line] == ["ending: time is up"]
    assert max(map(len, lines)) <= 80


def test_an_episode_that_ends_by_an_error_is_recorded_to_its_end(tmp_path):
    """Regression: its file had no end, and --json nothing of it."""
    robot, settings = fake_robot(), fake_settings()
    until = robot.clock.now() + 0.7

    class Breaks:
        success = followed = False

        @property
        def done(self):
            if robot.clock.now() < until:
                return False
            raise ZeroDivisionError("the judge is broken")

    command = Run(spec=PolicySpec(), robot="cell_ur5e", yes=True, recording=Recording(record=tmp_path))
    records: list = []
    with pytest.raises(ZeroDivisionError, match="the judge is broken"):
        command._drive(
            Episode(0, Opened(robot, settings, Breaks()), SENTENCE),
            nothing_more(),
            ConstantPolicy(),
            records,
            None,
        )
    (path,) = find_recordings(tmp_path)
    recording = read_recording(path)
    assert not recording.cut
    (record,) = records
    for ending, seconds in (
        (record["ending"], record["seconds"]),
        (recording.notes.ending, recording.notes.seconds),
    ):
        assert "the judge is broken" in ending
        assert seconds == pytest.approx(0.7, abs=0.05)
    assert recording.values("/events")[-1][1:] == ("end", recording.notes.ending)


def test_a_3_d_mouse_is_listened_to_until_the_arms_are_not_driven_any_more(monkeypatch):
    said = SimpleNamespace(x=0, y=0, z=0, roll=0, pitch=0, yaw=0, buttons=[])
    mouse = SimpleNamespace(read=lambda: said)
    monkeypatch.setitem(sys.modules, "pyspacemouse", SimpleNamespace(open=lambda: mouse))
    with Recording(pilot="space-mouse").opened_pilot(fake_settings()) as pilot:
        assert not pilot._over.is_set()
    assert pilot._over.is_set()
    with Recording().opened_pilot(fake_settings()) as pilot:
        assert pilot is None


def test_the_last_seconds_need_a_folder():
    with pytest.raises(ConfigError, match="--record FOLDER"):
        Recording(record_last=30.0).recorder({})
