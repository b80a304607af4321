"""The loop: what is scheduled when, what is refused, and that both arms always end up holding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fake_robot import SIDES, ConstantPolicy, fake_robot
from scipy.spatial.transform import Rotation

from rdt2.action import HORIZON, ActionChunk
from rdt2.control import LoopConfig, SafetyLimits, run_episode
from rdt2.errors import ConfigError, ObservationError

SENTENCE = "Pick up the red cube with the left hand."
FREE = SafetyLimits(low=(-9, -9, -9), high=(9, 9, 9))


def config(**changes):
    return dataclasses.replace(LoopConfig(latency=0.1, limits=FREE), **changes)


class Judge:
    """Says done when the clock has passed a time."""

    def __init__(self, clock, at):
        self.clock, self.at, self.followed = clock, at, True

    @property
    def success(self):
        return self.clock.now() >= self.at

    @property
    def done(self):
        return self.success


def test_motion_is_steady_through_replanning_and_latency():
    """5 mm a step is 0.15 m/s: from the first chunk on, at every moment, also while the policy thinks."""
    robot = fake_robot()
    seen = []

    class Watch:
        def on_cycle(self, observation, chunk, time): ...

        def on_frame(self, time):
            seen.append((time, robot.arms["left"].state().pose[0, 3]))

    result = run_episode(
        robot, ConstantPolicy(), SENTENCE, config=config(), recorder=Watch(), max_seconds=3.1
    )
    assert result.ending == "time is up"
    assert not result.holds
    assert result.seconds == pytest.approx(3.1, abs=0.01)
    times, x = np.array(seen).T
    np.testing.assert_allclose(np.diff(times), 1 / 30, atol=1e-6)
    # The arms stand until the first chunk is there, 0.1 s after the picture.
    started = times - 100.0 > 0.1
    np.testing.assert_allclose(x[started], 0.15 * (times[started] - 100.1), atol=1e-6)
    starts = np.diff([c.time for c in result.cycles])
    np.testing.assert_allclose(starts, [12 / 30 + 0.1, *[12 / 30] * (len(starts) - 1)], atol=1e-6)
    assert len(result.inference) == len(result.cycles)


def test_steps_that_are_past_are_skipped_and_the_others_keep_their_time():
    robot = fake_robot()
    result = run_episode(robot, ConstantPolicy(), SENTENCE, config=config(latency=0.11), max_seconds=0.7)
    first, second = result.cycles
    assert first.skipped == 0  # the arms stood still: nothing is past
    assert second.skipped == 4  # at 33, 67 and 100 ms; 133 ms is too soon to make up for a difference
    arm = robot.arms["right"]
    told = next(call for call in arm.calls if call[0] >= 100.0 + second.time + 0.11 - 1e-6)
    assert len(told[1]) == 1 + HORIZON - 4  # the first is where the arm is on its way now
    for k, (time, pose) in enumerate(list(zip(*told[1:], strict=True))[1:], start=5):
        assert time == pytest.approx(100.0 + second.time + k / 30)
        assert pose[0, 3] == pytest.approx(second.tcp["right"][0, 3] + 0.005 * k, abs=1e-6)


def test_arms_that_stand_still_are_not_made_to_catch_up():
    """Regression: a chunk counted from its picture, so arms at rest jumped over the steps that inference took:
    at the start, after a hold, and where a plan had ended."""
    robot = fake_robot()
    speeds = []

    class Watch:
        def on_cycle(self, observation, chunk, time): ...

        def on_frame(self, time):
            speeds.append(robot.arms["left"].state().pose[0, 3])

    policy = ConstantPolicy(invalid={2})
    settings = config(latency=0.15, execute_steps=24)
    result = run_episode(robot, policy, SENTENCE, config=settings, recorder=Watch(), max_seconds=4.0)
    assert len(result.holds) == 1
    assert [cycle.skipped for cycle in result.cycles] == [0] * len(result.cycles)
    assert np.diff(speeds).max() == pytest.approx(0.005, abs=3e-4)


class PutsOff(ConstantPolicy):
    """Stands still and means to close the grippers at the 16th step of every chunk; the left arm may go on."""

    def values(self):
        values = super().values()
        values[:, [9, 19]] = np.where(np.arange(HORIZON) < 15, 0.08, 0.02)[:, None]
        values[:, 0] = 0.0
        return values


@pytest.mark.parametrize(
    ("patience", "left_step", "closes"), [(1.0, 0.0, True), (None, 0.0, False), (1.0, 0.003, False)]
)
def test_what_a_policy_puts_off_happens_when_both_arms_have_waited(patience, left_step, closes):
    """Regression: looking again after 6 steps, hands over a bowl held for ever what each plan let go at its end."""
    robot, widths = fake_robot(), []

    class Watch:
        def on_cycle(self, observation, chunk, time): ...

        def on_frame(self, time):
            widths.append(robot.grippers["left"].state().width)

    settings = config(execute_steps=6, patience=patience)
    result = run_episode(
        robot, PutsOff(left_step), SENTENCE, config=settings, recorder=Watch(), max_seconds=4.0
    )
    assert not result.holds
    waited = np.diff([cycle.time for cycle in result.cycles])
    assert np.all(waited[:3] < 0.31)  # patience has to run out first
    assert bool(waited.max() > 0.7) == closes
    assert (min(widths) < 0.03) == closes


def test_every_gripper_width_is_scheduled_at_its_own_time_and_scaled_once():
    """Regressions: only the last width of a chunk was sent, and it was rescaled up to four times."""
    robot = fake_robot()
    run_episode(
        robot,
        ConstantPolicy(),
        SENTENCE,
        config=config(latency=0.0, gripper_scale=0.1 / 0.088),
        max_seconds=0.3,
    )
    for side in SIDES:
        sent = [(time, width) for now, time, width in robot.grippers[side].scheduled if time > now]
        assert len(sent) == HORIZON
        for k, (time, width) in enumerate(sent, start=1):
            assert time == pytest.approx(100.0 + k / 30)
            assert width == pytest.approx((0.08 - 0.001 * k) * 0.1 / 0.088, abs=1e-6)


def test_device_latencies_move_commands_earlier():
    robot = fake_robot()
    settings = config(latency=0.0, robot_action_latency=0.05, gripper_latency=0.02)
    run_episode(robot, ConstantPolicy(), SENTENCE, config=settings, max_seconds=0.3)
    # An arm that gets its command now moves 50 ms later: that is when the chunk begins.
    assert robot.arms["left"].scheduled[10][1] == pytest.approx(100.05 + 10 / 30 - 0.05)
    assert robot.grippers["left"].scheduled[9][1] == pytest.approx(100.05 + 10 / 30 - 0.02)


def test_motion_of_the_policy_frame_becomes_motion_of_the_tcp_with_the_robots_own_transform():
    """Regression: one robot's transform was used on every robot."""
    change = np.eye(4)
    change[:3, :3] = Rotation.from_euler("xyz", [0.3, -0.2, 0.5]).as_matrix()
    change[:3, 3] = 0.05, -0.02, -0.14
    robot = fake_robot(change)
    turning = Rotation.from_euler("zyx", [0.02, 0.01, -0.015])

    class Turn(ConstantPolicy):
        def values(self):
            values = np.zeros((HORIZON, 20), np.float32)
            for k in range(HORIZON):
                rotation = Rotation.from_rotvec((k + 1) * turning.as_rotvec()).as_matrix()
                arm = [0.002 * (k + 1), 0, 0, *rotation[:, 0], *rotation[:, 1], 0.05]
                values[k] = [*arm, *arm]
            return values

    before = {s: robot.arms[s].state().pose for s in SIDES}
    result = run_episode(robot, Turn(), SENTENCE, config=config(latency=0.0), max_seconds=0.2)
    for side in SIDES:
        # The same rigid body: its policy frame, before and after.
        policy = before[side] @ change
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(HORIZON * turning.as_rotvec()).as_matrix()
        step[0, 3] = 0.002 * HORIZON
        np.testing.assert_allclose(result.cycles[0].plan.poses[side][-1] @ change, policy @ step, atol=1e-5)


