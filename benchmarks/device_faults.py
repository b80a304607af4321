"""Faults of devices while the loop drives two UR5e through all drivers: how soon the arms stand, and what is left.

    python benchmarks/device_faults.py --json device_faults.json                         # a machine of many cores
    python benchmarks/device_faults.py --two-cores --json device_faults.json
    python benchmarks/slow_motion.py 0.33 device_faults.py --json device_faults.json     # five minutes on two cores

Two UR controllers, two grippers and two cameras, each a peer that speaks the device's protocol, in front of one cell; a
policy that swings both arms, up to 0.16 m/s fast; everything is recorded. Every row is an episode in which something
goes wrong. Two cores carry no more than 15 pictures a second beside all that: with `--two-cores` pictures may be 0.5 s
old and 0.2 s apart, and 60 faults a minute and one of 20 s are waited out. In slow motion two cores do what larger
machines do, with the cell's own limits.
`acted` is from the fault until the loop lets the arms brake or stops them: what shows by its age alone (no state, no
picture, no answer) counts as wrong once it is older than the driver or the robot's file allows, so those rows hold that
age. `still` is from there until the cell's own arms stand, whatever drivers say. `message` is what the loop said.
`recorded` counts the moments that can be read back. `back` says whether a person's word brought the robot back, the
fault mended. Of what is killed `acted` is until the arms are seen to slow down, and every process that it had started,
also in a session of its own, has to be gone within 10 s. The tracker drives no arm: its row is from its jump until
calibration would stop.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
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

from faults import AFTER, SCENE, STILL, patch, runs, slower_than, speed, wait
from rdt2.control import DiskRecorder, LoopConfig, run_episode
from rdt2.data.recordings import find_recordings, read_recording
from rdt2.devices import open_robot, open_tracker
from rdt2.devices.peers import Started, started
from rdt2.devices.peers import cell as cell_peer
from rdt2.devices.peers import ur as ur_peer
from rdt2.errors import RDT2Error
from rdt2.policy import PolicyProcess
from rdt2.robot import Robot
from rdt2.robot.settings import RobotSettings
from rdt2.sim.board import Board
from rdt2.sim.cell import cell_settings
from wallclock import SENTENCE, machine, moves, open_moves

SPEED = 0.16
"""m/s at which the policy swings both arms, at most."""
CONFIG = LoopConfig(deadline=0.5)
TRIES = 12
"""Episodes in which a fault is tried: on a busy machine one may end before."""
BACK = 20.0
"""Seconds in which a person's word, said again and again, has to bring the robot back."""


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the machine has to carry, and what the loop puts up with."""

    rate: int = 30
    """Pictures a second."""
    safety: dict[str, float] = dataclasses.field(default_factory=dict)
    """In place of what the cell's own file says."""


TWO_CORES = Conditions(15, {"max_age": 0.5, "max_skew": 0.2, "faults_per_minute": 60, "fault_seconds": 20.0})


def swings() -> PolicyProcess:
    return PolicyProcess(moves("swings", 0.05, SPEED), open=open_moves)


@dataclasses.dataclass
class Place:
    """All peers, and what they are told."""

    devices: Started
    right: str
    """Address of the right arm."""
    left: str

    def arm(self, what: str) -> None:
        ur_peer.trouble(self.left, what)

    def part(self, what: str) -> None:
        cell_peer.trouble(self.right, what)


@dataclasses.dataclass(frozen=True)
class Fault:
    wrong: Callable[[Place], None]
    mended: Callable[[Place], None] | None
    """None: the robot is another one then."""


def arm(wrong: str, mended: str) -> Fault:
    return Fault(lambda place: place.arm(wrong), lambda place: place.arm(mended))


def part(name: str, wrong: str) -> Fault:
    return Fault(lambda place: place.part(f"{name} {wrong}"), lambda place: place.part(f"{name} whole"))


def kill(place: Place) -> None:
    place.devices.process.kill()


FAULTS: dict[str, Fault] = {
    "RTDE drops": arm("drop", "thaw"),
    "RTDE says nothing more (cable)": arm("freeze", "thaw"),
    "protective stop": arm("protective_stop", "release"),
    "gripper answers garbage": part("left gripper", "garbage"),
    "gripper answers nothing": part("left gripper", "silence"),
    "gripper's port unplugged": part("left gripper", "unplugged"),
    "camera unplugged": part("left camera", "unplugged"),
    "camera sends nothing": part("left camera", "silent"),
    "camera slow: each picture 0.5 s late": part("left camera", "late"),
    "all peers killed (kill -9)": Fault(kill, None),
}
TRACKER = "tracker jumps"
WHOLE = "our process killed (kill -9)"


