"""Trackers: SteamVR's own interface with nobody behind it, and recordings behind the same protocol."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import numpy as np
import pytest

from rdt2.devices import TRACKER_DRIVERS, open_tracker
from rdt2.devices.tracker_drivers import TURN
from rdt2.devices.tracker_drivers import openvr as driver
from rdt2.devices.tracker_drivers.recorded import RATE, read_recording
from rdt2.errors import ConfigError, RobotError
from rdt2.pose import pose_to_matrix
from rdt2.robot import Tracker
from rdt2.robot.settings import RobotSettings

pytestmark = pytest.mark.realtime

SETTINGS = RobotSettings.read("bimanual_ur5e")


class Clock:
    """Goes on when it is told."""

    time = 100.0

    def now(self) -> float:
        return self.time

    def sleep_until(self, time: float) -> None:
        self.time = max(self.time, time)


def within(seconds: float, condition) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.002)


def moved(x: float = 0.0, turn: float = 0.0) -> np.ndarray:
    return pose_to_matrix(np.array([x, 1.0, 0.2, 0.0, 0.0, turn]))


def conforms(tracker) -> None:
    """The life of a tracker, whoever measures it."""
    assert isinstance(tracker, Tracker)
    assert not tracker.health().connected
    with pytest.raises(RobotError, match="not connected"):
        tracker.state()
    with pytest.raises(RobotError, match="connect"):
        tracker.enable()
    tracker.connect()
    tracker.connect()
    tracker.enable()
    first = tracker.state()
    assert first.valid
    assert first.reason == ""
    rotation = first.pose[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert tracker.health().ok
    tracker.stop()
    assert tracker.health().stopped
    tracker.recover()
    assert tracker.health().ok
    tracker.close()
    tracker.close()
    assert not tracker.health().connected


# ----------------------------------------------------------------------------------------------------- recordings


def recording(path, poses, times=None, **more):
    times = np.arange(len(poses)) / 100 if times is None else times
    np.savez(path, times=times, poses=np.asarray(poses), **more)
    return path


def recorded(path, clock=None, **options):
    return open_tracker({"type": "recorded", "file": str(path), **options}, SETTINGS, "left", clock)


def test_a_recording_is_played_at_its_own_pace(tmp_path) -> None:
    poses = [moved(0.01 * i) for i in range(100)]
    path, clock = recording(tmp_path / "a.npz", poses), Clock()
    conforms(recorded(path, clock))
    for pace in (1.0, 2.0):
        tracker, began = recorded(path, clock, pace=pace), clock.time
        tracker.connect()
        clock.time = began + 0.105 / pace
        state = tracker.state()
        assert state.timestamp == pytest.approx(began + 0.10 / pace)
        np.testing.assert_allclose(state.pose, poses[10])
        assert state.sequence == 10
        assert tracker.state().sequence == 10, "nothing new"
        clock.time = began + 0.995 / pace
        assert tracker.state().sequence == 99
        assert tracker.health().fault == ""
        clock.time += 0.5
        assert not tracker.state().valid
        assert tracker.health().fault == "its recording has ended"
        tracker.close()


def test_or_as_fast_as_it_is_read(tmp_path) -> None:
    poses = [moved(0.01 * i) for i in range(5)]
    tracker = recorded(recording(tmp_path / "a.npz", poses), Clock(), pace=0)
    tracker.connect()
    states = [tracker.state() for _ in range(7)]
    np.testing.assert_allclose([state.pose for state in states[:5]], poses)
    assert [state.valid for state in states] == [True] * 5 + [False] * 2
    np.testing.assert_allclose(np.diff([state.timestamp for state in states[:5]]), 0.01)


def test_published_and_plain_recordings_are_read(tmp_path) -> None:
    """The published scripts wrote six numbers a line, 30 a second, in the tracker's own axes."""
    table = np.array([[0.1, 1.0, 0.2, 0.0, 0.3, 0.0]] * 4)
    np.savetxt(tmp_path / "tracker_posrotvec_np.txt", table, fmt="%.6f")
    times, poses, valid = read_recording(tmp_path / "tracker_posrotvec_np.txt")
    np.testing.assert_allclose(times, np.arange(4) / RATE)
    np.testing.assert_allclose(poses[0], pose_to_matrix(table[0]) @ TURN)
    np.testing.assert_allclose(poses[0, :3, 3], table[0, :3])
    assert valid.all()
    document = {"times": [0.0, 0.1], "poses": [moved().tolist(), moved(0.1).tolist()], "valid": [True, False]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    times, poses, valid = read_recording(tmp_path / "a.json")
    assert poses[1, 0, 3] == pytest.approx(0.1)
    assert valid.tolist() == [True, False]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("missing", "cannot be read"),
        ("columns", "expected 6"),
        ("words", "cannot be read"),
        ("no poses", "has no 'poses'"),
        ("shape", r"poses \(3, 3, 3\)"),
        ("times", "do not increase"),
        ("empty", r"times \(0,\)"),
        ("list", "cannot be read"),
    ],
)
def test_what_is_no_recording_is_refused_with_what_is_expected(tmp_path, wrong: str, said: str) -> None:
    path = tmp_path / "a.npz"
    three = [moved()] * 3
    if wrong == "columns":
        np.savetxt(path := tmp_path / "a.txt", np.zeros((3, 7)))
    elif wrong == "words":
        (path := tmp_path / "a.txt").write_text("up and down\n")
    elif wrong == "no poses":
        np.savez(path, times=np.arange(3))
    elif wrong == "shape":
        recording(path, np.zeros((3, 3, 3)))
    elif wrong == "times":
        recording(path, three, np.array([0, 0.1, 0.1]))
    elif wrong == "empty":
        recording(path, np.zeros((0, 4, 4)))
    elif wrong == "list":
        (path := tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=said) as error:
        recorded(path).connect()
    assert str(path) in str(error.value)


