"""The cell in real time: a robot like others, states at once, and arms that stop whoever dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.register_assert_rewrite("conformance")

from conformance import PERIOD, Conformance, follow, ready, run, wait_for_rest  # noqa: E402
from lateness import on_time  # noqa: E402

from rdt2.errors import ConfigError, RobotError, SafetyError, TaskError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402
from rdt2.sim import make_scene, task_for  # noqa: E402
from rdt2.sim.board import Board  # noqa: E402
from rdt2.sim.realtime import RealtimeCell  # noqa: E402

pytestmark = pytest.mark.realtime

SCENE = make_scene("pick", 1)


@pytest.fixture(scope="module")
def cell():
    with RealtimeCell("ur5e", SCENE, task=task_for(SCENE)) as cell:
        robot = cell.robot()
        cell.homes = {side: arm.state().pose for side, arm in robot.arms.items()}
        yield cell


@pytest.fixture
def hurried(cell):
    """The cell has been started: its process is not meant."""
    with on_time():
        yield


@pytest.fixture
def robot(cell, hurried):
    """Both arms where they were at the beginning."""
    robot = cell.robot()
    robot.connect()
    for attempt in range(3):
        for side in robot.sides:  # the test before may have left it on its way to rest
            wait_for_rest(robot, side)
        robot.recover()
        ready(robot)
        try:
            for side, home in cell.homes.items():
                go_home(robot, side, home)
        except (
            SafetyError
        ):  # on a machine that gave this thread no turn for 100 ms, and not for any other reason
            stopped = {device.health().fault for device in robot.arms.values()}
            assert stopped <= {"", "heard nothing for 100 ms"}
            assert attempt < 2
        else:
            break
    return robot


def go_home(robot, side, home):
    start = robot.arms[side].state().pose
    share = np.linspace(0, 1, 31)[1:, None]
    poses = np.repeat(home[None], 30, axis=0)
    poses[:, :3, 3] = start[:3, 3] + share * (home - start)[:3, 3]
    if np.linalg.norm((home - start)[:3, 3]) > 1e-3:
        follow(robot, robot.arms[side], robot.clock.now() + 0.05 + PERIOD * np.arange(1, 31), poses)
        run(robot, 0.2)


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
    assert np.median(ages) < 0.05  # 0.005 where nothing else runs
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


@pytest.mark.parametrize(("held_up", "oldest"), [(0.3, (0.0, 0.1)), (0.8, (0.4, 1.0))])
def test_time_stands_still_with_a_process_that_gets_no_turn(cell, robot, held_up, oldest) -> None:
    """Regression: a busy machine made states old, and stopped the arms; what hangs must."""
    os.kill(cell.process.pid, signal.SIGSTOP)
    began, ages, times = time.monotonic(), [], []
    while time.monotonic() < began + held_up + 0.2:
        if time.monotonic() > began + held_up:
            os.kill(cell.process.pid, signal.SIGCONT)
        ages.append(robot.clock.now() - robot.arms["left"].state().timestamp)
        times.append(robot.clock.now())
        time.sleep(0.002)
    assert oldest[0] < max(ages) < oldest[1]
    assert (np.diff(times) >= 0).all()
    waited, wanted = time.monotonic(), robot.clock.now() + 0.1
    robot.clock.sleep_until(wanted)
    assert 0.05 < time.monotonic() - waited < 1.5


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


def test_a_robots_settings_make_its_cell() -> None:
    """What a driver takes, `RobotSettings`, is enough; a robot of one arm has one."""
    both = RobotSettings.read("cell_ur5e")
    left = RobotSettings.model_validate(
        {**both.model_dump(), "arms": {"left": both.arms["left"].model_dump()}}
    )
    with RealtimeCell.of(left, SCENE) as cell:
        robot = cell.robot()
        assert robot.sides == ("left",)
        assert robot.arms["left"].timing.latency == both.cell.arms.latency
        assert robot.cameras["left"].timing.latency == both.cell.cameras.delay
    with pytest.raises(ConfigError, match=r"of kind ur5e .* expected kind cell"):
        RealtimeCell.of(RobotSettings.read("bimanual_ur5e"), SCENE)


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
import json, sys
import numpy as np
sys.path.insert(0, {folder!r})
from fake_robot import SIDES, ConstantPolicy
from rdt2.action import HORIZON, chunk_from_poses
from rdt2.control import LoopConfig, run_episode
from rdt2.sim import make_scene
from rdt2.sim.cell import cell_settings
from rdt2.sim.realtime import RealtimeCell

class ToAndFro(ConstantPolicy):
    def values(self):
        motion = np.repeat(np.eye(4)[None], HORIZON, axis=0)
        motion[:, 0, 3] = (-1) ** len(self.seen) * {speed} / 30 * np.arange(1, HORIZON + 1)
        return chunk_from_poses(
            {{s: np.eye(4) for s in SIDES}}, {{s: motion for s in SIDES}}, {{s: np.full(HORIZON, 0.05) for s in SIDES}}
        )

if __name__ == "__main__":
    scene = make_scene("pick", 1)
    settings = cell_settings("ur5e").changed({{
        "safety.table_height": scene.table_height, "safety.max_age": 1.0, "safety.max_skew": 0.5  # drawn slowly
    }})
    with RealtimeCell.of(settings, scene) as cell:
        processes = [cell.process.pid, cell._drawing.pid]
        print(json.dumps({{"board": cell._board.name, "processes": processes}}), flush=True)
        run_episode(
            cell.robot(), ToAndFro(), "Go to and fro.", settings=settings, max_seconds=60.0,
            config=LoopConfig(mode="synchronous", execute_steps=20),
        )
"""
LATENCY = 0.05
"""Of the arms of cell_ur5e, seconds."""


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_arms_brake_within_their_limits_when_their_owner_hangs_or_is_killed(number, tmp_path) -> None:
    """Regression: the watchdog heard of nothing, because one step was sent at a time; arms stopped dead behind it. And
    the process that draws was not looked for."""
    script = tmp_path / "victim.py"
    script.write_text(VICTIM.format(folder=str(Path(__file__).parents[1] / "control"), speed=0.4))
    with contextlib.ExitStack() as stack:
        command = [sys.executable, str(script)]
        owner = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(owner.kill)
        told = json.loads(owner.stdout.readline())
        board = stack.enter_context(contextlib.closing(_Onlooker(told["board"])))
        moving = _wait(lambda: board.speed() > 0.36, 60)
        assert moving is not None, "it never moved"
        os.kill(owner.pid, number)
        seen = []
        _wait(lambda: seen.append(board.motion()), 0.7)
        seen = np.array(seen)
        seen = seen[np.unique(seen[:, 0], return_index=True)[1]]
        since, speeds = seen[:, 0] - seen[0, 0], np.linalg.norm(seen[:, 1:], axis=1)
        # Late by their latency, the arms may still gain speed by the last words. A killed owner is noticed at once.
        word = 0.108 + LATENCY
        assert since[speeds.argmax()] < word, "100 ms and a period after the last word"
        assert since[speeds >= 0.02].max() < word + 0.15, "and 0.15 s of braking, from 1.2 m/s"
        assert speeds[-1] < 0.02
        changes = np.linalg.norm(np.diff(seen[:, 1:], axis=0), axis=1) / np.maximum(np.diff(since), 0.006)
        assert changes.max() < 1.25 * 12.0, "it stops in a step"
        if number == signal.SIGKILL:
            assert _wait(lambda: not any(map(_runs, told["processes"])), 20) is not None, (
                "the cell's process, or that which draws, is left over"
            )


class _Onlooker(Board):
    """Reads another process's board and leaves it to its owner."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from multiprocessing import resource_tracker

        resource_tracker.unregister(self._memory._name, "shared_memory")

    def speed(self) -> float:
        return float(np.linalg.norm(self.motion()[1:]))

    def motion(self):
        """When, and the velocity of the left arm."""
        arm = self.device("left arm")
        return [float(arm["timestamp"]), *arm["velocity"][:3]]


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
