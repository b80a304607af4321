"""A Franka Research 3, through libfranka's own client against a server that speaks its protocol."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("franky", reason="libfranka's client is not installed: pip install 'rdt2[fr3]' (Linux)")
pytest.importorskip("franky_sim", reason="the FR3 peer is not installed: pip install 'rdt2[fr3,peers]'")
pytest.importorskip("mujoco")
pytest.register_assert_rewrite("conformance")

from conformance import Conformance, follow, path, ready, run  # noqa: E402
from lateness import on_time  # noqa: E402
from streamed import Moving, is_moved_by_hand, robot_of, until  # noqa: E402

from rdt2.devices.arm_drivers import franky  # noqa: E402
from rdt2.devices.arm_drivers._aside import within  # noqa: E402
from rdt2.devices.peers import started  # noqa: E402
from rdt2.devices.peers.fr3 import HOME, trouble  # noqa: E402
from rdt2.errors import ConfigError, RobotError, SafetyError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402

pytestmark = pytest.mark.realtime

ADDRESS = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""One of its own for each process that runs tests: the protocol fixes the ports."""
LOAD = {"load": 0.9, "load_centre": [0, 0, 0.06]}
SLACK = 0.1


def settings(address=ADDRESS, **device):
    """The published robot's right arm, standing in the cell frame, with a gripper and a camera that are none."""
    both = RobotSettings.read("bimanual_fr3")
    values = {**both.model_dump(), "arms": {"right": both.arms["right"].model_dump()}}
    values["arms"]["right"]["device"] = {
        "address": address, "realtime": False, "payload": 0.9, "payload_centre": [0, 0, 0.06],
        "payload_inertia": [0.001, 0.001, 0.001],
        # the peer's joints rub as bare motors do: a real robot measures their torque behind the gears
        "stiffness": [1500, 1500, 1500, 1500, 800, 600, 300], **device,
    }  # fmt: skip
    values["arms"]["right"]["bounds"] |= {"low": [-1, -2, -0.08], "high": [1, 1, 1.2]}
    values["arms"]["right"]["latency"] = 0.06
    return RobotSettings.model_validate(values)


@pytest.fixture(scope="module")
def peer():
    with started("fr3", address=ADDRESS, **LOAD) as peer:
        robot = robot_of(settings())
        robot.arms["right"].connect()
        first = robot.arms["right"].state()
        run(robot, 0.3)
        states = robot.arms["right"].state().sequence - first.sequence
        robot.close()
        if states < 200:
            pytest.skip("this machine is too busy for a robot of 1000 states a second: run it alone")
        yield peer


@pytest.fixture
def robot(peer):
    robot = robot_of(settings())
    trouble(peer["address"], "release")
    robot.connect()
    robot.arms["right"].recover()
    bring_home(robot)
    robot.close()
    yield robot
    robot.close()


def bring_home(robot):
    """Where it was switched on: tests leave it higher and higher."""
    arm = ready(robot).arms["right"]
    start = arm.state().joints
    seconds = 0.1 + np.abs(start - HOME).max() / 0.8
    times = robot.clock.now() + 0.05 + np.linspace(0, 1, 51)[1:] * seconds
    joints = start + np.linspace(0, 1, 51)[1:, None] * (HOME - start)
    while robot.clock.now() < times[-1] - 0.02:
        ahead = times > robot.clock.now() + 0.005
        arm.execute_joints(times[ahead], joints[ahead])
        run(robot, 0.02)
    run(robot, 0.1)


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


class TestFranky(Conformance):
    """The same suite as for every robot; its gripper and its camera are fakes, which it is not about."""

    test_pictures_are_new_and_come_at_once = None
    test_a_gripper_follows_its_widths = None
    test_what_a_gripper_must_not_follow_is_refused_and_changes_nothing = None
    test_a_stopped_gripper_stays_where_it_is = None
    test_a_gripper_that_hears_nothing_while_it_moves_stops_by_itself = None

    @pytest.mark.parametrize("wrong", ["nan"])
    def test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(self, robot, wrong):
        super().test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(robot, wrong)


