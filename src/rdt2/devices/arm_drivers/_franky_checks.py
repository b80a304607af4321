"""Load and tool of a Franka Research 3 against what the robot's yaml says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.devices.arm_drivers._load import millimetres
from rdt2.robot.protocols import Check

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.devices.arm_drivers._franky_options import FrankyOptions


def settings_of(
    state: Any, options: FrankyOptions, tool: Float[ndarray, "4 4"], expected: Float[ndarray, "4 4"]
) -> list[Check]:
    """What the robot says that was set.

    Args:
        state: franky's.
        options: what the yaml says.
        tool: the TCP in the frame of the flange that it says, metres.
        expected: the TCP in the frame of the arm's base, by its description and the joints of `state`.
    """
    said = matrix(state.F_T_EE)
    off, turned = (float(np.linalg.norm((said - tool)[:3, part])) for part in (3, slice(3)))
    apart = float(np.linalg.norm((matrix(state.O_T_EE) - expected)[:3, 3]))
    inertia = np.asarray(state.I_load).reshape(3, 3)
    return [
        Check(
            "tool", f"the TCP at {millimetres(tool[:3, 3])} of the flange", millimetres(said[:3, 3]),
            off < 1e-3 and turned < 1e-2,
        ),
        *options.load_checks(state.m_load, np.asarray(state.F_x_Cload), inertia),
        Check("kinematics", "the same TCP as the model's", f"{1e3 * apart:.1f} mm off", apart < 2e-3),
    ]  # fmt: skip


def matrix(pose: Any) -> Float[ndarray, "4 4"]:
    """Of franky's pose."""
    return np.asarray(pose.matrix, dtype=np.float64)
