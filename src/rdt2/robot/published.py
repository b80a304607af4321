"""The layout of the published robot files: lists of robots, grippers and cameras, the right one first.

Its cell frame is that of the left arm, after its `unified_tx` (of the only arm, if there is one). It says nothing of
workspaces, accelerations, gripper scales, or how exact the clocks are: those are added in our own layout, to the same
file. Spheres around the grippers are not read: arms keep clear of each other by their shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdt2.errors import ConfigError
from rdt2.progress import note
from rdt2.registry import did_you_mean

SIDES = ("right", "left")
TRACKER_TO_POLICY = [[1, 0, 0, 0], [0, 1, 0, 0.078], [0, 0, 1, -0.026705], [0, 0, 0, 1]]
"""Where the released models' policy frame is on the recording device: part of what they were trained on."""
MODELS = {"ur5e": "ur5e", "franka": "fr3", "franka_research_3": "fr3", "fr3": "fr3"}
OWN = ("name", "kind", "arms", "safety", "cell")

ZHIXING = {"model": "ctag2f120", "mount": [[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}
"""The published gripper: its fingers open along the flange's x axis, its camera is on the -y side."""

_ROBOT = {"robot_type", "robot_action_latency", "tcp_offset", "height_threshold", "unified_tx"}
_ROBOT_DEVICE = {
    "robot_ip": "address",
    "robot_port": "port",
    "robot_obs_latency": "observation_latency",
    "name": "name",
}
_BALLS = {"sphere_radius", "sphere_center"}
_GRIPPER = {"gripper_action_latency", "open_width"}
_GRIPPER_DEVICE = {
    "gripper_type": "type", "serial": "serial", "gripper_ip": "address", "gripper_port": "port", "force": "force",
    "gripper_obs_latency": "observation_latency", "closed_width": "closed_width",
    "finger_thickness": "finger_thickness",
}  # fmt: skip
_CAMERA = {"put_desired_frequency", "input_res", "output_res", "name"}
"""Of the program that kept the pictures; here the newest is read, and seen as the models see it."""
_CAMERA_DEVICE = {"serial": "serial", "fps": "fps"}


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether a file is in the published layout."""
    return "robots" in values


def translate(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The values of a published file under our own keys, and over them what the file says in our own layout.

    Raises:
        ConfigError: a section that is not what it is in published files, or an unknown key in one.
    """
    known = ("robots", "grippers", "cameras", "tx_left_right", "tx_tracker_to_tcp", *OWN)
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{where}: {key} is no setting of a published robot file.{did_you_mean(key, known)} "
                f"Its settings are {', '.join(known)}."
            )
    robots = _entries(values, "robots", where)
    if len(robots) > 2:
        raise ConfigError(
            f"{where}: robots has {len(robots)} entries, expected the right arm, then the left, or one."
        )
    parts = {"grippers": _entries(values, "grippers", where), "cameras": _entries(values, "cameras", where)}
    for name, entries in parts.items():
        if len(entries) < len(robots):
            raise ConfigError(
                f"{where}: {name} has {len(entries)} entries for {len(robots)} robots, expected one for each."
            )
    arms, floors = {}, []
    for i, (side, robot) in enumerate(zip(SIDES, robots, strict=False)):
        base = _base(values, robot, side, both=len(robots) == 2, where=where)
        arms[side] = _arm(robot, f"{where}: robots[{i}]") | {
            "base": base.tolist(),
            "bounds": {},
            "tx_tracker_to_tcp": values.get("tx_tracker_to_tcp"),
            "tx_tracker_to_policy": TRACKER_TO_POLICY,
            "gripper": _gripper(parts["grippers"][i], f"{where}: grippers[{i}]"),
            "camera": {
                "device": _device(parts["cameras"][i], _CAMERA_DEVICE, _CAMERA, f"{where}: cameras[{i}]")
            },
        }
        height = robot.get("height_threshold")
        if isinstance(height, int | float) and math.isfinite(
            height
        ):  # minus infinity would switch the table off
            floors.append(float(height) + float(base[2, 3]))
    ours: dict[str, Any] = {"arms": arms, "safety": {"table_height": max(floors)} if floors else {}}
    if robots:
        ours["kind"] = arms["right"]["model"]
    assumed = []
    for side, arm in arms.items():
        own = (values.get("arms") or {}).get(side)
        own = own if isinstance(own, Mapping) else {}
        if "policy_to_tcp" in own:
            del arm["tx_tracker_to_tcp"], arm["tx_tracker_to_policy"]
        elif "tx_tracker_to_policy" not in own:
            assumed.append(f"arms.{side}.tx_tracker_to_policy")
    if assumed:
        note(
            f"{where} does not say {' and '.join(assumed)}: taken is that of the device with which the published "
            "models' data was recorded. Write it there, as such, or as that of the device that your model learned from."
        )
    return _merged(ours, {key: value for key, value in values.items() if key in OWN})


def _entries(values: Mapping[str, Any], key: str, where: str) -> Sequence[Mapping[str, Any]]:
    entries = values.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(
            f"{where}: {key} is {'missing' if entries is None else 'no list of sections'}, expected one entry an arm, "
            "the right one first."
        )
    return entries


def _base(
    values: Mapping[str, Any], robot: Mapping[str, Any], side: str, *, both: bool, where: str
) -> np.ndarray:
    """Where an arm's base stands in the frame of the left arm."""
    base = _matrix(robot.get("unified_tx", np.eye(4)), f"{where}: robots, {side}: unified_tx")
    if both and side == "right":
        return _matrix(values.get("tx_left_right"), f"{where}: tx_left_right") @ base
    return base


def _matrix(value: Any, key: str) -> np.ndarray:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != (4, 4):
        raise ConfigError(
            f"{key} is {'missing' if value is None else 'no 4x4 matrix'}, expected four rows of four numbers."
        )
    return matrix


def _arm(robot: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = robot.get("robot_type")
    arm: dict[str, Any] = {
        "model": MODELS.get(str(kind), kind),
        "device": _device(robot, _ROBOT_DEVICE, _ROBOT | _BALLS, where),
    }
    if "robot_action_latency" in robot:
        arm["latency"] = robot["robot_action_latency"]
    if "tcp_offset" in robot:
        tool, offset = np.eye(4), robot["tcp_offset"]
        if isinstance(offset, bool) or not isinstance(offset, int | float):
            raise ConfigError(
                f"{where}.tcp_offset is {offset!r}, expected metres from the flange to the TCP."
            )
        tool[2, 3] = offset
        arm["tool"] = tool.tolist()
    return arm


def _gripper(gripper: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = {"gripper_action_latency": "latency", "open_width": "stroke"}
    ours: dict[str, Any] = {ours: gripper[theirs] for theirs, ours in names.items() if theirs in gripper}
    device = _device(gripper, _GRIPPER_DEVICE, _GRIPPER, where)
    if gripper.get("gripper_type") == "zhixing":
        ours |= ZHIXING
        if "open_width" in gripper:  # also what its fully open position is called, beside the stroke
            device["open_width"] = gripper["open_width"]
    return {**ours, "device": device}


def _device(
    section: Mapping[str, Any], names: Mapping[str, str], read: set[str], where: str
) -> dict[str, Any]:
    """What is left for the driver."""
    known = (*names, *sorted(read))
    for key in section:
        if key not in known:
            raise ConfigError(
                f"{where}.{key} is no setting of a published robot file.{did_you_mean(key, known)} Its settings are "
                f"{', '.join(known)}."
            )
    return {ours: section[theirs] for theirs, ours in names.items() if theirs in section}


def _merged(first: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`first` with the values of `over`, section by section."""
    merged = dict(first)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
