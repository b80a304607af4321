"""Faults while the loop drives two UR5e of the real-time cell: how soon the arms are at rest, and what is left.

    python benchmarks/faults.py --json faults.json        # two minutes

Every row is an episode in which something goes wrong while the arms move. `acted` is from the fault to the moment at
which the loop lets the arms brake or stops them; devices and pictures count as wrong once they are older than the
robot's file allows, so those rows hold that age. `still` is from there to rest: braking within the limits, and the
latency of the arms. In the last row the whole process of the loop is killed: nobody is left to act but the devices.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rdt2.control import EpisodeResult, LoopConfig, run_episode
from rdt2.errors import SafetyError
from rdt2.policy import PolicyProcess
from rdt2.robot import Robot
from rdt2.sim import make_scene
from rdt2.sim.board import Board
from rdt2.sim.cell import cell_settings
from rdt2.sim.realtime import RealtimeCell
from wallclock import SENTENCE, SPEED, Speeds, machine, open_turns, turns

SCENE = make_scene("pick", 1)
STILL = 0.02
"""m/s: below it an arm counts as at rest."""
AFTER = 1.5
"""Seconds of motion before the fault."""


class Lines:
    """A recorder that appends a line a frame to a file, and runs out of disk where `full` says so."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")
        self.full = False

    def on_cycle(self, observation: Any, chunk: Any, time: float) -> None:
        pass

    def on_frame(self, time: float) -> None:
        self.file.write(json.dumps({"time": time}) + "\n")
        self.file.flush()
        if self.full:
            with open("/dev/full", "w", encoding="utf-8") as disk:
                disk.write("x")


@dataclasses.dataclass
class Run:
    """What a fault may touch."""

    robot: Robot
    policy: PolicyProcess
    recorder: Lines


def patch(device: Any, name: str, wrong: Callable[[Callable], Any]) -> None:
    right = getattr(device, name)
    setattr(device, name, lambda *values: wrong(right, *values))


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
    run.recorder.full = True


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
    "driver raises OSError": lambda run: patch(run.robot.grippers["right"], "state", raises),
    "policy: NaN": lambda run: None,
    "policy: hangs 5 s": lambda run: None,
    "policy: killed (kill -9)": lambda run: os.kill(run.policy.pid, signal.SIGKILL),
    "disk full in the recorder": disk_full,
    "SIGTERM": lambda run: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT twice": twice,
}
KILLED = "main process killed (kill -9)"


def try_fault(name: str, cell: RealtimeCell) -> dict[str, Any]:
    """One episode with one fault."""
    settings = cell_settings("ur5e").changed({"safety.table_height": SCENE.table_height})
    kind = {"policy: NaN": "NaN", "policy: hangs 5 s": "hangs"}.get(name, "")
    robot = cell.robot()
    robot.recover()
    speeds, happened = Speeds(cell.robot()), []
    with tempfile.TemporaryDirectory() as folder, PolicyProcess(turns(0.05, kind), open=open_turns) as policy:
        run = Run(robot, policy, Lines(Path(folder) / "frames.jsonl"))
        stops: list[float] = []

        def noted(stop: Callable) -> None:
            stops.append(robot.clock.now())
            stop()

        for arm in robot.arms.values():
            patch(arm, "stop", noted)

        def go_wrong() -> None:
            until = time.monotonic() + 20
            while not moving(speeds) and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(AFTER)
            happened.append(robot.clock.now())
            FAULTS[name](run)

        if kind:  # it goes wrong by itself, in its fifth answer
            ask, asked = policy.predict, []

            def asks(*values: Any, **named: Any) -> Any:
                asked.append(robot.clock.now())
                if len(asked) == 5:
                    happened.append(asked[-1])
                return ask(*values, **named)

            policy.predict = asks  # type: ignore[method-assign]
        else:
            threading.Thread(target=go_wrong, daemon=True).start()
        speeds.start()
        result = run_episode(
            robot, policy, SENTENCE, settings=settings, recorder=run.recorder, max_seconds=8.0,
            config=LoopConfig(deadline=0.5),
        )  # fmt: skip
        over = robot.clock.now()
        time.sleep(0.5)
        speeds.end()
        run.recorder.file.close()
        lines = [json.loads(line) for line in (Path(folder) / "frames.jsonl").read_text().splitlines()]
    return row(result, speeds, happened[0], stops, over, len(lines))