def test_pictures_that_arrive_late_are_matched_with_the_pose_of_their_time():
    robot = fake_robot()
    for camera in robot.cameras.values():
        camera.delay = 0.07
    result = run_episode(robot, ConstantPolicy(), SENTENCE, config=config(latency=0.0), max_seconds=2.0)
    assert not result.holds
    for cycle in result.cycles[2:]:
        # Steady motion: 5 mm a step, measured when the picture was taken.
        later = cycle.time + HORIZON / 30
        assert cycle.plan.poses["left"][-1][0, 3] - cycle.tcp["left"][0, 3] == pytest.approx(
            0.005 * HORIZON, abs=1e-6
        )
        assert later > 0
    speeds = np.diff([c.tcp["left"][0, 3] for c in result.cycles[2:]]) / np.diff(
        [c.time for c in result.cycles[2:]]
    )
    np.testing.assert_allclose(speeds, 0.15, atol=2e-3)


def test_policies_are_told_where_the_arms_are():
    change = np.eye(4)
    change[:3, 3] = 0.05, -0.02, -0.14
    robot, seen = fake_robot(change), []

    class Curious(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            seen.append((observations[0].state, {s: robot.arms[s].state().pose for s in SIDES}))
            return super().predict(observations, seed=seed)

    run_episode(robot, Curious(), SENTENCE, config=config(gripper_scale=2.0), max_seconds=0.3)
    state, poses = seen[0]
    for first, side in ((0, "right"), (10, "left")):
        pose = poses[side] @ change
        np.testing.assert_allclose(state[first : first + 3], pose[:3, 3], atol=1e-6)
        np.testing.assert_allclose(state[first + 3 : first + 9], pose[:3, :2].T.ravel(), atol=1e-6)
        assert state[first + 9] == pytest.approx(0.04)  # open 80 mm, which the models know as half of that


def test_seeds_are_those_of_the_episode():
    def seeds(seed):
        policy = ConstantPolicy()
        run_episode(fake_robot(), policy, SENTENCE, config=config(), max_seconds=1.0, seed=seed)
        return policy.seeds

    assert seeds(7)[:2] == [7, 8]
    assert seeds(None)[0] is None


def test_an_invalid_chunk_is_never_executed():
    """Regression: an invalid prediction was replaced by an old or arbitrary one and driven."""
    robot = fake_robot()
    policy = ConstantPolicy(invalid=[1])
    result = run_episode(robot, policy, SENTENCE, config=config(latency=0.0), max_seconds=1.5)
    assert [h.reason for h in result.holds] == [
        "this action chunk is not valid and must not be executed: token 3 is out of range"
    ]
    assert len(policy.seen) == len(result.cycles) + 1
    assert result.ending == "time is up"
    # From the hold (0.4 s) to the next try (one period later) nothing moves.
    assert robot.arms["left"].holds >= 2
    assert robot.grippers["left"].holds >= 2


def test_the_episode_ends_after_several_failures_in_a_row():
    robot, policy = fake_robot(), ConstantPolicy(invalid=range(100))
    result = run_episode(robot, policy, SENTENCE, config=config(max_failures=3), max_seconds=9.0)
    assert len(policy.seen) == 3
    assert "3 failed cycles in a row" in result.ending
    assert "token 3" in result.ending
    assert not robot.arms["left"].scheduled
    assert not result.success


@pytest.mark.parametrize("part", ["camera", "arm", "NaN", "picture"])
def test_bad_readings_hold_both_arms_and_say_so(part):
    robot, policy = fake_robot(), ConstantPolicy()
    if part == "camera":
        robot.cameras["left"].stuck = 99.0
        wanted = "picture of the left camera is 1.00 s old"
    elif part == "arm":
        robot.arms["right"].frozen = 99.0
        wanted = "state of the right arm is 1.00 s old"
    elif part == "NaN":
        robot.arms["right"].broken = True
        wanted = "state of the right arm holds NaN"
    else:
        robot.cameras["left"].read = lambda: dataclasses.replace(
            robot.cameras["right"].read(), image=np.zeros((480, 640, 3), np.uint8)
        )
        wanted = "the left picture has shape"
    result = run_episode(robot, policy, SENTENCE, config=config(), max_seconds=5.0)
    assert wanted in result.holds[0].reason
    assert "failed cycles in a row" in result.ending
    assert not policy.seen
    assert all(robot.arms[s].holds and not robot.arms[s].scheduled for s in SIDES)


def test_readings_that_recover_let_the_episode_go_on():
    robot, policy = fake_robot(), ConstantPolicy()
    clock, camera = robot.clock, robot.cameras["left"]
    fresh = camera.read
    camera.read = lambda: fresh() if clock.now() > 100.1 else dataclasses.replace(fresh(), timestamp=99.0)
    result = run_episode(robot, policy, SENTENCE, config=config(max_failures=9), max_seconds=2.0)
    assert 3 <= len(result.holds) <= 4
    assert result.cycles
    assert result.ending == "time is up"


@pytest.mark.parametrize("step", [0.2, -0.2])
def test_too_large_a_step_is_refused(step):
    robot = fake_robot()
    result = run_episode(robot, ConstantPolicy(step), SENTENCE, config=config(), max_seconds=5.0)
    assert "moves 200 mm in one step" in result.holds[0].reason
    assert not robot.arms["right"].scheduled


def test_leaving_the_workspace_is_refused():
    robot = fake_robot()
    result = run_episode(
        robot, ConstantPolicy(0.02), SENTENCE, config=LoopConfig(latency=0.1), max_seconds=9.0
    )
    assert "leaves the workspace" in result.holds[0].reason
    assert robot.arms["right"].state().pose[0, 3] < 0.46


def test_a_way_that_turns_bad_is_driven_up_to_there_and_looked_at_again():
    """The end of a chunk is a guess; what is refused must not stop the steps before it, nor be driven."""
    robot = fake_robot()

    class JumpsLater(ConstantPolicy):
        def values(self):
            values = super().values()
            values[8:, 0] += 0.5  # right arm, x: half a metre from one step to the next
            return values

    policy = JumpsLater()
    result = run_episode(robot, policy, SENTENCE, config=config(), max_seconds=3.0)
    assert not result.holds
    first = result.cycles[0].plan
    assert first.steps == 8
    assert "right arm, waypoint 8 moves" in first.reason
    assert robot.arms["right"].state().pose[0, 3] < 0.16 * 3.0
    # Both arms wait at the last good waypoint: the next picture is taken after 8 steps and not 12.
    np.testing.assert_allclose(np.diff([c.time for c in result.cycles]), 0.1 + 8 / 30, atol=1e-6)


def test_a_way_of_two_steps_is_not_begun():
    robot = fake_robot()

    class JumpsSoon(ConstantPolicy):
        def values(self):
            values = super().values()
            values[2:, 0] += 0.5
            return values

    result = run_episode(robot, JumpsSoon(), SENTENCE, config=config(), max_seconds=3.0)
    assert "waypoint 2 moves" in result.holds[0].reason
    assert not robot.arms["right"].scheduled


def test_a_chunk_that_comes_after_its_own_end_is_not_driven():
    robot = fake_robot()
    result = run_episode(robot, ConstantPolicy(), SENTENCE, config=config(latency=1.0), max_seconds=9.0)
    assert "its last step is past" in result.holds[0].reason
    assert not robot.arms["right"].scheduled


def test_an_arm_that_refuses_a_waypoint_stops_both():
    from rdt2.errors import SafetyError

    robot = fake_robot()

    def refuse(times, poses):
        raise SafetyError("the left arm refused a waypoint")

    robot.arms["left"].execute = refuse
    result = run_episode(robot, ConstantPolicy(), SENTENCE, config=config(), max_seconds=5.0)
    assert "left arm refused" in result.holds[0].reason
    assert robot.arms["right"].state().pose[0, 3] == pytest.approx(0.0, abs=1e-6)


def test_the_operators_interrupt_stops_both_arms_and_ends_the_episode():
    """Regression: an interrupt only ended the episode, and the policy started again."""
    robot, policy = fake_robot(), ConstantPolicy()
    robot.clock.interrupt_at = 100.9
    result = run_episode(robot, policy, SENTENCE, config=config(), max_seconds=9.0)
    assert result.ending == "stopped by the operator"
    assert not result.success
    where = robot.arms["left"].state().pose
    robot.clock.time += 5.0
    np.testing.assert_array_equal(robot.arms["left"].state().pose, where)
    assert all(robot.arms[s].holds and robot.grippers[s].holds for s in SIDES)


def test_a_crashing_policy_leaves_both_arms_holding():
    robot = fake_robot()

    class Crash(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) == 2:
                raise RuntimeError("out of memory")
            return super().predict(observations, seed=seed)

    with pytest.raises(RuntimeError, match="out of memory"):
        run_episode(robot, Crash(), SENTENCE, config=config(), max_seconds=9.0)
    assert all(robot.arms[s].holds and robot.grippers[s].holds for s in SIDES)


def test_the_episode_ends_when_the_monitor_says_so():
    robot = fake_robot()
    judge = Judge(robot.clock, 101.0)
    result = run_episode(robot, ConstantPolicy(), SENTENCE, monitor=judge, config=config(), max_seconds=9.0)
    assert result.success
    assert result.followed
    assert result.ending == "done"
    assert result.seconds == pytest.approx(1.0, abs=0.05)


def test_without_latency_the_real_time_of_inference_passes_on_a_real_clock():
    robot = fake_robot()

    class Slow(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            robot.clock.time += 0.2  # what a wall clock would do meanwhile
            return super().predict(observations, seed=seed)

    result = run_episode(robot, Slow(), SENTENCE, config=config(latency=None), max_seconds=2.0)
    assert [c.skipped for c in result.cycles] == [0, *[6] * (len(result.cycles) - 1)]
    assert not result.holds


def test_the_recorder_sees_every_cycle_also_invalid_ones():
    robot, cycles = fake_robot(), []

    class Keep:
        def on_cycle(self, observation, chunk, time):
            cycles.append((observation, chunk, time))

        def on_frame(self, time): ...

    run_episode(
        robot, ConstantPolicy(invalid=[0]), SENTENCE, config=config(), recorder=Keep(), max_seconds=1.0
    )
    assert isinstance(cycles[0][1], ActionChunk)
    assert not cycles[0][1].valid
    assert cycles[1][1].valid
    assert cycles[0][0].instruction == SENTENCE
    assert cycles[0][2] == 100.0


@pytest.mark.parametrize(
    "changes",
    [
        {"execute_steps": 0},
        {"execute_steps": 25},
        {"max_failures": 0},
        {"latency": -1.0},
        {"patience": -1.0},
        {"max_age": np.nan},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        LoopConfig(**changes)


def test_an_empty_sentence_or_no_time_is_the_callers_error():
    with pytest.raises(ObservationError, match="instruction"):
        run_episode(fake_robot(), ConstantPolicy(), "  ")
    with pytest.raises(ConfigError, match="max_seconds"):
        run_episode(fake_robot(), ConstantPolicy(), SENTENCE, max_seconds=0)
