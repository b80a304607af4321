"""Real devices behind the robot's protocols: a driver each, found by the name that a robot's yaml says.

    robot = open_robot(RobotSettings.read("my_robot.yaml"))
    robot.connect()

A driver is one file that says `DRIVER`: rdt2/devices/arm_drivers/ur_rtde.py is the arm driver "ur_rtde". See
`rdt2.devices.drivers` for what it has to bring.
"""

from rdt2.devices.clock import WallClock
from rdt2.devices.drivers import (
    ARM_DRIVERS,
    CAMERA_DRIVERS,
    GRIPPER_DRIVERS,
    TRACKER_DRIVERS,
    Driver,
    Found,
    Opening,
    Options,
)
from rdt2.devices.opening import open_device, open_robot, open_tracker

__all__ = [
    "ARM_DRIVERS",
    "CAMERA_DRIVERS",
    "GRIPPER_DRIVERS",
    "TRACKER_DRIVERS",
    "Driver",
    "Found",
    "Opening",
    "Options",
    "WallClock",
    "open_device",
    "open_robot",
    "open_tracker",
]