def test_what_the_yaml_says_is_set_and_looked_up(peer, robot) -> None:
    ready(robot)
    arm = robot.arms["right"]
    found = {check.name: check for check in arm.checks()}
    assert all(check.ok for check in found.values()), found
    assert {"mode", "tool", "payload", "payload's centre", "payload's inertia", "kinematics"} == set(found)
    assert found["payload"].got == "0.9 kg"
    # the TCP is the one of the yaml: in the cell frame, by its base, its joints and its tool
    kinematics = settings().kinematics()["right"]
    state = arm.state()
    np.testing.assert_allclose(state.pose, kinematics.forward(state.joints), atol=1e-9)


def test_somebody_else_who_sets_another_load_is_noticed(robot) -> None:
    arm = ready(robot).arms["right"]
    arm._options = arm._options.model_copy(update={"payload": 1.9})
    wrong = [check for check in arm.checks() if not check.ok]
    assert [(check.name, check.expected, check.got) for check in wrong] == [("payload", "1.9 kg", "0.9 kg")]


@pytest.mark.parametrize(
    ("what", "told"),
    [("reflex", "force_threshold.*free it, then recover"), ("user_stop", "user stop is pressed.*release it")],
)
def test_a_robot_that_stops_by_itself_is_a_fault_and_a_person_brings_it_back(peer, robot, what, told) -> None:
    motion = Moving(robot)
    arm = motion.arm
    trouble(peer["address"], what)
    assert motion.stopped_after() < 0.1 + SLACK
    assert re.search(told, motion.refused)
    until(lambda: np.abs(arm.state().velocity).max() < 0.02)
    if what == "user_stop":
        with pytest.raises(RobotError, match="user stop is pressed"):
            arm.recover()
        assert not arm.health().ok
        trouble(peer["address"], "release")
    arm.recover()
    robot.recover()
    assert robot.faults() == []
    before = arm.state().pose[2, 3]
    follow(robot, arm, *path(robot, "right", 0.3))
    run(robot, 0.2)
    assert arm.state().pose[2, 3] > before + 0.02


def test_a_robot_in_trouble_is_not_enabled_and_says_why(peer, robot) -> None:
    robot.connect()
    trouble(peer["address"], "user_stop")
    try:
        run(robot, 0.1)
        with pytest.raises(RobotError, match=r"cannot be enabled: the user stop is pressed"):
            robot.arms["right"].enable()
    finally:
        trouble(peer["address"], "release")


def test_a_path_faster_than_the_arm_may_be_is_refused(robot) -> None:
    """Regression (PITFALLS 40): speed limits never reached the Franka."""
    arm = ready(robot).arms["right"]
    before, now = arm.state().pose, robot.clock.now()
    far = np.stack([before, before])
    far[1, 2, 3] += 0.2
    with pytest.raises(SafetyError, match=r"refuses a path of 2\.00 m/s .* at most 0\.5 m/s"):
        arm.execute(now + np.array([0.1, 0.2]), far)
    turned = np.stack([before, before])
    turned[1, :3, :3] = before[:3, :3] @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    with pytest.raises(SafetyError, match=r"15\.71 rad/s, expected at most .* 1\.5 rad/s"):
        arm.execute(now + np.array([0.1, 0.2]), turned)
    run(robot, 0.3)
    np.testing.assert_allclose(arm.state().pose, before, atol=0.002)
    assert arm.health().ok


