"""The loop on a virtual clock: what is asked when, what becomes of it, and that the robot always ends up stopped."""

from __future__ import annotations

import dataclasses
import os
import signal

import numpy as np
import pytest
from fake_robot import SIDES, ConstantPolicy, fake_robot, fake_settings
from scipy.spatial.transform import Rotation

from rdt2.action import HORIZON, ActionChunk
from rdt2.control import LoopConfig, run_episode
from rdt2.control.config import possible_mode
from rdt2.errors import ActionError, ConfigError, ObservationError, SafetyError, ServingError

SENTENCE = "Pick up the red cube with the left hand."
START = 100.0


def run(
    robot, policy, *, seconds=3.0, settings=None, permit=None, monitor=None, recorder=None, seed=0, **config
):
    config = {"latency": 0.1, **config}
    return run_episode(
        robot, policy, SENTENCE, settings=settings or fake_settings(sides=robot.sides), permit=permit,
        monitor=monitor, recorder=recorder, config=LoopConfig(**config), max_seconds=seconds, seed=seed,
    )  # fmt: skip


def calibrated(change):
    return fake_settings({f"arms.{side}.policy_to_tcp": change for side in SIDES})


class Looks:
    """A recorder that calls a function 30 times a second."""

    def __init__(self, look):
        self.look, self.seen, self.cycles = look, [], []

    def on_cycle(self, observation, chunk, time):
        self.cycles.append((observation, chunk, time))

    def on_frame(self, moment):
        self.seen.append((moment.time, self.look()))


def left_x(robot):
    return lambda: robot.arms["left"].state().pose[0, 3]


def is_stopped(robot):
    return all(device.health().stopped for name, device in robot.devices() if "camera" not in name)


@pytest.mark.parametrize("mode", ["asynchronous", "chunking"])
def test_motion_is_steady_through_replanning_and_latency(mode):
    """Regression (PITFALLS 35): arms that stood a second after each chunk. 5 mm a step is 0.15 m/s: from the first
    chunk on, at every moment, also while the policy thinks."""
    robot, policy = fake_robot(), ConstantPolicy()
    policy.keeps_promises = mode == "chunking"
    film = Looks(left_x(robot))
    result = run(robot, policy, seconds=3.1, recorder=film, mode=mode)
    assert result.ending == "time is up"
    assert not result.pauses
    assert result.seconds == pytest.approx(3.1, abs=0.01)
    times, x = np.array(film.seen).T
    np.testing.assert_allclose(np.diff(times), 1 / 30, atol=9e-3)
    steady = times - START > 0.5
    speeds = np.diff(x[steady]) / np.diff(times[steady])
    np.testing.assert_allclose(speeds, 0.15, atol=0.012)
    starts = np.diff([c.time for c in result.cycles])
    np.testing.assert_allclose(starts[1:], 12 / 30, atol=0.01)
    assert len(result.inference) == len(result.cycles)


def test_arms_that_stand_still_are_not_made_to_catch_up():
    """Regression: a chunk counted from its picture, so arms at rest jumped over the steps that inference took:
    at the start, after a pause, and where a plan had ended."""
    robot = fake_robot()
    film = Looks(left_x(robot))
    policy = ConstantPolicy(invalid={2})
    result = run(robot, policy, seconds=4.0, recorder=film, latency=0.15, execute_steps=15)
    assert len(result.pauses) == 1
    times, x = np.array(film.seen).T
    assert (np.diff(x) / np.diff(times)).max() < 0.2


class PutsOff(ConstantPolicy):
    """Stands still and means to close the grippers at the 16th step of every chunk; the left arm may go on."""

    patience = 1.0

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
    robot, policy = fake_robot(), PutsOff(left_step)
    policy.patience = patience
    film = Looks(lambda: robot.grippers["left"].state().width)
    result = run(robot, policy, seconds=4.0, recorder=film, execute_steps=6)
    assert not result.pauses
    waited = np.diff([cycle.time for cycle in result.cycles])
    assert bool(waited.max() > 0.7) == closes
    assert (min(width for _, width in film.seen) < 0.03) == closes


def test_every_gripper_width_is_commanded_at_its_own_time_and_scaled_once():
    """Regressions (PITFALLS 32, 38): only the last width of a chunk was sent, and it was rescaled up to four times."""
    robot = fake_robot()
    scaled = fake_settings({f"arms.{side}.gripper.scale": 0.1 / 0.088 for side in SIDES})
    film = Looks(lambda: robot.grippers["left"].state().width)
    run(robot, ConstantPolicy(), seconds=0.5, settings=scaled, recorder=film, latency=0.0, execute_steps=22)
    for time, width in film.seen[3:]:
        asked = (0.08 - 0.001 * 30 * (time - START)) * 0.1 / 0.088
        assert width == pytest.approx(asked, abs=0.0006)