# ---------------------------------------------------------------------------------------------------------- jumps


def test_a_jump_beyond_a_hand_is_not_believed_and_says_so(tmp_path) -> None:
    """A quick hand is believed, a reflection is not, and what comes back from it is again."""
    quick = [moved(0.03 * i, 0.15 * i) for i in range(20)]
    poses = [*quick, moved(5.0, 3.0), moved(5.0, 3.0), *(moved(0.03 * i, 0.15 * i) for i in range(22, 40))]
    tracker = recorded(recording(tmp_path / "a.npz", poses), Clock(), pace=0)
    tracker.connect()
    tracker.enable()
    states = [tracker.state() for _ in range(40)]
    assert [state.valid for state in states] == [True] * 20 + [False] * 2 + [True] * 18
    assert "jumped by 44" in states[20].reason
    assert "within 10 ms" in states[20].reason
    fault = tracker.health().fault
    assert "more than a hand does" in fault
    assert "recover() it" in fault
    assert tracker.health().stopped


def test_a_turn_alone_is_a_jump_too(tmp_path) -> None:
    tracker = recorded(recording(tmp_path / "a.npz", [moved(), moved(turn=1.5)]), Clock(), pace=0)
    tracker.connect()
    tracker.state()
    assert "86 degrees" in tracker.state().reason


def test_where_it_stays_after_a_jump_is_believed_after_a_while_or_on_a_persons_word(tmp_path) -> None:
    far = [moved(0.0)] * 3 + [moved(0.5 + 1e-4 * i) for i in range(100)]
    path = recording(tmp_path / "a.npz", far)
    tracker = recorded(path, Clock(), pace=0)
    tracker.connect()
    states = [tracker.state() for _ in range(100)]
    valid = [state.valid for state in states]
    assert valid.index(False) == 3
    assert 3 + 50 <= valid.index(True, 3) <= 3 + 52
    assert "not believed again before" in states[20].reason
    tracker.close()

    tracker.connect()
    for _ in range(10):
        tracker.state()
    tracker.recover()
    assert tracker.health().fault == ""
    tracker.state()
    assert tracker.state().valid


# -------------------------------------------------------------------------------------------------------- SteamVR


