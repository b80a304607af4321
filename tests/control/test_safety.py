"""Clearances equal the reference's; plans that must not be driven are refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.control.safety import SafetyLimits, check_plan, table_lift
from rdt2.errors import SafetyError
from rdt2.pose import pose_to_matrix

DOWN = np.diag([1.0, -1.0, -1.0, 1.0])


def at(x, y, z):
    pose = DOWN.copy()
    pose[:3, 3] = x, y, z
    return pose


def test_table_clearance_equals_the_reference(golden):
    data = np.load(golden / "geometry" / "collision.npz")
    lifted = 0
    for i in range(len(data["table_in"])):
        lift = table_lift(
            pose_to_matrix(data["table_in"][i]),
            float(data["gripper_width"][i]),
            float(data["height_threshold"][i]),
            thickness=float(data["finger_thickness"][i]),
            opening_axis=0,  # that of the reference's TCP
        )
        lifted += lift > 0
        np.testing.assert_allclose(data["table_in"][i, 2] + lift, data["table_out"][i, 2], atol=1e-12)
    assert lifted > 5


def plan(**changes):
    steps = np.arange(1, 25)[:, None, None] * 0.002
    right = np.repeat(at(0, -0.2, 0.2)[None], 24, axis=0)
    right[:, 0, 3] += steps[:, 0, 0]
    left = np.repeat(at(0, 0.2, 0.2)[None], 24, axis=0)
    poses = {"right": right, "left": left}
    poses.update(changes)
    return {"right": at(0, -0.2, 0.2), "left": at(0, 0.2, 0.2)}, poses


WIDTHS = {"right": np.full(24, 0.05), "left": np.full(24, 0.05)}


def test_a_good_plan_passes_unchanged():
    start, poses = plan()
    safe = check_plan(start, poses, WIDTHS, SafetyLimits())
    assert (safe.steps, safe.reason) == (24, "")
    for side in poses:
        np.testing.assert_array_equal(safe.poses[side], poses[side])


def test_waypoints_a_little_below_the_table_are_lifted():
    low = np.repeat(at(0, 0.2, -0.01)[None], 24, axis=0)
    _, poses = plan(left=low)
    limits = SafetyLimits(table_height=0.0, low=(-1, -1, -1))
    safe = check_plan({"right": at(0, -0.2, 0.2), "left": low[0]}, poses, WIDTHS, limits)
    assert safe.steps == 24
    np.testing.assert_allclose(safe.poses["left"][:, 2, 3], 0.0, atol=1e-12)
    assert low[0, 2, 3] == -0.01, "the plan that was passed in must stay as it is"


def broken(kind):
    path = np.repeat(at(0, 0.2, 0.2)[None], 24, axis=0)
    if kind == "NaN":
        path[5, 0, 3] = np.nan
    elif kind == "moves":
        path[9:, 0, 3] += 0.12
    elif kind == "turns":
        path[9:, :2, :2] = path[9:, :2, :2] @ np.array([[0.0, -1.0], [1.0, 0.0]])
    elif kind == "below the table":
        path[:, 2, 3] = np.linspace(0.2, -0.24, 24)
    elif kind == "workspace":
        path[:, 1, 3] = np.linspace(0.2, 0.7, 24)
    elif kind == "each other":
        path[:, 1, 3] = np.linspace(0.2, -0.16, 24)
    return path


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("moves", 9), ("turns", 9), ("below the table", 18), ("workspace", 19), ("each other", 20)],
)
def test_a_plan_ends_before_the_first_bad_waypoint(kind, steps):
    start, poses = plan(left=broken(kind))
    safe = check_plan(start, poses, WIDTHS, SafetyLimits())
    assert safe.steps == steps
    assert kind in safe.reason
    assert f"waypoint {steps}" in safe.reason
    if kind == "each other":
        assert check_plan(start, poses, WIDTHS, SafetyLimits(sphere_radius=0.0)).steps == 24


def test_the_earliest_of_several_faults_of_both_arms_counts():
    start, poses = plan(left=broken("workspace"))
    poses["right"][11:, 0, 3] += 0.12
    safe = check_plan(start, poses, WIDTHS, SafetyLimits())
    assert safe.steps == 11
    assert "right arm, waypoint 11 moves" in safe.reason


def test_nothing_of_a_plan_with_nan_is_driven():
    start, poses = plan(left=broken("NaN"))
    with pytest.raises(SafetyError, match="NaN"):
        check_plan(start, poses, WIDTHS, SafetyLimits())


def test_the_first_step_counts_from_where_the_arm_is():
    start, poses = plan()
    start["right"] = at(0.2, -0.2, 0.2)
    safe = check_plan(start, poses, WIDTHS, SafetyLimits())
    assert safe.steps == 0
    assert "waypoint 0 moves" in safe.reason
