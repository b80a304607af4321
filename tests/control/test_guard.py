"""What the guard does with wishes that would hurt: each test drives two arms period by period and looks at commands."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from guarded import (
    CALM,
    PERIOD,
    POLICY_TO_TCP,
    SIDES,
    Onlooker,
    down,
    guarded,
    joints_at,
    kinematics,
    norms,
    settings,
    waiting,
)

from rdt2.control.guard import Guard
from rdt2.errors import SafetyError

WIDTHS = dict.fromkeys(SIDES, 0.08)


def drive(guard, wishes, onlooker=None):
    """Follow a sequence of wishes; returns what was commanded."""
    commands = []
    for wish in wishes:
        commands.append(guard.step(wish, WIDTHS))
        if onlooker:
            onlooker.look(commands[-1])
    return commands


def held(poses, seconds):
    return [poses] * round(seconds / PERIOD)


def shifted(poses, side, *shift):
    moved = {s: p.copy() for s, p in poses.items()}
    moved[side][:3, 3] += shift
    return moved


def watched(guard, poses, model="ur5e"):
    return Onlooker(guard.sides, model, poses)


# ------------------------------------------------------------------------------------------ hand-over and limits


@pytest.mark.parametrize("latency", [0.1, 0.2, 0.3])
def test_turning_round_at_full_speed_with_latency(latency):
    """A chunk that turns round is about where the arm was `latency` ago: 10 to 28 m/s, were it driven as it comes."""
    guard, poses = guarded()
    onlooker = watched(guard, poses)
    forth = [shifted(poses, "left", 1.5 * PERIOD * k - 0.2, 0, 0) for k in range(20, 50)]
    commands = drive(guard, forth, onlooker)
    then = commands[-1 - min(round(latency / PERIOD), len(commands) - 1)].poses["left"]
    back = []
    for k in range(40):
        wish = {"right": poses["right"], "left": then.copy()}
        wish["left"][0, 3] -= 1.5 * (latency + PERIOD * k)
        back.append(wish)
    commands += drive(guard, back, onlooker)
    assert max(np.linalg.norm(c.velocity["left"][:3]) for c in commands) > 0.5, "it did move"
    assert onlooker.limits(CALM).max() <= 1.0 + 1e-6


def test_what_is_commanded_is_what_is_said():
    """Velocity and acceleration are those of the poses."""
    guard, poses = guarded()
    commands = drive(guard, [shifted(poses, "left", 0, 0, 0.4 * PERIOD * k) for k in range(60)])
    z = np.array([c.poses["left"][2, 3] for c in commands])
    velocity = np.array([c.velocity["left"][2] for c in commands])
    np.testing.assert_allclose(np.diff(z) / PERIOD, 0.5 * (velocity[1:] + velocity[:-1]), atol=3e-3)
    acceleration = np.array([c.acceleration["left"][2] for c in commands])
    np.testing.assert_allclose(
        np.diff(velocity) / PERIOD, 0.5 * (acceleration[1:] + acceleration[:-1]), atol=1.0
    )
    assert commands[-1].slowed == ""
    assert z[-1] == pytest.approx(poses["left"][2, 3] + 0.4 * PERIOD * 59, abs=1e-3), "it keeps up"


def test_a_slow_wish_is_met_exactly_and_without_a_word():
    guard, poses = guarded()
    drive(guard, held(poses, 0.1))
    last = drive(guard, held(shifted(poses, "right", 0.05, 0.02, 0.03), 0.6))[-1]
    np.testing.assert_allclose(
        last.poses["right"], shifted(poses, "right", 0.05, 0.02, 0.03)["right"], atol=1e-6
    )
    assert last.slowed == ""
    assert guard.at_rest


@pytest.mark.parametrize(("step", "told"), [(0.004, False), (0.05, True)])
def test_an_arm_that_follows_closely_is_not_told_of(step, told):
    """Regression: whatever lay 2 mm behind its wish, as every arm with limits does, was told of at every tick."""
    guard, poses = guarded()
    commands = drive(guard, held(shifted(poses, "right", step, 0, 0), 0.1))
    assert any("right arm follows within its limits" in c.slowed for c in commands) == told


# ------------------------------------------------------------------------------------------------ table, workspace


def test_lifting_over_the_table_keeps_the_limits():
    """90 mm in one step, when the lifting came after the limits."""
    low = down("left", 0.0, 0.25, 0.01)
    guard, poses = guarded(poses={"right": waiting("right"), "left": low})
    onlooker = watched(guard, poses)
    commands = drive(guard, held(shifted(poses, "left", 0.1, 0, -0.09), 0.5), onlooker)
    assert onlooker.limits(CALM).max() <= 1.0 + 1e-6
    lowest = onlooker.shapes()["left"][1].min(axis=0)
    assert lowest[0] >= -0.02 + 0.005 - 5e-4
    assert "left arm stays over the table" in commands[-1].slowed
    assert commands[-1].poses["left"][0, 3] == pytest.approx(0.1, abs=2e-3), (
        "what is allowed of a wish is met"
    )


def test_a_leaning_gripper_is_lifted_by_its_lowest_finger():
    guard, poses = guarded()
    wish = {**poses, "left": down("left", 0.0, 0.25, -0.05, lean=0.5)}
    drive(guard, held(wish, 1.2))
    pose = drive(guard, held(wish, 0.1))[-1].poses["left"]
    tip = min((pose @ [x, y, 0.010, 1])[2] for x in (-0.009, 0.009) for y in (-0.0464, 0.0464))
    assert tip == pytest.approx(-0.015, abs=1.5e-3)


def test_an_arm_outside_its_workspace_comes_back_and_never_goes_further():
    start = {"right": down("right", 0.0, -0.62, 0.3), "left": waiting("left")}
    guard, poses = guarded(poses=start)
    out = drive(guard, held(shifted(poses, "right", 0, -0.1, 0), 0.4))
    assert min(c.poses["right"][1, 3] for c in out) >= -0.62 - 1e-6
    # a wish outside is brought inside
    assert "right arm stays in its workspace: the wish is 120 mm outside" in out[0].slowed
    assert out[-1].poses["right"][1, 3] == pytest.approx(-0.60, abs=2e-3)
    again = drive(guard, held(shifted(poses, "right", 0, 0, 0), 0.4))
    assert min(c.poses["right"][1, 3] for c in again) >= -0.60 - 1e-3, "once inside, it stays inside"


def test_an_arm_far_outside_comes_back_slowly():
    """Regression: it rushed back at full speed, a way that nobody had asked for."""
    start = {"right": down("right", 0.0, -0.75, 0.3), "left": waiting("left")}
    guard, poses = guarded(poses=start)
    out = drive(guard, held(poses, 0.5))
    assert (
        max(np.linalg.norm(c.velocity["right"][:3]) for c in out)
        <= 0.1 * guard._arms["right"].bounds.speed + 1e-3
    )
    assert out[-1].poses["right"][1, 3] > -0.75 + 0.01


def test_an_arm_below_the_clearance_may_rise_and_not_sink():
    start = {"right": waiting("right"), "left": down("left", 0.0, 0.25, -0.008)}  # 2 mm over the table
    guard, poses = guarded(poses=start)
    sunk = drive(guard, held(shifted(poses, "left", 0.05, 0, -0.05), 0.4))
    assert min(c.poses["left"][2, 3] for c in sunk) >= -0.008 - 3e-4
    risen = drive(guard, held(shifted(poses, "left", 0, 0, 0.1), 0.6))
    assert risen[-1].poses["left"][2, 3] == pytest.approx(0.092, abs=2e-3)


# ------------------------------------------------------------------------------------------------------- two arms


def test_coinciding_tcps_with_wrists_leaning_apart():
    """Both fingertips at one place: two balls behind the fingers saw nothing."""
    guard, poses = guarded()
    onlooker = watched(guard, poses)
    wish = {side: down(side, 0.0, 0.0, 0.15, lean=-0.7) for side in SIDES}
    commands = drive(guard, held(wish, 2.0), onlooker)
    gaps = onlooker.gaps(onlooker.shapes())
    assert gaps["both"].min() > 0.017
    assert "of the other arm" in commands[-1].slowed or "other arm is in its way" in commands[-1].slowed
    assert guard.at_rest or np.abs(commands[-1].velocity["left"]).max() < 0.05


def test_palms_that_are_wider_than_their_distance():
    """Palms 101 mm apart, side by side: each is 124 mm wide."""
    apart = {side: down(side, 0, -0.2 if side == "right" else 0.2, 0.2, yaw=np.pi / 2) for side in SIDES}
    guard, poses = guarded("handheld", apart)
    onlooker = watched(guard, poses, "handheld")
    wish = shifted(shifted(poses, "right", 0, 0.1495, 0), "left", 0, -0.1495, 0)
    drive(guard, held(wish, 2.0), onlooker)
    assert onlooker.gaps(onlooker.shapes())["both"].min() > 0.017
    last = [onlooker.poses[side][-1] for side in SIDES]
    assert last[1][1, 3] - last[0][1, 3] > 0.124 + 0.017


def test_an_arm_slows_before_it_stops_and_says_why():
    guard, poses = guarded("handheld")
    wish = {"right": poses["right"], "left": poses["right"]}
    commands = drive(guard, held(wish, 1.5))
    said = [c.slowed for c in commands if "mm from the right arm" in c.slowed]
    assert said, "it says that it slows, by what and how near"
    speed = [np.linalg.norm(c.velocity["left"][:3]) for c in commands]
    near = [v for v, c in zip(speed, commands, strict=True) if "mm from the right arm" in c.slowed]
    assert near[-1] < 0.1 < max(speed)
    assert norms([c.poses["left"] for c in commands])[2] <= CALM.jerk


def test_arms_too_near_each_other_part_and_come_no_nearer():
    start = {side: down(side, 0.0, -0.086 if side == "right" else 0.086, 0.2) for side in SIDES}
    guard, poses = guarded("handheld", start)
    onlooker = watched(guard, poses, "handheld")
    drive(guard, held(shifted(poses, "left", 0, -0.05, 0), 0.3), onlooker)
    gaps = onlooker.gaps(onlooker.shapes())["both"]
    assert 0 < gaps[0] < 0.015
    assert gaps.min() >= gaps[0] - 5e-4
    parted = drive(guard, held({"right": waiting("right"), "left": waiting("left")}, 1.5))
    assert parted[-1].poses["left"][1, 3] == pytest.approx(0.30, abs=2e-3)


def test_one_arm_that_must_stop_does_not_stop_the_other():
    guard, poses = guarded("handheld")
    wish = shifted(poses, "left", 0, 0.02, 0.05)
    wish["right"] = poses["left"]
    commands = drive(guard, held(wish, 1.5))
    np.testing.assert_allclose(commands[-1].poses["left"], wish["left"], atol=2e-3)
    assert "right arm" in commands[-1].slowed
    assert "left arm" not in commands[-1].slowed


def test_a_robot_with_one_arm():
    for side in SIDES:
        guard, poses = guarded(sides=(side,))
        wish = {side: poses[side].copy()}
        wish[side][2, 3] += 0.1
        for _ in range(100):
            command = guard.step(wish, {side: 0.03})
        np.testing.assert_allclose(command.poses[side], wish[side], atol=1e-5)
        assert command.widths == {side: pytest.approx(0.03)}


# --------------------------------------------------------------------------------------------- joints, singularities


@pytest.mark.parametrize("model", ["ur5e", "fr3"])
def test_a_wish_out_of_reach_stops_where_the_joints_can_follow(model):
    bounds = CALM.model_copy(update={"low": (-1.5, -1.5, -0.1), "high": (1.5, 1.5, 1.5)})
    guard, poses = guarded(model, bounds=bounds)
    onlooker = watched(guard, poses, model)
    commands = drive(guard, held(shifted(poses, "left", 1.2, 0.3, 0.3), 2.5), onlooker)
    assert "left arm" in commands[-1].slowed
    assert np.linalg.norm(commands[-1].velocity["left"]) < 0.05
    pose = kinematics(model, "left").forward(onlooker.joints["left"][-1])
    assert np.linalg.norm(pose[:3, 3] - commands[-1].poses["left"][:3, 3]) < 0.006
    steps = np.abs(np.diff(np.stack(onlooker.joints["left"]), axis=0)) / PERIOD
    assert (steps <= kinematics(model, "left").speeds * 1.05).all()
    # and it finds the way back
    commands = drive(guard, held(poses, 2.5), onlooker)
    np.testing.assert_allclose(commands[-1].poses["left"], poses["left"], atol=5e-3)


@pytest.mark.parametrize("model", ["ur5e", "fr3"])
def test_an_arm_that_stands_at_a_joints_stop_can_be_led_away(model):
    """Regression: joints were pulled off their stop by the model alone, which then missed the measured pose."""
    known = {side: kinematics(model, side) for side in SIDES}
    joints = {side: joints_at(model, side, waiting(side)) for side in SIDES}
    joints["left"][-1] = known["left"].upper[-1] + 0.015
    poses = {side: known[side].forward(joints[side]) for side in SIDES}
    guard, _ = guarded(model)
    guard.start(poses, joints, WIDTHS)
    onlooker = Onlooker(SIDES, model, poses, joints)
    wish = {side: pose.copy() for side, pose in poses.items()}
    wish["left"][:3, :3] = known["left"].forward(joints["left"] - 0.3 * np.eye(len(joints["left"]))[-1])[
        :3, :3
    ]
    drive(guard, held(wish, 1.5), onlooker)
    turned = np.stack(onlooker.joints["left"])[:, -1]
    assert turned.max() == turned[0], "it turns away from the stop"
    assert turned[-1] < known["left"].upper[-1] - 0.2


def test_joints_that_do_not_belong_to_the_pose_are_refused():
    poses = {side: waiting(side) for side in SIDES}
    guard, _ = guarded()
    joints = {side: kinematics("ur5e", side).solve(poses[side]) for side in SIDES}
    joints["left"] = joints["left"] + 0.1
    with pytest.raises(SafetyError, match=r"left arm's joints put its TCP .* mm"):
        guard.start(poses, joints, WIDTHS)


# ------------------------------------------------------------------------------------------------- wrong wishes


def nothing_finite(pose):
    pose[0, 3] = np.nan
    return pose


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (nothing_finite, "not finite"),
        (lambda pose: pose[:3], "not finite|shape"),
        (lambda pose: pose * [[1.5], [1], [1], [1]], "no rotation"),
        (lambda pose: pose @ np.diag([1, 1, -1, 1]), "no rotation"),
    ],
)
def test_a_wish_that_is_no_pose_is_refused_and_the_arm_brakes(broken, says):
    guard, poses = guarded()
    onlooker = watched(guard, poses)
    drive(guard, [shifted(poses, "left", 0.8 * PERIOD * k, 0, 0) for k in range(40)], onlooker)
    assert not guard.at_rest
    with pytest.raises(SafetyError, match=says):
        guard.step({"right": poses["right"], "left": broken(poses["left"].copy())}, WIDTHS)
    periods = 0
    while not guard.at_rest:
        command = guard.brake()
        onlooker.look(command)
        periods += 1
        assert "left arm brakes" in command.slowed
        assert periods * PERIOD < 0.25
    assert onlooker.limits(CALM).max() <= 1.0 + 1e-6


def test_an_opening_that_is_not_finite_or_a_missing_arm():
    guard, poses = guarded()
    with pytest.raises(SafetyError, match="opening nan"):
        guard.step(poses, {"right": 0.05, "left": np.nan})
    with pytest.raises(SafetyError, match="expected both for"):
        guard.step({"right": poses["right"]}, {"right": 0.05})


def test_a_guard_that_was_not_started_commands_nothing():
    guard = Guard(settings(), dict.fromkeys(SIDES), period=PERIOD)
    with pytest.raises(SafetyError, match="start"):
        guard.step({side: waiting(side) for side in SIDES}, WIDTHS)
    with pytest.raises(SafetyError, match="start"):
        guard.brake()


def test_openings_move_at_the_speed_of_jaws_within_the_stroke():
    guard, poses = guarded()
    widths = [guard.step(poses, dict.fromkeys(SIDES, 0.5)).widths["left"] for _ in range(20)]
    assert max(np.diff(widths)) <= 0.5 * PERIOD + 1e-9
    assert widths[-1] == pytest.approx(0.092)
    widths = [guard.step(poses, dict.fromkeys(SIDES, -0.1)).widths["left"] for _ in range(40)]
    assert widths[-1] == 0.0


# -------------------------------------------------------------------------------------------------------- checking


def test_an_arm_that_is_elsewhere_is_noticed():
    guard, poses = guarded()
    joints = joints_at("ur5e", "left", poses["left"])

    def state(pose):
        return SimpleNamespace(pose=pose, joints=joints)

    commands = drive(guard, [shifted(poses, "left", 0.8 * PERIOD * k, 0, 0) for k in range(30)])
    meant = {s: np.stack([c.poses[s] for c in commands[-10:-5]]) for s in SIDES}
    guard.check({"left": state(commands[-8].poses["left"])}, meant)
    behind = commands[-8].poses["left"].copy()
    behind[1, 3] += 0.06
    with pytest.raises(SafetyError, match="left arm is 60 mm"):
        guard.check({"left": state(behind)}, meant)
    turned = commands[-8].poses["left"].copy()
    turned[:3, :3] = down("left", 0, 0, 0, yaw=0.5)[:3, :3]
    with pytest.raises(SafetyError, match="degrees from what it was commanded"):
        guard.check({"left": state(turned)}, meant)
    with pytest.raises(SafetyError, match="not finite"):
        guard.check({"right": state(np.full((4, 4), np.nan))}, meant)


def test_an_elbow_that_is_elsewhere_is_noticed_though_the_tcp_is_where_it_should_be():
    """Regression: a host with another `reset_radians` held the elbow of its FR3 where nothing had been checked."""
    guard, poses = guarded("fr3")
    start = joints_at("fr3", "left", poses["left"])
    commands = drive(guard, [shifted(poses, "left", 0.4 * PERIOD * k, 0, 0) for k in range(30)])
    meant = {s: np.stack([c.poses[s] for c in commands[-5:]]) for s in SIDES}
    now = kinematics("fr3", "left").solve(commands[-1].poses["left"], start)
    guard.check({"left": SimpleNamespace(pose=commands[-1].poses["left"], joints=now)}, meant)
    swivelled = now + 0.3 * np.linalg.svd(kinematics("fr3", "left").jacobian(now)[1])[2][-1] / 0.5
    with pytest.raises(
        SafetyError, match=r"left arm's joints are \d+ degrees from .*holds the elbow elsewhere"
    ):
        guard.check({"left": SimpleNamespace(pose=commands[-1].poses["left"], joints=swivelled)}, meant)


def test_the_way_to_rest_is_told_before_it_is_driven():
    guard, poses = guarded()
    drive(guard, [shifted(poses, "left", 0.8 * PERIOD * k, 0, 0) for k in range(60)])
    rest = guard.to_rest(5)
    assert {side: way.shape for side, way in rest.items()} == dict.fromkeys(SIDES, (5, 4, 4))
    for k in range(5):
        command = guard.brake()
        for side in SIDES:
            np.testing.assert_allclose(rest[side][k], command.poses[side], atol=1e-12)
    while not guard.at_rest:
        guard.brake()
    assert all(len(way) == 0 for way in guard.to_rest(9).values())


def test_a_tcp_in_another_place_of_the_gripper_changes_nothing_about_its_shape():
    """A hand without joints, whose TCP is turned and shifted: its fingers are where they were."""
    turn = np.eye(4)
    turn[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    turn[:3, 3] = 0.02, 0.03, -0.05
    robot = settings("handheld", ("left",), policy_to_tcp=np.linalg.inv(turn) @ POLICY_TO_TCP)
    guard = Guard(robot, {"left": None}, period=PERIOD)
    pose = down("left", 0.0, 0.2, 0.1) @ turn
    guard.start({"left": pose}, {"left": np.zeros(0)}, {"left": 0.05})
    low = pose.copy()
    low[2, 3] -= 0.3
    for _ in range(150):
        command = guard.step({"left": low}, {"left": 0.05})
    tip = (command.poses["left"] @ np.linalg.inv(turn))[2, 3] - 0.010
    assert tip == pytest.approx(-0.015, abs=1.5e-3)
