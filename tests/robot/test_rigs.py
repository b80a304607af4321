"""Where the published rigs put their arms and hands, and settings that make no sense together."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from rdt2.errors import ConfigError
from rdt2.robot.models import ARM_MODELS, flange_pose
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings


def resets(name: str) -> tuple[RobotSettings, dict, dict]:
    """A rig, its reset joints, and where its TCPs are then."""
    robot = RobotSettings.read(name)
    joints = {
        side: np.radians(arm.device["reset_degrees"])
        if "reset_degrees" in arm.device
        else np.array(arm.device["reset_radians"])
        for side, arm in robot.arms.items()
    }
    known = robot.kinematics()
    return robot, joints, {side: known[side].forward(joints[side]) for side in joints}


@pytest.mark.parametrize(("name", "apart"), [("bimanual_ur5e", 0.476), ("bimanual_fr3", 0.752)])
def test_hands_of_the_published_rigs_face_one_table(name: str, apart: float) -> None:
    """From their reset joints: forward, the right one on the right, leaning inwards, the cameras on top."""
    pytest.importorskip("mujoco")
    robot, _, poses = resets(name)
    right, left = poses["right"], poses["left"]
    assert np.linalg.norm(right[:3, 3] - left[:3, 3]) == pytest.approx(apart, abs=1e-3)
    assert right[1, 3] < left[1, 3], "y points to the left"
    np.testing.assert_allclose([right[0, 2], left[0, 2]], 0.92, atol=0.05)  # they point forward,
    assert right[1, 2] > 0.15 > -0.15 > left[1, 2], "and inwards"
    for side, pose in poses.items():
        arm = robot.arms[side]
        hand = pose @ np.linalg.inv(arm.tool) @ arm.gripper.mount
        assert hand[2, 0] > 0.9, "the camera looks from above"
        assert abs(hand[2, 1]) < 0.1, "the fingers open sideways"
        assert (pose[:3, 3] > arm.bounds.low).all()
        assert (pose[:3, 3] < arm.bounds.high).all()


@pytest.mark.parametrize("name", ["bimanual_ur5e", "bimanual_fr3", "cell_fr3"])
def test_elbows_are_drawn_to_the_joints_that_an_arm_begins_from(name: str) -> None:
    """Regression: those of real arms drifted to the posture in which arms wait in the cell."""
    pytest.importorskip("mujoco")
    robot = RobotSettings.read(name)
    for side, known in robot.kinematics().items():
        arm = robot.arms[side]
        begins = ARM_MODELS[arm.model].home[side] if arm.begins is None else resets(name)[1][side]
        np.testing.assert_allclose(known.home, begins)
        assert (arm.begins is None) == (name == "cell_fr3")


@pytest.mark.parametrize("name", ["bimanual_ur5e", "bimanual_fr3"])
def test_published_rigs_can_move_from_their_reset_joints(name: str) -> None:
    """No part is where it must not be, with whole grippers; the FR3s begin with joint 6 near its end."""
    pytest.importorskip("mujoco")
    from rdt2.control.guard import Guard

    robot, joints, poses = resets(name)
    guard = Guard(robot, robot.kinematics(), period=0.008)
    for way in np.concatenate([np.eye(3), -np.eye(3)]):
        guard.start(poses, joints, dict.fromkeys(poses, 0.1))
        wish = {side: pose.copy() for side, pose in poses.items()}
        for side in wish:
            wish[side][:3, 3] += 0.03 * way
        for _ in range(150):
            command = guard.step(wish, dict.fromkeys(poses, 0.1))
        for side, pose in command.poses.items():
            if f"{side} arm stops: a joint is at its limit" not in command.slowed:
                np.testing.assert_allclose(pose[:3, 3], wish[side][:3, 3], atol=2e-3, err_msg=f"{side} {way}")
        assert name == "bimanual_fr3" or not command.slowed
        assert "itself" not in command.slowed


def test_arms_are_as_far_apart_as_the_robots_file_says() -> None:
    """Regression (PITFALLS 34): 0.89 m stood in the code, and nothing looked whether two arms touch."""
    pytest.importorskip("mujoco")
    from rdt2.control.way import Room, Way

    robot, joints, _ = resets("bimanual_ur5e")
    # nothing but the other arm is in the way
    robot = robot.changed(
        {"arms.right.bounds.low": [0.0, -1.5, -0.08], "arms.right.bounds.high": [1.2, 0.5, 1.0]}
    )
    turned = joints["right"] + np.radians(
        [50.0, 0, 0, 0, 0, 0]
    )  # about the base's axis, into the left arm's room
    share = np.linspace(0, 1, 250)[:, None]
    right = joints["right"] + share * (turned - joints["right"])
    way = Way({"right": right, "left": np.repeat(joints["left"][None], 250, axis=0)}, "")
    widths = dict.fromkeys(joints, 0.1)
    assert "the arms would touch each other" in Room(robot, widths).touched(way)
    arm, further = robot.arms["right"], np.array([0, -0.5, 0])
    base = arm.base.copy()
    base[:3, 3] += further
    moved = {
        "arms.right.base": base.tolist(),
        "arms.right.bounds.low": (arm.bounds.low + further).tolist(),
        "arms.right.bounds.high": (arm.bounds.high + further).tolist(),
    }
    assert Room(robot.changed(moved), widths).touched(way) == ""


def test_the_grippers_of_published_rigs_end_where_their_fingertips_are() -> None:
    """Regression: the cell's gripper, 0.2 m long and turned by a quarter, stood for them: 0.1 m of each was unseen."""
    pytest.importorskip("mujoco")
    from rdt2.control.guard import Guard

    robot, joints, poses = resets("bimanual_ur5e")
    guard = Guard(robot, robot.kinematics(), period=0.008)
    guard.start(poses, joints, dict.fromkeys(poses, 0.1))
    down = poses["right"].copy()
    down[:3, :3] = np.diag([1.0, -1.0, -1.0])
    body = guard._arms["right"].shadow.body
    assert body.hang(down[None, :3, :3], np.array([0.1]))[0] == pytest.approx(0.002, abs=2e-3)
    wide = body.frames(joints["right"][None], poses["right"][None], np.array([[0.1, 0.0]]))[0]
    between = (wide[body.gripper + 1] - wide[body.gripper + 2])[:3, 3]
    np.testing.assert_allclose(between, 0.1 * poses["right"][:3, 0], atol=1e-9)  # along the flange's x


