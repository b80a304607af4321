"""Drivers above faked libraries: moments for which no peer can be asked."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.devices import open_device
from rdt2.devices.arm_drivers._aside import HANGS
from rdt2.devices.gripper_drivers import zhixing
from rdt2.devices.gripper_drivers._zhixing_bus import BusError
from rdt2.errors import RobotError, SafetyError
from rdt2.pose import matrix_to_pose
from rdt2.robot.protocols import GripperState
from rdt2.robot.settings import RobotSettings

pytestmark = pytest.mark.realtime

LOAD = {"payload": 0.8, "payload_centre": [0, 0, 0.06], "payload_inertia": [0.001, 0.001, 0.001]}
UR_JOINTS = np.radians([-102.0, -112.0, -138.9, 55.0, 81.9, -1.7])
FR3_JOINTS = np.array([0.0, -0.2, 0.0, -2.2, 0.0, 2.0, 0.785])


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


class FakeLink:
    """A UR controller that stands, and says its settings a while after they were set."""

    lost, trouble, slowed, late = False, "", "", 0.0

    def __init__(self, arm, settings):
        pose = np.linalg.inv(arm.base) @ settings.kinematics()["right"].forward(UR_JOINTS)
        self.set = float("inf")
        self.receive = SimpleNamespace(
            getTimestamp=time.monotonic, getActualQ=lambda: UR_JOINTS, getActualQd=lambda: np.zeros(6),
            getActualTCPPose=lambda: matrix_to_pose(pose), getActualTCPSpeed=lambda: np.zeros(6),
            getActualTCPForce=lambda: np.zeros(6), getTargetSpeedFraction=lambda: 0.3,
            getPayload=lambda: 0.8 if time.monotonic() > self.set + self.late else 0.0,
            getPayloadCog=lambda: [0, 0, 0.06], getPayloadInertia=lambda: [0.001] * 3 + [0.0] * 3,
        )  # fmt: skip
        self.control = SimpleNamespace(
            servoL=lambda *_: True,
            servoJ=lambda *_: True,
            servoStop=lambda _: True,
            kickWatchdog=lambda: True,
            teachMode=lambda: True,
            endTeachMode=lambda: True,
        )

    def open(self):
        """It answers."""

    close = unlock = guard = abandon = open

    def take_control(self, tool):
        self.set = time.monotonic()
        return tool


@pytest.fixture
def ur():
    settings = RobotSettings.read("bimanual_ur5e")
    device = {"type": "ur_rtde", "address": "192.0.2.1", "speed_slider": 0.3, **LOAD}
    settings = settings.changed({"arms.right.device": device})
    arm = open_device(settings, "right", "arm")
    arm._link = FakeLink(arm, settings)
    arm.connect()
    yield arm
    arm.close()


class FakeFR3:
    """A robot that stands, until its connection is lost."""

    has_errors, is_in_control, lost = True, True, False

    @property
    def state(self):
        if self.lost:
            raise OSError("no route to host")
        return SimpleNamespace(
            q=FR3_JOINTS, dq=np.zeros(7), O_F_ext_hat_K=np.zeros(6), current_errors=None,
            time=SimpleNamespace(to_sec=time.monotonic), robot_mode=SimpleNamespace(name="Idle"),
        )  # fmt: skip

    def recover_from_errors(self):
        """It has."""


@pytest.fixture
def fr3(monkeypatch):
    library = SimpleNamespace(
        JointReference=lambda **_: None, JointImpedanceGains=lambda **_: None, NetworkException=OSError
    )
    monkeypatch.setitem(sys.modules, "franky", library)
    settings = RobotSettings.read("bimanual_fr3")
    settings = settings.changed({"arms.right.device": {"type": "franky", "address": "192.0.2.1", **LOAD}})
    arm = open_device(settings, "right", "arm")
    robot = FakeFR3()

    def begin():
        arm._motion = SimpleNamespace(set_reference=lambda _: None, set_gains=lambda _: None)

    arm._reached, arm._begin = lambda: robot, begin
    arm._set_up = arm._let_go = lambda: None
    arm.connect()
    yield arm
    arm.close()


@pytest.fixture
def gripper(monkeypatch):
    monkeypatch.setattr(zhixing, "WAIT", 0.05)
    settings = RobotSettings.read("bimanual_ur5e").changed({"arms.right.gripper.device": {"type": "zhixing"}})
    gripper = open_device(settings, "right", "gripper")
    gripper._state, gripper._bus = GripperState(0.0, 0, 0.05), object()
    gripper._connected = True
    gripper._ask = lambda question: None
    return gripper


DRIVERS = pytest.mark.parametrize(
    ("driver", "moment"),
    [("ur", ("_link", "unlock")), ("fr3", ("_robot", "recover_from_errors")), ("gripper", ("_ask",))],
    ids=["ur", "fr3", "gripper"],
)


def recovered_while(device, moment, what):
    """Stopped and recovered; what happens at a moment of the recovery."""
    *path, name = moment
    holder = getattr(device, path[0]) if path else device
    before = getattr(holder, name)
    device.stop()
    device._halting = False  # of the gripper, whose bus's thread says so
    setattr(holder, name, lambda *_: what())
    try:
        device.recover()
    finally:
        setattr(holder, name, before)


@DRIVERS
def test_a_stop_that_comes_while_a_device_is_being_recovered_holds(driver, moment, request) -> None:
    device = request.getfixturevalue(driver)
    device.enable()
    with pytest.raises(RobotError, match="was stopped again while it was being recovered, and stays stopped"):
        recovered_while(device, moment, device.stop)
    assert device.health().stopped
    assert device.health().enabled
    recovered_while(device, moment, lambda: None)
    assert device.health().ok


def test_what_a_driver_says_again_and_again_of_its_old_fault_is_no_other_stop(ur, gripper) -> None:
    ur.enable()
    recovered_while(ur, ("_link", "unlock"), lambda: ur.fail("a protective stop"))
    assert ur.health().ok

    def misses_one_more():
        gripper._lose(BusError("no answer"))
        gripper._trouble = ""  # and the next try went well

    gripper.enable()
    recovered_while(gripper, ("_ask",), misses_one_more)
    assert gripper.health().ok


def test_a_recovery_that_fails_after_it_has_reconnected_forgets_nothing(fr3) -> None:
    fr3.enable()
    fr3._robot.lost = True
    until(lambda: not fr3.health().connected)
    fr3._robot.lost = False
    set_up = fr3._set_up

    def refuse():
        raise RobotError("the right arm refuses its settings.")

    fr3._set_up = refuse
    with pytest.raises(RobotError, match="refuses its settings"):
        fr3.recover()
    health = fr3.health()
    assert (health.connected, health.enabled, health.stopped) == (True, True, True)
    assert "is lost: no route to host" in health.fault
    fr3._set_up = set_up
    fr3.recover()
    assert fr3.health().ok


def test_settings_that_a_controller_tells_late_are_waited_for(ur) -> None:
    """Regression: it had 50 ms of the second that was meant for it."""
    ur._link.late = 0.3
    ur.enable()
    assert all(check.ok for check in ur.checks())


@pytest.mark.parametrize("kind", ["execute", "execute_joints"])
@pytest.mark.parametrize("driver", ["ur", "fr3"])
def test_the_first_command_after_a_silence_is_heard_when_it_is_seen(driver, kind, request) -> None:
    """Regression: the driver's thread saw the new path before the moment at which it came, and stopped."""
    arm = request.getfixturevalue(driver)
    arm.enable()
    arm._heard -= 10.0
    taken = getattr(arm._stream, kind)

    def slowly(*values):
        taken(*values)
        time.sleep(0.04)  # a thread that loses its turn here

    setattr(arm._stream, kind, slowly)
    state, times = arm.state(), time.monotonic() + 0.1 * np.arange(1, 5)
    values = state.pose if kind == "execute" else state.joints
    getattr(arm, kind)(times, np.repeat(values[None], 4, axis=0))
    time.sleep(0.02)
    assert arm.health().ok


