"""The robot's end of the operator's page: what an operator wants happens at once; a page costs the servo nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings
from page_standing_in import Operator, serve

import rdt2.dashboard.showing as module
from rdt2.control import LoopConfig, run_episode
from rdt2.control.pilots import HandPilot, KeyboardPilot
from rdt2.dashboard.desk import EMERGENCY, GONE, LET_GO, STOP, Desk
from rdt2.dashboard.figure import Figure
from rdt2.dashboard.messages import Chunk, Pictures, Scene, Shot, State
from rdt2.errors import RobotError
from rdt2.sim.pace import Paced

SENTENCE = "Pick up the red cube with the left hand."


@pytest.fixture
def operator(tmp_path, monkeypatch):
    monkeypatch.setattr("rdt2.dashboard.showing.serve", serve)
    monkeypatch.setattr("rdt2.dashboard.desk.SETTLING", 0.0)  # nobody here says a word twice by mistake
    return Operator(tmp_path)


@pytest.fixture
def desk(operator):
    with Desk(operator.looking, goes_on=False) as opened:
        yield opened


def soon(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


class Episode:
    """An episode of a fake robot in a thread, as a command runs it. Its time is simulated, so that a busy machine makes
    nothing late; or that of the wall."""

    def __init__(self, desk, *, seconds=60.0, real=False):
        self.robot, self.policy, self.desk = fake_robot(real=real), ConstantPolicy(0.0005), desk
        if not real:
            self.robot = dataclasses.replace(self.robot, clock=Paced(self.robot.clock))
        self.config = LoopConfig(latency=None if real else 0.1)
        self.seconds, self.result, self.mark, self.error = seconds, None, None, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        settings = fake_settings()
        try:
            figure = Figure.of_robot(settings)
            self.desk.begin(self.robot, figure, SENTENCE, title="cubes")
            self.result = run_episode(
                self.robot, self.policy, self.desk.sentence, settings=settings, recorder=self.desk,
                permit=self.desk.permit, config=self.config, max_seconds=self.seconds,
            )  # fmt: skip
            self.mark = self.desk.end(self.robot, self.result, judged=False)
        except Exception as error:
            self.error = error

    @property
    def moves(self):
        return len(self.robot.arms["left"].calls) > 0

    @property
    def stopped(self):
        return all(device.health().stopped for name, device in self.robot.devices() if "camera" not in name)

    def join(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error


def begin(operator, how="start"):
    soon(lambda: stage(operator) == "ready")
    operator.does(how)


def finish(operator, episode):
    operator.does("stop")
    soon(lambda: stage(operator) == "over")
    operator.does("start")
    episode.join()


def stage(operator):
    states = operator.heard_of(State)
    return states[-1].stage if states else ""


def test_nothing_moves_before_start_and_stop_ends_it(operator, desk):
    episode = Episode(desk)
    soon(lambda: stage(operator) == "ready" and operator.heard_of(Pictures))
    assert not episode.moves
    operator.does("start")
    soon(lambda: operator.heard_of(Chunk) and episode.moves)
    operator.does("stop")
    soon(lambda: stage(operator) == "over")
    assert episode.stopped
    assert episode.result.ending.startswith(STOP)
    assert desk.touched
    operator.does("mark", "failure")
    operator.does("start")
    episode.join()
    assert episode.mark == "failure"
    shots = [shot for shot in operator.heard_of(Shot) if shot.since is not None]
    assert np.diff([shot.since for shot in shots]).min() > 0
    assert set(shots[-1].made) == {"right", "left"}
    assert operator.heard_of(Scene)[0].sides == ("right", "left")


def test_an_emergency_stop_stops_within_ticks_and_only_a_release_lets_it_start_again(operator, desk):
    episode = Episode(desk)
    begin(operator)
    soon(lambda: operator.heard_of(Chunk))
    operator.does("emergency")
    soon(lambda: episode.stopped)
    soon(lambda: stage(operator) == "over")
    assert episode.result.ending.startswith(EMERGENCY)
    operator.does("start")
    episode.join()
    again = Episode(desk)
    soon(lambda: stage(operator) == "ready")
    operator.does("start")
    soon(lambda: "release" in operator.heard_of(State)[-1].problem)
    assert not again.moves
    soon(lambda: again.stopped)
    operator.does("release")
    operator.does("start")
    soon(lambda: again.moves)
    finish(operator, again)


def test_a_fault_that_comes_while_it_waits_is_shown_before_a_word_can_clear_it(operator, desk):
    """Regression: go recovered a robot from a protective stop that nobody had been told of."""
    episode = Episode(desk)
    soon(lambda: stage(operator) == "ready" and operator.heard_of(Pictures))
    arm = episode.robot.arms["left"]
    with desk._doing:  # between two looks
        arm.fail("in a protective stop")
        operator.does("start")
    soon(lambda: "protective stop" in operator.heard_of(State)[-1].problem)
    soon(lambda: stage(operator) == "ready")
    assert not episode.moves
    assert arm.health().fault
    operator.does("start")
    soon(lambda: episode.moves)
    finish(operator, episode)


def test_another_sentence_is_heard_while_the_arms_move(operator, desk):
    episode = Episode(desk)
    begin(operator)
    soon(lambda: operator.heard_of(Chunk))
    for bad in ("", "   ", "x" * 301):
        operator.does("say", bad)
    soon(lambda: operator.heard_of(State)[-1].problem)
    assert desk.sentence() == SENTENCE
    operator.does("say", "  Press the blue   button. ")
    soon(lambda: episode.policy.seen[-1].instruction == "Press the blue button.")
    assert desk.touched
    finish(operator, episode)


def test_a_page_that_hangs_does_not_slow_the_servo(operator, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 8)
    with Desk(operator.looking, goes_on=False) as desk:
        episode = Episode(desk, seconds=4.0, real=True)
        begin(operator)
        soon(lambda: operator.heard_of(Chunk))
        os.kill(desk._showing._process.pid, signal.SIGSTOP)
        before = len(episode.robot.arms["left"].calls)
        soon(lambda: episode.result is not None)
        os.kill(desk._showing._process.pid, signal.SIGCONT)
        calls = np.array([now for now, *_ in episode.robot.arms["left"].calls])[before:]
        assert np.median(np.diff(calls)) < 0.012
        assert np.diff(calls).max() < 0.4
        assert episode.result.ending == "time is up"
        soon(lambda: desk.dropped > 0)
        # what decides the buttons was not among what was dropped
        soon(lambda: stage(operator) == "over")
        operator.does("start")
        episode.join()


def test_a_page_that_dies_is_no_fault_but_nothing_begins_without_it(operator, desk):
    episode = Episode(desk, seconds=2.0)
    begin(operator)
    soon(lambda: operator.heard_of(Chunk))
    desk._showing._process.kill()
    episode.join()
    assert episode.result.ending.startswith("time is up")
    with pytest.raises(RobotError, match="nobody can start"):
        Episode(desk).join()


def test_a_dead_mans_switch_moves_the_arms_only_while_it_is_held(operator, desk):
    operator.does("dead_man", "yes")
    episode = Episode(desk)
    soon(lambda: stage(operator) == "ready" and operator.heard_of(State)[-1].dead_man)
    operator.does("start")  # is not enough
    time.sleep(0.3)
    assert not episode.moves
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        operator.does("holding")
        time.sleep(0.05)
    assert episode.moves
    assert episode.result is None
    soon(lambda: episode.result is not None)
    assert episode.result.ending.startswith(LET_GO)
    operator.does("start")
    episode.join()


def test_a_dead_mans_switch_is_let_go_when_the_page_dies(operator, desk):
    operator.does("dead_man", "yes")
    episode = Episode(desk)
    begin(operator, "holding")
    soon(lambda: episode.moves)
    desk._showing._process.kill()
    episode.join()
    assert episode.result.ending.startswith((GONE, LET_GO))


def test_a_person_takes_over_and_gives_back_on_the_page(operator):
    pilot = HandPilot(fake_settings())
    with Desk(operator.looking, goes_on=False, pilot=pilot) as desk:
        soon(lambda: operator.heard_of(State))
        assert operator.heard_of(State)[0].pilot
        operator.does("take")  # before anything moves
        soon(lambda: "nothing to take over" in operator.heard_of(State)[-1].problem)
        assert not pilot.hands.taken
        episode = Episode(desk)
        begin(operator)
        soon(lambda: operator.heard_of(Chunk))
        operator.does("take")
        soon(lambda: pilot.hands.taken and operator.heard_of(State)[-1].taken)
        operator.does("take")
        soon(lambda: not pilot.hands.taken and not operator.heard_of(State)[-1].taken)
        pilot.take()  # by a button of its own: the page shows that, too
        soon(lambda: operator.heard_of(State)[-1].taken)
        finish(operator, episode)


def test_keys_of_the_terminal_are_not_taken_from_the_page(operator):
    pilot = KeyboardPilot(fake_settings())
    with Desk(operator.looking, goes_on=False, pilot=pilot) as desk:
        episode = Episode(desk)
        begin(operator)
        soon(lambda: operator.heard_of(Chunk))
        assert not operator.heard_of(State)[-1].pilot
        operator.does("take")
        soon(lambda: "type take there" in operator.heard_of(State)[-1].problem)
        assert not pilot.hands.taken
        finish(operator, episode)


def test_a_stop_does_not_wait_for_the_last_seconds_to_be_kept(operator):
    """Regression: they were written where stops are heard."""
    written, begun = threading.Event(), threading.Event()

    def keep():
        begun.set()
        assert written.wait(60)

    with Desk(operator.looking, goes_on=False, keep=keep) as desk:
        episode = Episode(desk)
        begin(operator)
        soon(lambda: operator.heard_of(Chunk))
        operator.does("keep")
        soon(begun.is_set)
        operator.does("emergency")
        soon(lambda: episode.stopped)
        assert not written.is_set()
        written.set()
        soon(lambda: any("nothing is kept" in state.problem for state in operator.heard_of(State)))
        soon(lambda: stage(operator) == "over")
        operator.does("start")
        episode.join()


def test_a_click_that_fails_does_not_end_the_listening(operator, desk):
    """Regression: what a click raised ended the thread that hears them, and with it the emergency stop."""
    hear = desk._showing._hear

    def fails(asked):
        if asked.what == "say":
            raise RuntimeError("nobody is there")
        hear(asked)

    desk._showing._hear = fails
    for _ in range(2):
        operator.does("say", "Pick up the apple.")
    operator.does("emergency")
    soon(lambda: desk.permit() == EMERGENCY)
    assert not desk._showing.gone


def test_who_does_not_hear_the_page_any_more_says_so(operator, desk, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def ends(_):
        raise SystemExit

    desk._showing._hear = ends
    operator.does("pause")
    soon(lambda: desk._showing.gone)
