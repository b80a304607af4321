"""The simulated arms: true kinematics, reach, tracking, and refusing what must not be driven."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

mujoco = pytest.importorskip("mujoco")

from rdt2.errors import SafetyError, TaskError  # noqa: E402
from rdt2.robot import Arm  # noqa: E402
from rdt2.robot.braking import Brake  # noqa: E402
from rdt2.robot.kinematics import arm_kinematics, rotation_vector  # noqa: E402
from rdt2.robot.world import CellSettings  # noqa: E402
from rdt2.sim import Cell, arms, make_scene  # noqa: E402
from rdt2.sim.controller import ArmController  # noqa: E402
from rdt2.sim.gripper import TCP_Z, gripper_spec, tcp_rotation  # noqa: E402
from rdt2.sim.realtime_process import _Running  # noqa: E402

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
        arms.compensate_gravity(spec, side)
    model = spec.compile()
    data = mujoco.MjData(model)
    controllers = {s: ArmController(model, data, side=s, tcp_site=f"{s}/tcp") for s in SIDES}
    for side, controller in controllers.items():
        controller.reset(waiting(side))
        controller.connect()
        controller.enable()
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


def drive(bench, arm, pose, seconds):
    """To `pose` within `seconds`; said again 50 times a second, or the watchdog stops the arm."""
    data = bench[1]
    until = data.time + seconds
    while data.time < until - 1e-3:
        arm.execute([until], [pose])
        advance(bench, min(0.02, until - data.time))


def test_ur5e_kinematics_are_its_denavit_hartenberg_table():
    table = [  # d, a, alpha as the manufacturer publishes them
        (0.1625, 0, np.pi / 2), (0, -0.425, 0), (0, -0.3922, 0),
        (0.1333, 0, np.pi / 2), (0.0997, 0, -np.pi / 2), (0.0996, 0, 0),
    ]  # fmt: skip
    kinematics = arm_kinematics("ur5e", "right", base=np.eye(4))
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
    kinematics = arm_kinematics("fr3", "left", base=np.eye(4))
    for joints in np.random.default_rng(1).uniform(-1.5, 1.5, (20, 7)):
        pose = np.eye(4)
        for q, (a, alpha, d) in zip(joints, table, strict=True):
            pose = pose @ about("x", alpha) @ transform(a) @ about("z", q) @ transform(z=d)
        pose = pose @ transform(z=0.107)
        np.testing.assert_allclose(kinematics.forward(joints)[:3, 3], pose[:3, 3], atol=1e-9)
        np.testing.assert_allclose(kinematics.forward(joints)[:3, 2], pose[:3, 2], atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_jacobian_is_the_derivative_of_the_pose(model):
    kinematics = arm_kinematics(model, "right", tool=tool())
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
    kinematics = arm_kinematics(model, side, tool=tool())
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
        arm_kinematics("ur5e", "right", tool=tool()).solve(
            transform(1.5, 0, 0.2, rotation=tcp_rotation("right"))
        )


def test_speed_and_joint_limits_hold_in_every_step():
    kinematics = arm_kinematics("fr3", "right", tool=tool())
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
    with pytest.raises(TaskError, match="only fr3, ur5e"):
        arms.add_arm(mujoco.MjSpec(), "ur99", "right")
    model = mujoco.MjSpec().compile()
    with pytest.raises(TaskError, match="no right arm"):
        ArmController(model, mujoco.MjData(model), side="right", tcp_site="right/tcp")


def test_an_arm_of_any_module_is_driven_by_its_own_kinematics(tmp_path, monkeypatch):
    """Its links are called as those of the UR5e, and are not."""
    (tmp_path / "taller.py").write_text(
        "from dataclasses import replace\n"
        "from rdt2.robot.models import ARM_MODELS\n"
        "UR5E = ARM_MODELS['ur5e']\n"
        "first = replace(UR5E.links[0], position=(0, 0, 0.2625))\n"
        "ARM = replace(UR5E, name='taller', links=(first, *UR5E.links[1:]), base=(-0.46, 0.32, 0.10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scene = make_scene("pick", seed=3)
    with Cell("taller:ARM", scene) as cell, Cell("ur5e", scene) as usual:
        for side in SIDES:
            arm = cell.arms[side]
            assert arm.model.links[0].position == (0, 0, 0.2625)
            found = arm.kinematics.forward(arm.state().joints)
            np.testing.assert_allclose(found, cell.site_pose(cell.names.tcp[side]), atol=1e-6)
            np.testing.assert_allclose(found, usual.site_pose(usual.names.tcp[side]), atol=2e-3)
    process = _Running("taller:ARM", scene, CellSettings(), None, None, 0, None, {}, None)  # type: ignore[arg-type]
    try:
        assert process.facts()["left arm"]["model"] == "taller:ARM"  # by which the robot's side finds it
    finally:
        process.cell.close()


def test_controller_speaks_the_arm_protocol_and_starts_where_told(bench):
    _, _, controllers = bench
    for side, controller in controllers.items():
        assert isinstance(controller, Arm)
        np.testing.assert_allclose(controller.state().pose, waiting(side), atol=2e-3)


def test_arms_stay_where_they_are_told(bench):
    advance(bench, 0.5)
    for side, controller in bench[2].items():
        np.testing.assert_allclose(controller.state().pose[:3, 3], waiting(side)[:3, 3], atol=1e-3)


def stream_of_joints(bench, speed, every):
    """The last joint of the right arm is told where to be 12 ms later, every so many seconds, at a share of its top
    speed."""
    _, data, controllers = bench
    arm = controllers["right"]
    start, began = arm.state().joints.copy(), data.time
    direction = np.zeros(len(start))
    direction[-1] = -np.copysign(arm.kinematics.speeds[-1], start[-1])
    for seconds in np.resize(every, 40):
        advance(bench, seconds)
        due = data.time + 0.012
        arm.execute_joints(np.array([due]), (start + speed * direction * (due - began))[None])


def test_joints_make_up_for_commands_that_come_late_and_go_no_faster_than_they_can(bench):
    """Regression: a path of joints was refused where the machine had been busy for a few milliseconds."""
    stream_of_joints(bench, 0.6, (0.008, 0.020, 0.004))
    with pytest.raises(SafetyError, match="too fast for its joints"):
        stream_of_joints(bench, 1.5, (0.008,))


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
            ahead = (k + np.arange(1, 13)) / 30
            controller.execute(began + ahead, [path(side, t) for t in ahead])
        advance(bench, began + (k + 1) / 30 - data.time)
        for side, controller in controllers.items():
            state = controller.state()
            error = state.pose[:3, 3] - path(side, state.timestamp - began)[:3, 3]
            worst = max(worst, float(np.linalg.norm(error)))
    assert 1e-5 < worst < 6e-3


def test_a_new_waypoint_replaces_later_ones_and_past_ones_are_dropped(bench):
    _, data, controllers = bench
    arm, here = controllers["right"], waiting("right")
    arm.execute([data.time + 0.3, data.time + 0.6], [transform(z=0.05) @ here, transform(z=0.10) @ here])
    drive(bench, arm, transform(x=0.04) @ here, 0.3)
    advance(bench, 0.6)
    np.testing.assert_allclose(arm.state().pose[:3, 3], here[:3, 3] + [0.04, 0, 0], atol=2e-3)
    with pytest.raises(SafetyError, match="too late"):
        arm.execute([data.time], [here])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_waypoint_that_is_not_finite_is_refused_and_changes_nothing(bench, value):
    _, data, controllers = bench
    arm, bad = controllers["left"], waiting("left")
    bad[0, 3] = value
    with pytest.raises(SafetyError, match="finite"):
        arm.execute([data.time + 0.1], [bad])
    advance(bench, 0.3)
    np.testing.assert_allclose(arm.state().pose[:3, 3], waiting("left")[:3, 3], atol=2e-3)
    assert arm.health().ok


def test_too_fast_a_waypoint_is_refused(bench):
    _, data, controllers = bench
    with pytest.raises(SafetyError, match="m/s"):
        controllers["right"].execute([data.time + 0.05], [transform(x=0.3) @ waiting("right")])
    turned = waiting("right")
    turned[:3, :3] = tcp_rotation("right", yaw=1.5)
    with pytest.raises(SafetyError, match="rad/s"):
        controllers["right"].execute([data.time + 0.05], [turned])


@pytest.mark.parametrize("at_once", [True, False])
def test_waypoints_8_ms_apart_are_held_to_the_same_speed(bench, at_once):
    """Regression: a gap below 33 ms counted as 33 ms, so that 7 m/s passed at 125 Hz."""
    _, data, controllers = bench
    arm, here, ahead = controllers["right"], waiting("right"), np.arange(1, 9)

    def go(speed):
        times = data.time + 0.008 * ahead
        poses = [transform(z=0.008 * speed * k) @ here for k in ahead]
        if at_once:
            arm.execute(times, poses)
        for time, pose in zip(times, poses, strict=True):
            if not at_once:
                arm.execute([time], [pose])
            advance(bench, 0.008)

    with pytest.raises(SafetyError, match=r"2\.\d\d m/s" if at_once else "too fast for its joints"):
        go(2.1)
    arm.reset(here)
    go(0.8)
    assert arm.health().ok


def test_a_stopped_arm_brakes_where_it_is_not_where_it_was_sent(bench):
    """An arm that is held back goes on pushing until it is stopped."""
    _, data, controllers = bench
    arm = controllers["right"]
    data.qpos[arm._qpos[1]] += 0.1  # something has moved the arm away from its commanded path
    mujoco.mj_forward(bench[0], data)
    there = arm.state().pose
    assert np.linalg.norm(arm.trajectory.end[1][:3, 3] - there[:3, 3]) > 0.02
    arm.stop()
    advance(bench, 0.3)
    np.testing.assert_allclose(arm.state().pose[:3, 3], there[:3, 3], atol=2e-3)


def test_stopping_takes_speed_away_smoothly(bench):
    """From 0.6 m/s: deceleration within 15 m/s^2, no step in velocity, at rest after 0.15 s, on the way it was on."""
    model, data, controllers = bench
    arm, here = controllers["left"], waiting("left")
    times = data.time + np.arange(1, 40) / 100
    ramp = np.cumsum(np.minimum(np.arange(1, 40) / 15, 1.0)) * 0.006
    arm.execute(times, [transform(z=-x / 2, x=x) @ here for x in ramp])
    advance(bench, 0.09)
    arm.execute(times, [transform(z=-x / 2, x=x) @ here for x in ramp])
    advance(bench, 0.09)
    before = arm.state()
    assert np.linalg.norm(before.velocity[:3]) > 0.5
    arm.stop()
    velocities = [before.velocity[:3]]
    while data.time < before.timestamp + 0.3:
        for controller in controllers.values():
            controller.update()
        mujoco.mj_step(model, data)
        velocities.append(arm.state().velocity[:3])
    speeds = np.linalg.norm(velocities, axis=1)
    assert speeds[75:].max() < 0.02
    slowing = np.linalg.norm(np.diff(velocities, axis=0), axis=1) / 0.002
    assert np.convolve(slowing, np.ones(5) / 5, "valid").max() < 15.0
    way = arm.state().pose[:3, 3] - before.pose[:3, 3]
    direction = before.velocity[:3] / np.linalg.norm(before.velocity[:3])
    speed, turn = np.linalg.norm(before.velocity.reshape(2, 3), axis=1)
    # what ways to rest that are checked beforehand count on
    most = speed * Brake.of(0.0, (speed, 12.0, 400.0), (turn, 50.0, 1500.0)).seconds / 2
    assert 0.01 < way @ direction < most + 4e-3
    assert np.linalg.norm(way - (way @ direction) * direction) < 5e-3


def test_a_path_out_of_reach_is_a_fault_near_the_edge_of_its_reach(bench):
    """Regression: an arm went on while it was up to 100 mm, and any angle, off its path."""
    arm = bench[2]["right"]
    far = transform(1.2, -0.28, 0.26, rotation=tcp_rotation("right"))
    with pytest.raises(SafetyError, match="stopped: its path near"):
        drive(bench, arm, far, 2.0)
    assert re.search(r"[5-9] mm and 0\.\d degrees off", arm.health().fault)
    advance(bench, 0.5)
    assert arm.state().pose[0, 3] < 0.7
    assert np.abs(bench[1].qvel).max() < 0.05


def test_turning_further_than_the_joints_go_is_a_fault(bench):
    arm, pose = bench[2]["right"], waiting("right")

    def turn_and_turn():
        for k in range(1, 260):
            pose[:3, :3] = tcp_rotation("right", yaw=0.04 * k)
            drive(bench, arm, pose, 0.02)

    with pytest.raises(SafetyError, match="degrees off"):
        turn_and_turn()


def test_joint_limits_are_true(bench):
    _, _, controllers = bench
    wanted = {
        "ur5e": [2 * np.pi, 2 * np.pi, np.pi, 2 * np.pi, 2 * np.pi, 2 * np.pi],
        "fr3": [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159],
    }
    upper = controllers["left"].kinematics.upper + 0.02
    np.testing.assert_allclose(upper, wanted["ur5e" if len(upper) == 6 else "fr3"], atol=1e-9)
