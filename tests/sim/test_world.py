"""What real devices suffer from, in the cell: late and skewed pictures, clocks, noise, latency, payload."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("mujoco")

from driving import drive

from rdt2.robot.world import ArmWorld, CameraWorld, CellSettings, GripperWorld
from rdt2.sim.cell import Cell
from rdt2.sim.drawing import make_scene

SIDES = ("right", "left")
CAMERAS = CameraWorld(rate=30, delay=0.07, skew=0.008)


def cell(embodiment: str = "handheld", seed: int = 1, **parts: Any) -> Cell:
    return Cell(embodiment, make_scene("pick", seed), CellSettings(**parts))


def command(running: Cell) -> None:
    """Both hands on their way at 0.4 m/s, for the next tick."""
    ahead = (round(30 * running.time) + 1) / 30
    for side in SIDES:
        pose = running.arms[side].trajectory.end[1].copy()
        pose[0, 3] += 0.4 / 30
        running.arms[side].execute(np.array([ahead]), pose[None])


def move(running: Cell, ticks: int) -> None:
    for _ in range(ticks):
        command(running)
        running.advance_to((round(30 * running.time) + 1) / 30)


def test_a_picture_shows_the_moment_it_is_stamped_with() -> None:
    """What is read at t was exposed at the last tick before t - delay, the left one a skew later."""
    with cell(cameras=CAMERAS) as late, cell() as live:
        move(late, 15)
        frames = {side: late.robot().cameras[side].read() for side in SIDES}
        assert frames["right"].timestamp == pytest.approx(12 / 30)
        assert frames["left"].timestamp == pytest.approx(12 / 30 + 0.008)
        move(live, 12)
        np.testing.assert_array_equal(live.render("right", state=live.data.qpos), frames["right"].image)
        command(live)
        live.advance_to(12 / 30 + 0.008)
        np.testing.assert_array_equal(live.render("left", state=live.data.qpos), frames["left"].image)
        assert (late.render("left") != frames["left"].image).any(), "meanwhile the hand has moved on"


def test_pictures_nobody_reads_cost_nothing_and_one_that_is_read_twice_is_drawn_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    with cell(cameras=CAMERAS) as running:
        monkeypatch.setattr(
            running, "render", lambda *a, **k: drawn.append(a) or np.zeros((384, 384, 3), np.uint8)
        )
        running.advance_to(1.0)
        assert not drawn
        camera = running.robot().cameras["left"]
        first = camera.read()
        running.advance_to(1.002)
        assert camera.read() is first
        assert len(drawn) == 1
        running.advance_to(1.04)
        assert camera.read().sequence == first.sequence + 1


def test_before_the_first_picture_the_cell_stood_at_its_start() -> None:
    with cell(cameras=CAMERAS) as running:
        frame = running.robot().cameras["right"].read()
        assert frame.timestamp == pytest.approx(-3 / 30)
        np.testing.assert_array_equal(frame.image, running.render("right"))
        move(running, 12)
        moved = running.robot().cameras["right"].read()
        running.reset()
        again = running.robot().cameras["right"].read()
        np.testing.assert_array_equal(again.image, frame.image)
        assert again.sequence < moved.sequence


def test_a_camera_clock_is_off_by_the_same_all_the_time() -> None:
    errors = []
    for seed in range(12):
        with cell(seed=seed, cameras=CameraWorld(rate=30, stamp_error=0.02)) as running:
            for side in SIDES:
                camera = running.cameras[side]
                camera._see = lambda number, state: None
                running.advance_to(running.time + 0.1)
                one = camera.read()
                running.advance_to(running.time + 0.1)
                two = camera.read()
                errors.append(one.timestamp - one.sequence / 30)
                assert two.timestamp - two.sequence / 30 == pytest.approx(errors[-1], abs=1e-9)
                assert camera.timing.clock_error == 0.02
    assert max(np.abs(errors)) <= 0.02
    assert np.ptp(errors) > 0.02


def test_measured_poses_and_joints_tremble_and_the_truth_does_not() -> None:
    world = ArmWorld(position_noise=3e-4, turn_noise=0.05, joint_noise=0.05)
    with cell("fr3", arms=world, grippers=GripperWorld(width_noise=2e-4)) as running:
        arm, gripper = running.arms["left"], running.grippers["left"]
        places, turns, joints, widths = [], [], [], []
        true = running.site_pose(running.names.tcp["left"])
        rest = running.data.qpos[arm._qpos].copy()
        for _ in range(150):
            running.advance_to(running.time + 0.002)
            state = arm.state()
            np.testing.assert_array_equal(state.pose, arm.state().pose)
            places.append(state.pose[:3, 3] - true[:3, 3])
            turns.append(Rotation.from_matrix(state.pose[:3, :3] @ true[:3, :3].T).as_rotvec(degrees=True))
            joints.append(np.rad2deg(state.joints - rest))
            widths.append(gripper.state().width)
        assert np.std(places, axis=0) == pytest.approx(3e-4, rel=0.3)
        assert np.std(turns, axis=0) == pytest.approx(0.05, rel=0.3)
        assert np.std(joints, axis=0) == pytest.approx(0.05, rel=0.3)
        assert np.std(widths) == pytest.approx(2e-4, rel=0.3)
        assert np.abs(np.mean(places, axis=0)).max() < 1.5e-4


@pytest.mark.parametrize("embodiment", ["handheld", "ur5e"])
def test_a_command_moves_the_arm_so_much_later(embodiment: str) -> None:
    """The whole path comes a latency later, however it is said: at once, or a little at a time."""
    paths = {}
    for latency in (0.0, 0.05):
        with cell(
            embodiment, arms=ArmWorld(latency=latency), grippers=GripperWorld(latency=latency)
        ) as running:
            robot, start = running.robot(), running.time
            begin = robot.arms["left"].state().pose
            assert robot.arms["left"].timing.latency == latency
            path = []
            for _ in range(75):
                ahead = running.time + 0.008
                pose = begin.copy()
                share = 0.5 - 0.5 * np.cos(np.pi * min((ahead - start) / 0.4, 1.0))
                pose[0, 3] += 0.06 * share
                robot.execute(
                    np.array([ahead]), {"left": pose[None]}, {"left": np.array([0.08 - 0.04 * share])}
                )
                running.advance_to(ahead)
                state = robot.arms["left"].state()
                path.append((running.time, state.pose[0, 3] - begin[0, 3]))
            paths[latency] = np.array(path)
    at_once, late = paths[0.0], paths[0.05]
    np.testing.assert_allclose(
        late[10:, 1], np.interp(late[10:, 0] - 0.05, at_once[:, 0], at_once[:, 1]), atol=1.5e-3
    )
    assert late[4, 1] == pytest.approx(0.0, abs=3e-4)
    assert late[-1, 1] == pytest.approx(0.06, abs=2e-3)


def test_what_was_said_a_moment_ago_still_happens() -> None:
    """A new command does not reach the joints before its latency, and does not undo what is on its way."""
    with cell("ur5e", arms=ArmWorld(latency=0.1)) as running:
        arm = running.arms["right"]
        start = arm.state().pose
        forth = start.copy()
        forth[2, 3] += 0.02
        arm.execute(np.array([0.08]), forth[None])
        running.advance_to(0.07)
        back = start.copy()
        arm.execute(np.array([0.16]), back[None])
        running.advance_to(0.16)
        assert arm.state().pose[2, 3] - start[2, 3] > 0.008, "on its way forth at 60 ms of its path"
        arm.execute(np.array([0.20]), back[None])
        running.advance_to(0.24)
        arm.execute(np.array([0.28]), back[None])
        running.advance_to(0.4)
        assert arm.state().pose[2, 3] == pytest.approx(start[2, 3], abs=1e-3)


def test_a_heavier_tool_than_was_told_pulls_the_arm_down() -> None:
    heights = []
    for error in (0.0, 1.0, -0.3):
        with cell("ur5e", arms=ArmWorld(payload_error=error)) as running:
            running.advance_to(0.6)
            heights.append(running.site_pose(running.names.tcp["left"])[2, 3])
    assert heights[1] < heights[0] - 2e-4
    assert heights[2] > heights[0] + 5e-5
    assert max(heights) - min(heights) < 0.02


def test_nothing_is_off_where_training_data_are_recorded() -> None:
    with cell() as running:
        assert running.settings == CellSettings()
        drive(running, running.arms["left"], running.arms["left"].state().pose, until=0.111)
        frame = running.robot().cameras["left"].read()
        assert frame.timestamp == running.time
        np.testing.assert_array_equal(frame.image, running.render("left"))
        state = running.arms["left"].state()
        np.testing.assert_array_equal(state.pose, running.site_pose(running.names.tcp["left"]))