def test_device_latencies_move_commands_earlier():
    late = fake_settings({f"arms.{side}.latency": 0.05 for side in SIDES})
    film = {}
    for name, settings in (("now", fake_settings()), ("late", late)):
        robot = fake_robot()
        looks = Looks(left_x(robot))
        run(robot, ConstantPolicy(), seconds=2.0, settings=settings, recorder=looks)
        film[name] = np.array([x for _, x in looks.seen])
    # This arm moves at once: told 50 ms earlier, it is 7.5 mm ahead throughout the second chunk (and settles there).
    np.testing.assert_allclose((film["late"] - film["now"])[24:31], 0.0075, atol=2e-3)


def test_motion_of_the_policy_frame_becomes_motion_of_the_tcp_with_the_robots_own_transform():
    """Regression (PITFALLS 33): one robot's transform was used on every robot."""
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
    result = run(robot, Turn(), seconds=0.2, settings=calibrated(change), latency=0.0)
    for side in SIDES:
        # The same rigid body: its policy frame, before and after.
        policy = before[side] @ change
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(HORIZON * turning.as_rotvec()).as_matrix()
        step[0, 3] = 0.002 * HORIZON
        np.testing.assert_allclose(result.cycles[0].plan.poses[side][-1] @ change, policy @ step, atol=1e-5)


def test_pictures_that_arrive_late_are_matched_with_the_pose_of_their_time():
    """Regression (PITFALLS 35): no latency was matched."""
    robot = fake_robot()
    for camera in robot.cameras.values():
        camera.delay = 0.07
    result = run(robot, ConstantPolicy(), seconds=2.0, latency=0.0)
    assert not result.pauses
    for cycle in result.cycles[2:]:
        assert cycle.delay == pytest.approx(0.07, abs=0.01)
    speeds = np.diff([c.tcp["left"][0, 3] for c in result.cycles[2:]]) / np.diff(
        [c.time for c in result.cycles[2:]]
    )
    np.testing.assert_allclose(speeds[1:], 0.15, atol=5e-3)  # the first is that of an arm that gains speed


def test_policies_are_told_where_the_arms_are():
    change = np.eye(4)
    change[:3, 3] = 0.05, -0.02, -0.14
    robot, policy = fake_robot(change), ConstantPolicy()
    before = {side: robot.arms[side].state().pose for side in SIDES}
    doubled = calibrated(change).changed({f"arms.{side}.gripper.scale": 2.0 for side in SIDES})
    run(robot, policy, seconds=0.3, settings=doubled)
    state = policy.seen[0].state
    for first, side in ((0, "right"), (10, "left")):
        pose = before[side] @ change
        np.testing.assert_allclose(state[first : first + 3], pose[:3, 3], atol=1e-6)
        np.testing.assert_allclose(state[first + 3 : first + 9], pose[:3, :2].T.ravel(), atol=1e-6)
        assert state[first + 9] == pytest.approx(0.04)  # open 80 mm, which the models know as half of that


def test_seeds_are_those_of_the_episode():
    def seeds(seed):
        policy = ConstantPolicy()
        run(fake_robot(), policy, seconds=1.0, seed=seed)
        return policy.seeds

    assert seeds(7)[:2] == [7, 8]
    assert seeds(None)[0] is None


# ------------------------------------------------------------------------------------------------- hand-over


def test_promises_are_what_the_arms_do_while_the_chunk_is_computed():
    robot, policy = fake_robot(), ConstantPolicy()
    policy.keeps_promises = True
    result = run(robot, policy, seconds=2.0, latency=0.1, execute_steps=12)
    assert policy.promised[0] is None  # at first there is nothing to go on from
    for promise, cycle in zip(policy.promised[2:], result.cycles[2:], strict=False):
        assert 3 <= promise.fixed <= 5  # 0.1 s, and the tick after which it can speak
        assert 10 <= promise.known <= 12
        # 5 mm a step from where the arms were at the picture: what the last chunk asked for
        x = promise.actions[: promise.known, 0]
        np.testing.assert_allclose(x, 0.005 * np.arange(1, promise.known + 1), atol=2.5e-3)
        assert cycle.delay < promise.fixed / 30 + 1e-6


def test_without_promises_a_plan_that_differs_is_blended_in():
    class Turns(ConstantPolicy):
        def values(self):
            self.step = -self.step  # to and fro, with every chunk
            return super().values()

    robot = fake_robot()
    film = Looks(left_x(robot))
    result = run(robot, Turns(0.02), seconds=3.0, recorder=film, blend=0.1)
    assert not result.pauses
    times, x = np.array(film.seen).T
    speeds = np.diff(x) / np.diff(times)
    assert np.abs(speeds).max() < 1.5  # 0.6 m/s asked for, both ways, and 0.1 s too late


