"""What the package says to a robot: small protocols that devices and the simulated cell implement alike."""

from __future__ import annotations

from rdt2.robot.protocols import (
    WATCHDOG,
    Arm,
    ArmState,
    Camera,
    Clock,
    Device,
    Frame,
    Gripper,
    GripperState,
    GuidedArm,
    Health,
    Timing,
    Tracker,
    TrackerState,
)
from rdt2.robot.robot import Robot
from rdt2.robot.waypoints import PoseTrajectory, WidthTrajectory

__all__ = [
    "WATCHDOG",
    "Arm",
    "ArmState",
    "Camera",
    "Clock",
    "Device",
    "Frame",
    "Gripper",
    "GripperState",
    "GuidedArm",
    "Health",
    "PoseTrajectory",
    "Robot",
    "Timing",
    "Tracker",
    "TrackerState",
    "WidthTrajectory",
]
