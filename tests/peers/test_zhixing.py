"""The Zhixing gripper's driver against a peer that speaks Modbus RTU on a pseudo-terminal, at the real one's pace."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("minimalmodbus", reason="pip install 'rdt2[zhixing]'")
pytest.importorskip("pymodbus", reason="pip install 'rdt2[zhixing]'")
pytest.register_assert_rewrite("conformance")

from conformance import GripperConformance, ready  # noqa: E402
from fake_robot import fake_robot  # noqa: E402

from rdt2.devices import GRIPPER_DRIVERS, WallClock, open_device  # noqa: E402
from rdt2.devices.drivers import Opening  # noqa: E402
from rdt2.devices.gripper_drivers import zhixing  # noqa: E402
from rdt2.devices.gripper_drivers._zhixing_bus import FEEDBACK_CLOSED, PortError, ZhixingBus  # noqa: E402
from rdt2.devices.gripper_drivers.zhixing import ZhixingGripper, ZhixingOptions  # noqa: E402
from rdt2.devices.peers import started  # noqa: E402
from rdt2.devices.peers.zhixing import ZhixingPeer, ZhixingPeerOptions, fingers_of  # noqa: E402
from rdt2.errors import ConfigError, RobotError, SafetyError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402

pytestmark = pytest.mark.realtime

SETTINGS = RobotSettings.read("bimanual_ur5e")
PATIENT = 0.5
"""Seconds for an answer where faults are not what is tried: this machine may be busy with other tests."""
AHEAD = 0.09
"""Seconds: late enough for a busy machine, and over before the watchdog asks for another word."""
QUICK = {"read_seconds": 0.001, "write_seconds": 0.001}


def gripper_at(port: str, *, gripper=None, **options) -> ZhixingGripper:
    arm = SETTINGS.arms["left"]
    if gripper is not None:
        arm = arm.model_copy(update={"gripper": arm.gripper.model_copy(update=gripper)})
    options = {"port": port, "answer": PATIENT, **options}
    return ZhixingGripper(
        Opening("left gripper", "left", ZhixingOptions(**options), WallClock(), arm, SETTINGS)
    )


def within(seconds: float, condition) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.001)
    return time.monotonic() - began


def say(gripper, *widths: float) -> None:
    """One width after the other, a policy's step apart."""
    for width in widths:
        gripper.execute(np.array([time.monotonic() + AHEAD]), np.array([width]))
        time.sleep(1 / 30)


def keep_saying(gripper, condition, width: float, *, seconds: float = 20.0) -> None:
    """The same width, as the servo does, until something is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        gripper.execute(np.array([time.monotonic() + AHEAD]), np.array([width]))
        time.sleep(0.01)


@pytest.fixture
def peer():
    with ZhixingPeer(ZhixingPeerOptions(**QUICK)) as peer:
        yield peer


@pytest.fixture
def gripper(peer):
    gripper = gripper_at(peer.port)
    gripper.connect()
    gripper.enable()
    yield gripper
    gripper.close()


class TestConformance(GripperConformance):
    """As for every gripper, at the pace of the real bus."""

    @pytest.fixture
    def robot(self):
        with ZhixingPeer(ZhixingPeerOptions(width=0.1)) as peer:
            robot = fake_robot(sides=("left",), real=True)
            yield replace(robot, grippers={"left": gripper_at(peer.port)})


# ------------------------------------------------------------------------------------------------ widths, positions


def test_widths_are_what_the_published_registers_say(gripper, peer) -> None:
    """0 open to 12000 closed over 0.12 m; the models' 0.088 m are 0.1 m of this gripper, exactly once."""
    assert [gripper.position_of(width) for width in (0.12, 0.06, 0.0)] == [0, 6000, 12000]
    widest = 0.088 * SETTINGS.arms["left"].gripper.scale
    assert widest == pytest.approx(0.1)
    assert gripper.position_of(widest) == 2000
    keep_saying(gripper, lambda: abs(peer.width - widest) < 1e-4, widest)
    assert peer.moves[-1][1] == pytest.approx(0.1, abs=1e-5)
    within(10, lambda: abs(gripper.state().width - 0.1) < 1e-4)


