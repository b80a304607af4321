"""Arms are brought home along a way that is free, or not at all."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.control.way import Way, free_way, smooth
from rdt2.errors import ConfigError, SafetyError
from rdt2.operation.home import follow, home_joints, way_home
from rdt2.robot.settings import RobotSettings
from rdt2.sim.cell import Cell, cell_settings
from rdt2.sim.drawing import make_scene


def moves(robot, settings, way, permit=lambda: ""):
    follow(robot, settings, way, permit=permit)


@pytest.mark.parametrize("arms", ["ur5e", "fr3"])
def test_arms_of_the_cell_come_home(arms):
    settings = cell_settings(arms)
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way = way_home(settings, robot, speed=30)
        home = home_joints(settings)
        assert way.order == "both arms at once"
        speeds = max(np.abs(np.diff(joints, axis=0)).max() / 0.008 for joints in way.joints.values())
        assert speeds <= np.radians(30) * 1.001
        moves(robot, settings, way)
        for side, arm in robot.arms.items():
            np.testing.assert_allclose(arm.state().joints, home[side], atol=0.02)
        assert not cell.collisions
        assert all("stopped" in fault for fault in robot.faults() if "arm" in fault)
        robot.recover()  # and what comes then may be led by poses again
        now, pose = robot.clock.now(), robot.arms["left"].state().pose
        robot.arms["left"].execute([now + 0.05], [pose])
        robot.clock.sleep_until(now + 0.1)
        np.testing.assert_allclose(robot.arms["left"].state().pose[:3, 3], pose[:3, 3], atol=2e-3)


def test_whoever_stops_the_arms_on_their_way_stops_them():
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, began = way_home(settings, robot, speed=30), robot.clock.now()

        def permit():
            return "stopped at the keyboard" if robot.clock.now() > began + 0.6 else ""

        with pytest.raises(SafetyError, match="on their way home: stopped at the keyboard"):
            moves(robot, settings, way, permit)
        assert robot.clock.now() < began + 1.0
        assert robot.arms["left"].health().stopped
        away = np.abs(robot.arms["left"].state().joints - home_joints(settings)["left"]).max()
        assert away > np.radians(1)


def short_way(settings, robot):
    """The right arm's last joint turns by 3 degrees within a second; the left arm stands."""
    share = smooth(np.linspace(0, 1, 126))[:, None]
    start = {side: arm.state().joints for side, arm in robot.arms.items()}
    turn = {"right": np.array([0, 0, 0, 0, 0, np.radians(3)]), "left": np.zeros(6)}
    return Way({side: start[side] + share * turn[side] for side in start}, "the right arm")


def test_arms_that_stay_are_led_on_without_a_word_of_a_person():
    """Regression: nor do they stop when nothing is heard while the next way is looked for, which takes real time."""
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        for _ in range(2):
            way = short_way(settings, robot)
            follow(robot, settings, way, permit=lambda: "", stays=True)
            robot.clock.sleep_until(robot.clock.now() + 0.5)
            assert robot.faults() == []
            np.testing.assert_allclose(robot.arms["right"].state().joints, way.joints["right"][-1], atol=2e-3)
        way = short_way(settings, robot)
        follow(robot, settings, way, permit=lambda: "", stays=True, watch=lambda now, since: since > 0.5)
        robot.clock.sleep_until(robot.clock.now() + 0.5)
        assert robot.faults() == []
        half = robot.arms["right"].state()
        turned = half.joints[5] - way.joints["right"][0][5]
        assert np.radians(0.8) < turned < np.radians(2.2)
        assert np.abs(half.velocity).max() < 5e-3


def test_what_stops_arms_where_their_way_has_ended_holds():
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, began = short_way(settings, robot), robot.clock.now()

        def recorded(moment):
            if robot.clock.now() > began + 1.5:
                robot.arms["left"].fail("a protective stop")

        recorder = SimpleNamespace(on_frame=recorded)
        with pytest.raises(SafetyError, match=r"left arm: .*a protective stop"):
            follow(robot, settings, way, permit=lambda: "", recorder=recorder, stays=True)
        assert all(arm.health().stopped for arm in robot.arms.values())


