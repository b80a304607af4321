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

WORD = 0xFFFFFFFF


def _rng(seed: tuple[int, ...], sequence: int) -> Generator:
    """Noise of a measurement is a function of its number: one that is read twice says the same twice."""
    words: list[int] = []
    for each in (*seed, sequence):  # scenes of recordings have numbers of two words
        words += [each] if each <= WORD else [each & WORD, each >> 32]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(np.array(words, np.uint32))))


def arm_measured(state: ArmState, world: ArmWorld, seed: tuple[int, ...]) -> ArmState:
    """An arm's true state as its sensors give it: position, rotation and joints with their noise."""
    if not (world.position_noise or world.turn_noise or world.joint_noise):
        return state
    drawn = _rng(seed, state.sequence).standard_normal(6 + len(state.joints))
    pose = state.pose.copy()
    pose[:3, 3] += world.position_noise * drawn[:3]
    turn = Rotation.from_rotvec(np.deg2rad(world.turn_noise * drawn[3:6])).as_matrix()
    pose[:3, :3] = turn @ pose[:3, :3]
    joints = state.joints + np.deg2rad(world.joint_noise * drawn[6:])
    return replace(state, pose=pose, joints=joints)


def gripper_measured(state: GripperState, world: GripperWorld, seed: tuple[int, ...]) -> GripperState:
    """A gripper's true state as its sensor gives it."""
    if not world.width_noise:
        return state
    return replace(state, width=state.width + float(_rng(seed, state.sequence).normal(0, world.width_noise)))
