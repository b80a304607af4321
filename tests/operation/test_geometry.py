"""The published robots, as their yamls place them: reset poses reach and touch nothing, and each arm has its own
calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("mujoco")

import mujoco

from rdt2.action import ActionChunk, chunk_from_poses
from rdt2.control.plan import place
from rdt2.operation.home import home_joints
from rdt2.robot.grippers import GRIPPERS
from rdt2.robot.models import arm_model
from rdt2.robot.settings import RobotSettings

RIGS = ("bimanual_ur5e", "bimanual_fr3")
OPEN = 0.1


def standing(robot, joints):
    """Both arms with their grippers, wide open, over their table, in MuJoCo."""
    from rdt2.sim.arms import add_arm

    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    height = robot.safety.table_height
    spec.worldbody.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3, 3, 1], pos=[0, 0, height]
    )
    for side, arm in robot.arms.items():
        add_arm(spec, arm.model, side, np.asarray(arm.base), floor=height)
        model, gripper = arm_model(arm.model), GRIPPERS[arm.gripper.model]
        wrist, flange = spec.body(f"{side}/{model.links[-1].name}"), np.eye(4)
        flange[2, 3] = model.flange
        palm = flange @ np.asarray(arm.gripper.mount)
        for parts, way in ((gripper.palm, 0.0), (gripper.fingers[0], 0.5), (gripper.fingers[1], -0.5)):
            frame = palm.copy()
            if way:
                frame[:3, 3] += gripper.finger_z * palm[:3, 2] + way * OPEN * palm[:3, 1]
            for part in parts:
                turn = frame[:3, :3] @ Rotation.from_euler("y", part.tilt).as_matrix()
                wrist.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_BOX, size=part.half_box,
                    pos=frame[:3, :3] @ np.array(part.position) + frame[:3, 3],
                    quat=Rotation.from_matrix(turn).as_quat(scalar_first=True),
                )  # fmt: skip
    compiled = spec.compile()
    data = mujoco.MjData(compiled)
    for side, angles in joints.items():
        for link, angle in zip(arm_model(robot.arms[side].model).links, angles, strict=True):
            data.qpos[compiled.joint(f"{side}/{link.name}").qposadr[0]] = angle
    mujoco.mj_forward(compiled, data)
    return compiled, data


def touching(robot, compiled, data):
    """Bodies that touch; but for what they stand on, and links whose simple shapes are wider than they are."""
    found, wide = set(), set()
    for side, arm in robot.arms.items():
        links = arm_model(arm.model).links
        wide |= {
            tuple(sorted(f"{side}/{links[k - 1].name}" for k in pair))
            for pair in arm_model(arm.model).together
        }
    for contact in data.contact:
        names = sorted(compiled.body(compiled.geom_bodyid[geom]).name for geom in contact.geom)
        if contact.dist < 0 and not (names[0].endswith("/base") and names[1] == "world"):
            found.add(tuple(names))
    return found - wide


@pytest.mark.parametrize("name", RIGS)
def test_reset_poses_reach_and_touch_nothing(name):
    robot = RobotSettings.read(name)
    joints = home_joints(robot)
    compiled, data = standing(robot, joints)
    assert touching(robot, compiled, data) == set()
    for side, arm in robot.arms.items():
        model = arm_model(arm.model)
        low, high = np.array([link.limits for link in model.links]).T
        assert ((joints[side] > low) & (joints[side] < high)).all()
        wrist = data.body(f"{side}/{model.links[-1].name}")
        tcp = np.eye(4)
        tcp[:3, :3], tcp[:3, 3] = wrist.xmat.reshape(3, 3), wrist.xpos
        tcp[:3, 3] += model.flange * tcp[:3, 2]
        tcp = tcp @ arm.tool
        known = robot.kinematics()[side].forward(joints[side])
        np.testing.assert_allclose(known, tcp, atol=1e-9)
        assert ((known[:3, 3] > arm.bounds.low) & (known[:3, 3] < arm.bounds.high)).all()
    # and that would be seen: with the right arm 0.4 m nearer than tx_left_right says the hands are in each other
    near = np.array(robot.arms["right"].base)
    near[1, 3] += {"bimanual_ur5e": 0.45, "bimanual_fr3": 0.75}[name]
    moved = robot.arms["right"].model_copy(update={"base": near})
    nearer = robot.model_copy(update={"arms": {**robot.arms, "right": moved}})
    assert any(
        one.startswith("left") and other.startswith("right")
        for one, other in touching(nearer, *standing(nearer, joints))
    )


@pytest.mark.parametrize("name", RIGS)
def test_the_right_arm_stands_where_tx_left_right_says(name):
    robot = RobotSettings.read(name)
    between = np.asarray(robot.arms["right"].base)[:3, 3] - np.asarray(robot.arms["left"].base)[:3, 3]
    np.testing.assert_allclose(between, [0.01, -0.927, -0.01], atol=1e-9)


def test_each_robot_has_its_own_calibration():
    """Regression of the reference: it converted with the UR5e's on every robot, 0.30 m wrong on a Franka."""
    ur5e, fr3 = (RobotSettings.read(name).arms["left"].policy_to_tcp for name in RIGS)
    np.testing.assert_allclose(ur5e[:3, 3], [0, 0.078 - 0.070261, -0.026705 - 0.272602], atol=1e-9)
    np.testing.assert_allclose(fr3[:3, 3], [0, 0.078 - 0.062553, -0.026705 + 0.026733], atol=1e-9)


@pytest.mark.parametrize("name", RIGS)
def test_a_turn_of_the_policys_frame_moves_the_tcp_about_the_policys_own_place(name):
    """What the models call their frame stands still under a turn; the TCP is led around it."""
    robot = RobotSettings.read(name)
    calibration = {side: np.asarray(arm.policy_to_tcp) for side, arm in robot.arms.items()}
    known, joints = robot.kinematics(), home_joints(robot)
    tcp = {side: known[side].forward(joints[side]) for side in robot.arms}
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    motion = np.repeat(turn[None], 24, axis=0)
    widths = np.full(24, 0.05)
    sides = ("right", "left")
    values = chunk_from_poses(
        dict.fromkeys(sides, np.eye(4)), dict.fromkeys(sides, motion), dict.fromkeys(sides, widths)
    )
    plan = place(
        ActionChunk(values), tcp, calibration, observed=0.0, begins=0.0,
        gripper_scale=dict.fromkeys(sides, 0.1 / 0.088), width=dict.fromkeys(sides, 0.0),
    )  # fmt: skip
    for side in sides:
        before, after = tcp[side] @ calibration[side], plan.poses[side][-1] @ calibration[side]
        np.testing.assert_allclose(after[:3, 3], before[:3, 3], atol=1e-6)
        np.testing.assert_allclose(after[:3, :3], before[:3, :3] @ turn[:3, :3], atol=1e-6)
        lever = float(np.linalg.norm(calibration[side][1:3, 3]))
        moved = float(np.linalg.norm(plan.poses[side][-1][:3, 3] - tcp[side][:3, 3]))
        assert moved == pytest.approx(2 * np.sin(np.radians(10)) * lever, abs=1e-6)
        assert plan.widths[side][-1] == pytest.approx(0.05 * 0.1 / 0.088)