@pytest.mark.parametrize(
    ("fed_back", "width"),
    [(0, 0.12), (3000, 0.0), (1500, 0.06), (0xFFFFFFFF, 0.12), (10001, 0.12), (3040, 0.0)],
)
def test_what_is_fed_back_is_read_as_published(gripper, fed_back: int, width: float) -> None:
    class Fed:
        def position(self):
            return ZhixingBus.position(self)

        _odd, _readings = ValueError, deque()

        def _read(self, question):
            return question()

        class _modbus:
            read_long = staticmethod(lambda register: fed_back)

    gripper.close()
    gripper._read(Fed())
    assert gripper._state.width == pytest.approx(width)


def test_a_stroke_that_is_less_than_the_travel_bounds_it_and_stretches_nothing(peer) -> None:
    """The published driver calls its widest opening whatever open_width says."""
    gripper = gripper_at(peer.port, gripper={"stroke": 0.1})
    assert gripper.position_of(0.1) == 2000
    gripper.connect()
    gripper.enable()
    assert gripper.state().width == pytest.approx(0.12), "what is measured is told as it is"
    with pytest.raises(SafetyError, match="expected 0 to 100 mm"):
        say(gripper, 0.12)
    gripper.close()


def test_fingers_that_meet_early_are_said_by_the_widths_at_both_ends(peer) -> None:
    gripper = gripper_at(
        peer.port, gripper={"stroke": 0.11}, open_width=0.11, closed_width=-0.01, finger_thickness=0.03
    )
    assert [gripper.position_of(width) for width in (0.11, 0.0)] == [0, 11000]
    with pytest.raises(ConfigError, match=r"stroke 0.12 m and open_width 0.11 m.*Measure"):
        gripper_at(peer.port, open_width=0.11)
    with pytest.raises(ConfigError, match="more open than closed"):
        gripper_at(peer.port, closed_width=0.13)


def test_the_published_yaml_opens_the_driver_and_keeps_its_numbers() -> None:
    for side, serial in (("right", "4294935675"), ("left", "1638440")):
        gripper = open_device(SETTINGS, side, "gripper")
        assert isinstance(gripper, ZhixingGripper)
        assert (gripper._options.serial, gripper._options.force) == (serial, 30)
        assert gripper.timing.latency == 0.03
    assert ZhixingOptions(serial=1638440).serial == "1638440", "a number without quotes is one, too"


# ------------------------------------------------------------------------------------------------------- its bus


def test_a_slow_bus_carries_the_newest_width_the_last_word_and_readings_between_them() -> None:
    """30 ms a move and 16 ms a reading: of 125 widths a second about 21 go out, and the last always (PITFALLS 38)."""
    with ZhixingPeer(ZhixingPeerOptions()) as peer:
        gripper = gripper_at(peer.port)
        gripper.connect()
        gripper.enable()
        seen, took = {}, []
        began = time.monotonic()
        while (spent := time.monotonic() - began) < 1.5:
            width = 0.1 - 0.04 * spent
            asked = time.perf_counter()
            gripper.execute(np.array([time.monotonic() + AHEAD]), np.array([width]))
            took.append(time.perf_counter() - asked)
            state = gripper.state()
            seen[state.sequence] = state.timestamp
            time.sleep(0.008)
        within(10, lambda: peer.moves[-1][1] == pytest.approx(width, abs=1e-5))
        moves, seconds = len(peer.moves), 1.5
        bus = next(check for check in gripper.checks() if check.name == "bus")
        gripper.close()
    assert 3 <= moves <= seconds / 0.046 + 3, "more than the bus carries, or hardly any"
    sent = np.array([width for _, width in peer.moves])
    assert (np.diff(sent) <= 1e-9).all(), "an older width after a newer one"
    assert len(seen) > 0.5 * moves, "readings starve"
    assert (np.diff([seen[number] for number in sorted(seen)]) > 0).all()
    assert np.median(took) < 2e-3, "execute waits for the bus"
    assert "are sent, the newest, and always the last" in bus.got
    assert 20 < float(bus.got.split(" ms a width")[0]) < 2000


