"""Recordings that are kept: as the published scripts write and read them, of robots in the published layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from rdt2.calibration.handeye import difference
from rdt2.calibration.motion import Excitation
from rdt2.calibration.published import read_published, write_published
from rdt2.calibration.tool import keep, kept
from rdt2.calibration.track import Track
from rdt2.cli.main import main
from rdt2.devices.tracker_drivers import TURN
from rdt2.errors import CalibrationError
from rdt2.pose import TRACKER_TO_POLICY
from rdt2.robot.settings import RobotSettings
from rdt2.sim.tracker import TrackerWorld

OFFSET = np.eye(4)
OFFSET[:3, 3] = 0.004, 0.071, 0.262
OFFSET[:3, :3] = Rotation.from_euler("xyz", [3, -5, 8], degrees=True).as_matrix()
WORLD = TrackerWorld(offset=OFFSET, base=np.diag([-1.0, -1.0, 1.0, 1.0]), jumps=0.02)


def recorded() -> tuple[Track, Track]:
    start = np.diag([1.0, -1.0, -1.0, 1.0])
    start[:3, 3] = 0.4, -0.1, 0.5
    times = np.arange(0, 15, 1 / 60)
    poses = Excitation(seconds=15.0).poses(start, times)
    return Track(times, WORLD.measured(poses, np.random.default_rng(0)), "tracker"), Track(
        times, poses, "arm"
    )


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """As `rdt2 calibrate handeye` keeps it."""
    folder = tmp_path_factory.mktemp("kept") / "recording_right"
    keep(folder, *recorded(), "left")
    return folder


def test_the_published_second_script_finds_what_it_reads(recording) -> None:
    """Its names, 6 numbers a line, as many lines of both, and the tracker's own axes."""
    tracker, arm = (np.loadtxt(recording / f"{name}_posrotvec_np.txt") for name in ("tracker", "robot"))
    assert tracker.shape == arm.shape == (450, 6)
    seen, told = recorded()
    np.testing.assert_allclose(arm[0, :3], told.poses[0, :3, 3], atol=1e-9)
    turned = Rotation.from_rotvec(tracker[10, 3:]).as_matrix() @ TURN[:3, :3]
    np.testing.assert_allclose(turned, seen.poses[20, :3, :3], atol=1e-3)


def test_what_is_written_is_read_again(recording, tmp_path) -> None:
    seen, told = kept(recording)
    np.testing.assert_array_equal(seen.poses, recorded()[0].poses)
    write_published(tmp_path, seen, told)
    again, arm = kept(tmp_path)
    position, rotation = told.at(arm.times)
    np.testing.assert_allclose(arm.poses[:, :3, 3], position, atol=1e-9)
    np.testing.assert_allclose(arm.poses[:, :3, :3], rotation.as_matrix(), atol=1e-6)
    assert len(again) == len(arm)


@pytest.mark.parametrize("name", ["robot", "ur", "franka"])
def test_all_names_that_the_first_scripts_wrote_are_found(recording, tmp_path, name) -> None:
    for ours, theirs in (("tracker", "tracker"), ("robot", name)):
        text = (recording / f"{ours}_posrotvec_np.txt").read_text()
        (tmp_path / f"{theirs}_posrotvec_np.txt").write_text(text)
    assert len(read_published(tmp_path)[1]) == 450
    (tmp_path / f"{name}_posrotvec_np.txt").write_text("1 2 3\n" * 50)
    with pytest.raises(CalibrationError, match="expected 6 a line"):
        read_published(tmp_path)


def published_robot() -> str:
    own = yaml.safe_load(RobotSettings.read("bimanual_ur5e").model_dump_json())
    square = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    arms = {}
    for side in ("right", "left"):
        arm = own["arms"][side]
        arms[side] = {
            "bounds": arm["bounds"], "clock_error": 0.005,
            "gripper": {"scale": 1.136, "clock_error": 0.016}, "camera": {"latency": 0.07, "clock_error": 0.01},
        }  # fmt: skip
    robot = {
        "robot_type": "ur5e",
        "robot_ip": "192.168.56.20",
        "robot_action_latency": 0.167,
        "tcp_offset": 0.3,
    }
    gripper = {"gripper_type": "zhixing", "serial": "1", "gripper_action_latency": 0.03, "open_width": 0.12}
    values = {
        "robots": [{**robot, "unified_tx": square}] * 2, "grippers": [gripper] * 2,
        "cameras": [{"serial": "A1"}, {"serial": "A2"}],
        "tx_left_right": [[1, 0, 0, 0.01], [0, 1, 0, -0.927], [0, 0, 1, -0.01], [0, 0, 0, 1]],
        "tx_tracker_to_tcp": [[1, 0, 0, 0], [0, 1, 0, 0.070261], [0, 0, 1, 0.272602], [0, 0, 0, 1]],
        "arms": arms, "safety": own["safety"],
    }  # fmt: skip
    return yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)


def test_a_robot_in_the_published_layout_is_calibrated(recording, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(published_robot())
    before = RobotSettings.read(path)
    command = ["calibrate", "handeye", "--robot", str(path), "--recording", str(recording), "--published"]
    main([*command, "--side", "left", "--out", str(tmp_path / "out")])
    after = RobotSettings.read(path)
    off = difference(after.arms["left"].policy_to_tcp, np.linalg.inv(OFFSET) @ TRACKER_TO_POLICY)
    assert np.linalg.norm(off[:3]) < 0.5e-3
    assert np.degrees(np.linalg.norm(off[3:])) < 0.1
    assert after.arms["right"] == before.arms["right"]
    (old,) = tmp_path.glob("mine.yaml.before-*")
    assert old.read_text() == published_robot()
    y_and_z = json.loads((tmp_path / "out" / "handeye_left.json").read_text())["published"]
    assert y_and_z["z"] == pytest.approx(0.262, abs=0.05)


def test_a_motion_that_leaves_a_direction_open_writes_nothing_and_says_which(tmp_path, capsys) -> None:
    times = np.arange(0, 15, 1 / 60)
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(0.5 * np.sin(times), [0, 0, 1])).as_matrix()
    seen = Track(times, WORLD.measured(poses, np.random.default_rng(0)), "tracker")
    keep(tmp_path / "kept", seen, Track(times, poses, "arm"), "right")
    path = tmp_path / "mine.yaml"
    path.write_text(published_robot())
    command = ["calibrate", "handeye", "--robot", str(path), "--recording", str(tmp_path / "kept")]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert "where the TCP is along its z not at all" in " ".join(capsys.readouterr().err.split())
    assert path.read_text() == published_robot()
    figures = json.loads((tmp_path / "out" / "handeye_right.json").read_text())
    assert figures["changes"] == {}
    assert "along its z" in figures["undetermined"][0]
