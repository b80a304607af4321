"""The grippers that are described here, a file each."""

from __future__ import annotations

from rdt2.errors import ConfigError
from rdt2.registry import Registry
from rdt2.robot.description import GripperModel

GRIPPERS = Registry(
    "gripper", "rdt2.robot.grippers", variable="GRIPPER", kind=GripperModel, error=ConfigError
)
