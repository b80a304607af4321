"""Recordings of the loop on disk: what is in them, and that they outlive whatever happens."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings

pytest.importorskip("mcap")

from rdt2.control import DiskRecorder, LoopConfig, Together, run_episode
from rdt2.control.recording import BehindAQueue, Moment
from rdt2.data.recordings import (
    find_recordings,
    mark_recording,
    notes_path,
    read_notes,
    read_recording,
    recover,
)
from rdt2.data.recordings.files import RecordingFile
from rdt2.data.recordings.reading import RUNNING
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError, RecordingError
from rdt2.robot import Frame

SENTENCE = "Pick up the red cube with the left hand."
SCALE = 0.1 / 0.088
CHANGE = np.array([[0, -1, 0, 0.01], [1, 0, 0, -0.02], [0, 0, 1, 0.15], [0, 0, 0, 1.0]])


def record(folder, *, policy=None, seconds=2.0, real=False, mark=None, last=None, during=None, **changes):
    settings = fake_settings(changes)
    robot = fake_robot(real=real)
    recorder = DiskRecorder(folder, policy={"policy": "constant"}, last=last)
    recorder.begin(robot.clock, settings)
    recorders = [recorder] if during is None else [recorder, during(recorder)]
    result = run_episode(
        robot, policy or ConstantPolicy(), SENTENCE, settings=settings, recorder=Together(recorders),
        config=LoopConfig(latency=None if real else 0.1), max_seconds=seconds,
    )  # fmt: skip
    return result, recorder.end(result, mark=mark, marked_by="the test")


class Calls:
    """A recorder that calls a function at a moment, once."""

    def __init__(self, act, at):
        self.act, self.at = act, at

    def on_cycle(self, observation, chunk, time):
        """Of no interest."""

    def on_frame(self, moment):
        if moment.since >= self.at:
            self.at = np.inf
            self.act()


def test_everything_the_loop_knows_is_in_the_file(tmp_path):
    """Regression (PITFALLS 39): recording calls did nothing."""
    slow = {f"arms.{side}.bounds.speed": 0.1 for side in ("right", "left")}
    result, (path,) = record(tmp_path, policy=ConstantPolicy(invalid={3}), mark="success", **slow)
    recording = read_recording(path)
    assert not recording.cut
    assert recording.sides == ("right", "left")
    assert recording.notes.mark == "success"
    assert recording.notes.marked_by == "the test"
    assert recording.notes.ending == result.ending == "time is up"
    assert recording.notes.instructions == (SENTENCE,)
    assert recording.notes.policy == {"policy": "constant"}
    assert recording.notes.robot["arms"]["left"]["bounds"]["speed"] == 0.1
    assert recording.notes.frames == pytest.approx(60, abs=4)
    for side in ("right", "left"):
        assert len(recording.times(f"/{side}/camera")) == pytest.approx(60, abs=4)
        for name in ("tcp", "tcp_command", "gripper", "gripper_command", "velocity", "joints"):
            assert len(recording.times(f"/{side}/{name}")) == pytest.approx(250, abs=6), name
        # 0.15 m/s are wished for, the guard allows 0.1, and that is what is measured
        wish, made, measured = (
            recording.values(f"/{side}/{name}")[-1][0] for name in ("tcp_wish", "tcp_command", "tcp")
        )
        assert wish > made + 0.01
        assert made == pytest.approx(measured, abs=2e-3)
    assert recording.values("/instruction") == [SENTENCE]
    assert recording.values("/driver") == ["policy", "nobody", "policy"]
    np.testing.assert_allclose(
        recording.values("/policy/chunk")[0][:, 0], 0.005 * np.arange(1, 25), atol=1e-6
    )
    said = {(name, text) for _, name, text in recording.values("/events")}
    assert {("policy", "the chunk is not valid: token 3 is out of range"), ("end", "time is up")} <= said
    assert any(name == "fault" and "token 3" in text for name, text in said)
    assert any(name == "guard" and "within its limits of 0.1 m/s" in text for name, text in said)
    assert len(recording.values("/timing/delay")) == len(result.cycles)


def test_the_readers_of_others_understand_it(tmp_path):
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    _, (path,) = record(tmp_path, seconds=0.5)
    ours = read_recording(path)
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        theirs: dict = {}
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            theirs.setdefault(channel.topic, []).append((schema.name, message.publish_time, decoded))
    assert set(theirs) == set(ours.topics)
    kind, stamp, pose = theirs["/left/tcp"][5]
    assert kind == "geometry_msgs/msg/PoseStamped"
    assert pose.header.stamp.sec * 10**9 + pose.header.stamp.nanosec == stamp
    assert abs(stamp - time.time_ns()) < 600e9  # of the wall's clock, whatever the robot's is
    assert pose.header.frame_id == "cell"
    place, turn = pose.pose.position, pose.pose.orientation
    assert (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w) == ours.values("/left/tcp")[5]
    assert (turn.x, turn.y, turn.z, turn.w) == (1, 0, 0, 0)  # diag(1, -1, -1)
    assert theirs["/left/gripper"][5][2].position == [*ours.values("/left/gripper")[5].values()]
    picture = theirs["/right/camera"][3][2]
    assert picture.format == "jpeg"
    assert bytes(picture.data) == ours.values("/right/camera")[3]
    chunk = theirs["/policy/chunk"][0][2]
    assert [dim.size for dim in chunk.layout.dim] == [24, 20]
    assert len(theirs["/left/chunk"][0][2].poses) == 25
    assert theirs["/events"][-1][2].msg == "time is up"


def test_rerun_shows_it(tmp_path):
    pytest.importorskip("rerun", minversion="0.41", reason="pip install 'rdt2[view]'")
    _, (path,) = record(tmp_path, seconds=0.5)
    rerun, film = str(Path(sys.executable).with_name("rerun")), tmp_path / "recording.rrd"

    def told(*words):
        return subprocess.run([rerun, *words], check=True, capture_output=True, text=True, timeout=100).stdout

    told("mcap", "convert", str(path), "-o", str(film))
    chunks = re.findall(r" - (/\S+) - data columns: \[(.*)\]", told("rrd", "print", str(film)))
    for topic, kind in {
        "/left/tcp": "InstancePoses3D:translations",
        "/left/camera": "EncodedImage:blob",
        "/left/gripper/position": "Scalars:scalars",
        "/events": "TextLog:text",
    }.items():
        assert any(name == topic and kind in columns for name, columns in chunks), topic


def test_shards_of_a_recording_say_what_the_policy_commanded(tmp_path):
    """Through another frame than the TCP's, a gripper's scale and latencies: 5 mm a step along the policy's x axis."""
    changes = {}
    for side in ("right", "left"):
        changes[f"arms.{side}.policy_to_tcp"] = CHANGE.tolist()
        changes[f"arms.{side}.gripper.scale"] = SCALE
        changes[f"arms.{side}.gripper.latency"] = 0.05
    _, (path,) = record(tmp_path, mark="success", **changes)
    (episode,) = open_source(tmp_path, "recording")
    assert episode.meta["mark"] == "success"
    assert episode.sentences == [SENTENCE]
    np.testing.assert_allclose(np.diff(episode.timestamps), 1 / 30, atol=9e-3)
    chunks = dict(episode.chunks())
    late = [frame for frame in chunks if episode.timestamps[frame] - episode.timestamps[0] > 0.5]
    assert len(late) > 15
    policy = ConstantPolicy().values()
    recording = read_recording(path)
    told = np.array([next(iter(each.values())) for each in recording.values("/left/gripper_command")])
    at = recording.times("/left/gripper_command") + 0.05
    for frame in late:
        for arm in (0, 10):
            np.testing.assert_allclose(chunks[frame][:, arm : arm + 3], policy[:, arm : arm + 3], atol=1.5e-3)
            np.testing.assert_allclose(
                chunks[frame][:, arm + 3 : arm + 9], policy[:, arm + 3 : arm + 9], atol=1e-5
            )
        steps = episode.timestamps[frame] + np.arange(1, 25) / 30
        # every chunk begins a saw tooth of 10 mm; between two frames around its edge a width is in between
        off = np.abs(chunks[frame][:, 19] - np.interp(steps, at, told) / SCALE)
        assert (off < 3e-4).mean() > 0.8
        assert off.max() < 5e-3
    assert all(meta == {"driver": "policy", "correction": False} for meta in episode.frame_meta)


