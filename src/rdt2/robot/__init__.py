"""What the package says to a robot: small protocols that devices and the simulated cell implement alike."""

from __future__ import annotations

from rdt2.robot.protocols import (
    Arm,
    ArmState,
    Camera,
    Clock,
    Frame,
    Gripper,
    GripperState,
    PoseTrajectory,
    Robot,
    WidthTrajectory,
)

__all__ = [
    "Arm",
    "ArmState",
    "Camera",
    "Clock",
    "Frame",
    "Gripper",
    "GripperState",
    "PoseTrajectory",
    "Robot",
    "WidthTrajectory",
]
