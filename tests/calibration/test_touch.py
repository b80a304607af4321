"""Touched points: tables and arms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.calibration.touch import TOUCHED, placement, placement_by_tracker, plane
from rdt2.errors import CalibrationError

CORNERS = np.array([[0.3, -0.4, 0.01], [0.3, 0.4, 0.01], [0.7, 0.4, 0.01], [0.7, -0.4, 0.01]])


def test_a_level_table() -> None:
    found = plane(CORNERS + np.array([0, 0, 0.02]))
    assert found.at(9.0, -9.0) == pytest.approx(0.03)
    assert found.highest == pytest.approx(0.03)
    assert found.tilt == pytest.approx(0, abs=1e-6)


def test_a_tilted_table_counts_where_it_is_highest() -> None:
    tilted = CORNERS.copy()
    tilted[:, 2] += 0.05 * tilted[:, 0]
    tilted[1, 2] += 0.001
    found = plane(tilted)
    assert found.tilt == pytest.approx(np.degrees(np.arctan(0.05)), abs=0.1)
    assert found.highest == pytest.approx(0.045, abs=1e-3)
    assert 1e-4 < found.error < 1e-3


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (CORNERS[:2], r"\(2, 3\), expected three or more"),
        (np.linspace([0, 0, 0], [1, 1, 0], 5), "lie on a line"),
        (CORNERS[:, [2, 1, 0]], "that is no table"),
        (CORNERS * np.nan, "finite"),
    ],
)
def test_no_table(points, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        plane(points)


def test_where_the_other_arm_stands() -> None:
    true = np.eye(4)
    true[:3, :3] = Rotation.from_rotvec([0.02, -0.01, 1.5]).as_matrix()
    true[:3, 3] = 0.01, -0.927, -0.01
    right = np.linalg.inv(true)[:3, :3] @ CORNERS.T + np.linalg.inv(true)[:3, 3:]
    found = placement(CORNERS, right.T)
    np.testing.assert_allclose(found.transform, true, atol=1e-9)
    assert found.error < 1e-9
    base = np.eye(4)
    base[:3, 3] = 1, 2, 3
    np.testing.assert_allclose(placement_by_tracker(base, base @ true, error=0.0).transform, true)


def test_how_well_points_tell_where_the_other_arm_stands() -> None:
    random, base = np.random.default_rng(0), np.array([0.0, -0.9, 0.0])
    right = CORNERS - base
    draws = [placement(CORNERS, right + random.normal(0, TOUCHED, right.shape)) for _ in range(300)]
    scatter = np.sqrt(np.mean([np.square(each.transform[:3, 3] - base).sum() for each in draws]))
    turns = [Rotation.from_matrix(each.transform[:3, :3]).magnitude() for each in draws]
    metres, degrees = placement(CORNERS, right).unsure(base)
    assert metres == pytest.approx(scatter, rel=0.1)
    assert degrees == pytest.approx(np.degrees(np.sqrt(np.mean(np.square(turns)))), rel=0.1)
    bent = placement(CORNERS, right + np.outer([1, -1, 1, -1], [0, 0, 0.01]))
    assert bent.unsure(base)[0] > 4 * metres


@pytest.mark.parametrize(
    ("right", "message"),
    [
        (CORNERS[:3], "expected the same three points"),
        (CORNERS[::-1] * [1, 1.4, 1], "do not fit onto each other"),
    ],
)
def test_points_that_are_not_the_same(right, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        placement(CORNERS, right)
