"""Ways that arms are led along: within the workspace and the limits of their TCPs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.control.way import free_way
from rdt2.errors import SafetyError
from rdt2.operation.home import home_joints
from rdt2.robot.settings import RobotSettings

SETTINGS = RobotSettings.read("bimanual_ur5e")
HOME = home_joints(SETTINGS)
WIDTHS = {"right": 0.0, "left": 0.0}


def places(settings, way):
    """TCP poses of the left arm, tick by tick."""
    return np.stack([settings.kinematics()["left"].forward(joints) for joints in way.joints["left"]])


def test_a_way_stays_in_the_workspace_and_comes_back_into_it():
    aside = {side: joints.copy() for side, joints in HOME.items()}
    aside["left"][0] -= np.radians(40)
    y = places(SETTINGS, free_way(SETTINGS, HOME, aside, WIDTHS, speed=0.3))[:, 1, 3]
    edge = 0.5 * (y[0] + y[-1])
    wall = {"low": [0, edge, -0.08]} if y[0] > y[-1] else {"high": [1, edge, 1]}
    narrow = SETTINGS.changed({f"arms.left.bounds.{key}": value for key, value in wall.items()})
    assert free_way(narrow, aside, HOME, WIDTHS, speed=0.3), "what starts outside comes back"
    with pytest.raises(SafetyError, match="the left arm would leave its workspace"):
        free_way(narrow, HOME, aside, WIDTHS, speed=0.3)


@pytest.mark.parametrize(("limit", "order", "most"), [("turn_rate", 1, 0.1), ("turn_acceleration", 2, 1.5)])
def test_a_way_is_driven_within_the_limits_of_its_tcp(limit, order, most):
    start = {side: joints + np.array([0, 0, 0, 0.3, 0, 0.3]) for side, joints in HOME.items()}
    slow = SETTINGS.changed({f"arms.{side}.bounds.{limit}": most for side in HOME})
    reached = []
    for settings in (SETTINGS, slow):
        poses = places(settings, free_way(settings, start, HOME, WIDTHS, speed=0.5))
        turns = Rotation.from_matrix(poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(0, 2, 1)).as_rotvec()
        rates = np.diff(turns, order - 1, axis=0) / 0.008**order
        reached.append(np.linalg.norm(rates, axis=1).max())
    assert reached[1] < 1.05 * most
    assert reached[0] > 1.5 * most, "without the limit it is more"
