"""The loop drives both kinds of arms of the simulated cell: a policy that knows the way gets there."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.action import HORIZON, ActionChunk, chunk_from_poses
from rdt2.control import LoopConfig, run_episode
from rdt2.robot import Frame
from rdt2.sim.cell import Cell, cell_settings
from rdt2.sim.drawing import make_scene
from rdt2.sim.gripper import tcp_rotation

SIDES = ("right", "left")
GREY = np.full((384, 384, 3), 127, np.uint8)


class Oracle:
    """Knows where the handheld's own frames are, and moves the fingertips to their goals at 0.25 m/s.

    It sees and says everything in the policy's frame, so that reaching the goal needs the right frame change.
    """

    keeps_promises, patience = False, None

    def __init__(self, cell, goals):
        self.cell = cell
        tips, policy = cell.names.fingertips, cell.names.policy
        self.goals = {
            s: goals[s] @ np.linalg.inv(cell.site_pose(tips[s])) @ cell.site_pose(policy[s]) for s in SIDES
        }

    def predict(self, observations, *, seed=None):
        (_,) = observations
        start, steps = {}, {}
        for side in SIDES:
            here, goal = self.cell.site_pose(self.cell.names.policy[side]), self.goals[side]
            way = goal[:3, 3] - here[:3, 3]
            share = np.minimum(1.0, np.arange(1, HORIZON + 1) * 0.25 / 30 / max(np.linalg.norm(way), 1e-9))
            path = np.repeat(here[None], HORIZON, axis=0)
            path[:, :3, 3] += share[:, None] * way
            path[:, :3, :3] = _turn(here[:3, :3], goal[:3, :3], share)
            start[side], steps[side] = here, path
        widths = {s: np.full(HORIZON, 0.03) for s in SIDES}
        return [ActionChunk(chunk_from_poses(start, steps, widths))]


def _grey(camera):
    cell = camera._cell
    picture = GREY.copy()
    picture[0, 0] = (
        cell.steps % 251,
        cell.steps // 251,
        0,
    )  # a picture that never changes is a frozen camera's
    return Frame(cell.time, cell.steps, picture)


def _turn(first, last, share):
    from scipy.spatial.transform import Rotation

    whole = Rotation.from_matrix(last @ first.T).as_rotvec()
    return Rotation.from_rotvec(share[:, None] * whole).as_matrix() @ first


@pytest.mark.parametrize("embodiment", ["ur5e", "fr3", "handheld"])
def test_an_oracle_reaches_its_goals_with_every_embodiment(embodiment, monkeypatch):
    # Pictures are not looked at here, and drawing them is slow.
    monkeypatch.setattr("rdt2.sim.cell.CellCamera.read", _grey)
    goals = {}
    for side, (x, y, z) in {"right": (0.12, 0.02, 0.16), "left": (-0.10, 0.24, 0.14)}.items():
        goals[side] = np.eye(4)
        goals[side][:3, :3] = tcp_rotation(side, yaw=0.3)
        goals[side][:3, 3] = x, y, z
    with Cell(embodiment, make_scene("press", seed=5)) as cell:
        robot = cell.robot()
        result = run_episode(
            robot,
            Oracle(cell, goals),
            "Press the blue button with the left hand.",
            settings=cell_settings(embodiment),
            config=LoopConfig(latency=0.1),
            max_seconds=3.0,
        )
        assert not result.pauses, result.pauses
        assert result.ending == "time is up"
        for side in SIDES:
            pose = cell.site_pose(cell.names.fingertips[side])
            assert np.linalg.norm(pose[:3, 3] - goals[side][:3, 3]) < 0.008
            assert np.abs(pose[:3, :3] - goals[side][:3, :3]).max() < 0.03
            assert robot.grippers[side].state().width == pytest.approx(0.03, abs=0.003)
            assert np.abs(cell.policy_to_tcp(side)[:3, 3]).max() > 0.05, "a forgotten frame change must show"
