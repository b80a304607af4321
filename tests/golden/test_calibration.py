"""The published calibration is found as the published script finds it."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.calibration.published import published_objective, published_offset, read_published
from rdt2.devices.tracker_drivers import TURN
from rdt2.pose import pose_to_matrix


@pytest.fixture
def recorded(golden):
    return np.load(golden / "geometry" / "calibration.npz")


def test_objective(recorded) -> None:
    tracker = pose_to_matrix(recorded["tracker_posrotvec"]) @ TURN
    arm = pose_to_matrix(recorded["robot_posrotvec"])
    found = [published_objective(tracker, arm, y, z) for y, z in recorded["params"]]
    np.testing.assert_allclose(found, recorded["objective"], rtol=1e-4)  # theirs goes through float32


def test_optimum(recorded, tmp_path) -> None:
    for name in ("tracker", "robot"):
        np.savetxt(tmp_path / f"{name}_posrotvec_np.txt", recorded[f"{name}_posrotvec"], fmt="%.6f")
    tracker, arm = read_published(tmp_path)
    offset = published_offset(tracker.poses, arm.poses)
    np.testing.assert_allclose(offset[1:3, 3], recorded["optimum"], atol=5e-4)
    np.testing.assert_array_equal(offset[:3, :3], np.eye(3))
