"""The loop on a wall clock: whatever the policy, the recorder or a driver does, the arms hear of the servo."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings
from lateness import Lateness, on_time

from rdt2.control import LoopConfig, run_episode
from rdt2.control.servo import TICK
from rdt2.errors import ConfigError, SafetyError

pytestmark = pytest.mark.realtime

SENTENCE = "Pick up the red cube with the left hand."
SLOW_EYES = {"safety.max_skew": 0.5, "safety.max_age": 1.0}
"""Where it is not about pictures: threads that read cameras may lose their turn for tenths of seconds."""
IMPATIENT = {"safety.fault_seconds": 0.3}
HANGS = 60.0
"""Seconds; the fixture `released` ends them sooner."""


class Slow(ConstantPolicy):
    """Takes its time, and from the third prediction on does what it is told: the first two move nothing."""

    def __init__(self, act, seconds=0.02):
        super().__init__()
        self.act, self.seconds = act, seconds

    def predict(self, observations, *, seed=None):
        time.sleep(self.seconds)
        if len(self.seen) >= 3:
            self.act()
        return super().predict(observations, seed=seed)


class Looks:
    """A recorder that does something at every call."""

    def __init__(self, act=lambda: None):
        self.act, self.frames, self.cycles = act, [], []

    def on_cycle(self, observation, chunk, time):
        self.act()
        self.cycles.append(time)

    def on_frame(self, moment):
        self.act()
        self.frames.append(moment.time)


@pytest.fixture
def released():
    """What hangs, hangs until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def drive(robot, policy, *, seconds=1.5, changes=IMPATIENT, **options):
    config = LoopConfig(deadline=0.3, **options.pop("config", {}))
    started = time.perf_counter()
    result = run_episode(
        robot,
        policy,
        SENTENCE,
        settings=fake_settings(SLOW_EYES | changes),
        config=config,
        max_seconds=seconds,
        **options,
    )
    return result, time.perf_counter() - started


@pytest.fixture(autouse=True)
def slow_eyes(monkeypatch):
    """A thread that reads a camera may lose its turn for longer than the loop waits for it."""
    monkeypatch.setattr("rdt2.control.looking.PATIENCE", 1.0)


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


def commands(robot, since=-np.inf):
    return np.array([now for now, *_ in robot.arms["left"].calls if now > since])


def is_steady(robot):
    """Commands came 125 times a second; the bounds are those of a machine that does much else."""
    gaps = np.diff(commands(robot))
    return np.median(gaps) < 0.012 and np.percentile(gaps, 95) < 0.1 and gaps.max() < 0.4


def stopped(robot):
    return all(device.health().stopped for name, device in robot.devices() if "camera" not in name)


def test_three_parts_do_not_wait_for_each_other():
    robot, looks = fake_robot(real=True), Looks()
    result, _ = drive(robot, Slow(lambda: None, seconds=0.13), recorder=looks)
    assert result.ending == "time is up"
    assert not [pause for pause in result.pauses if "nothing ran" not in pause.reason]
    assert is_steady(robot)
    assert len(looks.frames) / result.seconds > 25  # 29 and more where nothing else runs
    assert len(looks.cycles) >= 3
    assert np.percentile(result.lateness, 50) < 0.012
    assert not result.unrecorded
    assert stopped(robot)


def test_a_servo_that_wakes_late_drives_slower_never_faster():
    """Regression: after a pause the next step was due at once: 8 ms of way in what was left of them; and a command
    8 ms late stopped the robot for good."""
    robot = fake_robot(real=True)
    arm, state = robot.arms["left"], robot.arms["left"].state

    def sometimes_slow():
        if len(arm.calls) % 10 == 5:
            time.sleep(0.02)
        return state()

    arm.state = sometimes_slow
    result, _ = drive(robot, ConstantPolicy())
    assert result.ending == "time is up"
    due = np.array([times[0] for _, times, _ in arm.calls])
    x = np.array([poses[0, 0, 3] for *_, poses in arm.calls])
    assert np.diff(due).min() > TICK - 1e-6
    assert (np.diff(x) / np.diff(due)).max() < 1.5  # it catches up with its plan, within the limits


def test_a_policy_that_hangs_hangs_nothing_else(released):
    robot = fake_robot(real=True)
    result, took = drive(robot, Slow(lambda: released.wait(HANGS)), seconds=30.0)
    assert "the policy has not answered for" in result.ending
    assert "no longer waited out" in result.ending
    assert took < 20.0
    assert is_steady(robot)
    assert stopped(robot)
    assert np.ptp([pose[0, 0, 3] for *_, pose in robot.arms["left"].calls[-20:]]) < 1e-6