def test_it_follows_quick_motions_and_does_not_begin_to_swing(peer) -> None:
    """Regression: torque that changed too slowly let the arm swing by 80 cm, without end."""
    quick = {"speed": 1.5, "acceleration": 12, "jerk": 400}
    robot = robot_of(settings().changed({f"arms.right.bounds.{name}": most for name, most in quick.items()}))
    try:
        arm = ready(robot).arms["right"]
        arm.recover()
        base, began = arm.state().pose, robot.clock.now() + 0.1
        off = []
        while (now := robot.clock.now()) < began + 2.0:
            times = now + 0.02 + 0.01 * np.arange(10)
            since = np.clip(times - began, 0, 1.5)
            poses = np.repeat(base[None], 10, axis=0)  # 4 cm at 2 Hz: 6.3 m/s^2
            poses[:, 1, 3] += 0.04 * np.minimum(since, 1) * np.sin(4 * np.pi * since)
            arm.execute(times, poses)
            off.append(np.linalg.norm((arm.state().pose - base)[:3, 3]))
            run(robot, 0.01)
        assert 0.03 < max(off) < 0.08
        run(robot, 0.1)
        assert np.abs(arm.state().velocity[:3]).max() < 0.02
    finally:
        robot.close()


def test_a_person_moves_it_by_hand(peer, robot) -> None:
    is_moved_by_hand(robot, lambda: trouble(peer["address"], "push"))


def test_a_driver_that_hangs_in_its_library_is_said_and_stopping_does_not_wait_for_it(robot) -> None:
    """Regression: stopping went well, and the brake was one along which the thread that hung was to lead the arm."""
    arm = Moving(robot).arm
    released = time.monotonic() + 1.5
    arm._measure = lambda: time.sleep(max(0.0, released - time.monotonic()))
    run(robot, 0.5)
    with pytest.raises(SafetyError, match="takes no command: its driver has been hanging"):
        arm.execute(robot.clock.now() + np.array([0.1]), arm.state().pose[None])
    began = time.monotonic()
    assert "its control loop holds the joints it was told last" in robot.stop()["right arm"]
    with pytest.raises(RobotError, match="cannot go on: its driver has been hanging"):
        arm.recover()
    assert time.monotonic() - began < 0.45
    del arm._measure
    until(lambda: time.monotonic() > released + 0.3)
    assert arm.health().stopped
    assert robot.stop() == {}
    until(lambda: np.abs(arm.state().velocity).max() < 0.02)
    robot.recover()
    assert robot.faults() == []


def test_it_is_moved_from_another_machine(robot) -> None:
    """As with `rdt2 robot serve` on the machine beside the arm, and `type: remote` on the one of the policy."""
    pytest.importorskip("websockets", reason="pip install 'rdt2[serve]'")
    from rdt2.devices.host import DeviceHost, HostSettings

    there, where = robot.arms["right"], HostSettings(port=0)
    with DeviceHost.of(settings(), {"right arm": there}, robot.clock, where) as host:
        device = {"type": "remote", "address": f"ws://127.0.0.1:{host.port}"}
        here = robot_of(settings().changed({"arms.right.device": device}))
        try:
            arm = ready(here).arms["right"]
            before = there.state().pose
            times, poses = path(here, "right", 0.14)
            follow(here, arm, times, poses)
            run(here, 0.3)
            np.testing.assert_allclose(there.state().pose[:3, 3], before[:3, 3] + [0, 0, 0.02], atol=0.004)
            times, poses = path(here, "right", 1.0)
            follow(here, arm, times, poses, until=times[10])
            assert here.stop() == {}
            assert there.health().stopped
            with pytest.raises(SafetyError, match="takes no command: stopped"):
                follow(here, arm, *path(here, "right", 0.1))
            until(lambda: np.abs(there.state().velocity).max() < 0.02)
            here.recover()
            before = there.state().pose[2, 3]
            follow(here, arm, *path(here, "right", 0.14))
            run(here, 0.3)
            assert there.state().pose[2, 3] == pytest.approx(before + 0.02, abs=0.004)
        finally:
            here.close()
        assert not there.health().connected


