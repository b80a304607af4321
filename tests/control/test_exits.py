"""Whatever ends an episode: the robot is stopped, and no thread and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings
from lateness import Lateness, on_time

from rdt2.control import LoopConfig, run_episode
from rdt2.errors import CheckpointError, RDT2Error, SafetyError
from rdt2.policy import PolicyProcess, PolicySpec

pytestmark = pytest.mark.realtime

SLOW_EYES = {"safety.max_skew": 0.5, "safety.max_age": 1.0}
"""Threads that read cameras may lose their turn for tenths of seconds."""
OURS = {"servo", "inference", "recorder", "camera"}
SPEC = PolicySpec(policy="fake")


def opened(spec):
    """In the process of a policy."""
    return ConstantPolicy()


def refused(spec):
    raise CheckpointError("there is none.")


def nothing_is_left(seconds=20.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        threads = [thread.name for thread in threading.enumerate() if thread.name in OURS]
        if not threads and not multiprocessing.active_children():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


class Exits:
    """Ways out, each made by a method that changes what takes part; they happen after a while."""

    def __init__(self, seconds):
        self.robot, self.policy, self.options, self.seconds = (
            fake_robot(real=True),
            ConstantPolicy(),
            {},
            seconds,
        )
        self.begin = time.monotonic()

    def later(self, call, *values, act):
        if time.monotonic() > self.begin + self.seconds:
            act()
        return call(*values)

    def spoil(self, owner, name, act):
        call = getattr(owner, name)
        setattr(owner, name, lambda *values: self.later(call, *values, act=act))


def fails():
    raise OSError(19, "No such device")


def signalled(*names):
    def act():
        for name in names:
            os.kill(os.getpid(), getattr(signal, name))

    return act


MOVES = ("state", "execute", "health")
DEVICES = [
    *(("arms", name) for name in MOVES),
    *(("grippers", name) for name in MOVES),
    *(("cameras", name) for name in ("read", "health")),
]


def leaves_nothing(exits):
    """Runs an episode; what it raised, after a look around."""
    began, raised = time.monotonic(), None
    try:
        run_episode(
            exits.robot, exits.policy, "Pick up the red cube.",
            settings=fake_settings(SLOW_EYES | {"safety.fault_seconds": 0.2}),
            config=LoopConfig(deadline=0.3), max_seconds=0.6, **exits.options,
        )  # fmt: skip
    except Exception as error:
        raised = error
    assert time.monotonic() - began < 20.0
    for device in (*exits.robot.arms.values(), *exits.robot.grippers.values()):
        assert device._stopped
    assert nothing_is_left()
    return raised


@pytest.mark.parametrize("seconds", [-1.0, 0.25])
@pytest.mark.parametrize(("part", "name"), DEVICES)
def test_an_exception_of_a_devices_method(part, name, seconds):
    """From the first call on, and in the middle of the motion."""
    exits = Exits(seconds)
    exits.spoil(getattr(exits.robot, part)["left"], name, fails)
    raised = leaves_nothing(exits)
    if seconds < 0 and name in ("state", "health"):
        assert isinstance(raised, SafetyError), "refused before anything moves"
    else:
        assert raised is None or isinstance(raised, RDT2Error)


@pytest.mark.parametrize(
    ("owner", "name"), [("policy", "predict"), ("recorder", "on_frame"), ("permit", ""), ("clock", "now")]
)
def test_an_exception_of_whoever_takes_part(owner, name):
    exits = Exits(0.25)
    recorder = SimpleNamespace(on_cycle=lambda *_: None, on_frame=lambda *_: None)
    exits.options = {"recorder": recorder, "permit": lambda: ""}
    if owner == "permit":
        exits.options["permit"] = lambda: exits.later(lambda: "", act=fails)
    elif owner == "policy":
        predict = exits.policy.predict
        exits.policy.predict = lambda observations, **named: exits.later(
            lambda: predict(observations, **named), act=fails
        )
    else:
        exits.spoil({"recorder": recorder, "clock": exits.robot.clock}[owner], name, once(fails))
    raised = leaves_nothing(exits)
    assert raised is None or isinstance(raised, OSError)


def once(act):
    done = []

    def acts():
        if not done:
            done.append(True)
            act()

    return acts


@pytest.mark.parametrize(
    "names", [["SIGTERM"], ["SIGINT"], ["SIGINT", "SIGINT"], ["SIGHUP"], ["SIGTERM", "SIGINT", "SIGTERM"]]
)
def test_signals(names):
    exits = Exits(0.25)
    threading.Timer(0.3, signalled(*names)).start()
    assert leaves_nothing(exits) is None


@pytest.mark.parametrize("done", [True, False])
def test_success_and_the_end_of_the_time(done):
    exits = Exits(0.25)
    exits.options = {"monitor": SimpleNamespace(success=done, followed=True, done=done)}
    assert leaves_nothing(exits) is None


def test_settings_that_are_refused():
    robot = fake_robot(real=True)
    with pytest.raises(RDT2Error):
        run_episode(robot, ConstantPolicy(), "", settings=fake_settings())
    with pytest.raises(RDT2Error):
        run_episode(
            robot, ConstantPolicy(), "Go.", settings=fake_settings(), config=LoopConfig(mode="chunking")
        )
    assert nothing_is_left()


@pytest.fixture
def importable(monkeypatch):
    """This file, in a policy's process."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert sys.path


@pytest.mark.parametrize("way", ["closed", "exception", "Ctrl-C", "killed while it drives"])
def test_a_policys_process(way, importable):
    started = []
    try:
        with PolicyProcess(SPEC, open=opened) as policy:
            started.append(policy.pid)
            if way == "exception":
                raise ValueError
            if way == "Ctrl-C":
                raise KeyboardInterrupt
            if way == "killed while it drives":
                robot = fake_robot(real=True)
                killed = []

                def kill():
                    killed.append(robot.clock.now())
                    os.kill(policy.pid, signal.SIGKILL)

                with Lateness() as lateness:
                    threading.Timer(0.8, kill).start()
                    result = run_episode(
                        robot,
                        policy,
                        "Go.",
                        settings=fake_settings(SLOW_EYES),
                        config=LoopConfig(deadline=0.5),
                        max_seconds=6.0,
                    )
                    noticed = robot.clock.now() - killed[0]
                assert "the policy's process has died" in result.ending
                # 10 ms where nothing else runs
                assert noticed < 0.4 + 3 * lateness.most, f"threads came {lateness.most:.2f} s late"
                last = [(now, poses) for now, _, poses in robot.arms["left"].calls if now > killed[0]]
                assert len(last) * 0.008 < 2 / 30 + 0.1, "it drove on"
    except (ValueError, KeyboardInterrupt):
        pass
    assert started
    assert nothing_is_left()


def test_a_policy_that_cannot_be_loaded(importable):
    with pytest.raises(CheckpointError, match="there is none"):
        PolicyProcess(SPEC, open=refused)
    assert nothing_is_left()
