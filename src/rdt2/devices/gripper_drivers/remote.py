"""A gripper of another machine, as `rdt2.devices.arm_drivers.remote` is an arm of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.devices.drivers import Driver, Opening
from rdt2.devices.remote import RemoteDevice, RemoteOptions
from rdt2.errors import RobotError
from rdt2.robot.device import require_widths
from rdt2.robot.protocols import GripperState
from rdt2.robot.waypoints import WidthTrajectory

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


class RemoteGripper(RemoteDevice):
    """See `rdt2.robot.protocols.Gripper`."""

    def __init__(self, opening: Opening[RemoteOptions]) -> None:
        super().__init__(opening, opening.gripper.latency, opening.gripper.clock_error)
        self.stroke = opening.gripper.stroke
        self._path = WidthTrajectory(0.0)

    def _compare(self, about: dict[str, Any]) -> None:
        there = about.get("stroke")
        if not isinstance(there, (int, float)) or abs(there - self.stroke) > 1e-4:
            raise RobotError(
                f"the {self.name} has a stroke of {there} m in the robot's yaml of its host, {self.stroke} m in the "
                "one here: give both machines the same file."
            )

    def state(self) -> GripperState:
        """The last measurement of the host, its stamp in this machine's time.

        Raises:
            RobotError: the host is not connected, or lost.
        """
        state, stamp, sequence = self._measured()
        return GripperState(stamp, sequence, float(state["width"]))

    def execute(self, times: Float[ndarray, " n"], widths: Float[ndarray, " n"]) -> None:
        """Send widths in metres, at times of the robot's clock, to the host.

        Raises:
            SafetyError: it takes no command, the waypoints are no path, or it has no such width.
            LateError: the last waypoint is past; or commands shortly before came too late to the host, and this one has
                been sent.
        """
        link = self._ready()
        ahead, checked = self._path.checked(times, widths, now=self._opening.clock.now())
        require_widths(self.name, checked, self.stroke)
        link.tell(np.array(ahead), np.array(checked))


DRIVER = Driver(open=RemoteGripper, options=RemoteOptions, extra="serve")
