"""Messages of recordings, held against the reader of the mcap project."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("mcap_ros2")

from mcap.records import Schema
from mcap_ros2.decoder import DecoderFactory

from rdt2.data.recordings import messages as ros
from rdt2.data.recordings.messages import DEFINITIONS, Message, quaternion, unpack

STAMP = 1_764_363_600_123_456_789


def theirs(kind, data):
    schema = Schema(id=1, name=kind, encoding="ros2msg", data=DEFINITIONS[kind].encode())
    return DecoderFactory().decoder_for("cdr", schema)(data)


def ours(kind, data):
    return unpack(Message("/topic", kind, data, STAMP, STAMP))


@pytest.mark.parametrize(
    "rotation",
    [np.eye(3), *(np.diag(signs) for signs in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1]))]
    + [Rotation.random(random_state=seed).as_matrix() for seed in range(20)],
)
def test_a_rotation_is_written_as_its_quaternion(rotation):
    turn = Rotation.from_quat(quaternion(rotation)).as_matrix()
    np.testing.assert_allclose(turn, rotation, atol=1e-12)


def test_poses_and_paths():
    pose = np.eye(4)
    pose[:3, 3] = 1.25, -2.5, 3.75
    found = theirs(ros.POSE, ros.pack_pose(STAMP, pose))
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == divmod(STAMP, 10**9)
    assert found.header.frame_id == "cell"
    place = found.pose.position
    assert (place.x, place.y, place.z) == (1.25, -2.5, 3.75)
    assert found.pose.orientation.w == 1
    assert ours(ros.POSE, ros.pack_pose(STAMP, pose)) == (1.25, -2.5, 3.75, 0, 0, 0, 1)
    path = theirs(ros.PATH, ros.pack_path(STAMP, [STAMP, STAMP + 5], np.stack([np.eye(4), pose])))
    assert [each.pose.position.z for each in path.poses] == [0, 3.75]
    assert path.poses[1].header.stamp.nanosec == STAMP % 10**9 + 5


def test_twists_and_wrenches():
    six = np.array([1.0, 2, 3, 4, 5, 6])
    twist = theirs(ros.TWIST, ros.pack_six(STAMP, six)).twist
    assert (twist.linear.x, twist.linear.z, twist.angular.x, twist.angular.z) == (1, 3, 4, 6)
    wrench = theirs(ros.WRENCH, ros.pack_six(STAMP, six)).wrench
    assert (wrench.force.y, wrench.torque.y) == (2, 5)


@pytest.mark.parametrize("names", [("opening",), ("a", "bc"), tuple(f"left_{k}" for k in range(7))])
def test_joints(names):
    positions = tuple(0.5 * k - 1 for k in range(len(names)))
    data = ros.pack_joints(STAMP, names, positions)
    found = theirs(ros.JOINTS, data)
    assert (found.name, found.position) == ([*names], [*positions])
    assert not found.velocity
    assert not found.effort
    assert found.header.stamp.nanosec == STAMP % 10**9
    assert ours(ros.JOINTS, data) == dict(zip(names, positions, strict=True))


def test_texts_numbers_logs_pictures_and_tables():
    for text in ("", "Pick up the apple.", "拿起苹果。"):
        assert theirs(ros.TEXT, ros.pack_text(text)).data == ours(ros.TEXT, ros.pack_text(text)) == text
    assert theirs(ros.NUMBER, ros.pack_number(0.1)).data == ours(ros.NUMBER, ros.pack_number(0.1)) == 0.1
    log = ros.pack_log(STAMP, ros.WARN, "guard", "too near to the table")
    found = theirs(ros.LOG, log)
    assert (found.level, found.name, found.msg, found.line) == (30, "guard", "too near to the table", 0)
    assert ours(ros.LOG, log) == (30, "guard", "too near to the table")
    picture = ros.pack_picture(STAMP, "left_camera", b"\xff\xd8 and so on")
    found = theirs(ros.PICTURE, picture)
    assert (found.header.frame_id, found.format, bytes(found.data)) == (
        "left_camera",
        "jpeg",
        b"\xff\xd8 and so on",
    )
    assert ours(ros.PICTURE, picture) == b"\xff\xd8 and so on"
    table = np.arange(480, dtype=np.float32).reshape(24, 20)
    found = theirs(ros.ARRAY, ros.pack_array(table, ("step", "value")))
    assert [(dim.label, dim.size, dim.stride) for dim in found.layout.dim] == [
        ("step", 24, 480),
        ("value", 20, 20),
    ]
    assert found.data == table.ravel().tolist()
    np.testing.assert_array_equal(ours(ros.ARRAY, ros.pack_array(table, ("step", "value"))), table)


def test_a_message_that_ends_too_soon_is_no_message():
    picture = ros.pack_picture(STAMP, "left_camera", b"\xff\xd8 and so on")
    with pytest.raises(ValueError, match="are announced"):
        ours(ros.PICTURE, picture[:-3])
