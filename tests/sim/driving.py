"""Moving a device of the cell: what it is to do is said again 30 times a second, or its watchdog stops it."""

from __future__ import annotations

import numpy as np


def drive(cell, device, value, *, until):
    """Have an arm be at a pose, or a gripper at a width, at the simulated time `until`, and run the cell till then."""
    while cell.time < until - 1e-3:
        device.execute(np.array([until]), np.array([value]))
        cell.advance_to(min(until, cell.time + 1 / 30))
