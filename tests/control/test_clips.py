"""The last seconds that somebody keeps, what is said about them, and recordings in which nobody corrects."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings
from recorded import Scripted, make_recording
from test_disk_recorder import SENTENCE, Calls, record

pytest.importorskip("mcap")

from rdt2.control import DiskRecorder, LoopConfig, Steer, Together, run_episode
from rdt2.data.convert import convert
from rdt2.data.recordings import find_recordings, read_notes, read_recording, write_notes
from rdt2.data.recordings.files import RecordingFile
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError

LATER = "Pick up the green cube with the left hand."
CORRECTIONS = SourceOptions(marks="corrections")


def test_the_notes_of_a_clip_are_those_of_its_own_seconds(tmp_path):
    """Regression: they were those of the whole episode: its length, its frames, and a correction that came later."""
    robot, settings, kept = fake_robot(), fake_settings(), []
    recorder = DiskRecorder(tmp_path, policy={"policy": "constant"}, last=1.0)
    recorder.begin(robot.clock, settings)
    began = robot.clock.now()
    up = Steer({"left": np.array([0, 0, 0.1, 0, 0, 0])}, {"left": 0.03})
    result = run_episode(
        robot, ConstantPolicy(), lambda: SENTENCE if robot.clock.now() < began + 1.6 else LATER, settings=settings,
        recorder=Together([recorder, *(Calls(lambda: kept.append(recorder.keep()), at=at) for at in (1.5, 3.8))]),
        config=LoopConfig(latency=0.1), pilot=Scripted(robot, 2.0, 4.0, lambda _: up), max_seconds=3.0,
    )  # fmt: skip
    assert recorder.end(result, mark="success", marked_by="the test") == kept
    before, meanwhile = map(read_notes, kept)
    for notes in (before, meanwhile):
        assert (notes.clip, notes.ending, notes.mark) == (True, "time is up", "success")
        assert notes.seconds == pytest.approx(1.0, abs=0.06)
        assert notes.frames == pytest.approx(30, abs=3)
    assert result.seconds > 4
    # what was said before the clip began holds in it
    assert (before.instructions, before.corrections) == ((SENTENCE,), 0)
    assert (meanwhile.instructions, meanwhile.corrections) == ((LATER,), 1)
    assert read_recording(kept[1]).values("/driver") == ["person"]
    source = open_source(tmp_path, "recording", CORRECTIONS)
    assert source.names == [kept[1].stem]
    assert {meta["driver"] for meta in source[0].frame_meta} == {"person"}


def test_where_there_is_nothing_to_keep_that_is_said(tmp_path):
    """Regression: before the arms moved an empty file was written."""
    robot, settings = fake_robot(), fake_settings()
    recorder = DiskRecorder(tmp_path, policy={}, last=1.0)
    recorder.begin(robot.clock, settings)
    assert recorder.keep() is None
    assert recorder.unkept == "nothing of this episode has been recorded yet"
    whole = DiskRecorder(tmp_path, policy={})
    whole.begin(robot.clock, settings)
    assert whole.keep() is None
    assert whole.unkept == "whole episodes are recorded, and this one with them"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_nothing_and_half_of_a_clip_is_no_clip(tmp_path, monkeypatch):
    """Regression: a file without an end was left, with the notes of the whole episode."""
    kept, recorders = [], []

    def full(self, message):
        raise OSError(errno.ENOSPC, "No space left on device")

    def during(recorder):
        recorders.append(recorder)

        def keeps():
            with monkeypatch.context() as patch:
                patch.setattr(RecordingFile, "put", full)
                kept.append(recorder.keep())
            assert "the disk is full" in recorder.unkept
            assert not list(tmp_path.iterdir())
            kept.append(recorder.keep())  # when there is room again

        return Calls(keeps, at=1.5)

    _, files = record(tmp_path, last=1.0, during=during)
    assert kept == [None, *files]
    assert recorders[0].unkept == ""
    assert find_recordings(tmp_path) == files
    assert not read_recording(files[0]).cut


def test_the_end_of_an_episode_waits_for_a_clip_that_is_being_written(tmp_path, monkeypatch):
    """Regression: one that was begun at that moment was never written, and whoever asked for it ended with an error."""
    begun, goes_on, kept = threading.Event(), threading.Event(), []

    def slow(form):
        begun.set()
        assert goes_on.wait(20)
        return time.strftime(form)

    robot, settings = fake_robot(), fake_settings()
    recorder = DiskRecorder(tmp_path, policy={}, last=1.0)
    recorder.begin(robot.clock, settings)
    result = run_episode(
        robot, ConstantPolicy(), SENTENCE, settings=settings, recorder=recorder, config=LoopConfig(latency=0.1),
        max_seconds=1.5,
    )  # fmt: skip
    clock = SimpleNamespace(strftime=slow, monotonic=time.monotonic)
    monkeypatch.setattr("rdt2.control.disk_recorder.wall", clock)
    keeps = threading.Thread(target=lambda: kept.append(recorder.keep()))
    keeps.start()
    assert begun.wait(20)
    threading.Timer(0.2, goes_on.set).start()
    files = recorder.end(result, mark="success")
    keeps.join(20)
    assert files == kept
    assert (read_notes(files[0]).ending, read_notes(files[0]).mark) == ("time is up", "success")
    assert not read_recording(files[0]).cut


def test_a_recording_without_a_frame_of_the_person_is_passed_over_by_name(tmp_path):
    """Regression: one of them stopped the conversion of the whole folder."""
    folder = tmp_path / "recordings"
    make_recording(folder / "corrected")
    _, (path,) = record(folder / "ended", seconds=1.2)  # as if it had ended when the person took over
    write_notes(path, dataclasses.replace(read_notes(path), corrections=1))
    report = convert(folder, tmp_path / "shards", kind="recording", options=CORRECTIONS)
    assert report.episodes == 1
    assert report.samples > 0
    passed = f"ended/{path.stem} is passed over: no frame of it was driven by the person who took over"
    assert report.notes == [passed, "left out: 1 without a correction (--marks corrections)"]
    shutil.rmtree(folder / "corrected")
    with pytest.raises(ConfigError, match="of 1 recordings none is taken: 1 without a correction"):
        open_source(folder, "recording", CORRECTIONS)
