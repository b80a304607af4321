"""What the page draws stands where the robot is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from scipy.spatial.transform import Rotation

from rdt2.dashboard.figure import Figure
from rdt2.sim.cell import Cell, cell_settings
from rdt2.sim.drawing import make_scene

SIDES = ("right", "left")


def matrix(place):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(place[3:], scalar_first=True).as_matrix()
    pose[:3, 3] = place[:3]
    return pose


@pytest.mark.parametrize("robot", ["ur5e", "fr3", "handheld"])
def test_the_cells_own_model_and_the_settings_description_agree(robot):
    settings = cell_settings(robot)
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        driven = cell.robot()
        states = {side: arm.state() for side, arm in driven.arms.items()}
        widths = {side: gripper.state().width for side, gripper in driven.grippers.items()}
        of_cell, of_robot = Figure.of_cell(cell, settings), Figure.of_robot(settings)
        drawn = {
            body.name: matrix(p)
            for body, p in zip(of_cell.bodies, of_cell.places(states, widths), strict=True)
        }
        described = of_robot.places(states, widths)
        names = [body.name for body in of_robot.bodies]
        for side in SIDES:
            first = names.index(f"{side}/0")
            last = max(k for k, name in enumerate(names) if name.startswith(f"{side}/"))
            for part, k in (("gripper", last - 2), ("finger_a", last - 1), ("finger_b", last)):
                # the measured joints and poses have noise, and the tool is not quite where it was calibrated
                apart = drawn[f"{side}/{part}"][:3, 3] - described[k][:3]
                assert np.linalg.norm(apart) < 0.01, (side, part)
            tcp = states[side].pose
            ghost = of_cell.grippers[side].places(tcp, widths[side])
            for part, pose in zip(("gripper", "finger_a", "finger_b"), ghost, strict=True):
                assert np.linalg.norm(pose[:3, 3] - drawn[f"{side}/{part}"][:3, 3]) < 0.01
            assert first > 0
        objects = {item.name for item in cell.scene.objects}
        assert objects <= set(drawn)
        for name in objects:
            np.testing.assert_allclose(drawn[name], cell.object_pose(name), atol=1e-5)


def test_solids_have_the_colours_and_sizes_of_the_scene():
    settings = cell_settings("ur5e")
    with Cell.of(settings, make_scene("pick", seed=3)) as cell:
        figure = Figure.of_cell(cell, settings)
        bodies = {body.name: body for body in figure.bodies}
        for item in cell.scene.objects:
            (solid,) = bodies[item.name].solids
            np.testing.assert_allclose(solid.colour, item.rgb, atol=1e-6)
        table = bodies["table"].solids
        assert max(solid.size[0] for solid in table) > 0.2
        assert "room" not in bodies  # walls would hide everything
