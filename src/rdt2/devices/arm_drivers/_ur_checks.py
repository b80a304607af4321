"""Load, tool and slider of a UR controller against what the robot's yaml says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.devices.arm_drivers._load import millimetres
from rdt2.robot.protocols import Check

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.devices.arm_drivers._ur_options import UROptions

APART = 0.02
"""Metres between the TCP of the controller and that of the arm's description: more is no calibration, but another
tool."""
ROUNDED = 5e-3
"""Of the speed slider: what lies between what was set and what is said."""


def settings_of(
    receive: Any, options: UROptions, tool: Float[ndarray, "4 4"], said: Float[ndarray, "4 4"], apart: float
) -> list[Check]:
    """What the controller says that was set.

    Args:
        receive: ur_rtde's.
        options: what the yaml says.
        tool: the TCP in the frame of the flange that it says, metres.
        said: the one that the controller said.
        apart: metres between the TCP by the controller and by the arm's description.
    """
    slider = receive.getTargetSpeedFraction()
    centre, moments = np.array(receive.getPayloadCog()), receive.getPayloadInertia()[:3]
    return [
        Check(
            "tool", f"the TCP at {millimetres(tool[:3, 3])} of the flange", millimetres(said[:3, 3]),
            bool(np.abs(said - tool).max() < 1e-3),
        ),
        *options.load_checks(receive.getPayload(), centre, np.diag(moments)),
        Check(
            "speed slider", f"{100 * options.speed_slider:.0f} % at most", f"{100 * slider:.0f} %",
            slider < options.speed_slider + ROUNDED,
        ),
        Check("kinematics", "the same TCP as the model's", f"{1e3 * apart:.1f} mm off", apart < APART),
    ]  # fmt: skip
