"""Faults while the loop drives two UR5e of the real-time cell: how soon the arms are at rest, and what is left.

    python benchmarks/faults.py --json faults.json                       # two minutes
    python benchmarks/faults.py --motion swings --json faults_swings.json

A policy moves both arms at 0.3 m/s. One that `turns` round with every chunk wants them somewhere else each time it
answers, and they go there as fast as they may, up to 1.5 m/s; one that `swings` them moves smoothly, as real ones do.
Every row is an episode in which something goes wrong while the arms move; everything is recorded to disk as `rdt2 run
--record` does, pictures as well, and `recorded` is what can be read back. `acted` is from the fault to the moment at
which the loop lets the arms brake or stops them; devices and pictures count as wrong once they are older than the
robot's file allows, so those rows hold that age. `still` is from there to rest: braking within the limits, and the
latency of the arms; its goal is 100 ms, whatever the arms were doing. In the last rows the whole process of the loop is
suspended, or killed: nobody is left to act but the devices, and `acted` is until the arms themselves are seen to slow
down, their latency included.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rdt2.control import DiskRecorder, EpisodeResult, LoopConfig, run_episode
from rdt2.control.limiter import Limiter, Motion
from rdt2.control.servo import TICK
from rdt2.errors import RDT2Error, SafetyError
from rdt2.policy import PolicyProcess
from rdt2.robot import Robot
from rdt2.robot.settings import Bounds, RobotSettings
from rdt2.signals import Listening
from rdt2.sim import make_scene
from rdt2.sim.board import Board
from rdt2.sim.cell import cell_settings
from rdt2.sim.realtime import RealtimeCell
from wallclock import MOVES, SENTENCE, SPEED, Speeds, machine, moves, open_moves, recorded

SCENE = make_scene("pick", 1)
FAST = 0.8 * SPEED
"""m/s: from here on a fault may come."""
STILL = 0.02
"""m/s: below it an arm counts as at rest."""
AFTER = 1.5
"""Seconds of motion before the fault."""
TRIES = 3
"""Episodes in which a fault is tried: on a busy machine one may end before."""


class Deaf(Listening):
    """Signals mean nothing to the benchmark itself."""

    def _heard(self, number: int, frame: Any) -> None:
        pass


@dataclasses.dataclass
class Run:
    """What a fault may touch."""

    robot: Robot
    policy: PolicyProcess
    recorder: DiskRecorder


def patch(device: Any, name: str, wrong: Callable[[Callable], Any]) -> None:
    right = getattr(device, name)
    setattr(device, name, lambda *values, **named: wrong(right, *values, **named))


def refuse(_: Any, *values: Any) -> None:
    raise SafetyError("the left arm refuses: protective stop.")


def raises(_: Any, *values: Any) -> None:
    raise OSError(113, "No route to host")


def camera_stops(run: Run) -> None:
    last = run.robot.cameras["left"].read()
    patch(run.robot.cameras["left"], "read", lambda read: last)


def camera_repeats(run: Run) -> None:
    last = run.robot.cameras["left"].read().image
    patch(run.robot.cameras["left"], "read", lambda read: dataclasses.replace(read(), image=last))


def shifted(seconds: float) -> Callable[[Run], None]:
    def wrong(read: Callable) -> Any:
        frame = read()
        return dataclasses.replace(frame, timestamp=frame.timestamp + seconds)

    return lambda run: patch(run.robot.cameras["left"], "read", wrong)


def arm_frozen(run: Run) -> None:
    last = run.robot.arms["left"].state()
    patch(run.robot.arms["left"], "state", lambda state: last)


def disk_full(run: Run) -> None:
    """What the recording is written to is full from now on."""
    (path,) = run.recorder.files
    with open("/dev/full", "wb") as full:
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # that of the listing is closed by now
                if os.path.samestat(os.fstat(number), path.stat()):
                    os.dup2(full.fileno(), number)


def twice(run: Run) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


FAULTS: dict[str, Callable[[Run], None]] = {
    "camera stops": camera_stops,
    "camera repeats its picture": camera_repeats,
    "camera stamps ahead": shifted(3.0),
    "cameras 0.15 s apart": shifted(-0.15),
    "arm state frozen": arm_frozen,
    "arm refuses a command": lambda run: patch(run.robot.arms["left"], "execute", refuse),
    "driver does nothing": lambda run: patch(run.robot.arms["left"], "execute", lambda *_: None),
    "driver raises OSError": lambda run: patch(run.robot.grippers["right"], "state", raises),
    "policy: NaN": lambda run: None,
    "policy: hangs 5 s": lambda run: None,
    "policy: killed (kill -9)": lambda run: os.kill(run.policy.pid, signal.SIGKILL),
    "disk full in the recorder": disk_full,
    "SIGTERM": lambda run: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT twice": twice,
}
WHOLE = {
    "main process suspended (SIGSTOP)": signal.SIGSTOP,
    "main process killed (kill -9)": signal.SIGKILL,
}


@dataclasses.dataclass
class Drive:
    """How the arms move, and what is allowed to devices and the policy before the loop calls it a fault."""

    motion: str
    settings: RobotSettings
    config: LoopConfig
    options: list[str]
    """Of the command line."""


def driving(motion: str, slow: bool) -> Drive:
    """As the robot's file says; or, on a slow machine, as much as such a file may say."""
    robot = cell_settings("ur5e").changed({"safety.table_height": SCENE.table_height})
    if not slow:
        return Drive(motion, robot, LoopConfig(deadline=0.5), ["--motion", motion])
    late = {"max_age": 1.0, "max_skew": 0.5, "fault_seconds": 20.0, "faults_per_minute": 60}
    robot = robot.changed({f"safety.{name}": value for name, value in late.items()})
    config = LoopConfig(mode="synchronous", execute_steps=20)
    return Drive(motion, robot, config, ["--motion", motion, "--slow"])