def test_the_thread_of_a_policy_ends_with_its_last_prediction(released):
    drive(fake_robot(real=True), Slow(lambda: released.wait(HANGS)), seconds=30.0)
    released.set()
    until = time.monotonic() + 10.0
    while any(thread.name == "inference" for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert {thread.name for thread in threading.enumerate()} & {"inference", "servo", "recorder"} == set()


@pytest.mark.parametrize("error", [SafetyError("I will not."), RuntimeError("out of memory")])
def test_a_policy_that_raises(error):
    """One of ours is waited out; any other is raised, and the robot is stopped."""

    def fail():
        raise error

    robot = fake_robot(real=True)
    if isinstance(error, SafetyError):
        result, _ = drive(robot, Slow(fail))
        assert result.ending.startswith("I will not. That is no longer waited out")
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            drive(robot, Slow(fail))
    assert is_steady(robot)
    assert stopped(robot)


def test_a_recorder_that_hangs_changes_nothing_and_is_told(released, monkeypatch):
    monkeypatch.setattr("rdt2.control.recording.WAITING", 8)
    robot = fake_robot(real=True)
    result, took = drive(robot, ConstantPolicy(), recorder=Looks(lambda: released.wait(HANGS)), seconds=1.0)
    assert result.ending == "time is up"
    assert "calls dropped. it hangs" in result.unrecorded
    assert took < 20.0  # two seconds of patience at the end; it hangs for a minute
    assert is_steady(robot)
    assert commands(robot)[-1] < robot.clock.now() - 1.5, "the robot waited for the recorder"
    released.set()
    until = time.monotonic() + 10.0
    while any(thread.name == "recorder" for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(thread.name == "recorder" for thread in threading.enumerate())


def test_a_recorder_that_raises_changes_nothing_and_is_told():
    def full():
        raise OSError(28, "No space left on device")

    robot = fake_robot(real=True)
    result, _ = drive(robot, ConstantPolicy(), recorder=Looks(full), seconds=0.7)
    assert result.ending == "time is up"
    assert "No space left on device" in result.unrecorded
    assert is_steady(robot)


def first_command(robot):
    """Empty until the arms are first commanded, then when: a busy machine takes its time to rehearse before."""
    began, arm = [], robot.arms["left"]
    execute = arm.execute

    def told(*args, **options):
        began.append(time.monotonic())
        return execute(*args, **options)

    arm.execute = told
    return began


@pytest.mark.parametrize("what", ["hangs", "raises"])
def test_a_camera_whose_driver_fails_makes_the_arms_pause_and_then_ends_the_episode(what, released):
    """Regressions: a camera's driver that hung was waited for, for ever; OSError came as a traceback."""
    robot = fake_robot(real=True)
    camera, began = robot.cameras["left"], first_command(robot)
    read = camera.read

    def fails():
        if not began or time.monotonic() < began[0] + 0.7:
            return read()
        if what == "hangs":
            released.wait(HANGS)
        raise OSError("the USB device is gone")

    camera.read = fails
    result, took = drive(robot, ConstantPolicy(), seconds=30.0)
    wanted = (
        "left camera has not answered"
        if what == "hangs"
        else "left camera gives no picture: OSError: the USB"
    )
    assert wanted in result.ending
    assert wanted in " ".join(pause.reason for pause in result.pauses)
    assert took < 20.0
    assert is_steady(robot)
    assert stopped(robot)


def test_a_driver_that_hangs_ends_the_episode(released):
    """Regression: the servo hung in a driver, and nobody noticed until the time was up."""
    robot = fake_robot(real=True)
    arm, began = robot.arms["left"], first_command(robot)
    state = arm.state

    def stuck_state():
        if began and time.monotonic() > began[0] + 0.5:
            released.wait(HANGS)
        return state()

    arm.state = stuck_state
    result, took = drive(robot, ConstantPolicy(), seconds=30.0)
    assert "the servo has not come round for 0." in result.ending
    assert "Look at the device's driver" in result.ending
    assert took < 20.0
    assert stopped(robot)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("prediction", [0, 3])
def test_signals_while_it_rehearses_and_while_it_drives(name, prediction):
    """Regression: one that came during the first prediction ended in a ValueError."""

    class Signals(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) == prediction:
                for _ in range(2):
                    os.kill(os.getpid(), getattr(signal, name))
                time.sleep(0.2)
            return super().predict(observations, seed=seed)

    robot = fake_robot(real=True)
    result, took = drive(robot, Signals(), seconds=30.0)
    assert result.ending == ("stopped by the operator" if name == "SIGINT" else "stopped by SIGTERM")
    assert took < 15.0
    assert stopped(robot)


def test_a_door_that_is_open_from_the_start():
    robot = fake_robot(real=True)
    result, _ = drive(robot, ConstantPolicy(), permit=lambda: "the door is open.")
    assert result.ending == "the door is open."
    assert not len(commands(robot))


def test_one_reason_counts_when_two_threads_stop_the_robot():
    """Regression: a command that the stopped robot refused overwrote why it had been stopped."""
    robot = fake_robot(real=True)
    for arm in robot.arms.values():
        arm.stop = lambda stop=arm.stop: (stop(), time.sleep(0.05))
    began = time.monotonic()
    result, _ = drive(
        robot, ConstantPolicy(), permit=lambda: "let go." if time.monotonic() > began + 0.5 else ""
    )
    assert result.ending == "let go."


class SlowLater(ConstantPolicy):
    """Thinks for 0.8 s from its fourth chunk on."""

    def predict(self, observations, *, seed=None):
        if len(self.seen) >= 5:
            time.sleep(0.8)
        return super().predict(observations, seed=seed)


@pytest.mark.parametrize("what", ["stops", "ahead", "repeats", "apart"])
def test_pictures_are_doubted_at_the_cameras_rate_also_while_the_policy_thinks(what):
    """Regression: they were looked at once a cycle, when the next chunk was asked for."""
    robot = fake_robot(real=True)
    camera, began = robot.cameras["left"], first_command(robot)
    read, wrong = camera.read, []

    def reads():
        frame = read()
        if not began or time.monotonic() < began[0] + 1.0:
            return frame
        if not wrong:
            wrong.append((time.monotonic(), frame))
        if what == "stops":
            return wrong[0][1]
        if what == "ahead":
            return dataclasses.replace(frame, timestamp=frame.timestamp + 3.0)
        if what == "apart":
            return dataclasses.replace(frame, timestamp=frame.timestamp - 0.1)
        return dataclasses.replace(frame, image=wrong[0][1].image)

    camera.read = reads
    with Lateness() as lateness:
        result = run_episode(
            robot, SlowLater(), SENTENCE, settings=fake_settings(IMPATIENT | {"safety.fault_seconds": 1.0}),
            config=LoopConfig(deadline=5.0, execute_steps=6), max_seconds=10.0,
        )  # fmt: skip
        over = robot.clock.now()
    known = wrong[0][0] + {"stops": 0.25, "ahead": 0.0, "repeats": 0.04, "apart": 0.0}[what]
    paused = [over - result.seconds + pause.time for pause in result.pauses]
    noticed = next((moment - known for moment in paused if moment > wrong[0][0]), None)
    assert noticed is not None
    # 0.1 where nothing else runs; two pictures are read, each by a thread that may come late
    assert noticed < 0.2 + 3 * lateness.most, f"threads came {lateness.most:.2f} s late"
    assert "no longer waited out" in result.ending
    assert ("of the two wrists were taken" if what == "apart" else "left camera") in " ".join(
        [result.ending, *(pause.reason for pause in result.pauses)]
    )
    assert stopped(robot)


def test_a_chunk_that_comes_after_the_deadline_is_not_driven():
    class Late(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            if len(self.seen) == 4:
                time.sleep(0.6)
            return super().predict(observations, seed=seed)

    result, _ = drive(fake_robot(real=True), Late(), seconds=2.0, changes={})
    assert "the policy has not answered for 0.3 s" in result.pauses[0].reason
    assert result.ending == "time is up"
    assert all(cycle.delay < 0.4 for cycle in result.cycles)


def test_arms_rest_where_thinking_takes_too_long_to_drive_meanwhile(capsys):
    """And are driven all the same, where no other mode was asked for."""

    def driven(mode=None):
        policy, config = Slow(lambda: None, 0.45), LoopConfig(mode=mode, deadline=2.0)
        robot = fake_robot(real=True)
        return run_episode(robot, policy, "Go.", settings=fake_settings(), config=config, max_seconds=2.0)

    result = driven()
    assert "So the arms rest while it is computed (mode synchronous)." in capsys.readouterr().err
    assert result.ending == "time is up"
    assert len(result.cycles) >= 1
    with pytest.raises(ConfigError, match="mode synchronous"):
        driven("asynchronous")


def test_latencies_that_change_from_chunk_to_chunk_stay_within_limits():
    class Moody(ConstantPolicy):
        def predict(self, observations, *, seed=None):
            time.sleep(0.02 if len(self.seen) % 2 else 0.2)
            return super().predict(observations, seed=seed)

    robot = fake_robot(real=True)
    result, _ = drive(robot, Moody(), seconds=2.0)
    assert result.ending == "time is up"
    assert np.all(np.diff([cycle.plan.observed for cycle in result.cycles]) > 0)
    due = np.array([times[0] for _, times, _ in robot.arms["left"].calls])
    x = np.array([poses[0, 0, 3] for *_, poses in robot.arms["left"].calls])
    assert (np.diff(x) / np.diff(due)).max() < 1.5
    assert np.diff(due).min() > TICK - 1e-6