@pytest.mark.parametrize("times", [1, 9])
def test_an_arm_that_could_not_be_stopped_is_tried_again_and_told(times):
    """Regression: it was told that the arms were stopped, and no word of the one that was not."""
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, began, tries = short_way(settings, robot), robot.clock.now(), []
        arm, brake = robot.arms["left"], robot.arms["left"]._brake

        def busy():
            tries.append(1)
            if len(tries) <= times:
                raise OSError("the bus is busy")
            brake()

        arm._brake = busy
        with pytest.raises(SafetyError) as told:
            moves(robot, settings, way, lambda: "at the keyboard" if robot.clock.now() > began + 0.3 else "")
        assert str(told.value).startswith("the arms were stopped on their way home: at the keyboard.")
        assert ("The left arm could not be stopped: " in str(told.value)) == (times > 1)
        assert len(tries) == 2


def test_an_arm_that_is_not_on_its_way_is_stopped():
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way = way_home(settings, robot, speed=30)
        robot.arms["right"].execute_joints = lambda times, joints: None  # a driver that does nothing
        with pytest.raises(SafetyError, match=r"right arm is .* degrees off its way, and its TCP"):
            moves(robot, settings, way)
        assert robot.arms["left"].health().stopped


def test_an_arm_whose_tcp_is_off_its_way_is_stopped_although_each_joint_is_near():
    """Regression: joints 5 degrees off were allowed, and with them the TCP of a long arm 10 cm."""
    settings = cell_settings("ur5e").changed({"safety.tracking_error_m": 0.02})
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, began, state = short_way(settings, robot), robot.clock.now(), robot.arms["right"].state
        turned = np.array([0.08, 0, 0, 0, 0, 0])  # about the base's axis, less than OFF

        def said():
            now = state()
            return now if robot.clock.now() < began + 0.3 else replace(now, joints=now.joints + turned)

        robot.arms["right"].state = said
        with pytest.raises(SafetyError, match=r"right arm is 5 degrees off its way, and its TCP \d+ mm"):
            moves(robot, settings, way)
        assert robot.clock.now() < began + 0.5
        assert robot.arms["left"].health().stopped


def test_arms_whose_fingers_have_opened_since_their_way_was_looked_for_do_not_set_out():
    """Regression: joints alone were compared, and a person may have taken minutes to say go."""
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, told = way_home(settings, robot, speed=30), []
        gripper, state = robot.grippers["left"], robot.grippers["left"].state
        gripper.state = lambda: replace(state(), width=way.widths["left"] + 0.02)
        robot.arms["right"].execute_joints = lambda *waypoints: told.append(waypoints)
        with pytest.raises(
            SafetyError, match=r"left gripper is \d+ mm open, and was \d+ mm open when its way was"
        ):
            moves(robot, settings, way)
        assert told == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda state, before: replace(state, joints=np.full(6, np.nan)), "right arm holds NaN"),
        (lambda state, before: before, r"the state of the right arm is 0\.\d+ s old"),
    ],
)
def test_an_arm_whose_state_may_not_be_believed_is_stopped(wrong, says):
    """Regression: no number is more than a limit, and a frozen state is where the arm was to be at its stamp."""
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, began = short_way(settings, robot), robot.clock.now()
        arm, state = robot.arms["right"], robot.arms["right"].state
        kept = []

        def said():
            now = state()
            if robot.clock.now() < began + 0.3:
                return now
            kept.append(now)
            return wrong(now, kept[0])

        arm.state = said
        with pytest.raises(SafetyError, match=says):
            moves(robot, settings, way)
        assert robot.clock.now() < began + 0.5
        assert robot.arms["left"].health().stopped