def test_a_move_is_two_writes_of_the_peer_and_no_more() -> None:
    """Regression: its server's look at what it had just written took the time of a reading: 50 ms a move, not 30."""
    with ZhixingPeer(ZhixingPeerOptions(**QUICK)) as peer:
        bus = ZhixingBus(peer.port, slave=1, answer=0.5)
        bus.move(6000)
        assert peer.answers == 2
        bus.position()
        assert peer.answers == 3
        bus.close()


def test_widths_between_the_first_and_the_last_are_sent_when_they_are_due(gripper, peer) -> None:
    """The published loop sends the last width of a chunk alone (PITFALLS 38)."""
    began = time.monotonic()
    times = began + 0.1 + np.arange(24) / 30
    widths = np.linspace(0.12, 0.05, 24)
    while time.monotonic() < times[-1]:
        ahead = times - time.monotonic()
        soon = (ahead > 0.01) & (ahead < AHEAD)
        if soon.any():
            gripper.execute(times[soon], widths[soon])
        time.sleep(0.02)
    within(10, lambda: len(peer.moves) > 1 and abs(peer.moves[-1][1] - 0.05) < 1e-5)
    moments, sent = np.array(peer.moves).T
    assert len(sent) >= 5
    due = np.interp(moments, times, widths)
    assert np.median(np.abs(sent - due)) < 0.01
    assert (sent >= due - 1e-3).all(), "sent before it was due"


def test_a_state_is_stamped_when_its_register_was_read() -> None:
    """While the fingers move, a width and its stamp lie on their way (PITFALLS 41: that of the published driver stayed
    where it was first read)."""
    with ZhixingPeer(ZhixingPeerOptions(speed=0.1)) as peer:
        gripper = gripper_at(peer.port)
        gripper.connect()
        gripper.enable()
        states, truth = [], []
        moving = threading.Event()

        def watch() -> None:
            while not moving.is_set():
                truth.append((time.monotonic(), peer.width))
                time.sleep(0.002)

        thread = threading.Thread(target=watch)
        thread.start()
        keep_saying(gripper, lambda: states.append(gripper.state()) or gripper.state().width < 0.03, 0.02)
        moving.set()
        thread.join()
        gripper.close()
    times, widths = np.array(truth).T
    errors = [
        abs(state.width - np.interp(state.timestamp, times, widths))
        for state in states
        if times[0] < state.timestamp < times[-1]
    ]
    assert np.median(errors) < 0.1 * (0.0157 + 0.03)


def test_what_stops_the_fingers_is_held_and_nothing_waits_for_reached() -> None:
    """The published calibration waits without end for a flag that never comes (PITFALLS 36)."""
    with ZhixingPeer(ZhixingPeerOptions(object=0.05, **QUICK)) as peer:
        gripper = gripper_at(peer.port)
        gripper.connect()
        gripper.enable()
        keep_saying(gripper, lambda: peer.moves and gripper.state().width < 0.0501, 0.03)
        say(gripper, 0.03)
        time.sleep(0.3)
        assert gripper.health().ok
        sent = len(peer.moves)
        gripper.stop()
        time.sleep(0.5)
        assert len(peer.moves) == sent, "what it holds it goes on holding"
        assert peer.moves[-1][1] == pytest.approx(0.03, abs=1e-5)
        gripper.recover()
        keep_saying(gripper, lambda: gripper.state().width > 0.0995, 0.1)
        gripper.close()


def test_fingers_on_their_way_to_a_single_far_width_are_stopped(peer) -> None:
    """One width far away, told at once: the gripper would go on to it by itself."""
    with ZhixingPeer(ZhixingPeerOptions(speed=0.03, **QUICK)) as peer:
        gripper = gripper_at(peer.port)
        gripper.connect()
        gripper.enable()
        keep_saying(gripper, lambda: bool(peer.moves), 0.0)
        gripper.stop()  # before they have moved at all
        within(10, lambda: not gripper._halting)
        time.sleep(0.2)
        width = peer.width
        assert width > 0.06
        time.sleep(0.3)
        assert peer.width == pytest.approx(width, abs=1e-3)
        gripper.recover()
        gripper.close()


def test_another_grippers_fingers_are_moved_and_felt() -> None:
    robot = fake_robot(sides=("left",), real=True)
    fingers = robot.grippers["left"]
    with ZhixingPeer(ZhixingPeerOptions(width=0.08, **QUICK), fingers_of(fingers, robot.clock)) as peer:
        gripper = gripper_at(peer.port)
        gripper.connect()
        gripper.enable()
        keep_saying(gripper, lambda: fingers.state().width < 0.0505, 0.05)
        within(10, lambda: abs(gripper.state().width - 0.05) < 1e-3)
        gripper.close()


