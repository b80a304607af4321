"""What was not one body, or not the arm's, is not written, and does not hold: however small the scatter of the rest."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from handeye_tracks import WORLD, planned, pose, recorded

from rdt2.calibration.places import table
from rdt2.calibration.tool import check, handeye, tracker_to_policy
from rdt2.calibration.track import Track
from rdt2.errors import CalibrationError
from rdt2.pose import TRACKER_TO_POLICY
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings

UR5E, CELL = map(RobotSettings.read, ("bimanual_ur5e", "cell_ur5e"))
STORED = np.linalg.inv(WORLD.offset) @ TRACKER_TO_POLICY


def slipped(share: float) -> tuple[Track, Track]:
    """A recording in which the tracker slips by 20 mm and 5 degrees, after a share of it."""
    tracker, arm = recorded(planned)
    poses = tracker.poses.copy()
    poses[round(share * len(tracker)) :] = poses[round(share * len(tracker)) :] @ pose(0.02, 0, 0, 0, 5, 0)
    return Track(tracker.times, poses, "tracker"), arm


@pytest.mark.parametrize("share", [0.25, 0.48, 0.6, 0.75])
def test_a_tracker_that_slips_is_noticed(share) -> None:
    """Regression: what did not fit was left out as jumps, and 31 mm were written with a deviation of 0.07."""
    found = handeye(*slipped(share), "right", robot="bimanual_ur5e")
    assert not found.changes
    assert not found.holds
    assert any("the tracker slipped" in note for note in found.notes)
    found = check(*slipped(share), "right", STORED)
    assert not found.holds
    assert ("stored calibration", "cannot be told") in found.rows


def test_what_fits_is_believed() -> None:
    tracks = recorded(planned)
    found = handeye(*tracks, "right", robot="bimanual_ur5e")
    assert found.holds
    assert "arms.right.tx_tracker_to_tcp" in found.changes
    assert check(*tracks, "right", STORED).holds


def test_a_tracker_whose_metres_are_none_is_noticed() -> None:
    """Regression: what was 3 % longer passed every check, and moved the tool by 9 mm."""
    tracker, arm = recorded(planned)
    right = handeye(tracker, arm, "right", robot="bimanual_ur5e")
    assert abs(right.values["scale"] - 1) < max(3 * right.values["scale_sigma"], 1e-3)
    longer = tracker.poses.copy()
    longer[:, :3, 3] *= 1.03
    found = handeye(Track(tracker.times, longer, "tracker"), arm, "right", robot="bimanual_ur5e")
    assert found.values["scale"] == pytest.approx(1.03, abs=3e-3)
    assert (found.changes, found.holds) == ({}, False)
    assert any("where the arm moves by a metre the tracker says 1.03" in note for note in found.notes)


def test_what_the_yaml_said_is_told_and_far_away_names_the_mounting(tmp_path) -> None:
    tracks = recorded(planned)
    found = handeye(*tracks, "right", robot="bimanual_ur5e")
    said = dict(found.rows)["the yaml said"]
    assert said.endswith("degrees away")
    assert found.notes == []
    assert float(said.split(" mm")[0]) == pytest.approx(11.4, abs=0.5)  # (4, 0.7, -10.6) mm
    values = yaml.safe_load((CONFIGS / "bimanual_ur5e.yaml").read_text())
    values["arms"]["right"]["tx_tracker_to_tcp"] = (WORLD.offset @ pose(0, 0, 0, 180, 0, 0)).tolist()
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    found = handeye(*tracks, "right", robot=str(path))
    (note,) = found.notes
    assert "the yaml said a tool 0 mm and 180 degrees away" in note
    assert "not mounted where" in note
    assert found.holds
    assert found.changes
    assert found.values["doubts"] == []  # so that the arms may be placed by it


def test_a_policys_own_place_on_the_tracker_stays(tmp_path) -> None:
    """Regression: the published one was written over it, 5 cm away."""
    values = yaml.safe_load((CONFIGS / "bimanual_ur5e.yaml").read_text())
    own = TRACKER_TO_POLICY.copy()
    own[2, 3] += 0.05
    values["arms"]["right"]["tx_tracker_to_policy"] = own.tolist()
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    tracks = recorded(planned)
    found = handeye(*tracks, "right", robot=str(path))
    assert set(found.changes) == {"arms.right.tx_tracker_to_tcp"}
    offset = found.changes["arms.right.tx_tracker_to_tcp"]
    np.testing.assert_allclose(found.values["policy_to_tcp"], np.linalg.inv(offset) @ own, atol=1e-9)
    theirs = tracker_to_policy(str(path), "right")
    np.testing.assert_allclose(theirs, own)
    assert check(*tracks, "right", np.linalg.inv(WORLD.offset) @ own, theirs).holds


def test_a_point_that_was_no_table_is_refused() -> None:
    square = np.array([[0.4, 0.1, 0.0], [0.5, 0.1, 0.0], [0.5, 0.0, 0.0], [0.4, 0.0, 0.06]])
    with pytest.raises(CalibrationError, match="off the plane through all of them"):
        table(square, UR5E)


def test_a_tilt_that_matters_far_away_is_told() -> None:
    """Regression: what was touched over 10 cm was taken for the whole table."""
    corners = np.array([[0.4, 0.1, 0.0], [0.5, 0.1, 0.0], [0.5, 0.0, 0.0], [0.4, 0.0, 0.0]])
    assert not table(corners, CELL).notes
    corners[:, 2] = (0.5 - corners[:, 0]) * np.tan(np.radians(0.9))
    (note,) = table(corners, CELL).notes
    assert "in a corner of the workspace it would be" in note


@pytest.mark.parametrize("turn", [np.zeros((3, 3)), np.diag([1.0, 1.0, -1.0]), 2 * np.eye(3)])
def test_what_is_no_turn_is_no_pose(turn) -> None:
    tracker, _ = recorded(planned)
    poses = tracker.poses.copy()
    poses[7, :3, :3] = turn
    with pytest.raises(CalibrationError, match=r"the tracker's pose 7 of .* is no turn"):
        Track(tracker.times, poses, "tracker")
