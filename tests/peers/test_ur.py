"""A UR5e, through ur_rtde against a controller that speaks its protocols."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rtde_control", reason="ur_rtde is not installed: pip install 'rdt2[ur]'")
pytest.importorskip("mujoco")
pytest.register_assert_rewrite("conformance")

from conformance import Conformance, follow, path, ready, run  # noqa: E402
from lateness import on_time  # noqa: E402
from streamed import Moving, is_moved_by_hand, robot_of, until  # noqa: E402

from rdt2.devices.peers import started  # noqa: E402
from rdt2.devices.peers._ur_motion import CellMotion  # noqa: E402
from rdt2.devices.peers.ur import trouble  # noqa: E402
from rdt2.errors import ConfigError, RobotError, SafetyError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402

pytestmark = pytest.mark.realtime

ADDRESS = f"127.89.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""One of its own for each process that runs tests: the protocols fix the ports."""
SLACK = 0.15
JOINTS = (-102.00, -112.00, -138.89, 54.98, 81.91, -1.68)
"""Degrees: where the published right arm begins."""


def settings(address=ADDRESS, **device):
    """The published robot's right arm, with more room."""
    both = RobotSettings.read("bimanual_ur5e").model_dump()
    right = both["arms"]["right"]
    right["device"] = {
        "address": address, "payload": 0.82, "payload_centre": [0, 0, 0.06], "speed_slider": 0.3,
        "payload_inertia": [0.001106, 0.001106, 0.001106], **device,
    }  # fmt: skip
    right["bounds"] |= {"low": [-1, -2, -0.08], "high": [1, 1, 1.2]}
    right["latency"] = 0.06
    return RobotSettings.model_validate({**both, "arms": {"right": right}})


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


@pytest.fixture(scope="module")
def peer():
    with started("ur", address=ADDRESS, joints_degrees=JOINTS, unlock_after=0.5) as peer:
        yield peer


@pytest.fixture
def robot(peer):
    # at home, too: tests leave it higher and higher
    for cure in ("release", "power on", "thaw", "fast", "home"):
        trouble(peer["address"], cure)
    robot = robot_of(settings())
    yield robot
    robot.close()


class TestUR(Conformance):
    """The same suite as for every robot; its gripper and its camera are fakes, which it is not about."""

    test_pictures_are_new_and_come_at_once = None
    test_a_gripper_follows_its_widths = None
    test_what_a_gripper_must_not_follow_is_refused_and_changes_nothing = None
    test_a_stopped_gripper_stays_where_it_is = None
    test_a_gripper_that_hears_nothing_while_it_moves_stops_by_itself = None

    @pytest.mark.parametrize("wrong", ["past", "mirrored"])
    def test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(self, robot, wrong):
        super().test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(robot, wrong)


def goes_on(robot):
    """It follows a way up."""
    before = robot.arms["right"].state().pose[2, 3]
    follow(robot, robot.arms["right"], *path(robot, "right", 0.3))
    run(robot, 0.2)
    assert robot.arms["right"].state().pose[2, 3] > before + 0.02


def test_what_the_yaml_says_is_set_and_looked_up(robot) -> None:
    """Regression (PITFALLS 33): the TCP is the one of this robot's own yaml, in the controller as in the model."""
    arm = ready(robot).arms["right"]
    found = {check.name: check for check in arm.checks()}
    assert all(check.ok for check in found.values()), found
    assert {
        "mode", "tool", "payload", "payload's centre", "payload's inertia", "speed slider", "kinematics",
    } == set(found)  # fmt: skip
    assert found["payload"].got == "0.82 kg"
    assert found["speed slider"].got == "30 %"
    assert found["tool"].got == "[0.0, 0.0, 300.0] mm"
    state = arm.state()
    np.testing.assert_allclose(state.pose, settings().kinematics()["right"].forward(state.joints), atol=1e-6)


