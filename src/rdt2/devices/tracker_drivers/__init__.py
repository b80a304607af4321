"""Drivers of trackers, a file each.

A Vive tracker's own axes are turned by 90 degrees about x against those of the handheld gripper, in which calibrations
are told (`tx_tracker_to_tcp`). Drivers turn every pose, `pose @ TURN`, once: nobody after them has to know.
"""

from __future__ import annotations

import numpy as np

TURN = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""4x4: the handheld gripper's axes in those of a Vive tracker on it."""
TURN.setflags(write=False)
