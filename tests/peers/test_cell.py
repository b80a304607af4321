"""All devices at once, over their real protocols, in front of one simulated cell."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

pytest.importorskip("rtde_control", reason="ur_rtde is not installed: pip install 'rdt2[ur]'")
pytest.importorskip("pymodbus", reason="pymodbus is not installed: pip install 'rdt2[zhixing]'")
pytest.importorskip("mujoco")

from conformance import follow, path, run
from fake_robot import fake_robot
from lateness import on_time
from streamed import until

from rdt2.devices import WallClock, open_device, open_robot
from rdt2.devices.libaravis import library
from rdt2.devices.peers import started
from rdt2.devices.peers.cell import driven
from rdt2.devices.peers.cell import trouble as cell_trouble
from rdt2.devices.peers.ur import trouble
from rdt2.errors import RDT2Error
from rdt2.robot import Robot
from rdt2.robot.settings import RobotSettings
from rdt2.sim.board import Board

pytestmark = pytest.mark.realtime

ADDRESS = f"127.94.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"


def has_aravis() -> bool:
    try:
        library()
    except RDT2Error:
        return False
    return True


@pytest.fixture
def robot():
    cameras, left = has_aravis(), ADDRESS.replace("127.94", "127.95")
    with on_time(), started("cell", seed=3, right=ADDRESS, left=left, cameras=cameras, rate=5) as devices:
        robot = open_robot(driven(RobotSettings.read("cell_ur5e"), devices))
        if not cameras:
            fakes = fake_robot(honest=True, real=True).cameras
            robot = Robot(
                robot.arms, robot.grippers, fakes, robot.clock, robot.policy_to_tcp, robot.name
            )  # fmt: skip
        try:  # left open, the library's threads would look for their controllers for ever
            robot.connect()
            robot.enable()
            with contextlib.closing(Board.watched(devices["memory"])) as board:
                yield robot, board
        finally:
            robot.close()


def test_what_the_drivers_say_moves_the_cells_arms_and_its_cameras_see_it(robot) -> None:
    robot, board = robot
    until(lambda: recovered(robot))
    before = {side: camera.read() for side, camera in robot.cameras.items()}
    if has_aravis():
        for side in robot.sides:
            until(lambda side=side: shows_what_the_cell_draws(robot, board, side))
    for side in robot.sides:
        checks = robot.arms[side].checks()
        assert all(check.ok for check in checks), checks
        until(lambda side=side: goes_its_way(robot, side, 0.4))
        until(lambda side=side: closes_to(robot, side, 0.03))
    until(lambda: recovered(robot))
    for side, camera in robot.cameras.items():
        after = camera.read()
        assert after.sequence > before[side].sequence
        if has_aravis():
            assert np.abs(after.image.astype(float) - before[side].image).mean() > 2
    # a gripper and a camera in trouble: each says so, and is well again
    cell_trouble(ADDRESS, "left gripper silence")
    until(lambda: any("left gripper" in fault for fault in robot.faults()))
    cell_trouble(ADDRESS, "left gripper whole")
    until(lambda: recovered(robot))
    with pytest.raises(RDT2Error, match=r"there is .*left gripper.* garbage"):
        cell_trouble(ADDRESS, "left gripper blue")
    # one arm in trouble: the robot is stopped as a whole, and goes on as a whole
    trouble(ADDRESS, "protective_stop")
    until(lambda: robot.faults())
    assert "protective stop" in robot.faults()[0]
    assert robot.stop() == {}
    trouble(ADDRESS, "release")  # as a person at the pendant does
    until(lambda: recovered(robot))
    until(lambda: goes_its_way(robot, "right", 0.2))


def shows_what_the_cell_draws(robot, board, side: str) -> bool:
    """Whether the policy sees the cell's own picture: as large, and with its colours. The arms stand."""
    drawn = board.picture(f"{side} camera")
    return np.abs(robot.cameras[side].read().image.astype(float) - drawn["image"]).mean() < 4


def goes_its_way(robot, side: str, seconds: float) -> bool:
    """Whether an arm goes where it is told; drivers and controllers stop one that hears nothing for 100 ms, as rightly
    happens on two cores that all devices share with the cell."""
    arm = robot.arms[side]
    times, poses = path(robot, side, seconds)
    with contextlib.suppress(RDT2Error):
        follow(robot, arm, times, poses)
        run(robot, 0.3)
    return recovered(robot) and np.allclose(arm.state().pose, poses[-1], atol=0.01)


def closes_to(robot, side: str, width: float) -> bool:
    """The same of a gripper's fingers."""
    gripper = robot.grippers[side]
    times = robot.clock.now() + 0.05 + 0.02 * np.arange(1, 26)
    with contextlib.suppress(RDT2Error):
        follow(robot, gripper, times, np.linspace(gripper.state().width, width, 25))
        run(robot, 0.3)
    return recovered(robot) and abs(gripper.state().width - width) < 0.003


def recovered(robot) -> bool:
    try:
        robot.recover()
    except RDT2Error:
        return False
    return not robot.faults()


def test_arms_of_the_cell_go_where_franka_research_3_go() -> None:
    pytest.importorskip(
        "franky", reason="libfranka's client is not installed: pip install 'rdt2[fr3]' (Linux)"
    )
    pytest.importorskip("franky_sim", reason="the FR3 peer is not installed: pip install 'rdt2[fr3,peers]'")
    right, left = ADDRESS.replace("127.94", "127.92"), ADDRESS.replace("127.94", "127.93")
    with (
        on_time(),
        started("cell", robot="fr3", seed=3, right=right, left=left, cameras=False) as devices,
        contextlib.closing(Board.watched(devices["memory"])) as board,
    ):
        settings = driven(RobotSettings.read("cell_fr3"), devices)
        clock = WallClock()
        arm = open_device(settings, "left", "arm", clock)
        arm.connect()
        try:
            arm.enable()
            assert all(check.ok for check in arm.checks()), arm.checks()
            start = arm.state().joints
            goal = start + np.array([0.1, -0.1, 0.0, 0.1, 0.0, 0.1, -0.2])
            times = clock.now() + 0.1 + np.linspace(0, 1, 51)[1:]
            joints = start + np.linspace(0, 1, 51)[1:, None] * (goal - start)
            while clock.now() < times[-1]:
                ahead = times > clock.now() + 0.005
                if ahead.any():
                    arm.execute_joints(times[ahead], joints[ahead])
                clock.sleep_until(clock.now() + 0.02)
            until(lambda: np.abs(arm.state().joints - goal).max() < 0.03)
            until(lambda: np.abs(board.device("left arm")["joints"][:7] - arm.state().joints).max() < 0.01)
        finally:
            arm.close()