def test_only_what_is_marked_as_a_success_is_converted_unless_asked_otherwise(tmp_path):
    for number, mark in enumerate(["success", "failure", None]):
        record(tmp_path / str(number), seconds=1.2, mark=mark)
    source = open_source(tmp_path, "recording")
    assert [name.split("/")[0] for name in source.names] == ["0"]
    assert source.notes == ["left out: 1 marked as failures, 1 without a mark (--marks success)"]
    assert len(open_source(tmp_path, "recording", SourceOptions(marks="all"))) == 3
    with pytest.raises(ConfigError, match="2 without a correction, 1 marked as failures"):
        open_source(tmp_path, "recording", SourceOptions(marks="corrections"))
    mark_recording(find_recordings(tmp_path / "2")[0], "success")
    mark_recording(find_recordings(tmp_path / "0")[0], None)
    assert [name.split("/")[0] for name in open_source(tmp_path, "recording").names] == ["2"]
    with pytest.raises(ConfigError, match="--gripper-unit"):
        open_source(tmp_path, "recording", SourceOptions(gripper_unit="mm"))


@pytest.mark.parametrize("share", [0.999, 0.7, 0.31, 0.05])
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes_and_mended(tmp_path, share):
    _, (path,) = record(tmp_path, seconds=1.5)
    whole = read_recording(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    notes_path(path).unlink()
    cut = read_recording(path)
    assert cut.cut
    for topic, messages in cut.topics.items():
        assert messages == whole.topics[topic][: len(messages)]
    count = sum(map(len, cut.topics.values()))
    assert count > 0.5 * share * sum(map(len, whole.topics.values())) - 40
    notes = recover(path)
    assert notes.ending == RUNNING
    assert notes.frames == len(cut.topics.get("/right/camera", ()))
    mended = read_recording(path)
    assert not mended.cut
    assert mended.topics == cut.topics
    assert recover(path) == notes


def test_what_is_being_recorded_is_not_mended(tmp_path):
    said = []

    def mend(recorder):
        def act():
            with pytest.raises(RecordingError, match="is being recorded right now"):
                recover(recorder.files[0])
            said.append(read_notes(recorder.files[0]))

        return Calls(act, at=1.0)

    _, (path,) = record(tmp_path, seconds=1.5, during=mend)
    assert said[0].ending == RUNNING
    assert not read_recording(path).cut


def test_no_recording_is_told_from_one_that_is_damaged(tmp_path):
    (tmp_path / "other.mcap").write_bytes(b"\x89MCAP0\r\n" + b"\0" * 100)
    with pytest.raises(RecordingError, match="no recording of 'rdt2 run --record'"):
        read_recording(tmp_path / "other.mcap")
    _, (path,) = record(tmp_path / "one", seconds=1.0)
    for text in ("not json", "[]", '{"robot": {}}', '{"robot": {"arms": {}}, "unknown": 1}'):
        notes_path(path).write_text(text)
        with pytest.raises(RecordingError, match=r"the \.mcap file remains"):
            read_notes(path)
    notes_path(path).unlink()
    assert read_notes(path).instructions == (SENTENCE,)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="rdt2 run --record"):
        find_recordings(tmp_path / "empty")