def test_synchronous_arms_wait_for_every_chunk():
    robot, policy, moved = fake_robot(), ConstantPolicy(), []

    class Waits(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            moved.append(robot.arms["left"].state().pose[0, 3])
            return super().predict(observations, seed=seed)

    film = Looks(left_x(robot))
    run(
        robot,
        policy := Waits(),
        seconds=4.0,
        recorder=film,
        mode="synchronous",
        latency=0.3,
        execute_steps=10,
    )
    times, x = np.array(film.seen).T
    speeds = np.diff(x) / np.diff(times)
    assert 0.2 < np.mean(speeds < 0.01) < 0.8
    assert x.max() == pytest.approx(0.05 * (len(policy.seen) - 1), abs=0.051)
    assert np.allclose(np.diff(moved[:4]), 0.05, atol=2e-3)  # ten steps of 5 mm, no more and no less


def test_inference_that_takes_too_long_for_a_chunk_is_refused_before_anything_moves():
    """With delay d, steps s and horizon H: d <= s <= H - d."""
    robot = fake_robot()
    with pytest.raises(ConfigError, match=r"0\.55 s: 17 of a chunk's 24 steps are past.*7 are left"):
        run(robot, ConstantPolicy(), latency=0.5)
    assert not robot.arms["right"].calls
    assert is_stopped(robot)
    with pytest.raises(ConfigError, match=r"24 have to be driven.* Take fewer execute_steps"):
        run(fake_robot(), ConstantPolicy(), latency=0.1, execute_steps=24)


def test_a_picture_that_is_a_period_old_when_it_is_looked_at_counts_for_the_delay():
    """Regression: only what a camera delays its pictures by did, and an expert with a prefix of just so many steps was
    asked for more in every cycle: nothing was promised, and nothing said."""
    settings = fake_settings({f"arms.{side}.camera.latency": 0.07 for side in SIDES})
    robot, policy = fake_robot(), GoesOn()
    for side, camera in robot.cameras.items():
        robot.cameras[side] = Thirty(camera)
    result = run(robot, policy, settings=settings, latency=0.08)
    assert not result.pauses
    asked = [promise for promise in policy.promised[2:] if promise is not None]
    assert len(asked) > len(policy.promised) / 2
    with pytest.raises(ConfigError, match="7 steps are driven meanwhile"):
        run(fake_robot(), GoesOn(), settings=settings, latency=0.1)


class Thirty:
    """A camera that has a new picture every 33 ms, 70 ms late."""

    def __init__(self, camera):
        self.camera = camera

    def __getattr__(self, name):
        return getattr(self.camera, name)

    def read(self):
        moment = np.floor((self.camera.clock.now() - 0.07) * 30) / 30
        return dataclasses.replace(self.camera.read(), timestamp=moment, sequence=round(30 * moment))


def test_more_steps_than_the_command_timeout_lets_be_driven_are_refused():
    settings = fake_settings({"safety.command_timeout": 0.3})
    with pytest.raises(
        ConfigError, match=r"execute_steps is 12, which take 0\.40 s.* Take 9 execute_steps or fewer"
    ):
        run(fake_robot(), ConstantPolicy(), settings=settings)
    assert run(fake_robot(), ConstantPolicy(), settings=settings, execute_steps=9).ending == "time is up"


def test_a_policy_that_keeps_no_promises_cannot_be_chunked():
    with pytest.raises(ConfigError, match="ConstantPolicy keeps no promises"):
        run(fake_robot(), ConstantPolicy(), mode="chunking")


class GoesOn(ConstantPolicy):
    """As an expert that was trained to go on from six given rows."""

    keeps_promises, longest_promise = True, 6

    def predict(self, observations, *, seed=None, promised=None):
        if promised is not None and promised[0].fixed > 6:
            raise ActionError("what follows would jump")
        return super().predict(observations, seed=seed, promised=promised)


def test_more_than_a_policy_goes_on_from_is_refused_before_anything_moves():
    """Regression: each chunk that was asked for while the arms moved was a fault, and the seventh ended the episode."""
    robot = fake_robot()
    with pytest.raises(
        ConfigError, match=r"7 steps are driven meanwhile.* from 6 at most.* prefix=7 or more"
    ):
        run(robot, GoesOn(), latency=0.18)
    assert not robot.arms["right"].calls
    result = run(robot := fake_robot(), policy := GoesOn(), latency=0.14)
    assert (result.ending, result.pauses) == ("time is up", [])
    assert max(promise.fixed for promise in policy.promised if promise is not None) in (5, 6)
    run(fake_robot(), GoesOn(), latency=0.22, mode="asynchronous")


def test_on_a_wall_clock_another_mode_is_taken_and_told(capsys):
    def taken(**config):
        return possible_mode(LoopConfig(**config), "chunking", GoesOn(), late=0.228, instead=True)

    assert taken() == "asynchronous"
    told = " ".join(capsys.readouterr().err.split())
    assert "7 steps are driven meanwhile, and this policy was trained to go on from 6 at most" in told
    assert "So each plan is blended into the next (mode asynchronous)." in told
    with pytest.raises(ConfigError, match="an expert trained with a larger prefix"):
        taken(mode="chunking")


def test_a_single_chunk_that_takes_longer_than_the_policy_goes_on_from_is_blended_in(monkeypatch):
    """As where the plan ends before: nothing is promised, and nothing is wrong."""
    robot, policy = fake_robot(), GoesOn()
    monkeypatch.setattr("rdt2.control.loop.possible_mode", lambda *_, **__: "chunking")
    result = run(robot, policy, latency=0.22)
    assert (result.ending, result.pauses) == ("time is up", [])
    assert len(result.cycles) > 4
    assert not any(policy.promised)


# ------------------------------------------------------------------------------------------------- doubt


def test_an_invalid_chunk_is_never_executed():
    """Regression: an invalid prediction was replaced by an old or arbitrary one and driven."""
    robot, policy = fake_robot(), ConstantPolicy(invalid=[0])
    film = Looks(left_x(robot))
    result = run(robot, policy, seconds=1.5, recorder=film, latency=0.0)
    assert [p.reason for p in result.pauses] == [
        "this action chunk is not valid and must not be executed: token 3 is out of range"
    ]
    assert len(policy.seen) == len(result.cycles) + 1
    assert result.ending == "time is up"
    assert not film.cycles[0][1].valid  # seen by the recorder all the same


def test_too_many_faults_end_the_episode():
    robot, policy = fake_robot(), ConstantPolicy(invalid=range(1, 100))
    result = run(robot, policy, seconds=9.0)
    assert "token 3" in result.ending
    assert "went on for" in result.ending
    assert not result.success
    assert is_stopped(robot)


@pytest.mark.parametrize("part", ["camera", "picture"])
def test_bad_pictures_make_the_arms_pause_and_then_end_the_episode(part):
    robot = fake_robot()
    read = robot.cameras["left"].read
    if part == "camera":
        robot.cameras["left"].read = lambda: read() if robot.clock.now() < 101 else _old(read(), 101.0)
        wanted = "the picture of the left camera is"
    else:
        shown = read().image
        robot.cameras["left"].read = lambda: _same(read(), shown)
        wanted = "very same picture"
    film = Looks(left_x(robot))
    result = run(robot, ConstantPolicy(), seconds=9.0, recorder=film)
    assert wanted in result.pauses[0].reason
    assert wanted in result.ending
    times, x = np.array(film.seen).T
    still = times > START + result.pauses[0].time + 0.2
    assert np.ptp(x[still]) < 1e-6
    assert is_stopped(robot)


def _old(frame, stamp):
    return type(frame)(stamp, round(1000 * stamp), frame.image)


def _same(frame, image):
    return type(frame)(frame.timestamp, frame.sequence, image)


def test_pictures_that_come_again_let_the_episode_go_on():
    robot = fake_robot()
    read = robot.cameras["left"].read
    gap = (101.0, 101.7)
    robot.cameras["left"].read = lambda: (
        _old(read(), gap[0]) if gap[0] < robot.clock.now() < gap[1] else read()
    )
    result = run(robot, ConstantPolicy(), seconds=3.0)
    assert result.ending == "time is up"  # a gap of 0.7 s ended an episode once
    assert len(result.pauses) == 1
    assert result.cycles[-1].time > 2.0


@pytest.mark.parametrize(
    "what", ["NaN", "frozen", "ahead", "elsewhere", "gripper", "raises", "lost", "fault"]
)
def test_what_is_wrong_with_a_device_stops_the_robot_for_good(what):
    robot = fake_robot()
    arm, gripper, clock = robot.arms["left"], robot.grippers["left"], robot.clock
    state, execute, health, opening = arm.state, arm.execute, arm.health, gripper.state

    def wrong():
        return clock.now() > 101.0

    def changed(**changes):
        return dataclasses.replace(state(), **changes) if wrong() else state()

    def fails(times, poses):
        if wrong():
            raise OSError("No route to host")
        execute(times, poses)

    shifted = np.array(arm.state().pose)
    shifted[2, 3] += 0.3
    if what == "NaN":
        arm.state, wanted = lambda: changed(pose=np.full((4, 4), np.nan)), "NaN"
    elif what == "frozen":
        frozen = {"timestamp": 101.0, "sequence": 101000}
        arm.state, wanted = lambda: changed(**frozen), "state of the left arm is 0.1"
    elif what == "ahead":
        arm.state, wanted = lambda: changed(timestamp=clock.now() + 3.0), "3.000 s ahead"
    elif what == "elsewhere":
        arm.state, wanted = lambda: changed(pose=shifted), "from what it was commanded"
    elif what == "gripper":
        gripper.state, wanted = (
            lambda: type(opening())(99.0, 99000, 0.05) if wrong() else opening(),
            "left gripper",
        )
    elif what == "lost":

        def lost():
            raise OSError(113, "No route to host")

        gripper.state = lambda: lost() if wrong() else opening()
        wanted = "the left gripper does not say where it is: OSError: [Errno 113] No route to host"
    elif what == "raises":
        arm.execute, wanted = fails, "No route to host"
    else:
        arm.health = lambda: dataclasses.replace(health(), fault="protective stop") if wrong() else health()
        wanted = "protective stop"
    result = run(robot, ConstantPolicy(), seconds=9.0)
    assert wanted in result.ending
    assert result.seconds == pytest.approx(1.0, abs=0.12)
    assert is_stopped(robot)
    with pytest.raises(SafetyError, match="stopped"):
        robot.arms["right"].execute(np.array([clock.now() + 1]), np.eye(4)[None])


def test_an_emergency_stop_stops_the_robot_within_a_tick():
    robot = fake_robot()
    result = run(
        robot, ConstantPolicy(), permit=lambda: "emergency stop pressed." if robot.clock.now() > 101 else ""
    )
    assert result.ending == "emergency stop pressed."
    assert result.seconds == pytest.approx(1.0, abs=0.02)
    assert is_stopped(robot)


def test_a_chunk_that_comes_too_late_is_a_fault():
    class Late(ConstantPolicy):
        """Takes ever longer."""

    robot = fake_robot()
    with pytest.raises(ConfigError):
        run(robot, Late(), latency=1.0)
    result = run(fake_robot(), ConstantPolicy(), seconds=5.0, latency=1.5, deadline=1.0, mode="synchronous")
    assert "the policy has not answered for 1.0 s" in result.pauses[0].reason


# ------------------------------------------------------------------------------------------------- ways out


def test_the_operators_interrupt_stops_the_robot_and_ends_the_episode():
    """Regression (PITFALLS 37): an interrupt only ended the episode, and the policy started again."""
    robot, policy = fake_robot(), ConstantPolicy()
    robot.clock.interrupt_at = 100.9
    result = run(robot, policy, seconds=9.0)
    assert result.ending == "stopped by the operator"
    assert not result.success
    where = robot.arms["left"].state().pose
    robot.clock.time += 5.0
    np.testing.assert_array_equal(robot.arms["left"].state().pose, where)
    assert is_stopped(robot)


def test_an_episode_that_ends_before_anything_was_driven_leaves_the_robot_stopped():
    """Regression (PITFALLS 39): it raised at its end, and left the robot as it was."""
    robot = fake_robot()
    result = run(robot, ConstantPolicy(), seconds=0.05)
    assert (result.ending, result.cycles) == ("time is up", [])
    assert is_stopped(robot)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("SIGINT", "stopped by the operator"),
        ("SIGTERM", "stopped by SIGTERM"),
        ("SIGHUP", "stopped by SIGHUP"),
    ],
)
def test_signals_stop_the_robot_however_many_come(name, ending):
    """Regression: a second Ctrl-C, SIGTERM and a closed terminal left the arms to themselves."""
    robot = fake_robot()

    class Impatient(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) == 2:
                for _ in range(3):
                    os.kill(os.getpid(), getattr(signal, name))
            return super().predict(observations, seed=seed)

    before = signal.getsignal(getattr(signal, name))
    result = run(robot, Impatient(), seconds=9.0)
    assert result.ending == ending
    assert is_stopped(robot)
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_crashing_policy_leaves_the_robot_stopped():
    robot = fake_robot()

    class Crash(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) == 2:
                raise RuntimeError("out of memory")
            return super().predict(observations, seed=seed)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(robot, Crash(), seconds=9.0)
    assert is_stopped(robot)


