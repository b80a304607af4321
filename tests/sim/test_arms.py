"""The simulated arms: true kinematics, reach, tracking, and refusing what must not be driven."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

mujoco = pytest.importorskip("mujoco")

from rdt2.errors import SafetyError, TaskError  # noqa: E402
from rdt2.robot import Arm  # noqa: E402
from rdt2.sim import arms  # noqa: E402
from rdt2.sim.gripper import TCP_Z, gripper_spec, tcp_rotation  # noqa: E402
from rdt2.sim.ik import rotation_vector  # noqa: E402

MODELS = ("ur5e", "fr3")
SIDES = ("right", "left")


def transform(x=0.0, y=0.0, z=0.0, *, rotation=None):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    if rotation is not None:
        pose[:3, :3] = rotation
    return pose


def about(axis, angle):
    return transform(rotation=Rotation.from_euler(axis, angle).as_matrix())


def tool():
    return transform(z=TCP_Z)


@pytest.fixture(params=MODELS)
def bench(request):
    """Both arms with grippers and nothing else: model, data, controllers."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = 0.002
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for side in SIDES:
        spec.attach(gripper_spec(), prefix=f"{side}/", site=arms.add_arm(spec, request.param, side))
    model = spec.compile()
    data = mujoco.MjData(model)
    controllers = {s: arms.ArmController(model, data, side=s, tcp_site=f"{s}/tcp") for s in SIDES}
    for side, controller in controllers.items():
        controller.reset(waiting(side))
    mujoco.mj_forward(model, data)
    return model, data, controllers


def waiting(side):
    y = -0.28 if side == "right" else 0.28
    return transform(0.0, y, 0.26, rotation=tcp_rotation(side))


def advance(bench, seconds):
    model, data, controllers = bench
    until = data.time + seconds
    while data.time < until - 1e-3:
        for controller in controllers.values():
            controller.update()
        mujoco.mj_step(model, data)


def test_ur5e_kinematics_are_its_denavit_hartenberg_table():
    table = [  # d, a, alpha as the manufacturer publishes them
        (0.1625, 0, np.pi / 2), (0, -0.425, 0), (0, -0.3922, 0),
        (0.1333, 0, np.pi / 2), (0.0997, 0, -np.pi / 2), (0.0996, 0, 0),
    ]  # fmt: skip
    kinematics = arms.arm_kinematics("ur5e", "right", base=np.eye(4))
    for joints in np.random.default_rng(0).uniform(-3, 3, (20, 6)):
        pose = np.eye(4)
        for q, (d, a, alpha) in zip(joints, table, strict=True):
            pose = pose @ about("z", q) @ transform(z=d) @ transform(a) @ about("x", alpha)
        # The gripper is only turned on the flange about the approach axis.
        np.testing.assert_allclose(kinematics.forward(joints)[:3, 3], pose[:3, 3], atol=1e-9)
        np.testing.assert_allclose(kinematics.forward(joints)[:3, 2], pose[:3, 2], atol=1e-9)


def test_fr3_kinematics_are_craigs_table():
    table = [  # a, alpha of the link before; d of the joint
        (0, 0, 0.333), (0, -np.pi / 2, 0), (0, np.pi / 2, 0.316), (0.0825, np.pi / 2, 0),
        (-0.0825, -np.pi / 2, 0.384), (0, np.pi / 2, 0), (0.088, np.pi / 2, 0),
    ]  # fmt: skip
    kinematics = arms.arm_kinematics("fr3", "left", base=np.eye(4))
    for joints in np.random.default_rng(1).uniform(-1.5, 1.5, (20, 7)):
        pose = np.eye(4)
        for q, (a, alpha, d) in zip(joints, table, strict=True):
            pose = pose @ about("x", alpha) @ transform(a) @ about("z", q) @ transform(z=d)
        pose = pose @ transform(z=0.107)
        np.testing.assert_allclose(kinematics.forward(joints)[:3, 3], pose[:3, 3], atol=1e-9)
        np.testing.assert_allclose(kinematics.forward(joints)[:3, 2], pose[:3, 2], atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_jacobian_is_the_derivative_of_the_pose(model):
    kinematics = arms.arm_kinematics(model, "right", tool=tool())
    joints = kinematics.home + 0.1
    pose, jacobian = kinematics.jacobian(joints)
    jacobian = jacobian.copy()
    for i in range(len(joints)):
        moved = kinematics.forward(joints + 1e-6 * np.eye(len(joints))[i])
        np.testing.assert_allclose((moved - pose)[:3, 3] / 1e-6, jacobian[:3, i], atol=1e-5)
        turn = rotation_vector(moved[:3, :3] @ pose[:3, :3].T)
        np.testing.assert_allclose(turn / 1e-6, jacobian[3:, i], atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, np.pi - 1e-9, np.pi])