def test_an_arm_in_a_persons_hands_whose_stop_fails_is_stopped_by_the_next_one(fr3) -> None:
    """Regression: the second stop did nothing, and the arm stayed without stiffness although all seemed well."""
    fr3.enable()
    fr3.guide(True)
    gains = []

    def set_gains(_):
        gains.append(1)
        if len(gains) == 1:
            raise RuntimeError("the robot is busy")

    fr3._motion.set_gains = set_gains
    with pytest.raises(RuntimeError, match="the robot is busy"):
        fr3.stop()
    assert fr3._stream._ramp is not None  # whatever became of the stiffness, it goes nowhere
    fr3.stop()
    assert len(gains) == 2
    assert not fr3._in_hand


class Hanging:
    """The thread of a driver, in a library that does not come back before it is let go on."""

    def __init__(self, arm):
        self._arm, self._go = arm, threading.Event()
        there = threading.Event()

        def hang():
            there.set()
            self._go.wait(10)

        arm._measure = hang
        assert there.wait(10)

    def end(self):
        del self._arm._measure
        self._go.set()


@pytest.fixture
def told(fr3):
    """What the loop of an arm in a person's hands is told, from the moment at which its driver hangs."""
    fr3.enable()
    fr3.guide(True)
    told = []
    hanging = Hanging(fr3)
    fr3._motion.set_reference = lambda _: told.append("where it is")
    fr3._motion.set_gains = lambda _: told.append("stiffness")
    yield told
    hanging.end()