def test_a_server_that_has_gone_ends_an_episode_on_a_simulated_clock():
    """Regression: an evaluation waited minutes for it, and then counted its episodes as failures of the policy."""
    robot = fake_robot()

    class Gone(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) == 2:
                raise ServingError("ws://gpu:8000 could not be reached for 10 s", reason="unreachable")
            return super().predict(observations, seed=seed)

    policy = Gone()
    with pytest.raises(ServingError, match="could not be reached"):
        run(robot, policy, seconds=9.0)
    assert len(policy.seen) == 2
    assert is_stopped(robot)


def test_a_robot_that_cannot_be_stopped_says_which_part():
    robot = fake_robot()

    def broken():
        raise OSError("cable is out")

    robot.arms["right"].stop = broken
    result = run(robot, ConstantPolicy(), permit=lambda: "door open." if robot.clock.now() > 100.5 else "")
    assert result.ending == "door open. The right arm could not be stopped: cable is out."
    assert robot.arms["left"].health().stopped


def test_the_episode_ends_when_the_monitor_says_so():
    robot = fake_robot()

    class Judge:
        followed = True

        @property
        def success(self):
            return robot.clock.now() >= 101.0

        done = success

    result = run(robot, ConstantPolicy(), seconds=9.0, monitor=Judge())
    assert result.success
    assert result.followed
    assert result.ending == "done"
    assert result.seconds == pytest.approx(1.0, abs=0.05)