@contextlib.contextmanager
def opened_place(conditions: Conditions) -> Iterator[Place]:
    """A cell behind peers, at addresses of this process."""
    own = f"{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    right, left = f"127.98.{own}", f"127.99.{own}"
    with started("cell", seed=SCENE.seed, rate=conditions.rate, right=right, left=left) as devices:
        yield Place(devices, right, left)


def connected(devices: dict[str, Any], conditions: Conditions) -> tuple[Robot, RobotSettings]:
    safety = {"table_height": SCENE.table_height, **conditions.safety}
    cell = cell_settings("ur5e").changed({f"safety.{name}": value for name, value in safety.items()})
    settings = cell_peer.driven(cell, devices)
    for number in range(1, TRIES + 1):
        robot = open_robot(settings)
        try:
            robot.connect()
            robot.enable()
        except RDT2Error as error:  # a busy machine: states come late
            robot.close()
            if number == TRIES:
                raise
            print(f"try {number} of {TRIES}: {error}", file=sys.stderr)
            time.sleep(1.0)
        else:
            break
    return robot, settings


def try_fault(name: str, conditions: Conditions) -> dict[str, Any]:
    """A fault in the middle of an episode. Raises SystemExit: no episode lasted until its fault."""
    for number in range(1, TRIES + 1):
        with (
            opened_place(conditions) as place,
            contextlib.closing(Board.watched(place.devices["memory"])) as board,
        ):
            figures, ending = episode(FAULTS[name], place, board, conditions)
        if figures is not None:
            return figures
        print(f"{name}: episode {number} of {TRIES} ended before its fault: {ending}", file=sys.stderr)
    raise SystemExit(f"{name}: none of {TRIES} episodes lasted until its fault: {ending}")


def episode(
    fault: Fault, place: Place, board: Board, conditions: Conditions
) -> tuple[dict[str, Any] | None, str]:
    """One episode with one fault: its figures, None where it ended before; and how it ended."""
    robot, settings = connected(place.devices, conditions)
    happened: list[float] = []
    acted: list[float] = []
    over = threading.Event()
    for arm_ in robot.arms.values():
        patch(arm_, "stop", lambda stop: (acted.append(robot.clock.now()), stop())[1])
    speeds: list[tuple[float, float]] = []

    def look() -> None:
        while not over.wait(0.004):
            speeds.append((robot.clock.now(), speed(board)))

    def go_wrong() -> None:
        if wait(lambda: over.is_set() or speed(board) > 0.5 * SPEED, 30) and not over.wait(AFTER):
            happened.append(robot.clock.now())
            fault.wrong(place)

    threads = [threading.Thread(target=each, daemon=True) for each in (look, go_wrong)]
    with tempfile.TemporaryDirectory() as folder, swings() as policy:
        recorder = DiskRecorder(folder, policy={})
        recorder.begin(robot.clock, settings)
        try:
            for thread in threads:
                thread.start()
            try:
                result = run_episode(
                    robot, policy, SENTENCE, settings=settings, config=CONFIG, recorder=recorder,
                    max_seconds=8.0,
                )  # fmt: skip
            except RDT2Error as error:
                return None, str(error)
            ended = robot.clock.now()
            recorder.end(result)
            time.sleep(1.0)
            over.set()
            for thread in threads:
                thread.join()
            if not happened or happened[0] > ended or min(acted, default=ended) < happened[0]:
                return None, result.ending
            back = None if fault.mended is None else comes_back(robot, place, fault.mended)
        finally:
            over.set()
            robot.close()
        recorded = readable(Path(folder))
    began = ended - result.seconds
    paused = [began + pause.time for pause in result.pauses if began + pause.time > happened[0] - 0.05]
    first = min([*paused, *(moment for moment in acted if moment > happened[0])])
    moving = [moment for moment, fast in speeds if fast > STILL and moment > first]
    said = next(
        (pause.reason for pause in result.pauses if began + pause.time > happened[0] - 0.05), result.ending
    )
    return {
        "acted_ms": round(1e3 * (first - happened[0])),
        "still_ms": round(1e3 * (max(moving, default=first) - first)),
        "message": said,
        "ending": result.ending,
        "recorded": recorded,
        "back": back,
    }, result.ending


def comes_back(robot: Robot, place: Place, mended: Callable[[Place], None]) -> bool:
    """Whether the robot does once what was wrong is mended, on a person's word."""
    robot.stop()
    mended(place)
    until = time.monotonic() + BACK
    while time.monotonic() < until:
        with contextlib.suppress(RDT2Error):
            robot.recover()
            if not robot.faults():
                return True
        time.sleep(0.2)
    return False


def readable(folder: Path) -> int:
    """Moments of the recording in a folder that can be read back."""
    (path,) = find_recordings(folder)
    recording = read_recording(path, pictures=False)
    return min(len(recording.times(f"/{side}/tcp")) for side in recording.sides)


