"""What arms and grippers of the cell measure of themselves: the truth and a little noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from numpy.random import Generator

    from rdt2.robot.protocols import ArmState, GripperState
    from rdt2.robot.world import ArmWorld, GripperWorld


def _rng(seed: tuple[int, ...], sequence: int) -> Generator:
    """Noise of a measurement is a function of its number: one that is read twice says the same twice."""
    return np.random.default_rng([*seed, sequence])


def arm_measured(state: ArmState, world: ArmWorld, seed: tuple[int, ...]) -> ArmState:
    """An arm's true state as its sensors give it: position, rotation and joints with their noise."""
    if not (world.position_noise or world.turn_noise or world.joint_noise):
        return state
    rng = _rng(seed, state.sequence)
    pose = state.pose.copy()
    pose[:3, 3] += rng.normal(0, world.position_noise, 3)
    turn = Rotation.from_rotvec(np.deg2rad(rng.normal(0, world.turn_noise, 3))).as_matrix()
    pose[:3, :3] = turn @ pose[:3, :3]
    joints = state.joints + np.deg2rad(rng.normal(0, world.joint_noise, len(state.joints)))
    return replace(state, pose=pose, joints=joints)


def gripper_measured(state: GripperState, world: GripperWorld, seed: tuple[int, ...]) -> GripperState:
    """A gripper's true state as its sensor gives it."""
    if not world.width_noise:
        return state
    return replace(state, width=state.width + float(_rng(seed, state.sequence).normal(0, world.width_noise)))