class FakeVRSystem:
    """What the driver asks of SteamVR: two trackers, a headset, and what a test wants of them."""

    def __init__(self, vr) -> None:
        self.vr, self.events, self.acknowledged = vr, [], False
        self.devices = {0: (vr.TrackedDeviceClass_HMD, "LHR-HEAD", "Vive")}
        self.devices[3] = (vr.TrackedDeviceClass_GenericTracker, "LHR-AAAA", "VIVE Tracker 3.0")
        self.devices[5] = (vr.TrackedDeviceClass_GenericTracker, "LHR-BBBB", "VIVE Tracker 3.0")
        self.poses = {3: moved(0.1), 5: moved(0.7)}
        self.connected, self.valid, self.result = True, True, vr.TrackingResult_Running_OK
        self.frozen, self.broken, self.universes = False, False, set()
        self._tick = 0

    def getTrackedDeviceClass(self, index):
        return self.devices.get(index, (self.vr.TrackedDeviceClass_Invalid,))[0]

    def getStringTrackedDeviceProperty(self, index, what):
        return self.devices[index][1 if what == self.vr.Prop_SerialNumber_String else 2]

    def pollNextEvent(self, event):
        if not self.events:
            return False
        event.eventType = self.events.pop()
        return True

    def acknowledgeQuit_Exiting(self):
        self.acknowledged = True

    def getDeviceToAbsoluteTrackingPose(self, universe, seconds, array):
        if self.broken:
            raise OSError("the pipe is gone")
        assert seconds == 0.0, "poses for another moment than the stamp's"
        self.universes.add(universe)
        self._tick += not self.frozen
        for index, pose in self.poses.items():
            told = array[index]
            told.bDeviceIsConnected, told.bPoseIsValid = self.connected, self.valid
            told.eTrackingResult = self.result
            for r in range(3):
                for c in range(4):
                    # No two alike, whoever else asks between: a pose that stays the same is one that nobody measures.
                    told.mDeviceToAbsoluteTracking.m[r][c] = pose[r, c] + 2e-6 * (self._tick % 25) * (c == 3)
        return array


@pytest.fixture
def steam(monkeypatch):
    vr = pytest.importorskip("openvr", reason="pip install 'rdt2[vive]'")
    system = FakeVRSystem(vr)
    system.opened = 0

    def init(kind):
        system.opened += 1
        return system

    def shutdown():
        system.opened -= 1

    monkeypatch.setattr(vr, "init", init)
    monkeypatch.setattr(vr, "shutdown", shutdown)
    yield system
    assert system.opened == 0, "SteamVR is left open"
    assert not any(thread.name.endswith("tracker") for thread in threading.enumerate())


@pytest.fixture
def vive():
    """Opens trackers, and closes them whatever came of the test."""
    opened = []

    def open_one(**options):
        opened.append(open_tracker({"type": "openvr", **options}, SETTINGS, "left"))
        return opened[-1]

    yield open_one
    for tracker in opened:
        tracker.close()


def test_steamvrs_tracker_conforms(steam, vive) -> None:
    assert {"openvr", "recorded"} <= set(TRACKER_DRIVERS)
    conforms(vive(serial="LHR-BBBB"))


def test_it_is_known_by_its_serial_number_and_told_in_the_grippers_axes(steam, vive) -> None:
    one, other = vive(serial="LHR-AAAA"), vive(serial="LHR-BBBB", universe="raw")
    one.connect()
    other.connect()
    assert steam.opened == 1, "one connection for all trackers of a process"
    for tracker, x in ((one, 0.1), (other, 0.7)):
        np.testing.assert_allclose(tracker.state().pose, moved(x) @ TURN, atol=1e-4)
    assert steam.universes == {steam.vr.TrackingUniverseStanding, steam.vr.TrackingUniverseRawAndUncalibrated}
    first = one.state()
    within(10, lambda: one.state().sequence > first.sequence + 3)
    assert one.state().timestamp > first.timestamp
    one.close()
    assert other.state().valid
    other.close()
    assert [place.device for place in driver.find()] == [{"serial": "LHR-AAAA"}, {"serial": "LHR-BBBB"}]
    with pytest.raises(RobotError, match=r"2 trackers could be the left tracker: LHR-AAAA, LHR-BBBB"):
        vive().connect()
    with pytest.raises(RobotError, match=r"no tracker LHR-CCCC .*LHR-AAAA, LHR-BBBB.*pair it"):
        vive(serial="LHR-CCCC").connect()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"connected": False}, "switched off or out of radio reach"),
        ({"valid": False}, "the stations do not see it"),
        ({"result": 201}, "Running OutOfRange"),
        ({"frozen": True}, "the same pose for"),
    ],
)
def test_a_tracker_that_is_not_seen_is_not_valid_and_comes_back_by_itself(
    steam, vive, change, said: str
) -> None:
    tracker = vive(serial="LHR-AAAA")
    tracker.connect()
    tracker.enable()
    before = {key: getattr(steam, key) for key in change}
    vars(steam).update(change)
    within(10, lambda: not tracker.state().valid)
    assert said in tracker.state().reason
    within(10, lambda: said in tracker.health().fault)
    vars(steam).update(before)
    within(10, lambda: tracker.state().valid and tracker.health().ok)
    tracker.close()