def moving(speeds: Speeds) -> bool:
    return bool(speeds.seen) and speeds.seen[-1][1] > 0.5 * SPEED


def row(
    result: EpisodeResult, speeds: Speeds, fault: float, stops: list[float], over: float, lines: int
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
        "lines_recorded": lines,
        "threads_left": sorted({thread.name for thread in threading.enumerate()} & {"servo", "recorder"}),
    }


# ------------------------------------------------------------------------------------------- the process killed


def victim(frames: Path) -> None:
    """An episode in a process that will be killed; says whom to look at."""
    settings = cell_settings("ur5e").changed({"safety.table_height": SCENE.table_height})
    with (
        RealtimeCell("ur5e", SCENE, settings.cell) as cell,
        PolicyProcess(turns(0.05), open=open_turns) as policy,
    ):
        told = {"board": cell._board.name, "processes": [cell.process.pid, policy.pid]}
        print(json.dumps(told), flush=True)
        run_episode(
            cell.robot(), policy, SENTENCE, settings=settings, recorder=Lines(frames), max_seconds=60.0
        )


def kill_main() -> dict[str, Any]:
    """kill -9 of the process that drives, in the middle of a motion."""
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.jsonl"
        command = [sys.executable, __file__, "--victim", str(frames)]
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert owner.stdout is not None
            told = json.loads(owner.stdout.readline())
            board = onlooking(told["board"])
            if not wait(lambda: speed(board) > 0.5 * SPEED, 30):
                raise SystemExit("the arms never moved.")
            time.sleep(AFTER)
            wait(lambda: speed(board) > 0.5 * SPEED, 5)
            killed = time.monotonic()
            owner.kill()
            owner.wait()
            stopped = wait(lambda: bool(board.read(lambda: board.device("left arm"))["stopped"]), 3)
            still = wait(lambda: speed(board) < STILL, 3)
            gone = wait(lambda: not any(map(runs, told["processes"])), 10)
            board.close()
            lines = [json.loads(line) for line in frames.read_text().splitlines()]
        finally:
            owner.kill()
            owner.wait()
    return {
        "acted_ms": round(1e3 * (stopped - killed)),
        "still_ms": round(1e3 * (still - stopped)),
        "ending": f"no process left after {gone - killed:.1f} s" if gone else "PROCESSES ARE LEFT",
        "unrecorded": "",
        "lines_recorded": len(lines),
        "threads_left": [],
    }


def onlooking(name: str) -> Board:
    """Another process's board, which stays its owner's."""
    from multiprocessing import resource_tracker

    board = Board(name)
    resource_tracker.unregister(board._memory._name, "shared_memory")
    return board


def speed(board: Board) -> float:
    arms = (board.read(lambda side=side: board.device(f"{side} arm")) for side in ("right", "left"))
    return max(float(np.linalg.norm(arm["velocity"][:3])) for arm in arms)


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """When it held; 0 if it never did."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return time.monotonic()
        time.sleep(0.002)
    return 0.0


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*FAULTS, KILLED], help="some of the faults")
    parser.add_argument("--victim", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.victim:
        victim(options.victim)
        return
    names = options.only or [*FAULTS, KILLED]
    figures: dict[str, Any] = {"machine": machine()}
    if set(names) - {KILLED}:
        with RealtimeCell("ur5e", SCENE, cell_settings("ur5e").cell) as cell:
            figures |= {name: try_fault(name, cell) for name in names if name != KILLED}
    if KILLED in names:
        figures[KILLED] = kill_main()
    table = Table(title="Faults while the arms move", title_justify="left")
    for name in ("fault", "acted, ms", "still, ms", "how it ended"):
        table.add_column(name)
    for name in names:
        each = figures[name]
        times = ("" if each[key] is None else str(each[key]) for key in ("acted_ms", "still_ms"))
        table.add_row(name, *times, each["ending"])
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
