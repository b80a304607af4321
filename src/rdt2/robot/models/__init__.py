"""The arms that are described here, a file each, and where two of one kind stand in a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import TaskError
from rdt2.registry import Registry
from rdt2.robot.description import ArmModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

ARM_MODELS = Registry("arm", "rdt2.robot.models", variable="ARM", kind=ArmModel, error=TaskError)
"""Descriptions of arms by name: the files of this folder, and what installed packages bring (`rdt2.registry`)."""

MIRROR = {"right": -1.0, "left": 1.0}
"""Sign of y and of turns about z: a cell is symmetric about its x-z plane."""


def arm_model(name: str) -> ArmModel:
    """The description of an arm.

    Raises:
        TaskError: an arm that is not known.
    """
    return ARM_MODELS[name]


def base_pose(model: str, side: str) -> Float[ndarray, "4 4"]:
    """Where the arm of `side` ("right" or "left") stands in the cell frame, metres, facing along x."""
    x, y, z = arm_model(model).base
    pose = np.eye(4)
    pose[:3, 3] = x, MIRROR[side] * y, z
    return pose


def mount_in_flange(model: str, side: str) -> Float[ndarray, "4 4"]:
    """How the cell's gripper is turned on an arm's flange: where it mounts, in the frame of the bare flange."""
    angle = MIRROR[side] * arm_model(model).mount_yaw
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return pose


def flange_pose(model: str, joints: Float[ndarray, " n"]) -> Float[ndarray, "4 4"]:
    """Where joint angles (radians) put an arm's flange, in the frame of its base, metres."""
    arm, pose = arm_model(model), np.eye(4)
    for link, angle in zip(arm.links, joints, strict=True):
        step, turn = np.eye(4), np.eye(4)
        step[1:3, 1:3] = [[np.cos(link.tilt), -np.sin(link.tilt)], [np.sin(link.tilt), np.cos(link.tilt)]]
        step[:3, 3] = link.position
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose = pose @ step @ turn
    pose[:3, 3] += arm.flange * pose[:3, 2]
    return pose