def test_somebody_else_who_sets_another_load_is_noticed(robot) -> None:
    arm = ready(robot).arms["right"]
    arm._options = arm._options.model_copy(update={"payload": 1.9})
    wrong = [check for check in arm.checks() if not check.ok]
    assert [(check.name, check.expected, check.got) for check in wrong] == [("payload", "1.9 kg", "0.82 kg")]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("protective_stop", "a protective stop.*free the arm, then recover"),
        ("emergency_stop", "emergency stop is pressed.*power the arm on"),
    ],
)
def test_an_arm_that_its_controller_stops_is_a_fault_and_a_person_brings_it_back(
    peer, robot, what, told
) -> None:
    motion = Moving(robot)
    arm = motion.arm
    trouble(peer["address"], what)
    assert motion.stopped_after() < 0.1 + SLACK
    assert re.search(told, motion.refused)
    until(lambda: np.abs(arm.state().velocity).max() < 0.02)
    with pytest.raises(
        RobotError, match=r"Cannot unlock protective stop until 0\.5s|emergency stop is pressed"
    ):
        arm.recover()
    assert not arm.health().ok
    if what == "emergency_stop":
        trouble(peer["address"], "release")
        run(robot, 0.1)
        with pytest.raises(RobotError, match=r"the arm is switched off\. Power it on"):
            arm.recover()
        trouble(peer["address"], "power on")
    run(robot, 0.6)
    arm.recover()
    robot.recover()
    assert robot.faults() == []
    goes_on(robot)


@pytest.mark.parametrize("what", ["drop", "freeze"])
def test_a_connection_that_ends_or_says_nothing_more_is_a_fault_in_time(peer, robot, what) -> None:
    motion = Moving(robot)
    arm = motion.arm
    trouble(peer["address"], what)
    assert motion.stopped_after() < 0.1 + SLACK
    seen = "data connection .* has ended, and it stops" if what == "drop" else "no new state for 100 ms"
    assert re.search(f"{seen}|script on its controller has ended", motion.refused)
    trouble(peer["address"], "thaw")
    until(lambda: _recovers(arm))
    robot.recover()
    until(lambda: np.abs(arm.state().velocity).max() < 0.02)
    goes_on(robot)


def _recovers(arm):
    try:
        arm.recover()
    except RobotError:
        return False
    return arm.health().ok


def test_an_arm_in_trouble_is_not_enabled_and_says_why(peer, robot) -> None:
    robot.connect()
    trouble(peer["address"], "emergency_stop")
    run(robot, 0.2)
    with pytest.raises(RobotError, match=r"cannot be enabled: the emergency stop is pressed"):
        robot.arms["right"].enable()


def test_a_speed_slider_that_a_person_turned_down_is_turned_up_by_nobody(peer, robot) -> None:
    """Regression: each recovery, and each enabling, set what the yaml says."""

    def slider():
        return next(check for check in arm.checks() if check.name == "speed slider")

    arm = ready(robot).arms["right"]
    assert slider().got == "30 %"
    trouble(peer["address"], "slow")
    until(lambda: slider().got == "10 %")
    robot.stop()
    run(robot, 0.2)
    robot.recover()
    assert robot.faults() == []
    assert (slider().got, slider().expected, slider().ok) == ("10 %", "30 % at most", True)
    robot.close()
    robot.connect()
    with pytest.raises(RobotError, match=r"slider stands at 10 %, expected 30 %\. Turn it up on the pendant"):
        robot.enable()


def test_a_path_faster_than_the_arm_may_be_is_refused(robot) -> None:
    arm = ready(robot).arms["right"]
    before, now = arm.state().pose, robot.clock.now()
    far = np.stack([before, before])
    far[1, 2, 3] += 0.2
    with pytest.raises(SafetyError, match=r"refuses a path of 2\.00 m/s .* at most 0\.5 m/s"):
        arm.execute(now + np.array([0.1, 0.2]), far)
    run(robot, 0.3)
    np.testing.assert_allclose(arm.state().pose, before, atol=0.002)
    assert arm.health().ok


