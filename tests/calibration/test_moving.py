"""Calibrating motions: whole where there is room, smaller where there is little, refused where there is none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.calibration.motion import Excitation
from rdt2.calibration.moving import JOINT_SPEED, TCP_SPEED, planned, way_along
from rdt2.calibration.places import fingertips
from rdt2.control.servo import TICK
from rdt2.errors import CalibrationError, SafetyError
from rdt2.operation.opening import at_its_table
from rdt2.robot.settings import RobotSettings
from rdt2.sim.cell import Cell
from rdt2.sim.drawing import make_scene

SETTINGS = RobotSettings.read("cell_ur5e")
MOTION = Excitation(seconds=12.0)


@pytest.fixture(scope="module")
def standing():
    scene = make_scene("pick", 0)
    settings = at_its_table(SETTINGS, scene)
    with Cell.of(settings, scene) as cell:
        yield cell, cell.robot(settings.sides), settings


def test_with_room_the_whole_motion_is_small_and_slow(standing) -> None:
    _, robot, settings = standing
    way, motion = planned(settings, robot, "right", MOTION)
    joints = way.joints["right"]
    assert motion.degrees >= 15
    assert np.abs(np.diff(joints, axis=0)).max() <= JOINT_SPEED * TICK
    np.testing.assert_allclose(joints[0], joints[-1], atol=0.01)  # back where it began
    assert np.ptp(way.joints["left"], axis=0).max() == 0
    kinematics = settings.kinematics()["right"]
    places = np.stack([kinematics.forward(each)[:3, 3] for each in joints[::5]])
    assert np.linalg.norm(places - places[0], axis=1).max() < 2 * MOTION.metres
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() <= TCP_SPEED * 5 * TICK


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"safety.table_height": 0.5}, "table"),
        ({"safety.joint_margin": 1.0}, "a joint of the right arm would be at its limit"),
        ({"safety.singularity_slow": 1.0}, "singular"),
        ({"arms.right.bounds.high": [0.45, 0.60, 0.05]}, "would leave its workspace"),
    ],
)
def test_without_room_it_says_why_and_nothing_moves(standing, change, reason) -> None:
    _, robot, settings = standing
    before = robot.arms["right"].state().joints
    with pytest.raises(
        CalibrationError, match=f"no room for even 20 % of the motion: .*{reason}.*Move the right arm"
    ):
        planned(settings.changed(change), robot, "right", MOTION)
    np.testing.assert_allclose(robot.arms["right"].state().joints, before, atol=1e-3)


def test_near_the_end_of_its_workspace_it_is_smaller(standing) -> None:
    _, robot, settings = standing
    here = robot.arms["right"].state().pose[:3, 3]
    near = settings.changed({"arms.right.bounds.low": [*(here[:2] - 1), here[2] - 0.5 * MOTION.metres]})
    _, motion = planned(near, robot, "right", MOTION)
    assert 4 < motion.degrees < 25
    assert motion.metres < MOTION.metres


def test_fingers_that_move_meanwhile_have_room_too(standing) -> None:
    """Regression: `latency` looked at the opening that they had before."""
    _, robot, settings = standing
    pose, opening = robot.arms["right"].state().pose, robot.grippers["right"].state().width
    tips = fingertips(settings, "right", pose, opening)
    post = settings.changed({"safety.obstacles": {"post": {"centre": tips.tolist(), "size": [0.01] * 3}}})

    def still(start: np.ndarray) -> np.ndarray:
        return np.repeat(start[None], 125, axis=0)

    way_along(post, robot, "right", still, 1.0)
    with pytest.raises(SafetyError, match="post"):
        way_along(post, robot, "right", still, 1.0, width=lambda since: opening * (1 - since))
