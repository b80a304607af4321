"""The loop in real time: limits, hand-over, recorder and servo at every delay of inference; and success by mode.

    python benchmarks/loop.py --json loop.json                        # two minutes
    python benchmarks/loop.py --scenes 60 --workers 2 --json loop.json  # and success, hours on two cores

Drives two UR5e of the real-time cell with a policy in a process of its own that takes so long and turns round with
every chunk; then with `--policies` and real-time chunking, as `rdt2 run` drives them. Everything is recorded to disk as
`rdt2 run --record` does, pictures as well; `recorder` says what can be read back of it, a second, and `fps_min` is the
least of all that. What every arm is told is noted: `violations` counts limits that were exceeded, by finite
differences, and poses that were due sooner than a period after the one before. `handover_mm` is the largest distance
from what an arm is told when a chunk comes to what that chunk wishes for then; the guard makes a motion within limits
of it. Where a mode is refused because a chunk would come too late, that is said and the loop runs synchronously.
`--scenes` counts success of the modes in the same scenes, in simulated time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rdt2.control import DiskRecorder, EpisodeResult, LoopConfig, Mode, run_episode
from rdt2.errors import ConfigError
from rdt2.evaluation.cell import evaluate_cell, loop_config
from rdt2.evaluation.results import rate_cells
from rdt2.evaluation.statistics import Paired
from rdt2.policy import PolicyProcess, PolicySpec
from rdt2.policy.process import Opener
from rdt2.sim import make_scene
from rdt2.sim.cell import cell_settings
from rdt2.sim.realtime import RealtimeCell
from wallclock import SENTENCE, Commands, machine, moves, open_moves, recorded

DELAYS = (0.0, 0.1, 0.2, 0.3, 0.5)
MODES: tuple[Mode, ...] = ("synchronous", "asynchronous", "chunking")
LATENCIES = (0.1, 0.3)


def handover_mm(result: EpisodeResult, commands: Commands, latency: float) -> float:
    """The largest distance from what an arm is told when a chunk comes to what the chunk wishes for then."""
    began = result.cycles[0].plan.observed - result.cycles[0].time if result.cycles else 0.0
    furthest = 0.0
    for cycle in result.cycles:
        for side, told in commands.told.items():
            when, pose = next(
                (each for each in told if each[0] >= began + cycle.time + cycle.delay), told[-1]
            )
            wish = cycle.plan.pose(side, when + latency)
            furthest = max(furthest, float(np.linalg.norm(pose[:3, 3] - wish[:3, 3])))
    return 1e3 * furthest


def drive(spec: PolicySpec, wanted: Mode, seconds: float, opener: Opener | None = None) -> dict[str, Any]:
    """One episode of one policy, recorded."""
    settings, scene = cell_settings("ur5e"), make_scene("pick", 1)
    settings = settings.changed({"safety.table_height": scene.table_height})
    refused, mode = "", wanted
    with (
        RealtimeCell.of(settings, scene) as cell,
        PolicyProcess(spec, open=opener) as policy,
        tempfile.TemporaryDirectory() as folder,
    ):
        recorder = DiskRecorder(folder, policy={})

        def episode(mode: Mode) -> tuple[EpisodeResult, Commands]:
            robot = cell.robot()
            robot.recover()
            commands = Commands(robot)
            recorder.begin(robot.clock, settings)
            result = run_episode(
                robot, policy, SENTENCE, settings=settings, recorder=recorder, max_seconds=seconds,
                config=LoopConfig(mode=mode),
            )  # fmt: skip
            recorder.end(result)
            return result, commands

        try:
            result, commands = episode(wanted)
        except ConfigError as error:
            refused, mode = str(error), "synchronous"
            result, commands = episode("synchronous")
        found, speed = recorded(Path(folder)), cell.real_time_factor
    shares = commands.shares(settings.arms["left"].bounds)
    soonest = commands.soonest()
    periods = 1e3 * np.array(result.lateness)
    return {
        "mode": mode,
        "refused": refused,
        "ending": result.ending,
        "chunks": len(result.cycles),
        "inference_ms": round(1e3 * float(np.median(result.inference))) if result.inference else None,
        "pauses": [pause.reason for pause in result.pauses],
        "shares_of_limits": {name: round(share, 3) for name, share in shares.items()},
        "violations": sum(share > 1.0 for share in shares.values()) + (soonest < 0.008 - 1e-6),
        "handover_mm": round(handover_mm(result, commands, settings.arms["left"].latency), 1),
        "recorder": {f"{name}_per_s": round(count / result.seconds, 2) for name, count in found.items()},
        "unrecorded": " ".join(filter(None, (result.unrecorded, recorder.problem))),
        "servo_ms": {str(q): round(float(np.percentile(periods, q)), 2) for q in (50, 90, 99, 100)},
        "cell_real_time_factor": round(speed, 3),
        **machine(),
    }


def count_success(policy: str, scenes: int, workers: int, max_seconds: float) -> dict[str, Any]:
    """Success of every mode in the same scenes, at every latency; refusals in words."""
    figures: dict[str, Any] = {}
    for latency in LATENCIES:
        outcomes: dict[str, list[bool]] = {}
        for mode in MODES:
            name = f"{mode}, {latency} s"
            try:
                result = evaluate_cell(
                    policy, "ur5e", "pick", episodes=scenes, workers=workers, max_seconds=max_seconds,
                    config=loop_config(mode=mode, latency=latency),
                )  # fmt: skip
            except ConfigError as error:
                figures[name] = {"refused": str(error)}
                continue
            outcomes[mode] = [record.success for record in result.records]
            figures[name] = result.success_rate.as_dict() | {"wall_seconds": round(result.wall_seconds)}
            if mode != "synchronous":
                paired = Paired.of(outcomes[mode], outcomes["synchronous"])
                figures[name]["against_synchronous"] = paired.as_dict()
            figures[name]["cells"] = rate_cells(result.success_rate)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each episode")
    parser.add_argument("--delays", type=float, nargs="*", default=DELAYS, help="seconds of inference")
    parser.add_argument("--policies", nargs="*", default=["demo-fm"], help="driven with real-time chunking")
    parser.add_argument("--scenes", type=int, default=0, help="also count success in so many paired scenes")
    parser.add_argument("--policy", default="demo-fm", help="of --scenes")
    parser.add_argument("--workers", type=int, default=1, help="of --scenes")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="of --scenes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    turning = {
        f"{1e3 * delay:.0f} ms": drive(moves("turns", delay), "asynchronous", options.seconds, open_moves)
        for delay in options.delays
    }
    chunked = {name: drive(PolicySpec(policy=name), "chunking", options.seconds) for name in options.policies}
    rows = turning | chunked
    recorded_least = {
        name: min(row["recorder"][name] for row in rows.values())
        for name in ("moments_per_s", "pictures_per_s")
    }
    figures: dict[str, Any] = {
        "violations": sum(row["violations"] for row in rows.values()),
        "handover_mm": max(row["handover_mm"] for row in rows.values()),
        "recorder": {"fps_min": min(recorded_least.values()), **recorded_least},
        "servo": {"p99_ms": max(row["servo_ms"]["99"] for row in rows.values())},
        "delays": turning,
        "policies": chunked,
    }
    table = Table(title="The loop in real time, two UR5e", title_justify="left")
    for name in (
        "policy", "inference, ms", "mode", "limits used, %", "hand-over, mm", "recorded, 1/s", "pictures, 1/s",
        "servo p99, ms",
    ):  # fmt: skip
        table.add_column(name)
    for name, row in rows.items():
        used = 100 * max(row["shares_of_limits"].values())
        table.add_row(
            name, f"{row['inference_ms']}", row["mode"], f"{used:.0f}", f"{row['handover_mm']:.1f}",
            *(f"{rate:.1f}" for rate in row["recorder"].values()), f"{row['servo_ms']['99']:.1f}",
        )  # fmt: skip
    Console().print(table)
    if options.scenes:
        figures["success"] = count_success(
            options.policy, options.scenes, options.workers, options.max_seconds
        )
        table = Table(title=f"{options.policy}, {options.scenes} paired scenes", title_justify="left")
        for name in ("mode and latency", "success", "rate", "95 % interval"):
            table.add_column(name)
        for name, row in figures["success"].items():
            table.add_row(name, *(row.pop("cells") if "cells" in row else ("refused", "", "")))
        Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