def test_a_person_moves_it_by_hand(peer, robot) -> None:
    is_moved_by_hand(robot, lambda: trouble(peer["address"], "push"))


def test_it_is_led_along_joint_angles(robot) -> None:
    arm = ready(robot).arms["right"]
    start = arm.state().joints
    goal = start + np.array([0.1, 0, 0, 0.1, 0, -0.1])
    times = robot.clock.now() + 0.05 + 0.02 * np.arange(1, 41)
    joints = start + np.linspace(0, 1, 40)[:, None] * (goal - start)
    while robot.clock.now() < times[-1]:
        ahead = times > robot.clock.now() + 0.005
        if ahead.any():
            arm.execute_joints(times[ahead], joints[ahead])
        run(robot, 0.02)
    run(robot, 0.4)
    np.testing.assert_allclose(arm.state().joints, goal, atol=0.005)


def test_ending_before_anything_was_commanded_raises_nothing_and_the_arm_stands(peer, robot) -> None:
    """Regression (PITFALLS 39): an episode without an action raised at its end, and left robots unstopped."""
    arm = ready(robot).arms["right"]
    there = arm.state().pose
    assert robot.close() == {}
    ready(robot)
    np.testing.assert_allclose(arm.state().pose, there, atol=0.002)


def test_a_driver_that_hangs_in_its_library_is_said_and_stopping_does_not_wait_for_it(robot) -> None:
    arm = Moving(robot).arm
    released = time.monotonic() + 1.5
    arm._measure = lambda: time.sleep(max(0.0, released - time.monotonic()))
    run(robot, 0.5)
    began = time.monotonic()
    assert "its controller stops the arm by itself" in robot.stop()["right arm"]
    assert time.monotonic() - began < 0.45
    del arm._measure
    until(lambda: time.monotonic() > released + 0.3)
    assert arm.health().stopped


PATHS = [str(Path(__file__).parents[1] / name) for name in ("peers", "control", "robot")]
LEAVER = """
import sys
sys.path[:0] = {paths!r}
import test_ur
robot = test_ur.robot_of(test_ur.settings({address!r}))
test_ur.ready(robot)
robot.close()
"""


def test_a_process_that_ends_right_after_closing_ends_in_order(peer, tmp_path) -> None:
    """Regression: the library was still saying good-bye in a thread, and C++ aborted the process."""
    script = tmp_path / "leaver.py"
    script.write_text(LEAVER.format(paths=PATHS, address=peer["address"]))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


REFUSED = """
import sys
sys.path[:0] = {paths!r}
import test_ur
test_ur.robot_of(test_ur.settings({address!r})).connect()
"""


def test_a_process_whose_script_is_not_taken_lets_go_of_what_was_connected(peer, tmp_path) -> None:
    """Regression: the connection that heard states lived on, and connected again by itself."""
    script = tmp_path / "refused.py"
    script.write_text(REFUSED.format(paths=PATHS, address=peer["address"]))
    trouble(peer["address"], "protective_stop")
    try:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        trouble(peer["address"], "release")
    assert done.returncode == 1, done.stderr
    assert "takes no script" in done.stderr.splitlines()[-1]
    assert "End of file" not in done.stderr


LOSER = """
import sys, time
sys.path[:0] = {paths!r}
import test_ur
motion = test_ur.Moving(test_ur.robot_of(test_ur.settings({address!r})))
test_ur.trouble({address!r}, "drop")
motion.stopped_after()
time.sleep(3)
print(motion.arm.health())
motion.robot.close()
"""


def test_a_process_that_loses_its_controller_lives_on(peer, robot, tmp_path) -> None:
    """Regression: the library connected again by itself, with ever more threads, until the process crashed."""
    script = tmp_path / "loser.py"
    script.write_text(LOSER.format(paths=PATHS, address=peer["address"]))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "stopped: " in done.stdout
    assert len(done.stderr.splitlines()) < 50  # nothing at each turn


