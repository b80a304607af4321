"""What asking a policy server costs over asking the policy, and what it does when many ask.

    python benchmarks/serving.py --json serving.json
    python benchmarks/serving.py --minutes 0.5          a short look

raw, jpeg     a policy that does the JPEG step of all policies and then answers at once, asked directly, through the
              server, and beside it a bare websocket server that takes the same bytes and returns those of a reply;
              overhead_ms is the served median less the direct one, p99_ms the 99th percentile of the same difference
load          16 clients that ask again at once, for so many minutes, and a tiny VQ policy that decodes greedily
              (demo-vq): errors, answers of the most over those of the least served, growth of the server's memory
              (both processes) after the first fifth; batching is the throughput over that with one request at a time
              in a fifth of the time, batching_fm the same of demo-fm, whose time on a CPU is arithmetic

Goals: overhead at most 5 ms raw and 8 ms JPEG, 99 % within 20 ms; no error, fairness at most 1.2, batching at least 2,
growth below 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.action import HORIZON, ActionChunk
from rdt2.cli.serve import random_observation
from rdt2.errors import RDT2Error
from rdt2.policy import AsyncClient, Client, PolicySpec, messages
from rdt2.serving import Bounds, ProcessEngine, ServerSettings, served
from rdt2.wire import packed

SENTENCE = "Pick up the red cube with the left hand."
CLIENTS = 16
STILL = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.float32), (HORIZON, 2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of load")
    parser.add_argument("--repeats", type=int, default=500, help="requests of each kind for the overhead")
    parser.add_argument("--only", choices=["overhead", "load"], help="one of the two")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.minutes <= 0 or options.repeats < 1:
        parser.error("--minutes and --repeats must be more than 0")
    figures: dict[str, Any] = {}
    if options.only != "load":
        figures |= measure_overhead(options.repeats)
    if options.only != "overhead":
        figures["load"] = measure_load(60 * options.minutes)
    for name, row in figures.items():
        print(name, " ".join(f"{key} {value:g}" for key, value in row.items()))
    if options.json is not None:
        from rdt2.files import write_json

        write_json(options.json, figures)


# ------------------------------------------------------------------------------------------------- overhead


class Instant:
    """A policy that does what every policy does with its pictures, and nothing else."""

    keeps_promises, patience = False, None

    def predict(
        self, observations: Sequence[Any], *, seed: Any = None, promised: Any = None
    ) -> list[ActionChunk]:
        from rdt2.policy.base import model_pictures

        return [ActionChunk(STILL) for _ in model_pictures(observations)]


def open_instant(spec: PolicySpec) -> Instant:
    return Instant()


def measure_overhead(repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the three ways, taken in turns."""
    figures = {}
    direct_policy = Instant()
    with process(_serve_instant) as address, process(_echo) as echo_address:
        for name in ("raw", "jpeg"):
            with Client(address, jpeg=name == "jpeg") as policy, _connected(echo_address) as echo:
                rows = []
                for number in range(repeats + 20):
                    seen = random_observation(SENTENCE, number)
                    data = packed(messages.request(seen, jpeg=name == "jpeg"))
                    rows.append((
                        timed(lambda seen=seen: direct_policy.predict([seen])),
                        timed(lambda seen=seen: policy.predict([seen], seed=0)),
                        timed(lambda data=data: (echo.send(data), echo.recv())),
                    ))  # fmt: skip
                direct, through, bare = 1000 * np.array(rows[20:]).T
                figures[name] = {
                    "overhead_ms": float(np.median(through) - np.median(direct)),
                    "p99_ms": float(np.percentile(through, 99) - np.median(direct)),
                    "direct_ms": float(np.median(direct)),
                    "served_ms": float(np.median(through)),
                    "echo_ms": float(np.median(bare)),
                    "request_bytes": len(data),
                }
    return figures