def test_a_recorder_that_fails_fails_loudly_on_a_simulated_clock():
    def full():
        raise OSError("No space left on device")

    robot = fake_robot()
    with pytest.raises(OSError, match="No space left"):
        run(robot, ConstantPolicy(), recorder=Looks(full))
    assert is_stopped(robot)


# ------------------------------------------------------------------------------------------------- one arm, settings


@pytest.mark.parametrize("side", SIDES)
def test_one_arm_is_enough(side):
    """Regression: one arm raised KeyError."""
    robot, policy = fake_robot(sides=(side,)), ConstantPolicy()
    policy.keeps_promises = True
    result = run(robot, policy, seconds=2.0)
    assert result.ending == "time is up"
    assert robot.arms[side].state().pose[0, 3] > 0.1
    other = SIDES[1 - SIDES.index(side)]
    assert not getattr(policy.seen[0], other).any()
    assert getattr(policy.seen[0], side).any()


@pytest.mark.parametrize(
    "changes",
    [{"execute_steps": 0}, {"execute_steps": 25}, {"latency": -1.0}, {"deadline": np.nan}, {"blend": -0.1}],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        LoopConfig(**changes)


def test_an_empty_sentence_no_time_or_the_settings_of_another_robot_are_the_callers_error():
    settings = fake_settings()
    with pytest.raises(ObservationError, match="instruction"):
        run_episode(fake_robot(), ConstantPolicy(), "  ", settings=settings)
    with pytest.raises(ConfigError, match="max_seconds"):
        run_episode(fake_robot(), ConstantPolicy(), SENTENCE, settings=settings, max_seconds=0)
    with pytest.raises(ConfigError, match="opened without cameras"):
        run_episode(
            dataclasses.replace(fake_robot(), cameras={}), ConstantPolicy(), SENTENCE, settings=settings
        )
    with pytest.raises(ConfigError, match="has the arms"):
        run_episode(fake_robot(sides=("left",)), ConstantPolicy(), SENTENCE, settings=settings)


def test_chunks_that_hold_nan_are_not_driven():
    class Broken(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            values = self.values()
            values[20, 3] = np.nan
            return [ActionChunk(values, valid=False, reason="NaN")]

    result = run(fake_robot(), Broken(), seconds=3.0)
    assert not result.cycles
    assert "NaN" in result.ending


# ------------------------------------------------------------------------------------- what a person stands beside


@pytest.mark.parametrize("answer", [None, [None], [], "two"])
def test_a_policy_that_answers_something_else_makes_the_arms_rest_and_is_named(answer):
    class Odd(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            chunks = super().predict(observations, seed=seed)
            if len(self.seen) < 3:
                return chunks
            return chunks * 2 if answer == "two" else answer

    robot = fake_robot()
    result = run(robot, Odd())
    assert "the Odd answered one observation with" in result.ending
    assert is_stopped(robot)


@pytest.mark.parametrize("answer", [False, None, True])
def test_only_an_empty_word_permits_motion(answer):
    """Regression: a dead man's switch that answers whether it is held let the arms move when it was let go."""
    robot = fake_robot()
    result = run(robot, ConstantPolicy(), permit=lambda: answer if robot.clock.now() > 101 else "")
    assert f"the permit answered {answer}" in result.ending
    assert result.seconds == pytest.approx(1.0, abs=0.02)


def test_a_clock_that_goes_back_stops_the_robot():
    """Regression: all commands, and the brake, were a second ahead from then on."""
    robot = fake_robot()
    clock, sleep = robot.clock, robot.clock.sleep_until

    def set_back(time):
        sleep(time)
        if clock.time > 101 and set_back.by:
            clock.time, set_back.by = clock.time - set_back.by, 0

    set_back.by, clock.sleep_until = 0.5, set_back
    result = run(robot, ConstantPolicy())
    assert "clock went back by 0.49" in result.ending
    assert max(times[0] - now for now, times, _ in robot.arms["left"].calls) < 0.009


def test_an_arm_that_moves_is_not_taken_for_one_at_rest():
    """Regression: it was commanded to stand from 1.5 m/s within a tick, 190 m/s^2."""
    robot = fake_robot(honest=True)
    arm = robot.arms["left"]
    away = arm.state().pose.copy()
    away[0, 3] += 0.75
    arm.execute(np.array([100.5]), away[None])
    robot.clock.time = 100.09
    with pytest.raises(SafetyError, match=r"left arm moves at 1\.50 m/s"):
        run(robot, ConstantPolicy())
    assert len(arm.calls) == 1
    assert is_stopped(robot)


@pytest.mark.parametrize("width", [-0.0004, 0.2003])
def test_a_gripper_that_measures_a_little_past_its_stroke_can_be_driven(width):
    robot = fake_robot()
    robot.grippers["left"].trajectory.stay(width, now=START)
    assert run(robot, ConstantPolicy(), seconds=0.5).ending == "time is up"


def test_a_gripper_that_is_open_further_than_its_stroke_is_refused_before_anything_moves():
    robot = fake_robot()
    robot.grippers["left"].trajectory.stay(0.25, now=START)
    with pytest.raises(SafetyError, match="left gripper is 250 mm open, its settings say 0 to 200 mm"):
        run(robot, ConstantPolicy())
    assert not robot.arms["left"].calls


def test_a_stop_that_failed_is_tried_again():
    robot = fake_robot()
    arm, stop, calls = robot.arms["left"], robot.arms["left"].stop, []

    def busy():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the bus is busy")
        stop()

    arm.stop = busy
    assert run(robot, ConstantPolicy(), seconds=0.5).ending == "time is up"
    assert is_stopped(robot)


def test_an_arm_that_cannot_be_stopped_at_the_end_is_told():
    """Regression: the episode ended with "time is up" and no word of an arm that went on."""
    robot = fake_robot()

    def broken():
        raise OSError("cable is out")

    robot.arms["left"].stop = broken
    assert run(robot, ConstantPolicy(), seconds=0.5).ending == (
        "time is up. The left arm could not be stopped: cable is out."
    )


@pytest.mark.parametrize("calls", [0, 2])
def test_an_arm_that_cannot_be_stopped_after_a_crash_is_told(calls):
    class Crash(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) >= calls:
                raise RuntimeError("out of memory")
            return super().predict(observations, seed=seed)

    def broken():
        raise OSError("cable is out")

    robot = fake_robot()
    robot.arms["left"].stop = broken
    with pytest.raises(SafetyError, match="out of memory The left arm could not be stopped: cable is out"):
        run(robot, Crash())


class Notes(Looks):
    """A recorder that keeps what it is told."""

    def __init__(self):
        super().__init__(lambda: None)
        self.moments = []

    def on_frame(self, moment):
        self.moments.append(moment)


def test_a_recorder_is_told_the_wish_the_command_and_what_was_measured():
    robot, notes = fake_robot(), Notes()
    slow = {f"arms.{side}.bounds.speed": 0.1 for side in SIDES}
    run(robot, ConstantPolicy(), seconds=1.5, settings=fake_settings(slow), recorder=notes, latency=0.1)
    last = notes.moments[-1]
    assert last.since == pytest.approx(1.5, abs=0.05)
    assert last.period is None
    assert last.inference is not None
    assert last.told.taken
    assert not last.fault
    asked, made, measured = (
        pose[0, 3]
        for pose in (last.told.wish["left"], last.told.command.poses["left"], last.states["left"].pose)
    )
    # 0.15 m/s are asked for and 0.1 allowed
    assert asked > made + 0.01
    assert made == pytest.approx(measured, abs=0.005)
    assert "within its limits of 0.1 m/s" in last.told.command.slowed
    assert last.cycle.plan.poses["left"][-1, 0, 3] > made
    assert last.widths["right"] == pytest.approx(last.told.command.widths["right"], abs=2e-3)


def test_a_recorder_is_told_why_the_arms_pause():
    robot, notes = fake_robot(), Notes()
    run(robot, ConstantPolicy(invalid={2}), seconds=1.5, recorder=notes, latency=0.1)
    told = [moment.fault for moment in notes.moments]
    assert "token 3 is out of range" in " ".join(told)
    assert not told[-1]


def test_a_sentence_that_changes_is_heard_at_the_next_look():
    robot, policy = fake_robot(), ConstantPolicy()
    said = iter(["Pick up the red cube."] * 5 + ["Press the blue button."] * 100)
    run_episode(
        robot,
        policy,
        lambda: next(said),
        settings=fake_settings(),
        config=LoopConfig(latency=0.1),
        max_seconds=4,
    )
    sentences = [seen.instruction for seen in policy.seen]
    assert sentences[0] == "Pick up the red cube."
    assert sentences[-1] == "Press the blue button."


def test_the_guard_is_told_where_fingers_are_measured(monkeypatch):
    """Held open by an object, whatever was commanded."""
    told = []
    monkeypatch.setattr("rdt2.control.guard.Guard.see", lambda _, widths: told.append(dict(widths)))
    robot = fake_robot()
    robot.grippers["left"].trajectory.stay(0.07, now=START)
    monkeypatch.setattr(robot.grippers["left"], "execute", lambda *_: None)
    run(robot, ConstantPolicy(), seconds=0.5)
    assert len(told) > 30
    assert all(widths["left"] == pytest.approx(0.07) for widths in told)


@pytest.mark.parametrize("device", ["left arm", "right gripper", "left camera"])
@pytest.mark.parametrize("call", ["health", "state"])
@pytest.mark.parametrize("answer", [None, "fine", {"pose": 1}])
def test_a_driver_that_answers_something_else_is_named(device, call, answer):
    """Regression: AttributeError: 'NoneType' object has no attribute 'ok'."""
    robot = fake_robot()
    call = "read" if "camera" in device and call == "state" else call
    driver = dict(robot.devices())[device]
    right = getattr(driver, call)
    setattr(driver, call, lambda: answer if robot.clock.now() > 101 else right())
    ending = run(robot, ConstantPolicy(), seconds=9.0).ending
    assert device in ending
    assert f"{call}() gave {answer!r}, expected a" in ending
    setattr(driver, call, right)
    assert is_stopped(robot)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((480, 640, 3), np.uint8), r"uint8 \(480, 640, 3\)"),
        (np.zeros((384, 384, 3), np.float32), r"float32 \(384, 384, 3\)"),
        (np.zeros((384, 384), np.uint8), r"uint8 \(384, 384\)"),
    ],
)
def test_pictures_of_another_kind_are_refused_before_anything_moves(image, got):
    robot = fake_robot()
    read = robot.cameras["left"].read
    robot.cameras["left"].read = lambda: dataclasses.replace(read(), image=image)
    with pytest.raises(SafetyError, match=rf"left camera's read\(\) gave {got}, expected a Frame"):
        run(robot, ConstantPolicy(), latency=None)
    assert not robot.arms["left"].calls or np.ptp([p[0, 0, 3] for *_, p in robot.arms["left"].calls]) == 0