def test_an_arm_that_is_taken_from_a_persons_hands_is_held_where_it_is(fr3, told) -> None:
    """Regression: it became stiff at once, and the place to keep was told by another thread, which may hang: until then
    the arm went back to where the person had taken it."""
    fr3.stop()
    assert told == ["where it is", "stiffness"]


def test_an_arm_in_a_persons_hands_whose_driver_hangs_is_left_to_them_and_that_is_said(fr3, told) -> None:
    """Regression: a stop went well, and pulled the arm back to where the driver had seen it last."""
    time.sleep(HANGS + 0.1)
    for letting_go in (fr3.stop, fr3.stop, lambda: fr3.guide(False)):
        with pytest.raises(RobotError, match=r"has been hanging for .* stays in the hands that hold it"):
            letting_go()
    with pytest.raises(RobotError, match="cannot go on: its driver has been hanging"):
        fr3.recover()
    assert told == []
    assert fr3.health().stopped


def test_an_arm_whose_driver_has_been_hanging_is_taken_from_a_persons_hands_by_the_next_stop(fr3) -> None:
    fr3.enable()
    fr3.guide(True)
    hanging = Hanging(fr3)
    time.sleep(HANGS + 0.1)
    with pytest.raises(RobotError, match="has been hanging"):
        fr3.stop()
    hanging.end()
    until(lambda: not fr3._turns.hanging)
    fr3.stop()
    assert not fr3._in_hand
    fr3.recover()
    assert fr3.health().ok


def test_an_arm_whose_driver_hangs_is_given_into_nobodys_hands(fr3) -> None:
    fr3.enable()
    hanging = Hanging(fr3)
    time.sleep(HANGS + 0.1)
    with pytest.raises(SafetyError, match="takes no command: its driver has been hanging"):
        fr3.guide(True)
    hanging.end()


def test_an_arm_that_was_closed_is_no_arm_whose_driver_hangs(fr3) -> None:
    """Its thread has ended, and turns no more."""
    fr3.enable()
    fr3.close()
    time.sleep(HANGS + 0.1)
    fr3.stop()
    fr3.connect()
    fr3._robot.lost = True
    until(lambda: not fr3.health().connected)
    time.sleep(HANGS + 0.1)
    fr3.stop()
    fr3._robot.lost = False
    fr3.recover()


def test_a_data_connection_that_has_ended_is_called_that(ur) -> None:
    """Regression: 25 ms after it had ended the controller was said to have shown no new state for 100 ms."""
    ur.enable()
    ur._link.lost = True
    until(lambda: ur.health().stopped)
    assert ur.health().fault == (
        "the data connection to the controller at 192.0.2.1 has ended, and it stops the arm by itself. Look at its "
        "cable and its power, then recover"
    )


def test_an_arm_whose_controller_does_not_end_freedrive_is_kept_in_it_by_nobody(ur) -> None:
    """Regression: giving back went well, and the script was kept alive, so that the arm stayed free to be moved."""
    ur.enable()
    ur.guide(True)
    ur._link.control.endTeachMode = lambda: False
    with pytest.raises(RobotError, match="refuses the end of freedrive"):
        ur.guide(False)
    kicks = []
    ur._link.control.kickWatchdog = lambda: kicks.append(1) or True
    time.sleep(0.05)
    assert kicks == []
    assert ur.health().stopped


def test_an_arm_whose_controller_does_not_begin_freedrive_says_so(ur) -> None:
    ur.enable()
    ur._link.control.teachMode = lambda: False
    with pytest.raises(RobotError, match="refuses the beginning of freedrive"):
        ur.guide(True)
    until(lambda: not ur._in_hand)
    assert ur.health().stopped
