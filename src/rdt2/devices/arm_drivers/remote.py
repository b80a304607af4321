"""An arm of another machine: a real-time host runs `rdt2 robot serve`, and this one needs neither its kernel nor its
drivers.

    device: {type: remote, address: "ws://192.168.0.5:8790"}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.devices.drivers import Driver, Opening
from rdt2.devices.hosted import about_arm
from rdt2.devices.remote import RemoteDevice, RemoteOptions
from rdt2.errors import RobotError, SafetyError
from rdt2.robot.models import arm_model
from rdt2.robot.protocols import ArmState
from rdt2.robot.waypoints import JointTrajectory, PoseTrajectory

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

SAME = 1e-4
"""Metres, and parts of a unit vector, that two files may differ by and mean the same."""
CHECKED = {
    **{key: (key, "Poses would mean other places") for key in ("base", "model", "tool")},
    "braking": (
        "bounds (acceleration, jerk, turn_acceleration, turn_jerk)",
        "It would brake along another way than the one that is kept free here",
    ),
    "home": (
        "reset_radians (or reset_degrees; they stay beside type: remote)",
        "Its elbow would be elsewhere than where it is kept clear of things here",
    ),
}
"""What is compared with the host, how the yaml calls it, and what a difference would do."""


class RemoteArm(RemoteDevice):
    """See `rdt2.robot.protocols.Arm`."""

    def __init__(self, opening: Opening[RemoteOptions]) -> None:
        super().__init__(opening, opening.arm.latency, opening.arm.clock_error)
        self.base = opening.arm.base
        self.model = None if opening.arm.model is None else arm_model(opening.arm.model)
        self._path = PoseTrajectory(np.eye(4))

    def _compare(self, about: dict[str, Any]) -> None:
        for key, here in about_arm(self._opening.arm).items():
            there = about.get(key)
            if here is None or there is None or isinstance(here, str):
                same = here == there
            else:
                same = np.shape(there) == np.shape(here) and np.abs(np.asarray(there) - here).max() <= SAME
            if not same:
                called, harm = CHECKED[key]
                raise RobotError(
                    f"the {self.name} has another {called} in the robot's yaml of its host than in the one here: "
                    f"{_told(there)} there, {_told(here)} here. {harm}: give both machines the same file."
                )

    def state(self) -> ArmState:
        """The last measurement of the host, its stamp in this machine's time.

        Raises:
            RobotError: the host is not connected, or lost.
        """
        state, stamp, sequence = self._measured()
        return ArmState(
            stamp, sequence, state["pose"], state["velocity"], state["joints"], state.get("wrench")
        )

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Send poses of the TCP, cell frame, metres, at times of the robot's clock, to the host.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
            LateError: the last waypoint is past; or commands shortly before came too late to the host, and this one has
                been sent.
        """
        link = self._ready()
        ahead, checked = self._path.checked(times, poses, now=self._opening.clock.now())
        link.tell(np.array(ahead), np.array(checked))

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"]) -> None:
        """Send joint angles in radians, at times of the robot's clock, to the host.

        Raises:
            SafetyError: it takes no command, the waypoints are no path, or the host's driver takes no joints.
            LateError: the last waypoint is past; or commands shortly before came too late to the host, and this one has
                been sent.
        """
        link = self._ready()
        if not link.about.get("joints"):
            raise SafetyError(
                f"the {self.name} cannot be led along joint angles: the driver of its host does not offer it."
            )
        led = JointTrajectory(np.zeros(0 if self.model is None else len(self.model.links)))
        ahead, checked = led.checked(times, joints, now=self._opening.clock.now())
        link.tell(np.array(ahead), np.array(checked), joints=True)


def _told(value: Any) -> str:
    return str(np.round(value, 5).tolist()) if isinstance(value, np.ndarray) else repr(value)


DRIVER = Driver(open=RemoteArm, options=RemoteOptions, extra="serve")