# ------------------------------------------------------------------------------------------------------- faults

FAULTS = {
    "silence": r"gave nothing for \d+ ms, asked \d times",
    "garbage": r"gave what is no answer",
    "short": r"gave what is no answer",
    "odd": r"it is at position 4711, expected 0 \(open\) to 3000 \(closed\)",
    "unplugged": r"is gone",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_bus_stops_it_in_time_says_what_and_next_and_a_person_brings_it_back(
    fault: str, tmp_path
) -> None:
    """An odd reading ends the published driver with an assertion, and its port is never closed (PITFALLS 41)."""
    link = tmp_path / "gripper"
    with ZhixingPeer(ZhixingPeerOptions(link=str(link), **QUICK)) as peer:
        for attempt in range(8):  # a busy machine may be late by itself
            gripper = gripper_at(str(link), answer=0.05)
            try:
                gripper.connect()
                gripper.enable()
                say(gripper, 0.11)
            except (RobotError, SafetyError):
                gripper.close()
                continue
            peer.break_down(fault)
            took = within(20, lambda: bool(gripper.health().fault))  # noqa: B023
            said = gripper.health().fault
            if re.search(FAULTS[fault], said) and took < 0.1 + 0.02 * (attempt + 1):
                break
            peer.break_down("")
            gripper.close()
        print(f"{fault}: {1e3 * took:.0f} ms")
        assert took < 0.1 + 0.2, "later than 100 ms, and what a busy machine adds"
        assert re.search(FAULTS[fault], said)
        assert "recover() it" in said
        with pytest.raises(SafetyError, match="takes no command"):
            say(gripper, 0.1)
        with pytest.raises(RobotError):
            gripper.recover()
        assert gripper.health().fault
        peer.break_down("")
        with pytest.raises(SafetyError, match="takes no command"):
            say(gripper, 0.1)
        again = time.monotonic()
        while gripper.health().fault and time.monotonic() - again < 30:
            try:
                gripper.recover()
            except RobotError:
                time.sleep(0.1)
        assert gripper.health().ok
        before = len(peer.moves)
        say(gripper, 0.1)
        within(10, lambda: len(peer.moves) > before or bool(gripper.health().fault))
        gripper.close()
        ZhixingBus(str(link), slave=1, answer=PATIENT).close()  # nobody else holds the port


@pytest.mark.parametrize("fault", ["garbage", "short", "silence"])
def test_a_single_disturbed_answer_is_no_fault(gripper, peer, fault: str) -> None:
    """Regression (PITFALLS 41): an odd reading ended the process with an assertion."""
    for _ in range(3):
        answered = peer.answers
        peer.break_down(fault, answers=1)
        within(10, lambda: peer.answers > answered + 2)  # noqa: B023
    assert gripper.health().ok


def test_a_late_answer_is_not_taken_for_that_to_the_next_question() -> None:
    """Regression: a serial number was asked for twice, and its second answer was the next position."""
    with ZhixingPeer(ZhixingPeerOptions(serial=880, width=0.06, read_seconds=0.06)) as peer:
        bus = ZhixingBus(peer.port, slave=1, answer=0.05)
        for _ in range(3):
            assert bus.serial_number(patience=0.5) == "880"
            assert bus.position() == FEEDBACK_CLOSED // 2
        bus.close()


def test_a_gripper_that_has_gone_is_said_by_who_asks_and_closing_it_ends_at_once() -> None:
    """Regression (PITFALLS 41): ports that were never closed."""
    with ZhixingPeer(ZhixingPeerOptions(**QUICK)) as peer:
        gripper = gripper_at(peer.port)
        gripper.connect()
        gripper.enable()
    within(20, lambda: bool(gripper.health().fault))
    with pytest.raises(RobotError, match=r"no connection|is gone|does not answer"):
        gripper.checks()
    began = time.monotonic()
    gripper.close()
    gripper.close()
    assert time.monotonic() - began < 20, "it waits for what does not come any more"
    within(20, lambda: not gripper._thread.is_alive())


# ---------------------------------------------------------------------------------------------------- finding it


def test_it_is_found_by_its_serial_number(monkeypatch) -> None:
    one, other = (ZhixingPeerOptions(serial=number, **QUICK) for number in (1638440, 4294935675))
    with ZhixingPeer(one) as first, ZhixingPeer(other) as second:
        monkeypatch.setattr(zhixing, "usb_ports", lambda: [first.port, "/dev/ttyNOTHING", second.port])
        found = {place.device["serial"]: place.note for place in zhixing.find()}
        assert set(found) == {"1638440", "4294935675"}
        assert second.port in found["4294935675"]
        gripper = gripper_at("", serial="4294935675")
        gripper.connect()
        assert gripper._bus.port == second.port
        assert [check.got for check in gripper.checks() if check.name == "serial number"] == ["4294935675"]
        with pytest.raises(PortError, match="no other program uses"):
            ZhixingBus(second.port, slave=1, answer=PATIENT)
        gripper.close()
        with pytest.raises(
            RobotError, match=r"2 grippers could be .*1638440.*4294935675.*number of one under"
        ):
            gripper_at("").connect()
        with pytest.raises(RobotError, match=r"serial number 77 was found.*1638440.*no port /dev/ttyNOTHING"):
            gripper_at("", serial="77").connect()
        with pytest.raises(RobotError, match=r"has the serial number 1638440, expected 4294935675"):
            gripper_at(first.port, serial="4294935675").connect()
        # all that was asked has been closed again
        for peer in (first, second):
            ZhixingBus(peer.port, slave=1, answer=PATIENT).close()
    monkeypatch.setattr(zhixing, "usb_ports", lambda: [])
    with pytest.raises(RobotError, match=r"there is no USB serial port.*plugged in"):
        gripper_at("").connect()
    assert zhixing.find() == []


def test_a_port_that_cannot_be_opened_is_explained(tmp_path) -> None:
    with pytest.raises(RobotError, match=r"no port /dev/ttyUSB99\. Is the adapter plugged in"):
        gripper_at("/dev/ttyUSB99").connect()
    other = tmp_path / "file"
    other.write_text("")
    with pytest.raises(RobotError, match="cannot be opened"):
        gripper_at(str(other)).connect()


def test_its_peer_is_a_program_of_its_own() -> None:
    assert "zhixing" in GRIPPER_DRIVERS
    with started("zhixing", serial=77, read_seconds=0.001, write_seconds=0.001) as device:
        gripper = gripper_at(**device)
        gripper.connect()
        gripper.enable()
        assert {check.name: check.ok for check in gripper.checks()}["force"]
        say(gripper, 0.1)
        within(20, lambda: abs(gripper.state().width - 0.1) < 1e-3)
        ready(replace(fake_robot(sides=("left",), real=True), grippers={"left": gripper}))
        device.process.kill()
        within(10, lambda: "is gone" in gripper.health().fault)
        gripper.close()


HOLDER = """
import contextlib, sys, time
import numpy as np
from rdt2.devices import open_device
from rdt2.errors import RDT2Error
from rdt2.robot.settings import RobotSettings
device = {"type": "zhixing", "port": sys.argv[1], "answer": 0.5}
settings = RobotSettings.read("bimanual_ur5e").changed({"arms.left.gripper.device": device})
gripper = open_device(settings, "left", "gripper")
gripper.connect()
gripper.enable()
while True:
    try:
        gripper.execute(time.monotonic() + np.array([0.05, 4.0]), np.array([gripper.state().width - 0.005, 0.0]))
    except RDT2Error:  # a busy machine: it heard nothing for 100 ms
        with contextlib.suppress(RDT2Error):
            gripper.recover()
    time.sleep(0.01)
"""


def test_fingers_stand_when_the_process_that_moved_them_is_killed(peer) -> None:
    """Widths are sent as they are due: a far one is never left with the gripper."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, peer.port])
    try:
        within(60, lambda: peer.width < 0.11)
    finally:
        process.kill()
        process.wait(10)
    time.sleep(0.2)
    width = peer.width
    assert width > 0.02
    time.sleep(0.5)
    assert peer.width == pytest.approx(width, abs=1e-4)