CHILD = """
    import sys
    sys.path.insert(0, {here!r})
    from test_disk_recorder import DiskRecorder, record
    write = DiskRecorder.on_frame
    def on_frame(self, moment):
        write(self, moment)
        print(moment.time, flush=True)
    DiskRecorder.on_frame = on_frame
    record({folder!r}, seconds=60.0, real=True)
"""


def test_kill_9_costs_less_than_the_last_second(tmp_path):
    """Of what the recorder had been told: how far it lags behind the arms is the machine's business."""
    code = textwrap.dedent(CHILD.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        told = [float(child.stdout.readline()) for _ in range(75)]
        child.send_signal(signal.SIGKILL)
        told += [float(line) for line in child.stdout]
    finally:
        child.kill()
        child.wait()
    (path,) = find_recordings(tmp_path)
    recording = read_recording(path)
    assert recording.cut
    logged = [message.logged for messages in recording.topics.values() for message in messages]
    assert (told[-1] - told[0]) - 1e-9 * (max(logged) - min(logged)) < 1.0
    assert recover(path).frames > 20
    assert (read_notes(path).ending, read_recording(path).cut) == (RUNNING, "")


def test_a_full_disk_ends_the_recording_and_not_the_episode(tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limits[1]))
    try:
        result, (path,) = record(tmp_path, seconds=3.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.ending == "time is up"
    assert len(result.cycles) > 5
    assert not result.pauses
    assert "Recording has ended" in capsys.readouterr().err
    recording = read_recording(path)
    assert recording.cut
    assert len(recording.times("/left/tcp")) > 20
    assert "Recording has ended" in recording.notes.unrecorded


def test_whatever_a_recorder_meets_is_told_and_ends_nothing_else(tmp_path, monkeypatch, capsys):
    """Regression: only a disk's errors were; any other ended the episode, or was not told before its end."""
    put, pictures = RecordingFile.put, []

    def fails(self, message):
        pictures.extend([message] * message.topic.endswith("camera"))
        if len(pictures) > 20:
            raise MemoryError("no room for a picture")
        put(self, message)

    monkeypatch.setattr(RecordingFile, "put", fails)
    result, (path,) = record(tmp_path, seconds=1.5)
    assert result.ending == "time is up"
    assert "Recording has ended: no room for a picture" in capsys.readouterr().err
    assert "Recording has ended" in read_notes(path).unrecorded


def test_a_slow_disk_costs_pictures_first_and_never_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr("rdt2.control.recording.WITH_PICTURES", 3)
    put = RecordingFile.put

    def slow(self, message):
        time.sleep(0.02 if message.topic.endswith("camera") else 0.0)
        put(self, message)

    monkeypatch.setattr(RecordingFile, "put", slow)
    robot_seconds = 2.0
    result, (path,) = record(tmp_path, seconds=robot_seconds, real=True)
    assert result.ending == "time is up"
    assert not result.pauses
    recording = read_recording(path)
    ticks = len(recording.times("/left/tcp_command"))
    assert ticks > 0.8 * len(result.lateness)
    assert len(recording.times("/left/camera")) < 0.8 * 30 * robot_seconds
    assert "pictures of" in recording.notes.unrecorded
    assert result.unrecorded in recording.notes.unrecorded


def test_pictures_are_dropped_before_anything_else(monkeypatch):
    seen, hold = [], __import__("threading").Event()

    class Stuck:
        wants_pictures = True

        def on_cycle(self, observation, chunk, time):
            """Of no interest."""

        def on_frame(self, moment):
            hold.wait(10)
            seen.append(moment)

    frame = Frame(0.0, 1, np.zeros((384, 384, 3), np.uint8))
    moment = Moment(0.0, 0.0, {}, {}, None, None, None, None, "", frames={"left": [frame]})
    behind = BehindAQueue(Stuck())
    for number in range(300):
        behind.on_frame(dataclasses.replace(moment, time=float(number)))
    hold.set()
    behind.close(10.0)
    assert not behind.broken
    assert len(seen) + behind.dropped == 300
    assert sum(bool(each.frames) for each in seen) in (64, 65)
    assert behind.pictures_dropped == 300 - sum(bool(each.frames) for each in seen)
    assert behind.dropped in (43, 44)


def test_the_last_seconds_are_kept_when_somebody_asks(tmp_path):
    kept = []
    _, files = record(
        tmp_path,
        seconds=4.0,
        last=1.0,
        during=lambda recorder: Calls(lambda: kept.append(recorder.keep()), at=3.0),
    )
    assert files == kept
    assert find_recordings(tmp_path) == kept
    recording = read_recording(kept[0])
    assert not recording.cut
    times = recording.logged("/left/tcp")
    assert times[-1] - times[0] == pytest.approx(1.0, abs=0.06)
    # said long before, and still so
    assert recording.values("/instruction") == [SENTENCE]
    assert recording.values("/driver") == ["policy"]
    assert recording.notes.clip
    assert recording.notes.ending == "time is up"
    (episode,) = open_source(tmp_path, "recording", SourceOptions(marks="all"))
    assert len(episode) == pytest.approx(30, abs=3)
    with pytest.raises(ConfigError, match="1 to 600"):
        record(tmp_path, last=0.0)


def test_a_mark_of_a_person_counts_more_than_the_judges(tmp_path):
    _, (path,) = record(
        tmp_path,
        seconds=1.0,
        mark="success",
        during=lambda recorder: Calls(lambda: recorder.mark("failure"), at=0.5),
    )
    assert (read_notes(path).mark, read_notes(path).marked_by) == ("failure", "a person")
    assert json.loads(notes_path(path).read_text())["mark"] == "failure"
