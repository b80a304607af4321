"""Between a person's word and the first motion: it counts once, and whoever says stop takes it back."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from fake_robot import fake_robot, fake_settings

from rdt2.dashboard.desk import (
    EMERGENCY,
    HELD_SECONDS,
    LET_GO_SECONDS,
    PAUSE,
    TOO_LATE,
    TOO_SOON,
    UNMOVED,
    Desk,
)
from rdt2.dashboard.figure import Figure
from rdt2.dashboard.keyboard import ENDED, LEFT, TYPED
from rdt2.dashboard.messages import Asked
from rdt2.dashboard.options import Looking
from rdt2.errors import RobotError

SENTENCE = "Pick up the red cube with the left hand."


class Typed:
    """In place of a keyboard: a test calls the desk itself."""

    gone = False

    def __init__(self, **_):
        pass

    def put(self, message):
        """Nobody reads it."""

    def close(self):
        """Nothing listens."""


@pytest.fixture
def opened(monkeypatch):
    monkeypatch.setattr("rdt2.dashboard.desk.Keyboard", Typed)
    monkeypatch.setattr("rdt2.dashboard.desk.SETTLING", 0.0)  # nobody here says a word twice by mistake
    desks = []

    def make(**options):
        desks.append(Desk(Looking(), **{"goes_on": False, "typed": True, "welcomed": False, **options}))
        return desks[-1]

    yield make
    for desk in desks:
        desk._do(Asked("leave", LEFT))


def soon(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


class Begins:
    """`Desk.begin` in a thread, of a robot that was stopped; `recovers` counts how often it was recovered since."""

    def __init__(self, desk, *, mends=True, prepare=None):
        self.desk, self.robot, self.error = desk, fake_robot(), None
        self.recovers, self.mends = 0, mends
        self.may_recover, self.may_look = threading.Event(), threading.Event()
        self.may_recover.set()
        self.may_look.set()
        self.robot.stop()
        arm, camera = self.robot.arms["left"], self.robot.cameras["left"]
        recover, read = arm.recover, camera.read

        def recovered():
            self.recovers += 1
            self.may_recover.wait(20)
            if self.mends:
                recover()

        arm.recover = recovered
        camera.read = lambda: self.may_look.wait(20) and read()
        self.prepare = prepare
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()
        soon(lambda: self.desk._state.stage == "ready")
        return self

    def _run(self):
        try:
            figure = Figure.of_robot(fake_settings())
            self.desk.begin(self.robot, figure, SENTENCE, title="cubes", prepare=self.prepare)
        except RobotError as error:
            self.error = error

    @property
    def begun(self):
        return not self.thread.is_alive()

    @property
    def stopped(self):
        return all(arm.health().stopped for arm in self.robot.arms.values())

    def waits(self, problem):
        """It waits for another word, stopped, and says why."""
        soon(lambda: self.desk._state.stage == "ready" and problem in self.desk._state.problem)
        soon(lambda: self.stopped)
        time.sleep(0.2)
        assert not self.begun
        return True

    def goes(self):
        self.desk._do(Asked("start"))
        soon(lambda: self.begun)
        assert self.desk._state.stage == "running"
        assert self.desk.permit() == ""


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Asked("stop", TYPED), TYPED),
        (Asked("stop", ENDED), ENDED),
        (Asked("emergency"), EMERGENCY),
        (Asked("finish", "success"), UNMOVED),
        (Asked("finish"), UNMOVED),
    ],
)
def test_whatever_is_said_while_a_robot_is_recovered_takes_the_word_back(opened, asked, says):
    """Regression: recovering two arms takes seconds, in which a stop was thrown away."""
    desk = opened()
    begins = Begins(desk).start()
    begins.may_recover.clear()
    desk._do(Asked("start"))
    soon(lambda: begins.recovers == 1)
    desk._do(asked)
    begins.may_recover.set()
    assert begins.waits(says)
    assert begins.recovers == 1
    assert not desk.touched
    assert desk.mark is None
    desk._do(Asked("release"))
    begins.goes()
    assert begins.recovers == 2


def test_a_pause_while_a_robot_is_recovered_lets_the_arms_rest(opened):
    desk = opened()
    begins = Begins(desk).start()
    begins.may_recover.clear()
    desk._do(Asked("start"))
    soon(lambda: begins.recovers == 1)
    desk._do(Asked("pause"))
    begins.may_recover.set()
    soon(lambda: begins.begun)
    assert desk.pause() == PAUSE


def test_who_leaves_while_a_robot_is_recovered_has_left(opened):
    desk = opened()
    begins = Begins(desk).start()
    begins.may_recover.clear()
    desk._do(Asked("start"))
    soon(lambda: begins.recovers == 1)
    desk._do(Asked("leave", LEFT))
    begins.may_recover.set()
    soon(lambda: begins.begun)
    assert desk.left
    assert begins.stopped


@pytest.mark.parametrize("asked", [Asked("stop", TYPED), Asked("stop", ENDED), Asked("pause")])
def test_a_stop_right_after_go_counts(opened, asked):
    """Regression: also before anything was made of the go."""
    desk = opened()
    begins = Begins(desk)
    begins.may_look.clear()
    begins.start()
    desk._do(Asked("start"))
    desk._do(asked)
    assert UNMOVED in desk._state.problem
    begins.may_look.set()
    time.sleep(0.3)
    assert not begins.begun
    assert begins.recovers == 0
    begins.goes()


def test_a_terminal_that_ends_after_go_starts_nothing(opened, monkeypatch):
    """`echo go | rdt2 run`."""
    desk = opened()
    begins = Begins(desk)
    begins.may_look.clear()
    begins.start()
    desk._do(Asked("start"))
    monkeypatch.setattr(Typed, "gone", True)
    desk._do(Asked("stop", ENDED))
    begins.may_look.set()
    soon(lambda: begins.begun)
    assert "nobody can start the arms" in str(begins.error)
    assert begins.recovers == 0


@pytest.mark.parametrize("asked", [Asked("stop", TYPED), Asked("pause"), Asked("emergency")])
def test_a_stop_while_the_policy_is_loaded_keeps_what_would_begin_by_itself(opened, asked):
    desk = opened(welcomed=True)
    desk._do(asked)
    begins = Begins(desk).start()
    time.sleep(0.2)
    desk._do(Asked("release"))
    time.sleep(0.3)
    assert not begins.begun
    assert begins.recovers == 0
    begins.goes()


def test_go_before_it_is_ready_is_answered(opened):
    """Regression: go, typed while all was being loaded, was dropped without a word."""
    desk = opened()
    desk._do(Asked("start"))
    assert desk._state.problem == TOO_SOON
    begins = Begins(desk).start()
    time.sleep(0.2)
    assert begins.recovers == 0


def test_one_word_is_one_attempt(opened):
    """Regression: a robot that stayed at fault was unlocked again and again on one word of a person."""
    desk = opened()
    begins = Begins(desk, mends=False).start()
    desk._do(Asked("start"))
    assert begins.waits("left arm: stopped")
    assert begins.recovers == 1
    desk._do(Asked("start"))
    soon(lambda: begins.recovers == 2)
    assert begins.waits("left arm: stopped")
    begins.mends = True
    begins.goes()
    assert begins.recovers == 3


def test_who_goes_on_holding_the_dead_mans_switch_has_said_one_word(opened):
    desk = opened()
    desk._showing = SimpleNamespace(gone=False, patient=False)  # the page on which it is held
    desk._do(Asked("dead_man", "yes"))
    begins = Begins(desk, mends=False).start()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        desk._do(Asked("holding"))
        time.sleep(0.05)
    assert begins.recovers == 1
    time.sleep(HELD_SECONDS + 0.1)  # the page hung, while it was held
    desk._do(Asked("holding"))
    time.sleep(0.2)
    assert begins.recovers == 1
    time.sleep(LET_GO_SECONDS + 0.1)
    desk._do(Asked("holding"))
    soon(lambda: begins.recovers == 2)


def test_a_robot_at_fault_does_not_begin_by_itself(opened):
    desk = opened(welcomed=True)
    begins = Begins(desk)
    begins.robot.arms["left"].fail("a protective stop")
    begins.start()
    assert begins.waits("a protective stop")
    assert begins.recovers == 0
    begins.goes()


def test_what_is_recovered_is_prepared_and_what_is_not_as_it_should_be_waits(opened):
    prepared = []

    def prepare():
        prepared.append(begins.stopped)
        if len(prepared) == 1:
            raise RobotError("payload is 1.5 kg, expected 0.82 kg")

    begins = Begins(opened(), prepare=prepare).start()
    begins.desk._do(Asked("start"))
    assert begins.waits("payload is 1.5 kg")
    begins.goes()
    assert prepared == [False, False]


def test_a_mark_that_comes_late_marks_nothing(opened):
    """Regression: it marked the next episode as a success, and ended it."""
    desk = opened()
    begins = Begins(desk).start()
    desk._do(Asked("mark", "success"))
    assert (desk.mark, desk._state.problem) == (None, TOO_LATE)
    begins.goes()
    desk._do(Asked("mark", "success"))
    assert desk.mark == "success"


@pytest.mark.parametrize("again", ["start", ""], ids=["pressed", "typed"])
def test_go_on_said_twice_starts_nothing(opened, monkeypatch, again):
    """Regression: the second press arrived when the same button said start, and the second go ended nothing, but
    started the arms."""
    desk = opened()
    begins = Begins(desk).start()
    desk._do(Asked("start", "next"))
    time.sleep(0.3)
    assert not begins.begun
    desk._do(Asked("start", "start"))  # the first time nothing was there before
    soon(lambda: begins.begun)
    desk._set(stage="over")
    monkeypatch.setattr("rdt2.dashboard.desk.SETTLING", 10.0)
    other = Begins(desk).start()
    desk._do(Asked("start", again and "next"))
    desk._do(Asked("start", again))
    assert desk._state.problem == TOO_SOON
    time.sleep(0.3)
    assert not other.begun
    desk._settled = 0.0
    desk._do(Asked("start", again))
    soon(lambda: other.begun)