def test_arms_that_say_nothing_of_where_they_are_do_not_set_out():
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        way, told = short_way(settings, robot), []
        way.joints["right"][0] = np.nan
        robot.arms["right"].execute_joints = lambda *waypoints: told.append(waypoints)
        with pytest.raises(SafetyError, match="has moved by nan degrees"):
            moves(robot, settings, way)
        assert told == []


def rig(name, change=None):
    settings = RobotSettings.read(name)
    return settings.changed(change or {}), home_joints(settings)


def test_a_way_through_the_other_arm_is_none_and_one_after_the_other_may_be():
    """The hands of the UR5e rig change places: both at once they meet; alone each is in the other's place."""
    settings, home = rig("bimanual_ur5e")
    widths = {"right": 0.0, "left": 0.0}
    crossed = {side: joints.copy() for side, joints in home.items()}
    crossed["right"][0] += np.radians(50)  # about the base's axis, into the left arm's room
    with pytest.raises(
        SafetyError, match=r"(?s)no way home is free.*the arms would touch each other, after \d+ %"
    ):
        free_way(settings, home, crossed, widths, speed=0.3)


def test_the_table_is_in_the_way():
    settings, home = rig("bimanual_ur5e")
    low = {side: joints.copy() for side, joints in home.items()}
    low["left"][1] += np.radians(60)  # the shoulder lowers the hand through the table
    with pytest.raises(SafetyError, match="the left arm would touch the table"):
        free_way(settings, home, low, {"right": 0.0, "left": 0.0}, speed=0.3)


def test_what_stands_around_is_in_the_way():
    settings, home = rig("bimanual_ur5e")
    start = {side: joints.copy() for side, joints in home.items()}
    start["left"][0] -= np.radians(40)
    way = free_way(settings, start, home, {"right": 0.0, "left": 0.0}, speed=0.3)
    middle = settings.kinematics()["left"].forward(way.at("left", way.seconds / 2))[:3, 3]
    post = {"centre": middle.tolist(), "size": [0.05, 0.05, 0.05]}
    settings = settings.changed({"safety.obstacles": {"post": post}})
    with pytest.raises(SafetyError, match="the left arm would touch the post"):
        free_way(settings, start, home, {"right": 0.0, "left": 0.0}, speed=0.3)


def test_joints_beyond_their_limits_are_no_home():
    settings, home = rig("bimanual_fr3")
    beyond = {side: joints.copy() for side, joints in home.items()}
    beyond["left"][5] = 4.6
    with pytest.raises(SafetyError, match="joint 6 of the left arm would be at its limit"):
        free_way(settings, home, beyond, {"right": 0.0, "left": 0.0}, speed=0.3)


def test_a_robot_that_does_not_say_where_it_begins_is_not_brought_anywhere():
    settings, _ = rig("bimanual_ur5e", {"arms.left.device": {"address": "10.0.0.1"}})
    with pytest.raises(ConfigError, match=r"write its joints as arms\.left\.device\.reset_degrees"):
        home_joints(settings)
    with pytest.raises(ConfigError, match="no joints to bring home"):
        home_joints(cell_settings("handheld"))


def test_who_leaves_before_go_is_told_and_the_command_fails(monkeypatch, capsys):
    from rdt2.cli.main import main
    from rdt2.operation.opening import Opened, at_its_table

    @contextlib.contextmanager
    def simulated(settings, scene, task=None):
        settings = at_its_table(settings, scene)
        with Cell.of(settings, scene) as cell:
            yield Opened(cell.robot(settings.sides), settings)

    monkeypatch.setattr("rdt2.operation.session.opened_cell", simulated)
    monkeypatch.setattr("sys.stdin", io.StringIO("quit\n"))
    with pytest.raises(SystemExit) as ended:
        main(["reset", "--robot", "cell_ur5e"])
    assert ended.value.code == 2
    assert "not begun: you left before go" in capsys.readouterr().err