def test_a_jump_in_steamvr_is_a_fault_until_a_person_has_looked(steam, vive) -> None:
    tracker = vive(serial="LHR-AAAA")
    tracker.connect()
    tracker.enable()
    steam.poses[3] = moved(9.0)
    within(10, lambda: "more than a hand does" in tracker.health().fault)
    assert not tracker.state().valid
    tracker.recover()
    within(10, lambda: tracker.state().valid)
    assert tracker.health().ok
    tracker.close()


@pytest.mark.parametrize("end", ["quit", "broken"])
def test_steamvr_that_ends_is_a_fault_that_says_what_next(steam, vive, end: str) -> None:
    tracker = vive(serial="LHR-AAAA")
    tracker.connect()
    tracker.enable()
    if end == "quit":
        steam.events.append(steam.vr.VREvent_Quit)
    else:
        steam.broken = True
    within(10, lambda: tracker.health().fault)
    assert "SteamVR" in tracker.health().fault
    assert "connect" in tracker.health().fault
    assert steam.acknowledged == (end == "quit"), "SteamVR kills who does not say that it goes"
    assert not tracker.state().valid
    with pytest.raises(RobotError, match="still not to be used"):
        tracker.recover()
    tracker.close()


def test_a_tracker_that_nobody_sees_is_not_connected(steam, vive, monkeypatch) -> None:
    monkeypatch.setattr(driver, "START_SECONDS", 0.2)
    steam.valid = False
    with pytest.raises(RobotError, match=r"is not tracked: the stations do not see it.*two base stations"):
        vive(serial="LHR-AAAA").connect()


def test_without_steamvr_it_says_what_to_start(vive) -> None:
    pytest.importorskip("openvr", reason="pip install 'rdt2[vive]'")
    with pytest.raises(RobotError, match="Start SteamVR on this machine"):
        vive().connect()
    assert driver.find() == []


# ---------------------------------------------------------------------------------------- of a cell that somebody runs


def test_a_cells_tracker_sits_where_its_tool_really_is_whatever_the_robots_yaml_says() -> None:
    pytest.importorskip("mujoco")
    from rdt2.pose import TRACKER_TO_POLICY
    from rdt2.sim.board import Board
    from rdt2.sim.tracker import STATIONS

    tcp = moved(0.3)
    true = RobotSettings.read("cell_ur5e").arms["left"].policy_to_tcp
    with contextlib.closing(Board()) as board:
        began = time.monotonic() - 5.0

        def show(at: float) -> None:
            board.write_cell(began=began)
            board.write_device("left arm", timestamp=at - began, sequence=1, pose=tcp)

        show(time.monotonic())
        tracker = open_tracker({"type": "cell", "robot": "ur5e", "memory": board.name}, SETTINGS, "left")
        tracker.connect()
        told = tracker.state()
        assert told.valid
        assert told.timestamp == pytest.approx(time.monotonic() + 0.02, abs=0.05)
        meant = STATIONS @ tcp @ true @ np.linalg.inv(TRACKER_TO_POLICY)
        assert np.linalg.norm(told.pose[:3, 3] - meant[:3, 3]) < 5e-3
        assert tracker.state().sequence == told.sequence  # until the cell shows something new
        show(time.monotonic() + 1 / 60)
        assert tracker.state().sequence == told.sequence + 1
        within(1.0, lambda: "nothing new" in tracker.health().fault)
        assert not tracker.state().valid
        tracker.close()
    with contextlib.closing(Board()) as empty, pytest.raises(RobotError, match="finds no arm in the memory"):
        open_tracker({"type": "cell", "robot": "ur5e", "memory": empty.name}, SETTINGS, "left").connect()
    with pytest.raises(
        RobotError, match=r"no cell with the memory 'psm_none'. Start 'rdt2 device peer cell'"
    ):
        open_tracker({"type": "cell", "robot": "ur5e", "memory": "psm_none"}, SETTINGS, "left").connect()