def try_fault(name: str, cell: RealtimeCell, drive: Drive) -> dict[str, Any]:
    """A fault in the middle of an episode. One that ends before its fault was ended by the machine: there is another.

    Raises:
        SystemExit: none lasted until its fault.
    """
    for number in range(1, TRIES + 1):
        figures, ending = episode(name, cell, drive)
        if figures is not None:
            return figures
        print(f"{name}: episode {number} of {TRIES} ended before its fault: {ending}", file=sys.stderr)
    raise SystemExit(
        f"{name}: none of {TRIES} episodes lasted until its fault. Is the machine too busy for a cell in real time?"
    )


def episode(name: str, cell: RealtimeCell, drive: Drive) -> tuple[dict[str, Any] | None, str]:
    """One episode with one fault: its figures, None if it ended before its fault; and how it ended."""
    kind = {"policy: NaN": "NaN", "policy: hangs 5 s": "hangs"}.get(name, "")
    robot = cell.robot()
    happened: list[float] = []
    stops: list[float] = []

    def noted(stop: Callable) -> None:
        stops.append(robot.clock.now())
        stop()

    for arm in robot.arms.values():
        patch(arm, "stop", noted)
    with (
        tempfile.TemporaryDirectory() as folder,
        PolicyProcess(moves(drive.motion, 0.05, fault=kind), open=open_moves) as policy,
        Speeds(cell.robot()) as speeds,
        Deaf("SIGINT", "SIGTERM"),  # a second one may come when the episode is over
    ):
        recorder = DiskRecorder(folder, policy={})
        recorder.begin(robot.clock, drive.settings)
        run = Run(robot, policy, recorder)
        going_wrong = fifth_answer(policy, robot, happened) if kind else later(name, run, speeds, happened)
        try:
            robot.recover()
            with going_wrong:
                result = run_episode(
                    robot, policy, SENTENCE, settings=drive.settings, config=drive.config, recorder=recorder,
                    max_seconds=8.0,
                )  # fmt: skip
                over = robot.clock.now()
        except RDT2Error as error:
            if happened:
                raise
            return None, str(error)
        time.sleep(0.5)
        recorder.end(result)
        if not happened or happened[0] > over:
            return None, result.ending
        found = recorded(Path(folder))
    result.unrecorded = " ".join(filter(None, (result.unrecorded, recorder.problem)))
    return row(result, speeds, happened[0], stops, over, found), result.ending


