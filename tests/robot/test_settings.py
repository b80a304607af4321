"""Robots in yaml: nothing has a default, every kind of mistake is told with its key, and published files are read."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import yaml

from rdt2.errors import ConfigError
from rdt2.pose import conjugate
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import ArmSettings, RobotSettings

NAMES = ("cell_ur5e", "cell_fr3", "cell_handheld", "bimanual_ur5e", "bimanual_fr3")


def plain(name: str = "cell_ur5e") -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def read(tmp_path, values) -> RobotSettings:
    path = tmp_path / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return RobotSettings.read(path)


def told(tmp_path, values) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, values)
    return str(caught.value)


def put(values: dict, key: str, value) -> dict:
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return values


def pose(x=0.0, y=0.0, z=0.0):
    return [[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, z], [0, 0, 0, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_robots_of_the_package_are_whole(name: str) -> None:
    settings = RobotSettings.read(name)
    assert settings.name == name
    assert settings.sides == ("right", "left")
    assert settings.kind == ("cell" if name.startswith("cell") else name.removeprefix("bimanual_"))
    for arm in settings.arms.values():
        rotation = arm.base[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(ValueError, match="read-only"):
        settings.arms["right"].base[0, 3] = 1.0


@pytest.mark.parametrize("embodiment", ["ur5e", "fr3", "handheld"])
def test_the_cells_files_say_what_the_cell_is(embodiment: str) -> None:
    """Bases, tools and calibration are those of the compiled cell, to a tenth of a millimetre."""
    mujoco = pytest.importorskip("mujoco")
    from rdt2.robot.world import CellSettings
    from rdt2.sim import Cell, make_scene

    settings = RobotSettings.read(f"cell_{embodiment}")
    known = settings.kinematics()
    with Cell(embodiment, make_scene("pick", 0)) as cell:
        mujoco.mj_forward(cell.model, cell.data)
        for side, arm in settings.arms.items():
            np.testing.assert_allclose(arm.policy_to_tcp, cell.policy_to_tcp(side), atol=1e-4)
            assert arm.gripper.stroke == cell.grippers[side].stroke
            world = settings.cell or CellSettings()
            assert arm.latency == world.arms.latency
            assert arm.gripper.latency == world.grippers.latency
            assert (arm.camera.latency, arm.camera.clock_error) == (
                world.cameras.delay,
                world.cameras.stamp_error,
            )
            kinematics, state = known[side], cell.arms[side].state()
            assert (kinematics is None) == (embodiment == "handheld")
            if kinematics is not None:
                np.testing.assert_allclose(arm.base, cell.arms[side].base, atol=1e-9)
                np.testing.assert_allclose(kinematics.forward(state.joints), state.pose, atol=1e-4)


def test_the_seeds_robots() -> None:
    ur5e, fr3 = RobotSettings.read("bimanual_ur5e"), RobotSettings.read("bimanual_fr3")
    for robot, tracker_to_tcp in ((ur5e, (0, 0.070261, 0.272602)), (fr3, (0, 0.062553, -0.026733))):
        for arm in robot.arms.values():
            np.testing.assert_allclose(
                arm.policy_to_tcp[:3, 3], np.subtract((0, 0.078, -0.026705), tracker_to_tcp)
            )
            assert arm.latency == 0.167
            assert arm.camera.latency == 0.07
            assert arm.gripper.scale == pytest.approx(0.1 / 0.088)
            assert arm.gripper.stroke == 0.12
        apart = np.linalg.inv(robot.arms["left"].base[:3, :3]) @ (
            robot.arms["right"].base[:3, 3] - robot.arms["left"].base[:3, 3]
        )
        assert np.linalg.norm(apart) == pytest.approx(np.linalg.norm((0.01, -0.927, -0.01)))
        assert robot.safety.table_height == -0.1
    assert ur5e.arms["right"].tool[2, 3] == 0.3
    degrees = ur5e.arms["left"].device["reset_degrees"]
    assert degrees == [82.89, -65.00, 140.96, -240.11, -50.19, -9.49]


def test_calibration_turns_motion_of_the_policys_frame_into_motion_of_the_tcp() -> None:
    """The two frames are 15 mm apart on the Franka, 0.30 m on the UR5e: so much moves the TCP when the hand turns."""
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    for name, moved in (("bimanual_ur5e", 0.4234), ("bimanual_fr3", 0.0218)):
        motion = conjugate(turn, RobotSettings.read(name).arms["right"].policy_to_tcp)
        assert np.linalg.norm(motion[:3, 3]) == pytest.approx(moved, abs=1e-4)


MANDATORY = [
    f"arms.left.bounds.{key}"
    for key in ("low", "high", "speed", "acceleration", "jerk", "turn_rate", "turn_acceleration", "turn_jerk")
] + [
    "name", "kind", "arms", "safety", "arms.right.base", "arms.right.tool", "arms.right.model", "arms.right.latency",
    "arms.right.clock_error", "arms.right.policy_to_tcp", "arms.right.bounds", "arms.right.gripper",
    "arms.right.camera", "arms.left.gripper.scale", "arms.left.gripper.stroke", "arms.left.gripper.latency",
    "arms.left.camera.latency", "arms.left.camera.clock_error",
    *(f"safety.{key}" for key in (
        "table_height", "table_clearance", "arm_clearance", "slow_within", "joint_margin", "singularity_slow",
        "singularity_stop", "tracking_error_m", "tracking_error_rad", "max_age", "max_skew", "command_timeout",
        "faults_per_minute", "fault_seconds",
    )),
]  # fmt: skip


def test_no_line_of_what_is_wrong_ends_with_a_blank(tmp_path) -> None:
    """Regression: "a setting is wrong or missing. " of a layout that needs no word more."""
    message = told(tmp_path, put(plain(), "arms.left.bounds.speed", 0))
    assert all(line == line.rstrip() for line in message.splitlines())


@pytest.mark.parametrize("key", MANDATORY)
def test_nothing_of_a_robot_has_a_default(tmp_path, key: str) -> None:
    message = told(tmp_path, put(plain(), key, None))
    assert "mine.yaml" in message
    assert key.replace("arms.right.tool", "tool") in message
    assert "is missing" in message


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("arms.left.bounds.speed", 0, "arms.left.bounds.speed: got 0; expected greater than 0"),
        ("arms.left.bounds.jerk", -400, "got -400; expected greater than 0"),
        ("arms.left.bounds.speed", 1500, "less than or equal to 5. It means: Largest speed of the TCP, m/s"),
        ("arms.left.bounds.speed", float("inf"), "arms.left.bounds.speed: got inf"),
        ("arms.left.bounds.acceleration", float("nan"), "arms.left.bounds.acceleration: got nan"),
        ("arms.left.bounds.speed", "fast", "arms.left.bounds.speed: got 'fast'; expected a number"),
        ("arms.left.bounds.speed", True, "arms.left.bounds.speed: got True; expected a number"),
        ("arms.left.bounds.low", [0.5, -0.6, -0.1], "low x is 0.5 and high x is 0.45: expected low < high"),
        ("arms.left.bounds.high", [0.45, 0.6, -0.1], "low z is -0.1 and high z is -0.1: expected low < high"),
        ("arms.left.bounds.high", [450, 600, 700], "expected metres"),
        ("arms.left.bounds.low", [0.5, -0.6], "arms.left.bounds.low.2: is missing"),
        ("arms.left.base", [[1, 0], [0, 1]], "arms.left.base: got [[1, 0], [0, 1]]; expected a 4x4 matrix"),
        ("arms.left.base", np.diag([1, 1, -1, 1]).tolist(), "not a rotation"),
        ("arms.left.base", (2 * np.eye(4)).tolist(), "last row 0, 0, 0, 1"),
        ("arms.left.base", np.diag([1.0, 1, 1.02, 1]).tolist(), "not a rotation"),
        ("arms.left.base", np.array(pose(0.5, 0, 0)).T.tolist(), "positions stand in the last column"),
        ("arms.left.base", pose(-460, 130, 150), "expected metres"),
        ("arms.left.policy_to_tcp", "identity", "arms.left.policy_to_tcp: got 'identity'; expected a 4x4 matrix"),
        ("arms.left.base", plain()["arms"]["right"]["base"], "0 mm apart: two arms cannot stand in the same place"),
        ("arms.left.model", "ur5", "there is no arm called 'ur5', only fr3, ur5e. Did you mean 'ur5e'?"),
        ("arms.left.model", "ur5", "A new one is one file: see examples/new_arm.py. It means: "),
        ("arms.left.model", None, "arms.left.model: is missing"),
        ("arms.left.latency", 167, "arms.left.latency: got 167; expected less than or equal to 0.8"),
        ("arms.left.latency", -0.1, "arms.left.latency: got -0.1"),
        ("arms.left.gripper.scale", 0, "arms.left.gripper.scale: got 0"),
        ("arms.left.gripper.stroke", 92, "arms.left.gripper.stroke: got 92; expected less than or equal to 0.5"),
        ("arms.left.bounds.sped", 1.0, "arms.left.bounds.sped: is no setting. Did you mean 'speed'?"),
        ("safety.table_hight", 0.0, "safety.table_hight: is no setting. Did you mean 'table_height'?"),
        ("saftey", {}, "saftey: is no setting. Did you mean 'safety'?"),
        ("arms.rigth", {}, "arms.rigth: is no side of a robot, expected right or left"),
        ("arms", {}, "arms is empty: expected right, left, or one of them"),
        ("arms", [], "arms: got []"),
        ("safety.singularity_slow", 0.01, "expected singularity_stop < singularity_slow"),
        ("safety.slow_within", 0.01, "expected arm_clearance < slow_within"),
        ("safety.joint_margin", 0.02, "safety.joint_margin: got 0.02; expected greater than 0.02"),
        ("safety.singularity_stop", 1e-9, "got 1e-09; expected greater than or equal to 0.005"),
        ("safety.command_timeout", 0.9, "safety.command_timeout: got 0.9; expected less than or equal to 0.8"),
        ("arms.left.bounds.high", [4, 0.6, 0.7], "high x is 3.1 m beyond what the arm reaches"),
        ("arms.left.bounds.low", [-0.45, -4.9, -0.1], "and bounds nothing"),
        ("safety.table_height", 0.75, "below the table"),
        ("safety.table_height", -2, "safety.table_height is -2: with its clearance that is 0.8"),
        ("safety.faults_per_minute", 0, "safety.faults_per_minute: got 0"),
        ("safety.fault_seconds", 0, "safety.fault_seconds: got 0"),
        ("safety.max_age", 0, "safety.max_age: got 0; expected greater than 0"),
        ("kind", "ur10", "kind: got 'ur10'; expected 'cell', 'ur5e' or 'fr3'"),
        ("arms.left.tx_tracker_to_tcp", pose(), "tx_tracker_to_tcp stands alone"),
    ],
)  # fmt: skip
def test_every_kind_of_mistake_is_told_with_its_key(tmp_path, key: str, value, wanted: str) -> None:
    assert wanted in told(tmp_path, put(plain(), key, value))


def test_a_table_lower_than_an_arm_reaches_is_refused() -> None:
    """Regression: a slip of sign or unit put the table where nothing is, and fingers and links had none to keep off."""
    settings = RobotSettings.read("cell_ur5e")  # reaches down to z = -1.16 and -1.17
    assert settings.changed({"safety.table_height": -1.1}).safety.table_height == -1.1
    for side in settings.sides:
        one = settings.model_dump() | {"arms": {side: settings.arms[side].model_dump()}}
        one["safety"]["table_height"] = -1.2
        with pytest.raises(
            ValueError, match=rf"below the lowest that arms\.{side} reaches \(z = -1\.1[67]\)"
        ):
            RobotSettings.model_validate(one)
    hands = RobotSettings.read("cell_handheld")  # nobody knows what carries them, and how far they reach
    assert hands.changed({"safety.table_height": -1.2}).safety.table_height == -1.2


def test_a_misspelt_half_of_the_calibration_is_told_by_its_name(tmp_path) -> None:
    values = plain("bimanual_ur5e")
    right = values["arms"]["right"]
    right["tx_traker_to_tcp"] = right.pop("tx_tracker_to_tcp")
    wanted = "expected tx_tracker_to_tcp beside it. Did you mean it by tx_traker_to_tcp?"
    assert wanted in told(tmp_path, values)


def test_all_mistakes_are_told_at_once(tmp_path) -> None:
    values = put(put(put(plain(), "arms.left.latency", -1), "safety.max_age", None), "nmae", "x")
    message = told(tmp_path, values)
    assert "3 settings are wrong or missing" in message
    for wanted in ("arms.left.latency: got -1", "safety.max_age: is missing", "Did you mean 'name'?"):
        assert wanted in message


def test_a_setting_of_a_cell_is_none_of_a_robot(tmp_path) -> None:
    assert "expected none" in told(tmp_path, put(plain("bimanual_ur5e"), "cell", {"cameras": {}}))


@pytest.mark.parametrize("side", ["right", "left"])
def test_one_arm_is_a_robot(tmp_path, side: str) -> None:
    values = plain()
    values["arms"] = {side: values["arms"][side]}
    assert read(tmp_path, values).sides == (side,)


def test_calibration_with_a_tracker_stands_for_the_policys_frame(tmp_path) -> None:
    values = put(plain(), "arms.left.policy_to_tcp", None)
    put(values, "arms.left.tx_tracker_to_tcp", pose(0, 0.1, 0.2))
    put(values, "arms.left.tx_tracker_to_policy", pose(0.05, 0.1, -0.03))
    np.testing.assert_allclose(read(tmp_path, values).arms["left"].policy_to_tcp, pose(0.05, 0, -0.23))
    put(values, "arms.left.policy_to_tcp", pose())
    assert "expected one or the other" in told(tmp_path, values)
    put(values, "arms.left.policy_to_tcp", None)
    put(values, "arms.left.tx_tracker_to_tcp", np.zeros((4, 4)).tolist())
    assert "tx_tracker_to_tcp: expected the last row" in told(tmp_path, values)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "holds a NoneType"),
        ("- 1\n- 2\n", "holds a list"),
        ("name: [1, 2", "is no yaml"),
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("1: 2\n", "expected keys"),
    ],
)
def test_what_is_no_robot_is_told(tmp_path, text: str, wanted: str) -> None:
    assert wanted in told(tmp_path, text)


def test_names_that_do_not_exist_are_told_with_the_nearest(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no robot called 'cell_ur5'.*Did you mean 'cell_ur5e'"):
        RobotSettings.read("cell_ur5")
    with pytest.raises(ConfigError, match="no such file"):
        RobotSettings.read(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="no such file"):
        RobotSettings.read(tmp_path / "folder.yaml")


def test_values_are_changed_and_checked_again() -> None:
    settings = RobotSettings.read("cell_ur5e")
    lower = settings.changed({"safety.table_height": -0.02, "arms.left.bounds.speed": 0.3})
    assert lower.safety.table_height == -0.02
    assert lower.arms["left"].bounds.speed == 0.3
    assert lower.arms["right"].bounds.speed == settings.arms["right"].bounds.speed == 1.5
    with pytest.raises(ConfigError, match=r"arms.left.bounds.speed: got 0"):
        settings.changed({"arms.left.bounds.speed": 0})
    with pytest.raises(ConfigError, match="speeed"):
        settings.changed({"arms.left.bounds.speeed": 1})
    with pytest.raises(ConfigError, match="middle"):
        settings.changed({"arms.middle.bounds.speed": 1})


def test_every_setting_is_explained() -> None:
    sections = [RobotSettings, ArmSettings, *(f.annotation for f in ArmSettings.model_fields.values())]
    for section in sections:
        for name, field in getattr(section, "model_fields", {}).items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description[0].isupper() or field.description.startswith(("4x4", "cell:")), (
                field.description
            )


# ------------------------------------------------------------------------------------------------- published files

PUBLISHED = """{
  "cameras": [{"serial": "A1", "fps": 30, "put_desired_frequency": 30}, {"serial": "A2", "fps": 30}],
  "robots": [
    {"robot_type": "ur5e", "robot_ip": "192.168.56.20", "robot_obs_latency": 0.0001, "robot_action_latency": 0.167,
     "tcp_offset": 0.3, "height_threshold": -0.1, "sphere_radius": 0.1, "sphere_center": [0, -0.06, -0.185],
     "unified_tx": [[0.70710678, 0.70710678, 0, 0], [-0.70710678, 0.70710678, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
    {"robot_type": "ur5e", "robot_ip": "192.168.56.10", "robot_obs_latency": 0.0001, "robot_action_latency": 0.15,
     "tcp_offset": 0.3, "height_threshold": -0.1,
     "unified_tx": [[-0.70710678, 0.70710678, 0, 0], [-0.70710678, -0.70710678, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}
  ],
  "grippers": [
    {"gripper_type": "zhixing", "serial": "4294935675", "gripper_obs_latency": 0.0157, "gripper_action_latency": 0,
     "force": 30, "open_width": 0.12, "closed_width": 0.0, "finger_thickness": 0.023},
    {"gripper_type": "zhixing", "serial": "1638440", "gripper_action_latency": 0.03, "open_width": 0.11}
  ],
  # right arm's base in the left arm's frame
  "tx_left_right": [[1, 0, 0, 0.01], [0, 1, 0, -0.927], [0, 0, 1, -0.01], [0, 0, 0, 1]],
  "tx_tracker_to_tcp": [[1, 0, 0, 0], [0, 1, 0, 0.070261], [0, 0, 1, 0.272602], [0, 0, 0, 1]]
}
"""


def added(sides=("right", "left")) -> str:
    """What a published file does not say."""
    own = plain("bimanual_ur5e")
    arms = {
        side: {
            "bounds": own["arms"][side]["bounds"],
            "clock_error": 0.005,
            "gripper": {"scale": 1.136, "clock_error": 0.016},
            "camera": {"latency": 0.07, "clock_error": 0.01},
        }
        for side in sides
    }
    safety = {key: value for key, value in own["safety"].items() if key != "table_height"}
    return yaml.safe_dump({"arms": arms, "safety": safety})


def with_added(**changes) -> dict:
    return {**yaml.safe_load(PUBLISHED), **yaml.safe_load(added()), **changes}


def test_a_published_file_is_refused_with_all_that_must_be_added(tmp_path) -> None:
    message = told(tmp_path, PUBLISHED)
    assert "published layout" in message
    wanted = ["table_clearance", "max_skew", "fault_seconds", "singularity_stop"]
    wanted = [f"safety.{key}: is missing" for key in wanted]
    for side in ("right", "left"):
        for key in ("low", "high", "speed", "jerk", "turn_jerk"):
            wanted.append(f"arms.{side}.bounds.{key}: is missing")
        for key in ("gripper.scale", "camera.latency", "clock_error"):
            wanted.append(f"arms.{side}.{key}: is missing")
    assert [line for line in wanted if line not in message] == []
    for known in ("base", "latency", "tool", "policy_to_tcp", "gripper.stroke", "gripper.latency"):
        assert f"arms.left.{known}: is missing" not in message
    assert "table_height: is missing" not in message


def test_a_published_file_with_what_was_missing_is_a_robot(tmp_path) -> None:
    robot = read(tmp_path, with_added())
    assert robot.name == "mine"
    assert robot.kind == "ur5e"
    right, left = robot.arms["right"], robot.arms["left"]
    np.testing.assert_allclose(right.base[:3, 3], (0.01, -0.927, -0.01))
    np.testing.assert_allclose(right.base[:3, 0], (np.sqrt(0.5), -np.sqrt(0.5), 0), atol=1e-8)
    np.testing.assert_allclose(left.base[:3, 0], (-np.sqrt(0.5), -np.sqrt(0.5), 0), atol=1e-8)
    np.testing.assert_allclose(left.policy_to_tcp[:3, 3], (0, 0.078 - 0.070261, -0.026705 - 0.272602))
    assert (right.latency, left.latency) == (0.167, 0.15)
    assert (right.gripper.stroke, left.gripper.stroke) == (0.12, 0.11)
    assert (right.gripper.latency, left.gripper.latency) == (0, 0.03)
    assert right.device == {"address": "192.168.56.20", "observation_latency": 0.0001}
    assert right.camera.device == {"serial": "A1", "fps": 30}  # what a driver takes: see test_drivers
    assert left.gripper.device == {"type": "zhixing", "serial": "1638440", "open_width": 0.11}
    # -0.1 below the left arm's base; the right one stands 10 mm lower, so its -0.1 is the lower of the two
    assert robot.safety.table_height == pytest.approx(-0.1)


def test_what_is_assumed_of_a_published_file_is_told(tmp_path, capsys) -> None:
    """Regression: models of another recording device were driven in the frame of the published one, without a word."""
    values = with_added()
    read(tmp_path, values)
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "arms.right.tx_tracker_to_policy and arms.left.tx_tracker_to_policy: taken is that of the device"
        in told
    )
    values["arms"]["right"]["tx_tracker_to_policy"] = pose(0.0, 0.1, 0.0)
    robot = read(tmp_path, values)
    np.testing.assert_allclose(robot.arms["right"].policy_to_tcp[:3, 3], (0, 0.1 - 0.070261, -0.272602))
    assert "does not say arms.left.tx_tracker_to_policy: taken" in " ".join(capsys.readouterr().err.split())
    values["arms"]["left"]["policy_to_tcp"] = np.eye(4).tolist()
    read(tmp_path, values)
    assert not capsys.readouterr().err


def test_a_published_file_with_one_arm(tmp_path) -> None:
    values = with_added(arms=yaml.safe_load(added(("right",)))["arms"])
    values["robots"] = values["robots"][:1]
    robot = read(tmp_path, values)
    assert robot.sides == ("right",)
    np.testing.assert_allclose(robot.arms["right"].base[:3, 3], 0)


def test_a_published_table_that_is_switched_off_must_be_given(tmp_path) -> None:
    values = with_added()
    for robot in values["robots"]:
        robot["height_threshold"] = float("-inf")
    assert "safety.table_height: is missing" in told(tmp_path, values)


def test_a_published_franka_without_its_tool_is_refused(tmp_path) -> None:
    values = with_added()
    for robot in values["robots"]:
        robot["robot_type"] = "franka"
        del robot["tcp_offset"]
    assert "tool is missing" in told(tmp_path, values)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda v: v.pop("tx_left_right"), "tx_left_right is missing"),
        (lambda v: v.update(tx_left_right=[[1, 0], [0, 1]]), "tx_left_right is no 4x4 matrix"),
        (lambda v: v.pop("tx_tracker_to_tcp"), "tx_tracker_to_tcp: expected a 4x4"),
        (lambda v: v.pop("grippers"), "grippers is missing"),
        (lambda v: v.update(cameras=v["cameras"][:1]), "cameras has 1 entries for 2 robots"),
        (lambda v: v.update(robots=v["robots"] * 2), "robots has 4 entries"),
        (lambda v: v.update(robots={"a": 1}), "robots is no list"),
        (lambda v: v.update(tx_leftright=1), "Did you mean 'tx_left_right'?"),
        (lambda v: v["robots"][1].update(robot_action_latencyy=1), "robots[1].robot_action_latencyy is no setting"),
        (lambda v: v["robots"][1].update(robot_type="ur10"), "there is no arm called 'ur10'"),
        (lambda v: v["robots"][1].update(tcp_offset="long"), "tcp_offset"),
        (lambda v: v.update(tx_left_right=pose()), "two arms cannot stand in the same place"),
        (lambda v: v["robots"][0].pop("robot_action_latency"), "arms.right.latency: is missing"),
    ],
)  # fmt: skip
def test_mistakes_in_a_published_file_are_told(tmp_path, change, wanted: str) -> None:
    values = with_added()
    change(values)
    assert wanted in told(tmp_path, values)


def test_robots_are_described_without_the_simulation() -> None:
    code = "import sys, rdt2.robot.settings; sys.exit(any(m.startswith('rdt2.sim') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_compiled_of_an_arm_is_kept_and_its_state_is_not_shared() -> None:
    one, other = (RobotSettings.read("cell_fr3").kinematics()["left"] for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.model is other.model
    assert one.data is not other.data
