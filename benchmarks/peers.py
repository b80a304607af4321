"""Success through all drivers and peers at once, against the cell driven directly: the same scenes, in real time.

    python benchmarks/peers.py --scenes 100 --robot ur5e --json peers_ur5e.json       # an hour and a half
    python benchmarks/peers.py --scenes 60 --robot fr3 --json peers_fr3.json

Each scene is run twice, one after the other: in the real-time cell as `rdt2 run --robot cell_ur5e` drives it, and with
drivers in between that speak the arms', the grippers' and the cameras' own protocols to peers, which move the arms of
the same cell; a tracker is attached, too. The judge of the cell says of both whether the task was done. The figures
hold both rates, and the difference with its interval and McNemar's exact p. The file is whole after every scene, and
the same command goes on with it. Two cores do not carry it in real time: see slow_motion.py. A machine that cannot keep
up shows: `slower` is the share of time by which the cell's clock stood still.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rdt2.control import EpisodeResult, Monitor, run_episode
from rdt2.devices import open_robot, open_tracker
from rdt2.devices.peers import started
from rdt2.devices.peers.cell import driven
from rdt2.errors import RDT2Error
from rdt2.evaluation.cell import loop_config
from rdt2.evaluation.identity import differences, policy_identity, told
from rdt2.evaluation.policies import open_policy
from rdt2.evaluation.results import rate_cells
from rdt2.evaluation.scenes import Trial, draw_trials
from rdt2.evaluation.statistics import Paired, Rate
from rdt2.operation.opening import at_its_table
from rdt2.policy import PolicyProcess, PolicySpec
from rdt2.robot import Robot
from rdt2.robot.settings import RobotSettings
from rdt2.sim.board import Board
from rdt2.sim.cell import cell_settings
from rdt2.sim.realtime import RealtimeCell, RealtimeMonitor
from wallclock import machine

WAYS = ("direct", "peers")
IN_A_PROCESS = 25
"""Scenes after which this begins anew: ur_rtde leaves some thirty files open for each pair of arms (its objects must
not be destroyed, see rdt2.devices.arm_drivers), and a serial port watches 1024 at most."""


@dataclasses.dataclass
class Stand:
    """A robot that is connected and enabled in front of a scene."""

    robot: Robot
    settings: RobotSettings
    judge: Monitor
    board: Any


@contextlib.contextmanager
def direct(trial: Trial, robot: str) -> Iterator[Stand]:
    scene = trial.scene()
    settings = at_its_table(cell_settings(robot), scene)
    with RealtimeCell.of(settings, scene, task=trial.task(scene)) as cell:
        assert cell.monitor is not None
        yield Stand(cell.robot(), settings, cell.monitor, cell._board)


@contextlib.contextmanager
def peers(trial: Trial, robot: str) -> Iterator[Stand]:
    place = f"{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    options = {"robot": robot, "task": trial.task_kind, "seed": trial.seed}
    with started("cell", right=f"127.96.{place}", left=f"127.97.{place}", **options) as devices:
        settings = driven(at_its_table(cell_settings(robot), trial.scene()), devices)
        with contextlib.closing(Board.watched(devices["memory"])) as board:
            opened = open_robot(settings)
            tracker = open_tracker(devices["right"]["tracker"], settings, "right")
            try:
                for device in (opened, tracker):
                    device.connect()
                    device.enable()
                yield Stand(opened, settings, RealtimeMonitor(board), board)
            finally:
                tracker.close()
                opened.close()


def run(trial: Trial, robot: str, way: str, policy: Any, max_seconds: float) -> dict[str, Any]:
    """One scene, one way: how it went."""
    began = time.monotonic()
    with {"direct": direct, "peers": peers}[way](trial, robot) as stand:
        sentence = trial.task(trial.scene()).instruction  # type: ignore[union-attr]
        lost, started_at = (
            stand.board.cell()["elapsed"] - stand.board.cell()["time"],
            stand.board.cell()["elapsed"],
        )
        try:
            result = run_episode(
                stand.robot, policy, sentence, settings=stand.settings, monitor=stand.judge,
                config=loop_config(latency=None), max_seconds=max_seconds, seed=1000 * trial.seed,
            )  # fmt: skip
        except RDT2Error as error:  # a device that gave up: as an episode that failed
            result = EpisodeResult(ending=str(error), success=stand.judge.success)
        over = stand.board.cell()
    if result.ending.startswith("stopped by"):  # a person, or a signal: it counts for nothing
        raise SystemExit(result.ending)
    return {
        "success": bool(result.success),
        "ending": result.ending,
        "seconds": round(result.seconds, 2),
        "chunks": len(result.inference),
        "pauses": [pause.reason for pause in result.pauses],
        "inference_seconds": round(statistics.median(result.inference), 3) if result.inference else None,
        "held_back_seconds": round(sum(held.seconds for held in result.slowed), 2),
        "slower": round(
            float((over["elapsed"] - over["time"] - lost) / max(over["elapsed"] - started_at, 1e-9)), 3
        ),
        "wall_seconds": round(time.monotonic() - began, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def summary(scenes: list[dict[str, Any]]) -> dict[str, Any]:
    """Both rates, and their difference, of the scenes so far."""
    won = {way: [scene[way]["success"] for scene in scenes] for way in WAYS}
    return {
        "scenes": len(scenes),
        "successes": {way: sum(found) for way, found in won.items()},
        "peers_less_direct": Paired.of(won["peers"], won["direct"]).as_dict(),
    }


def before(file: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Scenes that a file holds already.

    Raises:
        SystemExit: they are of something else.
    """
    if file is None or not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    if changed := differences(found["settings"], settings):
        raise SystemExit(
            f"{file} cannot go on: {told(changed, there='in the file', here='now')}. Name another file."
        )
    return list(found["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=100, help="how many")
    parser.add_argument("--robot", choices=("ur5e", "fr3"), default="ur5e")
    parser.add_argument("--task", default="pick")
    parser.add_argument("--policy", default="demo-fm")
    parser.add_argument(
        "--seed", type=int, default=0, help="which scenes: those of rdt2 evaluate cell --seed"
    )
    parser.add_argument("--max-seconds", type=float, default=20.0, help="of an episode that does not succeed")
    parser.add_argument(
        "--json", type=Path, help="the figures, whole after every scene; the same command goes on"
    )
    given = parser.parse_args()
    spec = PolicySpec(policy=given.policy)
    with PolicyProcess(spec, open=open_policy, describe=policy_identity) as policy:
        names = ("robot", "task", "seed", "max_seconds")
        settings = {name: vars(given)[name] for name in names} | {"policy": policy.about}
        settings = json.loads(json.dumps(settings, default=str))
        rows = before(given.json, settings)
        open_trials = draw_trials(given.task, given.scenes, given.seed)[len(rows) :]
        for trial in open_trials[: IN_A_PROCESS if given.json is not None else None]:
            row: dict[str, Any] = {"index": trial.index, "scene": trial.seed}
            for way in WAYS if trial.index % 2 == 0 else WAYS[::-1]:
                row[way] = run(trial, given.robot, way, policy, given.max_seconds)
                print(f"{trial.index} {way}: {row[way]}", flush=True)
            rows.append(row)
            figures = {"machine": machine(), "settings": settings, **summary(rows), "rows": rows}
            if given.json is not None:
                new = given.json.with_name(f"{given.json.name}.new")
                new.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
                new.replace(given.json)
    if len(rows) < given.scenes:
        os.execv(sys.executable, [sys.executable, *sys.argv])
    found = summary(rows)
    table = Table(title=f"{given.task} on {given.robot}, {len(rows)} scenes", title_justify="left")
    for name in ("", "succeeded", "95 %"):
        table.add_column(name)
    for way in WAYS:
        table.add_row(way, *rate_cells(Rate.of(found["successes"][way], len(rows))))
    Console().print(table)
    difference = found["peers_less_direct"]
    Console().print(f"peers less direct: {Paired(**difference)}", highlight=False)


if __name__ == "__main__":
    main()