@contextlib.contextmanager
def later(name: str, run: Run, speeds: Speeds, happened: list[float]) -> Iterator[None]:
    """Within the block, let a fault happen when the arms have moved for a while; not when the block is over."""
    over = threading.Event()

    def go_wrong() -> None:
        for seconds in (AFTER, 0.0):  # one that swings stands still twice in a period
            while not moving(speeds):
                if over.wait(0.001):
                    return
            if over.wait(seconds):
                return
        happened.append(run.robot.clock.now())
        FAULTS[name](run)

    thread = threading.Thread(target=go_wrong, name="fault", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def fifth_answer(policy: PolicyProcess, robot: Robot, happened: list[float]) -> Iterator[None]:
    """Note when the policy goes wrong by itself."""
    asked = itertools.count(1)

    def asks(ask: Callable, *values: Any, **named: Any) -> Any:
        if next(asked) == 5:
            happened.append(robot.clock.now())
        return ask(*values, **named)

    patch(policy, "predict", asks)
    yield


def moving(speeds: Speeds) -> bool:
    return bool(speeds.seen) and speeds.seen[-1][1] > FAST


def row(
    result: EpisodeResult,
    speeds: Speeds,
    fault: float,
    stops: list[float],
    over: float,
    found: dict[str, int],
) -> dict[str, Any]:
    began = over - result.seconds
    paused = [began + pause.time for pause in result.pauses if began + pause.time > fault - 0.05]
    unharmed = result.ending == "time is up" and not paused  # the stop is that of the end
    acted = min([*paused, *stops])
    return {
        "acted_ms": None if unharmed else round(1e3 * (acted - fault)),
        "still_ms": None if unharmed else round(1e3 * (speeds.still_after(acted, STILL) - acted)),
        "ending": result.ending,
        "unrecorded": result.unrecorded,
        "recorded": found,
        "threads_left": sorted({thread.name for thread in threading.enumerate()} & {"servo", "recorder"}),
    }


# ------------------------------------------------------------------------------------------- the process killed


def victim(folder: Path, drive: Drive) -> None:
    """An episode in a process that will be killed; says whom to look at."""
    with (
        RealtimeCell.of(drive.settings, SCENE) as cell,
        PolicyProcess(moves(drive.motion, 0.05), open=open_moves) as policy,
    ):
        processes = [cell.process.pid, cell._drawing.pid, policy.pid]
        print(json.dumps({"board": cell._board.name, "processes": processes}), flush=True)
        robot, recorder = cell.robot(), DiskRecorder(folder, policy={})
        recorder.begin(robot.clock, drive.settings)
        result = run_episode(
            robot, policy, SENTENCE, settings=drive.settings, config=drive.config, recorder=recorder,
            max_seconds=60.0,
        )  # fmt: skip
        raise SystemExit(f"the episode ended before its fault: {result.ending}")


def try_main(name: str, drive: Drive) -> dict[str, Any]:
    """A signal for the process that drives, in the middle of a motion. Raises SystemExit as `try_fault`."""
    for number in range(1, TRIES + 1):
        if (figures := end_main(WHOLE[name], drive)) is not None:
            return figures
        print(f"{name}: in episode {number} of {TRIES} the arms did not move any more", file=sys.stderr)
    raise SystemExit(
        f"{name}: in none of {TRIES} episodes did the arms move until it. Is the machine too busy for a cell in real "
        "time?"
    )


def end_main(number: signal.Signals, drive: Drive) -> dict[str, Any] | None:
    """A signal for the process that drives; nobody can do anything about it there. None: the arms did not move."""
    command = [sys.executable, __file__, *drive.options, "--victim"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*command, folder], stdout=subprocess.PIPE, text=True) as owner,
    ):
        try:
            assert owner.stdout is not None
            told = json.loads(owner.stdout.readline())
            with contextlib.closing(Board.watched(told["board"])) as board:
                if not wait(lambda: speed(board) > FAST, 30):
                    return None
                time.sleep(AFTER)
                if not wait(lambda: speed(board) > FAST, 5):
                    return None
                before, ended = speed(board), time.monotonic() - float(board.cell()["began"])
                os.kill(owner.pid, number)
                slower, still = slower_than(board, 0.9 * before), slower_than(board, STILL)
            owner.kill()
            owner.wait()
            gone = wait(lambda: not any(map(runs, told["processes"])), 10)
            found = recorded(Path(folder))
        finally:
            owner.kill()
    return {
        "acted_ms": round(1e3 * (slower - ended)),
        "still_ms": round(1e3 * (still - slower)),
        "ending": "no process left when it was killed" if gone else "PROCESSES ARE LEFT",
        "unrecorded": "",
        "recorded": found,
        "threads_left": [],
    }