@pytest.mark.parametrize("changes", [{"pose": np.eye(3)}, {"velocity": None}, {"timestamp": "now"}])
def test_states_of_another_kind_stop_the_robot_and_name_the_field(changes):
    robot = fake_robot()
    arm, state = robot.arms["right"], robot.arms["right"].state
    arm.state = lambda: dataclasses.replace(state(), **changes) if robot.clock.now() > 101 else state()
    ending = run(robot, ConstantPolicy()).ending
    assert f"the right arm's state has {next(iter(changes))}" in ending
    assert is_stopped(robot)


def test_after_a_long_sleep_the_plan_is_dropped_and_not_chased():
    """Regression: a process that was suspended for 0.3 s chased its plan at full speed."""
    robot = fake_robot()
    clock, sleep = robot.clock, robot.clock.sleep_until

    def suspended(time):
        sleep(time)
        if clock.time > 101 and suspended.seconds:
            clock.time, suspended.seconds = clock.time + suspended.seconds, 0

    suspended.seconds, clock.sleep_until = 0.3, suspended
    film = Looks(left_x(robot))
    result = run(robot, ConstantPolicy(), seconds=3.0, recorder=film)
    assert "nothing ran for 0.3 s" in result.pauses[0].reason
    assert result.ending == "time is up"
    told = [(times[0], poses[0, 0, 3]) for now, times, poses in robot.arms["left"].calls if now > 101.2]
    due, x = np.array(told).T
    assert (np.diff(x) / np.diff(due)).max() < 0.25  # 0.15 m/s asked for