def test_it_is_led_along_joint_angles(robot) -> None:
    arm = ready(robot).arms["right"]
    start = arm.state().joints
    goal = start + np.array([0.1, 0, 0, 0.1, 0, 0, -0.1])
    times = robot.clock.now() + 0.05 + 0.02 * np.arange(1, 41)
    joints = start + np.linspace(0, 1, 40)[:, None] * (goal - start)
    while robot.clock.now() < times[-1]:
        ahead = times > robot.clock.now() + 0.005
        if ahead.any():
            arm.execute_joints(times[ahead], joints[ahead])
        run(robot, 0.02)
    run(robot, 0.3)
    np.testing.assert_allclose(arm.state().joints, goal, atol=0.01)
    with pytest.raises(SafetyError, match="too fast for its joints"):
        arm.execute_joints([robot.clock.now() + 0.05], [start + 0.5])
    with pytest.raises(SafetyError, match="beyond its limits"):
        arm.execute_joints([robot.clock.now() + 5.0], [np.full(7, 4.0)])


def test_a_robot_whose_server_dies_is_lost_and_another_one_is_found(monkeypatch) -> None:
    address = ADDRESS.replace("127.77", "127.78")
    with started("fr3", address=address, **LOAD) as peer:
        robot = robot_of(settings(address))
        motion = Moving(robot)
        arm = motion.arm
        peer.process.kill()
        assert motion.stopped_after() < 0.1 + SLACK
        assert re.search("no new state for|connection .* lost", motion.refused)
        until(lambda: not arm.health().connected)
        with pytest.raises(RobotError, match="not connected: "):
            arm.state()
        with pytest.raises(RobotError, match="refuses the connection: unlock its joints and activate FCI"):
            arm.recover()
    with started("fr3", address=address, **LOAD):
        arm.recover()
        assert arm.health().ok
        before = arm.state().pose[2, 3]
        follow(robot, arm, *path(robot, "right", 0.3))
        run(robot, 0.2)
        assert arm.state().pose[2, 3] > before + 0.02
        robot.close()


def test_a_robot_that_takes_the_connection_and_says_nothing_is_an_error(monkeypatch) -> None:
    """libfranka would wait for ever."""
    monkeypatch.setattr(franky, "within", lambda call: within(call, seconds=0.5))
    address = ADDRESS.replace("127.77", "127.79")
    silent = socket.create_server((address, franky.PORT))
    with silent, pytest.raises(RobotError, match=r"takes the connection and says nothing .*another program"):
        robot_of(settings(address)).connect()


VICTIM = """
import sys, time
import numpy as np
sys.path[:0] = {paths!r}
import test_franky
test_franky.Moving(test_franky.robot_of(test_franky.settings({address!r})))
print("moving", flush=True)
time.sleep(60)
"""


def test_a_robot_whose_driver_is_killed_stops(peer, tmp_path) -> None:
    script = tmp_path / "victim.py"
    folders = [str(Path(__file__).parents[1] / name) for name in ("peers", "control", "robot")]
    script.write_text(VICTIM.format(paths=folders, address=peer["address"]))
    victim = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout.readline() == "moving\n"
        os.kill(victim.pid, signal.SIGKILL)
    finally:
        victim.kill()
        victim.wait()
    robot = robot_of(settings())
    robot.connect()
    until(lambda: np.abs(robot.arms["right"].state().velocity).max() < 0.02)
    there = robot.arms["right"].state().pose
    run(robot, 0.3)
    np.testing.assert_allclose(robot.arms["right"].state().pose, there, atol=0.002)
    robot.close()


def test_a_robot_that_is_not_there_says_what_to_look_at() -> None:
    robot = robot_of(settings("127.79.0.1"))
    with pytest.raises(RobotError, match="refuses the connection: unlock its joints and activate FCI"):
        robot.connect()
    with pytest.raises(ConfigError, match=r"(?s)published configuration.*leave port out.*rdt2 robot serve"):
        robot_of(settings(port=4242))
    with pytest.raises(ConfigError, match=r"(?s)payload.*kg on the flange"):
        robot_of(settings(payload=-1))