def test_rotation_vector_at_every_angle(angle):
    axis = np.array([0.48, -0.6, 0.64])
    rotation = Rotation.from_rotvec(angle * axis).as_matrix()
    found = rotation_vector(rotation)
    np.testing.assert_allclose(Rotation.from_rotvec(found).as_matrix(), rotation, atol=1e-7)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("model", "nearest"), [("ur5e", -0.20), ("fr3", -0.16)])
def test_each_hand_reaches_the_whole_table_without_limits_or_singularities(model, side, nearest):
    """Straight paths from the waiting pose to the workspace's corners, gripper down, turned by +-30
    degrees."""
    kinematics = arms.arm_kinematics(model, side, tool=tool())
    start = waiting(side)
    rest = kinematics.solve(start)
    for x in (nearest, 0.2):
        for y in (-0.25, 0.25):
            for z in (0.0, 0.35):
                for yaw in (-0.52, 0.52):
                    joints = rest
                    for f in np.append(np.linspace(0, 1, 25)[1:], np.ones(4)):
                        target = transform(rotation=tcp_rotation(side, yaw=f * yaw))
                        target[:3, 3] = start[:3, 3] + f * (np.array([x, y, z]) - start[:3, 3])
                        joints, distance, angle = kinematics.step(joints, target, dt=0.05)
                    assert distance < 1e-3, (x, y, z, yaw)
                    assert angle < 1e-2, (x, y, z, yaw)
                    assert (joints >= kinematics.lower).all()
                    assert (joints <= kinematics.upper).all()
                    jacobian = kinematics.jacobian(joints)[1] * np.array([1, 1, 1, 0.25, 0.25, 0.25])[:, None]
                    assert np.linalg.svd(jacobian, compute_uv=False)[-1] > 0.015, (x, y, z, yaw)


def test_solving_for_a_pose_out_of_reach_is_an_error():
    with pytest.raises(SafetyError, match="cannot reach"):
        arms.arm_kinematics("ur5e", "right", tool=tool()).solve(
            transform(1.5, 0, 0.2, rotation=tcp_rotation("right"))
        )


def test_speed_and_joint_limits_hold_in_every_step():
    kinematics = arms.arm_kinematics("fr3", "right", tool=tool())
    rng = np.random.default_rng(2)
    joints = kinematics.home
    for _ in range(200):
        target = transform(
            *rng.uniform((-1, -1, -0.5), 1), rotation=Rotation.random(random_state=rng).as_matrix()
        )
        moved, _, _ = kinematics.step(joints, target, dt=0.008)
        assert (np.abs(moved - joints) <= kinematics.speeds * 0.008 + 1e-9).all()
        assert (moved <= kinematics.upper).all()
        assert (moved >= kinematics.lower).all()
        joints = moved


def test_unknown_arm_is_an_error():
    with pytest.raises(TaskError, match="expected one of"):
        arms.add_arm(mujoco.MjSpec(), "ur99", "right")
    model = mujoco.MjSpec().compile()
    with pytest.raises(TaskError, match="no right arm"):
        arms.ArmController(model, mujoco.MjData(model), side="right", tcp_site="right/tcp")


def test_controller_speaks_the_arm_protocol_and_starts_where_told(bench):
    _, _, controllers = bench
    for side, controller in controllers.items():
        assert isinstance(controller, Arm)
        np.testing.assert_allclose(controller.state().pose, waiting(side), atol=2e-3)


def test_arms_stay_where_they_are_told(bench):
    advance(bench, 0.5)
    for side, controller in bench[2].items():
        np.testing.assert_allclose(controller.state().pose[:3, 3], waiting(side)[:3, 3], atol=1e-3)