def timed(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


@contextlib.contextmanager
def process(target: Any) -> Iterator[str]:
    """The address of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs,))
    child.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        child.join(10)
        child.kill()


def _serve_instant(pipe: Any) -> None:
    bounds = Bounds(requests_per_second=1e6)
    with served(
        lambda: ProcessEngine(PolicySpec(policy="instant"), open=open_instant),
        ServerSettings(port=0, bounds=bounds),
    ) as url:
        pipe.send(url)
        pipe.recv()


def _echo(pipe: Any) -> None:
    from websockets.asyncio.server import serve

    answer = packed({"actions": STILL, "policy_timing": {"infer_ms": 0.1}})

    async def handle(socket: Any) -> None:
        async for _ in socket:
            await socket.send(answer)

    async def run() -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            pipe.send(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


def _connected(address: str) -> Any:
    from websockets.sync.client import connect

    return connect(address, compression=None, max_size=None, proxy=None)


# ----------------------------------------------------------------------------------------------------- load


def measure_load(seconds: float) -> dict[str, float]:
    """What 16 clients get, in batches and one by one."""
    tiny = ("--policy", "demo-vq", "--draws", "1", "--temperature", "0")
    batched = under_load(seconds, *tiny, "--max-batch", str(CLIENTS))
    alone = under_load(seconds / 5, *tiny, "--max-batch", "1")
    fm = [under_load(seconds / 10, "--policy", "demo-fm", "--max-batch", str(most)) for most in (CLIENTS, 1)]
    return {
        "minutes": seconds / 60,
        "clients": CLIENTS,
        **batched,
        "errors": sum(each["errors"] for each in (batched, alone, *fm)),
        "one_by_one_per_second": alone["per_second"],
        "batching": batched["per_second"] / alone["per_second"],
        "batching_fm": fm[0]["per_second"] / fm[1]["per_second"],
    }


def under_load(seconds: float, *options: str) -> dict[str, float]:
    """Answers, errors and memory of a server while all clients ask as fast as they are answered."""
    with rdt2_serve(*options) as (url, pid):
        counts, errors, waits, memory = asyncio.run(_clients(url, pid, seconds))
    return {
        "requests": float(sum(counts)),
        "per_second": sum(counts) / seconds,
        "errors": float(errors),
        "fairness": max(counts) / max(1, min(counts)),
        "median_ms": 1000 * float(np.median(waits)),
        "p99_ms": 1000 * float(np.percentile(waits, 99)),
        "memory_mb": memory[-1] / 1e6,
        "memory_growth": memory[-1] / memory[len(memory) // 5] - 1,
    }


async def _clients(url: str, pid: int, seconds: float) -> tuple[list[int], int, list[float], list[float]]:
    counts, waits, memory, errors = [0] * CLIENTS, [], [], 0
    seen = [random_observation(SENTENCE, number) for number in range(CLIENTS)]
    async with contextlib.AsyncExitStack() as stack:
        policies = [await stack.enter_async_context(AsyncClient(url)) for _ in range(CLIENTS)]
        until = time.monotonic() + seconds

        async def client(number: int) -> None:
            nonlocal errors
            while (began := time.monotonic()) < until:
                try:
                    await policies[number].predict([seen[number]], seed=number)
                except RDT2Error as error:
                    print(error, file=sys.stderr)
                    errors += 1
                else:
                    counts[number] += 1
                    waits.append(time.monotonic() - began)

        async def watch() -> None:
            while time.monotonic() < until:
                memory.append(resident(pid))
                await asyncio.sleep(seconds / 50)

        await asyncio.gather(watch(), *(client(number) for number in range(CLIENTS)))
    return counts, errors, waits, memory


@contextlib.contextmanager
def rdt2_serve(*options: str) -> Iterator[tuple[str, int]]:
    """The address of `rdt2 serve`, and its process."""
    words = [sys.executable, "-m", "rdt2.cli.main", "serve", "--port", "0", *options]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=one_thread) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                with contextlib.suppress(ValueError):
                    if (told := json.loads(line))["event"] == "listening":
                        break
            else:
                raise SystemExit("the server ended before it listened")
            drained = read_away(server.stderr)
            yield f"ws://127.0.0.1:{told['port']}", server.pid
        finally:
            server.terminate()
            drained.join()


def read_away(stream: Any) -> Any:
    """A thread that reads a log and forgets it: nobody is to wait for a pipe that is full."""
    thread = threading.Thread(target=lambda: [None for _ in stream], daemon=True)
    thread.start()
    return thread


def resident(pid: int) -> float:
    """Bytes of memory of a process and those it started."""
    total = 0
    children = [
        each for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()
    ]
    for each in (str(pid), *children):
        with contextlib.suppress(OSError):  # it has just ended
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return float(total)


if __name__ == "__main__":
    main()
