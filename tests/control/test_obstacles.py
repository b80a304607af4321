"""Walls and posts are kept clear of by every part that moves, and fingers count where they are measured, too."""

from __future__ import annotations

import numpy as np
import pytest
from guarded import PERIOD, SIDES, Onlooker, down, guarded, joints_at, waiting
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from rdt2.control.obstacles import Obstacles
from rdt2.robot.settings import Obstacle

WIDTHS = dict.fromkeys(SIDES, 0.08)
CLEARANCE = 0.02


def drive(guard, wish, seconds, onlooker=None, widths=WIDTHS):
    commands = []
    for _ in range(round(seconds / PERIOD)):
        commands.append(guard.step(wish, widths))
        if onlooker:
            onlooker.look(commands[-1])
    return commands


def test_distances_from_boxes_are_the_least():
    rng = np.random.default_rng(5)
    boxes = {
        str(i): Obstacle(centre=rng.normal(size=3), size=rng.uniform(0.1, 2, 3), turn=40.0 * i)
        for i in range(3)
    }
    start, end = rng.normal(size=(2, 60, 3))
    end[0] = start[0]
    start[1], end[1] = boxes["1"].centre, np.add(boxes["1"].centre, (0, 0, 5.0))  # from within
    which = np.arange(60) % 3
    pairs = np.stack([np.arange(60), which])
    found = Obstacles(boxes).gaps(np.stack([start, end])[:, None], np.zeros(60), pairs)[0]
    for i, box in enumerate(boxes[str(k)] for k in which):
        turn = Rotation.from_euler("z", box.turn, degrees=True).as_matrix()

        def distance(share, i=i, box=box, turn=turn):
            over = np.abs((start[i] + share * (end[i] - start[i]) - box.centre) @ turn) - 0.5 * np.array(
                box.size
            )
            return np.linalg.norm(np.maximum(over, 0)) + min(over.max(), 0.0)

        best = min(minimize(distance, [x], bounds=[(0, 1)]).fun for x in (0.05, 0.35, 0.65, 0.95))
        assert found[i] == pytest.approx(best, abs=3e-3)
        assert found[i] >= best - 1e-3


@pytest.mark.parametrize("model", ["ur5e", "fr3", "handheld"])
def test_a_wall_stops_whatever_of_an_arm_comes_first(model):
    """The TCP may go there: it is the palm's side and the camera that would touch the wall."""
    wall = {"centre": [0.45, 0, 0.3], "size": [0.1, 3, 1.5], "turn": 3.0}
    guard, poses = guarded(model, obstacles={"back wall": wall})
    onlooker = Onlooker(SIDES, model, poses)
    wish = {**poses, "left": down("left", 0.38, 0.3, 0.26, yaw=1.2)}
    commands = drive(guard, wish, 2.0, onlooker)
    for side in SIDES:
        assert onlooker.off(side, wall).min() > CLEARANCE - 3e-3
    assert commands[-1].slowed.startswith("left arm ")
    assert "the back wall" in commands[-1].slowed
    assert any("mm from the back wall" in command.slowed for command in commands), "it slows before it stops"
    back = drive(guard, poses, 1.5)
    np.testing.assert_allclose(back[-1].poses["left"], poses["left"], atol=3e-3)


def test_links_are_kept_from_a_post_that_the_tcp_never_comes_near():
    free, poses = guarded()
    across = {**poses, "left": down("left", 0.0, 0.02, 0.15)}
    onlooker = Onlooker(SIDES, "ur5e", poses)
    drive(free, across, 1.5, onlooker)
    start, end = (
        onlooker.bodies["left"].frames(onlooker.joints["left"][k][None], np.eye(4)[None], np.zeros((1, 2)))[
            0, 3, :3, 3
        ]
        for k in (0, -1)
    )  # of the elbow
    post = {"centre": (end + 0.4 * (end - start)).tolist(), "size": [0.06, 0.06, 0.4]}
    assert onlooker.off("left", post).min() < 0, "without the post it goes there"
    guard, _ = guarded(obstacles={"post": post})
    onlooker = Onlooker(SIDES, "ur5e", poses)
    commands = drive(guard, across, 1.5, onlooker)
    first = onlooker.off("left", post)
    assert first.min() > min(first[0], CLEARANCE) - 3e-3
    assert "the post" in commands[-1].slowed


