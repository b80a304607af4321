"""Real-time chunking over a slow line: success in the cell with the policy at hand, and with the same policy behind a
server and a line that holds everything back, in the same scenes.

    python benchmarks/delayed.py --json delayed.json
    python benchmarks/delayed.py --episodes 4 --delay 0.02       a short look

Every byte between client and server really waits for --delay seconds in each direction, so promises and pictures travel
as they would. What decides success is simulated time: there a prediction takes --latency seconds, and over the line two
delays more. Beside FILE lie the two evaluations, FILE.local and FILE.line; started again, both go on where they were.
The goal is a success rate within 5 points.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.evaluation.cell import evaluate_cell, loop_config
from rdt2.evaluation.results import CellEvaluation
from rdt2.evaluation.statistics import Paired
from rdt2.files import write_json
from rdt2.policy import PolicySpec
from rdt2.serving import ProcessEngine, ServerSettings, served

POINTS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="demo-fm", help="one that keeps promises")
    parser.add_argument("--robot", default="ur5e")
    parser.add_argument("--task", default="pick")
    parser.add_argument("--episodes", type=int, default=60, help="scenes, the same ones in both ways")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds, each way")
    parser.add_argument(
        "--latency", type=float, default=0.1, help="simulated seconds of a prediction at hand"
    )
    parser.add_argument("--max-seconds", type=float, default=20.0, help="simulated, of an episode")
    parser.add_argument("--workers", type=int, default=1, help="processes that drive cells")
    parser.add_argument("--port", type=int, default=8765, help="of the line; the same one to go on")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # as in the workers that have the policy at hand
    spec, together = PolicySpec(policy=given.policy), given.workers
    with (
        served(
            lambda: ProcessEngine(spec, max_batch=together), ServerSettings(port=0, max_batch=together)
        ) as url,
        line(int(url.rsplit(":", 1)[1]), given.delay, given.port) as slow,
    ):
        over = evaluate(given, "line", slow, given.latency + 2 * given.delay)
    at_hand = evaluate(given, "local", given.policy, given.latency)
    wins = [[record.success for record in result.records] for result in (over, at_hand)]
    paired = Paired.of(wins[0], wins[1])
    figures = {
        "delay_s": given.delay,
        "local": told(at_hand, given.latency),
        "line": told(over, given.latency + 2 * given.delay),
        "line_against_local": paired.as_dict(),
    }
    for name in ("local", "line"):
        print(name, " ".join(f"{key} {value}" for key, value in figures[name].items()))
    print(f"line against local: {paired}")
    if given.json is not None:
        write_json(given.json, figures)
    if 100 * paired.difference < -POINTS:
        sys.exit(f"more than {POINTS:g} points are lost on the line")


def evaluate(given: argparse.Namespace, name: str, policy: str, latency: float) -> CellEvaluation:
    """All scenes in one of the two ways."""
    return evaluate_cell(
        policy, given.robot, given.task, episodes=given.episodes, workers=given.workers,
        max_seconds=given.max_seconds, config=loop_config(mode="chunking", latency=latency),
        json=None if given.json is None else given.json.with_name(f"{given.json.name}.{name}"),
        resume=given.json is not None,
        on_episode=lambda record: print(
            f"{name}: scene {record.index} {'succeeded' if record.success else 'failed'}", flush=True
        ),
    )  # fmt: skip


def told(result: CellEvaluation, latency: float) -> dict[str, Any]:
    """What one way came to."""
    took = [record.inference_ms for record in result.records if record.inference_ms is not None]
    return {
        "latency_s": latency,
        "success": result.success,
        "episodes": result.episodes,
        "interval": [round(bound, 3) for bound in (result.success_rate.low, result.success_rate.high)],
        "pauses": sum(record.pauses for record in result.records),
        "wall_ms_of_a_prediction": round(float(np.median(took)), 1),
    }


@contextlib.contextmanager
def line(port: int, delay: float, own_port: int) -> Iterator[str]:
    """The address of a line to a port of this machine on which everything is `delay` seconds late, both ways."""
    started: Future[Callable[[], Any]] = Future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # the line is cut
            await asyncio.gather(carry(reader, there[1], delay), carry(there[0], writer, delay))

    async def run() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(connected, "127.0.0.1", own_port)
        started.set_result(lambda: loop.call_soon_threadsafe(over.set))
        await over.wait()
        server.close()

    def work() -> None:
        try:
            asyncio.run(run())
        except OSError as error:
            started.set_exception(SystemExit(f"--port {own_port}: {error}"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    cut = started.result()
    try:
        yield f"ws://127.0.0.1:{own_port}"
    finally:
        cut()
        thread.join(10)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, each piece `delay` seconds after it came."""
    clock = asyncio.get_running_loop().time
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def let_go() -> None:
        while True:
            due, data = await held.get()
            await asyncio.sleep(due - clock())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    letting_go = asyncio.create_task(let_go())
    with contextlib.suppress(OSError):  # one of the two has gone: nothing more is to be carried
        while data := await reader.read(2**16):
            held.put_nowait((clock() + delay, data))
    held.put_nowait((clock() + delay, b""))
    with contextlib.suppress(OSError):
        await letting_go


if __name__ == "__main__":
    main()