@pytest.mark.parametrize("model", sorted(ARM_MODELS))
def test_flanges_are_where_mujoco_puts_them(model: str) -> None:
    pytest.importorskip("mujoco")
    from rdt2.robot.kinematics import arm_kinematics
    from rdt2.robot.models import mount_in_flange

    known = arm_kinematics(model, "left", base=np.eye(4))
    joints = known.home + np.random.default_rng(0).normal(0, 0.3, len(known.home))
    flange = known.forward(joints) @ np.linalg.inv(mount_in_flange(model, "left"))
    np.testing.assert_allclose(flange_pose(model, joints), flange, atol=1e-9)


# -------------------------------------------------------------------------------------------- what makes no sense


def told(tmp_path, change, name: str = "bimanual_ur5e") -> str:
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    change(values)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        RobotSettings.read(path)
    return str(caught.value)


def bounds(**changes):
    return lambda v: v["arms"]["right"]["bounds"].update(changes)


def swapped(values) -> None:
    arms = values["arms"]
    arms["right"]["base"], arms["left"]["base"] = arms["left"]["base"], arms["right"]["base"]
    arms["right"]["bounds"], arms["left"]["bounds"] = arms["left"]["bounds"], arms["right"]["bounds"]
    for arm in arms.values():
        del arm["device"]


def as_published(values) -> None:
    """Both bases and workspaces as tx_left_right and unified_tx say, word for word."""
    half = np.diag([-1.0, -1.0, 1.0, 1.0])
    for arm in values["arms"].values():
        turned = half @ np.array(arm["base"])
        turned[:2, 3] *= -1
        arm["base"] = turned.tolist()
        low, high = arm["bounds"]["low"], arm["bounds"]["high"]
        arm["bounds"].update(low=[-high[0], -1.6, -0.08], high=[-low[0], 0.6, 0.55])