VICTIM = """
import sys, time
sys.path[:0] = {paths!r}
import test_ur
test_ur.Moving(test_ur.robot_of(test_ur.settings({address!r})))
print("moving", flush=True)
time.sleep(60)
"""


def test_an_arm_whose_driver_is_killed_stops(peer, robot, tmp_path) -> None:
    """Its controller hears nothing for 100 ms."""
    script = tmp_path / "victim.py"
    script.write_text(VICTIM.format(paths=PATHS, address=peer["address"]))
    robot.connect()
    arm = robot.arms["right"]
    victim = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout.readline() == "moving\n"
        os.kill(victim.pid, signal.SIGKILL)
        assert until(lambda: np.abs(arm.state().velocity[:3]).max() < 0.02) < 0.3 + SLACK
    finally:
        victim.kill()
        victim.wait()
    there = arm.state().pose
    run(robot, 0.3)
    np.testing.assert_allclose(arm.state().pose, there, atol=0.002)


def test_an_arm_whose_controller_dies_is_lost_and_another_one_is_found() -> None:
    address = ADDRESS.replace("127.89", "127.90")
    with started("ur", address=address, joints_degrees=JOINTS) as peer:
        robot = robot_of(settings(address))
        motion = Moving(robot)
        peer.process.kill()
        assert motion.stopped_after() < 0.1 + SLACK
        with pytest.raises(RobotError, match="cannot be reached"):
            motion.arm.recover()
    with started("ur", address=address, joints_degrees=JOINTS):
        until(lambda: _recovers(motion.arm))
        robot.recover()
        goes_on(robot)
        robot.close()


def test_a_library_that_is_missing_is_said_with_what_brings_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rtde_control", None)
    with pytest.raises(RobotError, match=r"pip install 'rdt2\[ur\]'"):
        robot_of(settings("127.79.0.1")).connect()


def test_an_arm_that_is_not_there_says_what_to_look_at() -> None:
    robot = robot_of(settings("127.79.0.1"))
    with pytest.raises(RobotError, match=r"127\.79\.0\.1 cannot be reached.*is it switched on"):
        robot.connect()
    with pytest.raises(ConfigError, match=r"(?s)payload.*kg on the flange"):
        robot_of(settings(payload=-1))


def test_an_arm_of_the_cell_makes_up_for_a_late_target_no_faster_than_its_joints_can() -> None:
    """Regression: what came 40 ms late was to be made up for within 12 ms, and ended as a protective stop."""
    told: list[float] = []
    home = np.array([0.0, -1.5, 1.5, -1.5, -1.5, 0.0])
    state = SimpleNamespace(joints=home, velocity=np.zeros(6), wrench=np.zeros(6))
    arm = SimpleNamespace(
        base=np.eye(4), state=lambda: state, health=lambda: SimpleNamespace(fault="", stopped=False),
        execute_joints=lambda times, joints: told.append(float(times[-1]) - 5.0),
    )  # fmt: skip
    motion = CellMotion(arm, SimpleNamespace(now=lambda: 5.0), np.eye(4))  # type: ignore[arg-type]
    fastest = float(motion.kinematics.speeds[0])
    motion.servo_joints(home + 0.001 * np.eye(6)[0], 0.1)
    motion.servo_joints(home + 0.1 * np.eye(6)[0], 0.1)
    assert told[0] == pytest.approx(0.012)
    assert told[1] == pytest.approx(0.012 + 1.01 * 0.099 / fastest)
    pose = motion.kinematics.forward(home + 0.01)
    motion.let_go()
    motion.servo(pose, 0.1)
    assert len(told) == 3
    pose[0, 3] += 3
    with pytest.raises(SafetyError, match="no posture"):
        motion.servo(pose, 0.1)
