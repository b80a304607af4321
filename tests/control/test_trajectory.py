"""Waypoint scheduling equals the reference's, and says so when a path makes no sense."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdt2.control.trajectory import Path, travel_time
from rdt2.errors import PoseError
from rdt2.pose import interpolate, pose_to_matrix

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def cases(golden):
    data = dict(np.load(golden / "geometry" / "trajectory.npz"))
    return data, json.loads((golden / "geometry" / "trajectory_cases.json").read_text())


def speeds(case):
    return {
        "max_speed": float(case["max_pos_speed"]),
        "max_turn_rate": float(case["max_rot_speed"]),
    }


def run(base, data, case):
    pose = pose_to_matrix(data[f"{case['name']}.pose"])
    if case["name"].startswith("sched"):
        return base.schedule(
            pose,
            case["time"],
            now=case["curr_time"],
            last_scheduled=case["last_waypoint_time"],
            **speeds(case),
        )
    return base.drive_to(pose, case["time"], now=case["curr_time"], **speeds(case))


def test_every_case_of_the_reference(cases):
    data, listed = cases
    base = Path(data["times"], pose_to_matrix(data["poses"]))
    assert len(listed) == 28
    for case in listed:
        if "raises" in case:
            with pytest.raises(PoseError):
                run(base, data, case)
            continue
        path, name = run(base, data, case), case["name"]
        np.testing.assert_allclose(path.times, data[f"{name}.times"], atol=1e-9, err_msg=name)
        np.testing.assert_allclose(path.poses, pose_to_matrix(data[f"{name}.poses"]), atol=1e-9, err_msg=name)
        found = interpolate(path.times, path.poses, data["query"])
        np.testing.assert_allclose(found, pose_to_matrix(data[f"{name}.eval"]), atol=1e-9, err_msg=name)


def test_trim_equals_the_reference(cases):
    data, _ = cases
    trimmed = Path(data["times"], pose_to_matrix(data["poses"])).trim(0.4, 1.3)
    np.testing.assert_allclose(trimmed.times, data["trim_times"], atol=1e-9)
    np.testing.assert_allclose(trimmed.poses, pose_to_matrix(data["trim_poses"]), atol=1e-9)


def test_a_path_with_times_that_do_not_increase_is_refused():
    with pytest.raises(PoseError, match="increase"):
        Path(np.array([0.0, 0.0]), np.stack([np.eye(4)] * 2))
    with pytest.raises(PoseError, match="expected"):
        Path(np.array([0.0, 1.0]), np.eye(4)[None])


def test_travel_time_is_the_slower_of_moving_and_turning():
    start, end = np.eye(4), np.eye(4)
    end[:3, 3] = 0.3, 0.4, 0.0
    assert travel_time(start, end, 0.5, 1.0) == pytest.approx(1.0)
    end[:2, :2] = [[0, -1], [1, 0]]
    assert travel_time(start, end, 0.5, 1.0) == pytest.approx(np.pi / 2)
