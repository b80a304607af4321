"""The cell in real time: a robot like others, states at once, and arms that stop whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.register_assert_rewrite("conformance")

from conformance import PERIOD, Conformance, follow, ready, run, wait_for_rest  # noqa: E402

from rdt2.errors import RobotError, SafetyError, TaskError  # noqa: E402
from rdt2.sim import make_scene, task_for  # noqa: E402
from rdt2.sim.board import Board  # noqa: E402
from rdt2.sim.realtime import RealtimeCell  # noqa: E402

SCENE = make_scene("pick", 1)


@pytest.fixture(scope="module")
def cell():
    with RealtimeCell("ur5e", SCENE, task=task_for(SCENE)) as cell:
        robot = cell.robot()
        cell.homes = {side: arm.state().pose for side, arm in robot.arms.items()}
        yield cell


@pytest.fixture
def robot(cell):
    """Both arms where they were at the beginning."""
    robot = cell.robot()
    robot.connect()
    for side in robot.sides:  # the test before may have left it on its way to rest
        wait_for_rest(robot, side)
    robot.recover()
    ready(robot)
    for side, home in cell.homes.items():
        start = robot.arms[side].state().pose
        share = np.linspace(0, 1, 31)[1:, None]
        poses = np.repeat(home[None], 30, axis=0)
        poses[:, :3, 3] = start[:3, 3] + share * (home - start)[:3, 3]
        if np.linalg.norm((home - start)[:3, 3]) > 1e-3:
            follow(robot, robot.arms[side], robot.clock.now() + 0.05 + PERIOD * np.arange(1, 31), poses)
            run(robot, 0.2)
    return robot


class TestRealtime(Conformance):
    """The same suite as for every robot."""


def test_states_are_read_at_once_and_are_new(robot) -> None:
    arm, camera = robot.arms["left"], robot.cameras["left"]
    seconds, ages = [], []
    for _ in range(300):
        started = time.perf_counter()
        state = arm.state()
        seconds.append(time.perf_counter() - started)
        ages.append(robot.clock.now() - state.timestamp)
        time.sleep(0.001)
    assert np.median(seconds) < 1e-3
    assert np.median(ages) < 0.02
    assert min(ages) >= 0, "stamped ahead of the robot's clock: the loop would stop"
    started = time.perf_counter()
    picture = camera.read()
    assert time.perf_counter() - started < 0.01
    assert picture.image.std() > 10
    assert robot.clock.now() - picture.timestamp < 0.25


def test_it_keeps_up_with_the_wall_clock(cell, robot) -> None:
    began, wall = robot.clock.now(), time.monotonic()
    first = robot.cameras["right"].read().sequence
    time.sleep(1.0)
    assert robot.clock.now() - began == pytest.approx(time.monotonic() - wall, abs=0.2)
    assert robot.cameras["right"].read().sequence - first >= 15
    assert cell.real_time_factor > 0.8


def test_the_judge_is_asked_from_here(cell) -> None:
    assert cell.monitor.success is False
    assert cell.monitor.done is False


def test_all_are_stopped_from_threads_of_their_own(robot) -> None:
    assert robot.concurrent
    started = time.perf_counter()
    assert robot.stop() == {}
    assert time.perf_counter() - started < 0.4
    robot.recover()


def test_errors_of_the_process_are_errors_here() -> None:
    with pytest.raises(TaskError, match="octopus"):
        RealtimeCell("octopus", SCENE)


def test_a_process_that_dies_is_a_fault_of_every_device_and_nothing_waits_for_it() -> None:
    with RealtimeCell("handheld", SCENE) as cell:
        robot = cell.robot()
        cell.process.kill()
        cell.process.join()
        started = time.perf_counter()
        assert len(robot.faults()) == 6
        with pytest.raises(RobotError, match="process has ended"):
            robot.arms["left"].state()
        with pytest.raises((SafetyError, RobotError), match="process has ended"):
            robot.arms["left"].execute(np.array([robot.clock.now() + 0.1]), np.eye(4)[None])
        assert set(robot.stop()) == {name for name, _ in robot.devices()}
        robot.close()
        assert time.perf_counter() - started < 2.0
    with pytest.raises(RobotError):
        robot.arms["left"].state()


VICTIM = """
import json, sys, time
import numpy as np
from rdt2.sim import make_scene
from rdt2.sim.realtime import RealtimeCell

if __name__ == "__main__":
    cell = RealtimeCell("ur5e", make_scene("pick", 1))
    robot = cell.robot()
    start = robot.arms["left"].state().pose
    print(json.dumps({"board": cell._board.name, "process": cell.process.pid}), flush=True)
    for tick in range(10_000):
        pose = start.copy()
        pose[2, 3] += 0.05 * np.sin(2 * np.pi * 0.6 * tick * 0.008)   # up to 0.19 m/s
        robot.arms["left"].execute(np.array([robot.clock.now() + 0.02]), pose[None])
        time.sleep(0.008)
"""


def test_arms_stop_and_the_cell_ends_when_its_owner_is_killed(tmp_path) -> None:
    """kill -9 of the main process, in the middle of a motion."""
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        told = json.loads(owner.stdout.readline())
        board = _Onlooker(told["board"])
        moving = _wait(lambda: board.speed() > 0.12, 10)
        assert moving is not None, "it never moved"
        killed = time.monotonic()
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        still = _wait(lambda: board.speed() < 0.01, 2)
        assert still is not None
        assert time.monotonic() - killed < 0.35, (
            "100 ms, and 0.1 s of braking, and the wait for this process's turn"
        )
        assert _wait(lambda: not _runs(told["process"]), 5) is not None, "the cell's process is left over"
        board.close()
    finally:
        owner.kill()
        owner.wait()


class _Onlooker(Board):
    """Reads another process's board and leaves it to its owner."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from multiprocessing import resource_tracker

        resource_tracker.unregister(self._memory._name, "shared_memory")

    def speed(self) -> float:
        return float(np.linalg.norm(self.read(lambda: self.device("left arm"))["velocity"][:3]))


def _wait(condition, seconds: float):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return time.monotonic()
        time.sleep(0.002)
    return None


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