def test_what_there_was_of_an_episode_is_told_with_what_broke_it():
    """Regression: an episode that ended by an exception was noted as one of no seconds, without its pauses."""
    robot = fake_robot()

    class Breaks(ConstantPolicy):
        def predict(self, observations, *, seed=None, promised=None):
            if len(self.seen) == 3:
                raise ZeroDivisionError("of the policy")
            return super().predict(observations, seed=seed, promised=promised)

    with pytest.raises(ZeroDivisionError) as caught:
        run(robot, Breaks(invalid={1}))
    result = caught.value.episode
    assert result.seconds > 0.5
    assert len(result.pauses) == 1
    assert result.ending == "ZeroDivisionError: of the policy"


def test_what_nobody_looked_at_during_a_pause_is_no_longer_fault():
    """Regression: a fault, a pause of a minute and one more late picture ended the episode: "it went on for 60 s"."""
    robot = fake_robot()
    camera, clock, read = robot.cameras["left"], robot.clock, robot.cameras["left"].read

    def late():
        frame = read()
        wrong = 101.0 < clock.now() < 101.1 or 108.05 < clock.now() < 108.1
        return dataclasses.replace(frame, timestamp=frame.timestamp - 0.5) if wrong else frame

    camera.read = late
    result = run_episode(
        robot, ConstantPolicy(), SENTENCE, settings=fake_settings(), config=LoopConfig(latency=0.1), max_seconds=4.0,
        pause=lambda: "a person wants it" if 101.05 < clock.now() < 108.06 else "",
    )  # fmt: skip
    assert result.ending == "time is up"
    assert any("0.50 s old" in pause.reason for pause in result.pauses)