def test_an_arm_that_starts_too_near_a_wall_comes_away_and_no_nearer():
    wall = {"centre": [0.16, 0.3, 0.3], "size": [0.2, 0.3, 1.0]}
    guard, poses = guarded("handheld", obstacles={"wall": wall})
    onlooker = Onlooker(SIDES, "handheld", poses)
    wish = {**poses, "left": poses["left"].copy()}
    wish["left"][0, 3] += 0.1
    drive(guard, wish, 0.4, onlooker)
    near = onlooker.off("left", wall)
    assert near[0] < CLEARANCE
    assert near.min() > near[0] - 5e-4
    wish["left"][0, 3] = -0.15
    assert drive(guard, wish, 1.0)[-1].poses["left"][0, 3] == pytest.approx(-0.15, abs=2e-3)


def test_an_arm_may_stand_on_a_box():
    pedestal = {"centre": [-0.46, 0.32, -0.30], "size": [0.3, 0.3, 1.0]}  # the base is at 0.20
    guard, poses = guarded(obstacles={"pedestal": pedestal})
    wish = {**poses, "left": down("left", 0.1, 0.2, 0.15)}
    last = drive(guard, wish, 1.5)[-1]
    np.testing.assert_allclose(last.poses["left"], wish["left"], atol=2e-3)
    assert last.slowed == ""


# ------------------------------------------------------------------------------------------------------- fingers


def test_fingers_that_are_measured_open_keep_off_the_table():
    """Commanded to close, held open by an object: leaning, the outer finger hangs lower than the commanded one."""
    lowest = {}
    for measured in (0.0, 0.09):
        guard, poses = guarded()
        wish = {**poses, "left": down("left", 0.0, 0.25, -0.05, yaw=np.pi / 2, lean=0.6)}
        for _ in range(180):
            guard.see({"left": measured})
            command = guard.step(wish, {"right": 0.08, "left": 0.0})
        pose = command.poses["left"]
        fingers = [
            (pose @ [x, sign * (measured / 2 + 0.0064), 0.01, 1])[2]
            for x in (-0.009, 0.009)
            for sign in (-1, 1)
        ]
        lowest[measured] = pose[2, 3]
        assert min(fingers) > -0.0165
    assert lowest[0.09] > lowest[0.0] + 0.015


def test_fingers_that_are_measured_open_keep_off_the_other_arm():
    apart = {side: down(side, 0, -0.25 if side == "right" else 0.25, 0.2, yaw=np.pi / 2) for side in SIDES}
    for measured in (0.0, 0.09):
        guard, poses = guarded("handheld", apart)
        onlooker = Onlooker(SIDES, "handheld", poses)
        wish = {**poses, "left": poses["right"].copy()}
        wish["left"][2, 3] += 0.11  # over the other fingers, beside the other palm
        wish["left"][:3, :3] = poses["left"][:3, :3]
        for _ in range(250):
            guard.see({"left": measured, "right": 0.0})
            command = guard.step(wish, dict.fromkeys(SIDES, 0.0))
            onlooker.look(command, {"left": measured, "right": 0.0})
        found = onlooker.gaps(onlooker.shapes())["both"]
        assert found[20:].min() > CLEARANCE - 3e-3
        assert command.poses["left"][1, 3] < 0.1, "it does come near"


def test_a_gripper_that_falls_open_beside_something_may_go_away():
    wall = {"centre": [0.2, 0.3, 0.3], "size": [0.2, 0.6, 1.0]}
    start = {"right": waiting("right"), "left": down("left", 0.0, 0.3, 0.26)}
    guard, poses = guarded("handheld", start, obstacles={"wall": wall})
    near = {**poses, "left": poses["left"].copy()}
    near["left"][0, 3] = 0.07
    closed = {"right": 0.08, "left": 0.0}
    for _ in range(150):
        guard.see({"left": 0.0})
        at = guard.step(near, closed).poses["left"][0, 3]
    for _ in range(20):
        guard.see({"left": 0.09})
        command = guard.step(near, closed)
    assert command.poses["left"][0, 3] <= at + 1e-3, "no nearer"
    near["left"][0, 3] = -0.1
    for _ in range(150):
        guard.see({"left": 0.09})
        command = guard.step(near, closed)
    assert command.poses["left"][0, 3] == pytest.approx(-0.1, abs=2e-3)


@pytest.mark.parametrize("model", ["ur5e", "handheld"])
def test_a_measured_opening_that_trembles_changes_nothing(model):
    """Noise lets no arm creep to where it must not be."""
    guard, poses = guarded(model)
    joints_at(model, "left", poses["left"])
    rng = np.random.default_rng(0)
    wish = {**poses, "left": down("left", 0.0, 0.25, -0.05, yaw=np.pi / 2, lean=0.5)}
    heights = []
    for _ in range(400):
        guard.see({side: guard.step(wish, WIDTHS).widths[side] + rng.normal(0, 3e-3) for side in SIDES})
        heights.append(guard.step(wish, WIDTHS).poses["left"][2, 3])
    assert min(heights[250:]) > heights[250] - 3e-3