# --------------------------------------------------------------------------------------------- killed, and the tracker


def victim(folder: Path, conditions: Conditions) -> None:
    """An episode in a process that will be killed; `folder` holds what the peers said."""
    devices = json.loads((folder / "devices.json").read_text(encoding="utf-8"))
    robot, settings = connected(devices, conditions)
    with swings() as policy:
        recorder = DiskRecorder(folder, policy={})
        recorder.begin(robot.clock, settings)
        print("begins", flush=True)
        result = run_episode(
            robot,
            policy,
            SENTENCE,
            settings=settings,
            config=CONFIG,
            recorder=recorder,
            max_seconds=60.0,
        )
    raise SystemExit(f"the episode ended before its fault: {result.ending}")


def end_main(conditions: Conditions) -> dict[str, Any]:
    """kill -9 of the process that drives: the controllers stop the arms, because they hear nothing more."""
    command = [sys.executable, __file__, *(["--two-cores"] if conditions is TWO_CORES else []), "--victim"]
    with (
        opened_place(conditions) as place,
        tempfile.TemporaryDirectory() as name,
        contextlib.closing(Board.watched(place.devices["memory"])) as board,
    ):
        folder = Path(name)
        (folder / "devices.json").write_text(json.dumps(place.devices), encoding="utf-8")
        with subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) as owner:
            try:
                assert owner.stdout is not None
                owner.stdout.readline()
                if not wait(lambda: speed(board) > 0.5 * SPEED, 30):
                    raise SystemExit(f"{WHOLE}: the arms did not move.")
                time.sleep(AFTER)
                if not wait(lambda: speed(board) > 0.5 * SPEED, 10):
                    raise SystemExit(f"{WHOLE}: the arms do not move any more.")
                started_by_it = descendants(owner.pid)
                before, ended = speed(board), time.monotonic() - float(board.cell()["began"])
                owner.kill()
                slower, still = slower_than(board, 0.9 * before), slower_than(board, STILL)
                owner.wait()
            finally:
                owner.kill()
        gone = wait(lambda: not any(map(runs, started_by_it)), 10)
        recorded = readable(folder)
        robot, _ = connected(place.devices, conditions)  # somebody starts the command again
        back = robot.faults() == []
        robot.close()
    return {
        "acted_ms": round(1e3 * (slower - ended)),
        "still_ms": round(1e3 * (still - slower)),
        "message": "nobody is left to say anything",
        "ending": f"no process left of {len(started_by_it)}" if gone else "A PROCESS IS LEFT",
        "recorded": recorded,
        "back": back,
    }


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def tracker_jumps() -> dict[str, Any]:
    """From the jump of a recorded tracker until it is known."""
    times = np.arange(0, 6, 1 / 120)
    poses = np.repeat(np.eye(4)[None], len(times), axis=0)
    jump = int(np.searchsorted(times, 2.0))
    poses[jump:, 0, 3] = 0.4
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "track.npz"), times=times, poses=poses)
        device = {"type": "recorded", "file": str(Path(folder, "track.npz"))}
        tracker = open_tracker(device, RobotSettings.read("bimanual_ur5e"), "left")
        tracker.connect()
    tracker.enable()
    try:
        while not tracker.health().fault:
            state = tracker.state()
            time.sleep(0.001)
        known, fault = time.monotonic(), tracker.health().fault
        tracker.recover()
        back = wait(lambda: tracker.state().valid and tracker.health().ok, 5)
    finally:
        tracker.close()
    figures = {"acted_ms": round(1e3 * (known - state.timestamp)), "still_ms": None, "message": fault}
    return {**figures, "ending": "a calibration stops", "recorded": None, "back": back}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*FAULTS, TRACKER, WHOLE]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the faults")
    parser.add_argument(
        "--two-cores", action="store_true", help="half the pictures, and limits that wait for them"
    )
    parser.add_argument("--victim", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    conditions = TWO_CORES if options.two_cores else Conditions()
    if options.victim:
        victim(options.victim, conditions)
        return
    figures: dict[str, Any] = {"machine": machine(), "conditions": dataclasses.asdict(conditions)}
    for name in options.only:
        if name in FAULTS:
            figures[name] = try_fault(name, conditions)
        else:
            figures[name] = tracker_jumps() if name == TRACKER else end_main(conditions)
        print(f"{name}: {figures[name]}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    table = Table(title="Faults of devices while the arms move", title_justify="left")
    for column in ("fault", "acted, ms", "still, ms", "recorded", "back", "message"):
        table.add_column(column)
    for name in options.only:
        row = figures[name]
        cells = (
            "" if row[key] is None else str(row[key]) for key in ("acted_ms", "still_ms", "recorded", "back")
        )
        table.add_row(name, *cells, row["message"])
    Console().print(table)


if __name__ == "__main__":
    main()
