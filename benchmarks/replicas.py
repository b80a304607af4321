"""Chunks a second of one and of two replicas in a local Ray cluster behind `rdt2 serve`'s server, and of no Ray at all.

    python benchmarks/replicas.py --policy demo-fm --rounds 7 --json FILE

All three are loaded and warm throughout, and are asked in turns of a few seconds; `ratio` is the median over the rounds
of two replicas over one. Each policy has one thread. Clients ask one request after the other, in processes of their
own; requests are not computed together, which one policy would gain from as well. Answers are counted while every
client asks: from the moment the last one has had its first answer until the first one stops.

With two cores the clients, the server and Ray take their share of what two replicas could use. `busy_ms` is what all
cores together worked for a chunk, so no number of replicas answers more than cores / busy_ms, and `ratio_at_most` is
that over the throughput of one. It counts the whole machine: let nothing else run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from rdt2.files import write_json
from rdt2.observation import Observation
from rdt2.policy import PolicySpec
from rdt2.serving import Client, ProcessEngine, RayEngine, ServerSettings, served
from rdt2.serving.engine import Engine


@dataclass
class Asked:
    """What one client got."""

    began: float
    """When it had its first answer, on the machine's monotonic clock."""
    ended: float
    """When it stopped to ask."""
    answers: list[float] = field(default_factory=list)
    """When each later answer came."""
    took: list[float] = field(default_factory=list)
    """Milliseconds that each took."""
    errors: int = 0


def ask(url: str, seconds: float, number: int) -> Asked:
    """Ask one request after the other for so long."""
    rng = np.random.default_rng(number)
    left, right = rng.integers(0, 256, (2, 384, 384, 3), np.uint8)
    seen = Observation(left=left, right=right, instruction="Pick up the red cube with the left hand.")
    with Client(url) as policy:
        policy.predict([seen], seed=0)
        asked = Asked(now := time.monotonic(), now + seconds)
        while (began := time.monotonic()) < asked.ended:
            try:
                policy.predict([seen], seed=len(asked.took))
            except Exception:  # whatever it is, it is counted
                asked.errors += 1
                continue
            asked.answers.append(time.monotonic())
            asked.took.append(1000 * (asked.answers[-1] - began))
    return asked


def serving(make: Callable[[], Engine]) -> contextlib.AbstractContextManager[str]:
    """The address of a server with what `make` makes, which computes requests one by one."""
    return served(make, ServerSettings(port=0, max_batch=1))


def turn(pool: Any, url: str, clients: int, seconds: float) -> dict[str, float]:
    """What the clients get in one turn, and what it takes of the machine."""
    busy, began = busy_seconds(), time.monotonic()
    rows: list[Asked] = pool.starmap(ask, [(url, seconds, number) for number in range(clients)])
    worked, whole = busy_seconds() - busy, time.monotonic() - began
    took, answers = np.concatenate([row.took for row in rows]), np.concatenate([row.answers for row in rows])
    return {
        "per_second": rate(answers, max(row.began for row in rows), min(row.ended for row in rows)),
        "errors": sum(row.errors for row in rows),
        "median_ms": float(np.median(took)),
        "p99_ms": float(np.percentile(took, 99)),
        "busy_ms": 1000 * worked / (len(answers) + clients),
        "cores_busy": worked / whole,
    }


def rate(answers: np.ndarray, began: float, ended: float) -> float:
    """Answers a second between two moments, from the first to the last of them."""
    seen = np.sort(answers[(answers >= began) & (answers <= ended)])
    return float((len(seen) - 1) / (seen[-1] - seen[0])) if len(seen) > 1 else 0.0


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine started: user, nice, system, interrupts."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = [int(field) for field in fields]
    return sum(ticks[at] for at in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def cluster(cpus: int) -> contextlib.AbstractContextManager[Any]:
    """A Ray cluster in this machine for all replicas, which those find."""
    import ray

    return ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="demo-fm")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    spec = PolicySpec(policy=given.policy)
    rounds: list[dict[str, dict[str, float]]] = []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(get_context("spawn").Pool(given.clients))
        stack.enter_context(cluster(cpus=3))
        engines: dict[str, Callable[[], Engine]] = {
            "no Ray": lambda: ProcessEngine(spec, max_batch=1),
            "1 replica": lambda: RayEngine(spec, replicas=1, max_batch=1),
            "2 replicas": lambda: RayEngine(spec, replicas=2, max_batch=1),
        }
        urls = {name: stack.enter_context(serving(make)) for name, make in engines.items()}
        for number in range(-1, given.rounds):  # the first warms up
            seconds = given.seconds if number >= 0 else 1.0
            row = {name: turn(pool, url, given.clients, seconds) for name, url in urls.items()}
            if number >= 0:
                rounds.append(row)
                print(
                    ", ".join(f"{name} {each['per_second']:.1f}/s" for name, each in row.items()), flush=True
                )
    figures = {"policy": given.policy, "clients": given.clients, "cores": os.cpu_count(), **summary(rounds)}
    for name, row in figures["median"].items():
        print(name, " ".join(f"{key} {value:.2f}" for key, value in row.items()))
    print(
        f"two replicas over one: {figures['ratio']:.2f} (rounds from {min(figures['ratios']):.2f} to "
        f"{max(figures['ratios']):.2f}), at most {figures['ratio_at_most']:.2f} with these cores"
    )
    if given.json is not None:
        write_json(given.json, {**figures, "rounds": rounds})


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds, and what they say of two replicas against one."""
    median = {
        name: {key: float(np.median([each[name][key] for each in rounds])) for key in rounds[0][name]}
        for name in rounds[0]
    }
    ratios = [each["2 replicas"]["per_second"] / each["1 replica"]["per_second"] for each in rounds]
    most = (os.cpu_count() or 1) / (median["2 replicas"]["busy_ms"] / 1000)
    return {
        "ratio": float(np.median(ratios)),
        "ratio_at_most": most / median["1 replica"]["per_second"],
        "ratios": ratios,
        "errors": sum(each[name]["errors"] for each in rounds for name in each),
        "median": median,
    }


if __name__ == "__main__":
    main()