def states(board: Board) -> list[Any]:
    return [board.device(f"{side} arm") for side in ("right", "left")]


def speed(board: Board) -> float:
    return max(float(np.linalg.norm(arm["velocity"][:3])) for arm in states(board))


def slower_than(board: Board, limit: float) -> float:
    """When both arms were first seen to be slower, seconds of the cell's clock, by the stamps of their states.

    Raises:
        SystemExit: they go on.
    """
    until = time.monotonic() + 10
    while time.monotonic() < until:
        arms = states(board)
        if all(np.linalg.norm(arm["velocity"][:3]) < limit for arm in arms):
            return max(float(arm["timestamp"]) for arm in arms)
        time.sleep(0.002)
    raise SystemExit(f"the arms are not slower than {limit:.2f} m/s, 10 s after nobody drives them any more.")


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it held within so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.002)
    return False


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


def braking(bounds: Bounds) -> dict[str, int]:
    """By a speed of the TCP, m/s: ms along a checked way to rest until it is slower than `STILL`."""
    limiter, found = Limiter(bounds, period=TICK), {}
    for speed in (SPEED, 1.0, bounds.speed):
        motion = dataclasses.replace(Motion.at_rest(np.eye(4)), velocity=np.array([speed, 0, 0, 0, 0, 0.0]))
        speeds = np.linalg.norm(limiter.stop(motion).velocities[:, :3], axis=1)
        found[f"{speed:g}"] = round(1e3 * TICK * int(np.argmax(speeds < STILL)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*FAULTS, *WHOLE], help="some of the faults")
    parser.add_argument(
        "--slow",
        action="store_true",
        help="for a machine on which episodes end before their fault, because it draws pictures too slowly: they may "
        "be 1 s old and 0.5 s apart, and the arms wait for each chunk; rows of cameras and of the policy are of that",
    )
    parser.add_argument("--motion", choices=MOVES, default="turns", help="how the policy moves the arms")
    parser.add_argument("--victim", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    drive = driving(options.motion, options.slow)
    if options.victim:
        victim(options.victim, drive)
        return
    names = options.only or [*FAULTS, *WHOLE]
    figures: dict[str, Any] = {"machine": machine()}
    if set(names) - set(WHOLE):
        with RealtimeCell.of(cell_settings("ur5e"), SCENE) as cell:
            figures |= {name: try_fault(name, cell, drive) for name in names if name not in WHOLE}
    figures |= {name: try_main(name, drive) for name in WHOLE if name in names}
    table = Table(title="Faults while the arms move", title_justify="left")
    for name in ("fault", "acted, ms", "still, ms", "recorded", "pictures", "how it ended"):
        table.add_column(name)
    for name in names:
        each = figures[name]
        times = ("" if each[key] is None else str(each[key]) for key in ("acted_ms", "still_ms"))
        table.add_row(name, *times, *map(str, each["recorded"].values()), each["ending"])
    Console().print(table)
    arm = drive.settings.arms["right"]
    figures["braking_ms"] = braking(arm.bounds)
    ways = ", ".join(f"{took} ms from {speed} m/s" for speed, took in figures["braking_ms"].items())
    print(f"To brake along a checked way takes {ways}; the arms are {1e3 * arm.latency:.0f} ms late.")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