def box(**values):
    fitting = {"centre": [0.5, -0.5, 0.3], "size": [0.1, 0.1, 0.1], **values}
    return lambda v: v["safety"].update(obstacles={"shelf": fitting})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (swapped, "arms.right.base is 0.93 m to the LEFT of arms.left.base"),
        (as_published, "arms.right.base is 0.93 m to the LEFT of arms.left.base"),
        (bounds(speed=0.0005, jerk=0.1), "needs 25.5 s to come to rest: expected 2 s at most"),
        (bounds(turn_acceleration=0.012), "with turn_rate 1.5, turn_acceleration 0.012, turn_jerk 300"),
        (bounds(low=[0.00035, 0, 0], high=[0.00095, 0.1, 0.1]), "0.6 mm wide along x"),
        (bounds(low=[2.35, -1.15, -0.08], high=[2.95, -0.25, 0.55]), "the arm reaches"),
        (bounds(low=[0.75, -1.15, -0.08]), "arms.right.bounds excludes the pose that the arm begins from"),
        (lambda v: v["arms"]["left"]["device"].update(reset_degrees=[1, 2]), "expected 6 finite numbers"),
        (lambda v: v["arms"]["left"]["device"].update(reset_degrees=[1, 2, 400, 4, 5, 6]), "joint 3 at 400 degrees"),
        (lambda v: v["safety"].update(max_age=0.07), "none would be acted upon"),
        (lambda v: v["arms"]["left"]["gripper"].pop("mount"), "arms.left.gripper.mount: is missing"),
        (lambda v: v["arms"]["left"]["gripper"].update(model="ctag2f12"), "Did you mean 'ctag2f120'?"),
        (lambda v: v["arms"]["left"]["gripper"].update(model=[1]), "gripper.model: got [1]; expected the name"),
        (lambda v: v["arms"]["left"].update(model={"ur5e": 1}), "arms.left.model: expected the name of a description"),
        (bounds(low=[350, -1150, -80]), "arms.right.bounds: low x is 350"),
        (box(size=[0.1, 0, 0.1]), "safety.obstacles.shelf: size is [0.1, 0.0, 0.1]: expected"),
        (box(centre=[500, 300, 0]), "safety.obstacles.shelf is"),
        (box(center=[0, 0, 0]), "safety.obstacles.shelf.center: is no setting. Did you mean 'centre'?"),
        (box(centre=[0, 0, 0], size=[1, 1, 1]), "arms.left.base is inside safety.obstacles.shelf, 500 mm deep"),
        (lambda v: v["safety"].update(obstacles={"shelf": {}}), "safety.obstacles.shelf.size: is missing"),
        (lambda v: v["safety"].update(obstacles=[1]), "safety.obstacles: got [1]; expected a dictionary"),
        (lambda v: v["safety"].update(obstacles={7: {}}), "safety.obstacles.7"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_together_is_told(tmp_path, change, wanted: str) -> None:
    assert wanted in told(tmp_path, change)


def test_sections_may_be_merged_and_a_key_of_them_changed(tmp_path) -> None:
    """Regression: `<<` was no yaml."""
    path = tmp_path / "mine.yaml"
    text = (CONFIGS / "cell_ur5e.yaml").read_text()
    path.write_text(
        text.replace("    bounds: *bounds\n", "    bounds:\n      <<: *bounds\n      speed: 0.3\n")
    )
    robot = RobotSettings.read(path)
    assert (robot.arms["left"].bounds.speed, robot.arms["right"].bounds.speed) == (0.3, 1.5)
    path.write_text(path.read_text().replace("      speed: 0.3\n", "      speed: 0.3\n      speed: 0.4\n"))
    with pytest.raises(ConfigError, match="the key 'speed' stands twice"):
        RobotSettings.read(path)