def test_tracks_a_stream_of_waypoints_at_half_a_metre_a_second(bench):
    """30 Hz waypoints of a smooth motion that peaks at 0.5 m/s: within 6 mm all the way, both arms."""
    _, data, controllers = bench
    began, duration = data.time, 1.1

    def path(side, t):
        w = np.clip(t / duration, 0, 1)
        w = w**3 * (10 - 15 * w + 6 * w * w)
        pose = waiting(side)
        pose[:3, 3] += w * np.array([0.20, -0.14 * np.sign(pose[1, 3]), -0.16])
        pose[:3, :3] = tcp_rotation(side, yaw=0.4 * w)
        return pose

    worst = 0.0
    for k in range(int(duration * 30) + 6):
        for side, controller in controllers.items():
            for j in range(1, 13):
                controller.schedule(path(side, (k + j) / 30), began + (k + j) / 30)
        advance(bench, began + (k + 1) / 30 - data.time)
        for side, controller in controllers.items():
            state = controller.state()
            error = state.pose[:3, 3] - path(side, state.timestamp - began)[:3, 3]
            worst = max(worst, float(np.linalg.norm(error)))
    assert 1e-5 < worst < 6e-3


def test_a_new_waypoint_replaces_later_ones_and_past_ones_are_dropped(bench):
    _, data, controllers = bench
    arm, here = controllers["right"], waiting("right")
    assert arm.schedule(transform(z=0.05) @ here, data.time + 0.3)
    assert arm.schedule(transform(z=0.10) @ here, data.time + 0.6)
    assert arm.schedule(transform(x=0.04) @ here, data.time + 0.3)
    assert not arm.schedule(here, data.time)
    advance(bench, 0.9)
    np.testing.assert_allclose(arm.state().pose[:3, 3], here[:3, 3] + [0.04, 0, 0], atol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_waypoint_that_is_not_finite_stops_the_arm(bench, value):
    _, data, controllers = bench
    arm, bad = controllers["left"], waiting("left")
    arm.schedule(transform(z=0.05) @ waiting("left"), data.time + 1.0)
    bad[0, 3] = value
    with pytest.raises(SafetyError, match="finite"):
        arm.schedule(bad, data.time + 0.1)
    advance(bench, 0.3)
    np.testing.assert_allclose(arm.state().pose[:3, 3], waiting("left")[:3, 3], atol=2e-3)
    with pytest.raises(SafetyError, match="stopped"):
        arm.schedule(waiting("left"), data.time + 0.5)
    arm.hold()
    assert arm.schedule(waiting("left"), data.time + 0.5)


def test_too_fast_a_waypoint_is_refused(bench):
    _, data, controllers = bench
    with pytest.raises(SafetyError, match="m/s"):
        controllers["right"].schedule(transform(x=0.3) @ waiting("right"), data.time + 0.05)
    controllers["right"].hold()
    turned = waiting("right")
    turned[:3, :3] = tcp_rotation("right", yaw=1.5)
    with pytest.raises(SafetyError, match="rad/s"):
        controllers["right"].schedule(turned, data.time + 0.05)


def test_holding_is_staying_where_the_arm_is_not_where_it_was_sent(bench):
    """An arm that is held back goes on pushing until it is told to hold."""
    _, data, controllers = bench
    controller = controllers["right"]
    joint = controller._qpos[1]
    data.qpos[joint] += 0.1  # something has moved the arm away from its commanded path
    mujoco.mj_forward(bench[0], data)
    there = controller.state().pose
    assert np.linalg.norm(controller.trajectory.end[1][:3, 3] - there[:3, 3]) > 0.02
    controller.hold()
    np.testing.assert_allclose(controller.trajectory.end[1], there, atol=1e-6)
    advance(bench, 0.3)
    np.testing.assert_allclose(controller.state().pose[:3, 3], there[:3, 3], atol=2e-3)


def test_a_path_out_of_reach_stops_the_arm_near_the_edge_of_its_reach(bench):
    _, data, controllers = bench
    arm = controllers["right"]
    arm.schedule(transform(1.2, -0.28, 0.26, rotation=tcp_rotation("right")), data.time + 2.0)
    advance(bench, 2.5)
    assert "behind its path" in arm.fault
    resting = arm.state()
    assert resting.pose[0, 3] < 0.7
    assert np.abs(bench[1].qvel).max() < 0.05


def test_links_do_not_collide_and_joint_limits_are_true(bench):
    model, _, controllers = bench
    for i in range(model.ngeom):
        if model.geom_contype[i]:
            assert (
                "gripper" in model.body(model.geom_bodyid[i]).name
                or "finger" in model.body(model.geom_bodyid[i]).name
            )
    wanted = {
        "ur5e": [2 * np.pi, 2 * np.pi, np.pi, 2 * np.pi, 2 * np.pi, 2 * np.pi],
        "fr3": [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159],
    }
    upper = controllers["left"].kinematics.upper + 0.02
    np.testing.assert_allclose(upper, wanted["ur5e" if len(upper) == 6 else "fr3"], atol=1e-9)
