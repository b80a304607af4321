"""openpi's own runtime, client and chunk broker drive the simulated cell through `rdt2 serve`'s server, and again with
the policy at hand: paired scenes, the same noise. Needs openpi-client, whose numpy is older than ours, hence an
environment of its own, which `make bench-openpi` makes.

    python benchmarks/openpi_cell.py --policy demo-fm --episodes 40 --json FILE

FILE is written behind every scene; started again with the same options, it goes on with the scenes that are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.base_policy import BasePolicy
from openpi_client.runtime.agents.policy_agent import PolicyAgent
from openpi_client.runtime.environment import Environment
from openpi_client.runtime.runtime import Runtime
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from rdt2.action import absolute_rows
from rdt2.errors import ConfigError
from rdt2.evaluation.statistics import Paired, Rate
from rdt2.files import write_json
from rdt2.observation import Observation
from rdt2.policy import PolicySpec, load_policy
from rdt2.policy.digests import file_digests
from rdt2.policy.load import policy_parts
from rdt2.serving import ProcessEngine, served
from rdt2.sim.gym import CellTargetsEnv

STEPS = 6
"""Rows of a chunk that are driven before the next one."""


class CellEnvironment(Environment):
    """The cell in openpi's words: rows of chunks come one at a time, relative to the observation of their chunk."""

    def __init__(self, robot: str, task: str, scene_seed: int, max_seconds: float) -> None:
        self._env = CellTargetsEnv(robot, task, max_seconds=max_seconds)
        self.horizon = self._env.late_rows + STEPS
        self._scene_seed = scene_seed
        self.success = self._over = False
        self.seconds = 0.0
        self.end: list[float] = []

    def reset(self) -> None:
        if self._over:  # their runtime resets once more at the end, for robots that drive home
            return
        self._seen, self._info = self._env.reset(options={"scene_seed": self._scene_seed})
        self._row = self._chunks = 0

    def is_episode_complete(self) -> bool:
        return self._over

    def get_observation(self) -> dict[str, Any]:
        if self._row == 0:  # the broker asks the policy now, and not again before all rows were taken
            self._began = self._seen["state"]
            self._chunks += 1
        entries = {side: self._seen[side] for side in ("left", "right")}
        return {**entries, "prompt": self._info["instruction"], "seed": self._chunks}

    def apply_action(self, action: dict[str, Any]) -> None:
        row, self._row = self._row, (self._row + 1) % self.horizon
        if row < self._env.late_rows:  # its time is over when the arms can act on it
            return
        target = absolute_rows(action["actions"][None], self._began)[0]
        self._seen, reward, terminated, truncated, self._info = self._env.step(target)
        if terminated or truncated:
            assert self._env.cell is not None
            self.success, self.seconds, self._over = reward > 0, self._env.cell.time, True
            self.end = self._seen["state"].tolist()
            self._env.close()


class Direct(BasePolicy):
    """The policy at hand, asked as the server asks it."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def infer(self, obs: dict) -> dict:
        seen = Observation(left=obs["left"], right=obs["right"], instruction=obs["prompt"])
        return {"actions": self._policy.predict([seen], seed=[obs["seed"]])[0].values}


def drive(policy: BasePolicy, robot: str, task: str, scene_seed: int, max_seconds: float) -> dict[str, Any]:
    """One episode in openpi's runtime."""
    world = CellEnvironment(robot, task, scene_seed, max_seconds)
    began = time.perf_counter()
    Runtime(world, PolicyAgent(ActionChunkBroker(policy, world.horizon)), subscribers=[]).run()
    wall = time.perf_counter() - began
    return {"success": world.success, "seconds": world.seconds, "end": world.end, "wall_seconds": wall}


def compare(
    spec: PolicySpec, robot: str, task: str, scenes: range, max_seconds: float, json_file: Path | None = None
) -> dict[str, Any]:
    """Each scene through a server and with the policy at hand; those of `json_file` are not driven again.

    Raises:
        ConfigError: the file is of another measurement.
    """
    direct, model = Direct(load_policy(spec)), described(spec)
    about = {"policy": spec.policy, "model": model, "robot": robot, "task": task, "max_seconds": max_seconds}
    rows = earlier(json_file, about)
    with served(lambda: ProcessEngine(spec, max_batch=1)) as url:
        host, port = url.rsplit(":", 1)
        remote = WebsocketClientPolicy(host, int(port))
        for scene in scenes:
            if scene in [row["scene"] for row in rows]:
                continue
            ways = (("served", remote), ("direct", direct))
            rows.append(
                {"scene": scene}
                | {name: drive(policy, robot, task, scene, max_seconds) for name, policy in ways}
            )
            print(
                f"scene {scene}: " + ", ".join(f"{n} {rows[-1][n]['success']}" for n, _ in ways), flush=True
            )
            if json_file is not None:
                write_json(json_file, {**about, **told(rows)})
    return {**about, **told(rows)}


def described(spec: PolicySpec) -> dict[str, Any]:
    """Digests of the files that a policy is loaded from."""
    return {part: file_digests(place) for part, place in policy_parts(spec).parts.items()}


def earlier(json_file: Path | None, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Scenes that were driven before. Raises ConfigError for those of another policy, robot or task."""
    if json_file is None or not json_file.exists():
        return []
    found = json.loads(json_file.read_text())
    if others := [name for name, value in about.items() if found.get(name) != value]:
        raise ConfigError(
            f"{json_file} has another {', '.join(others)}. Give --json another name, or remove it."
        )
    return list(found["rows"])


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the scenes come to."""
    served_wins, direct_wins = ([row[name]["success"] for row in rows] for name in ("served", "direct"))
    return {
        "episodes": len(rows),
        "served": Rate.of(sum(served_wins), len(rows)).as_dict(),
        "direct": Rate.of(sum(direct_wins), len(rows)).as_dict(),
        "served_against_direct": Paired.of(served_wins, direct_wins).as_dict(),
        "same_outcome": sum(a == b for a, b in zip(served_wins, direct_wins, strict=True)),
        "same_end": sum(
            bool(np.allclose(row["served"]["end"], row["direct"]["end"], atol=1e-5)) for row in rows
        ),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="demo-fm")
    parser.add_argument("--robot", default="ur5e")
    parser.add_argument("--task", default="pick")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--first-scene", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    scenes = range(given.first_scene, given.first_scene + given.episodes)
    spec = PolicySpec(policy=given.policy)
    result = compare(spec, given.robot, given.task, scenes, given.max_seconds, given.json)
    for name in ("served", "direct"):
        print(f"{name:8} {result[name]['count']} of {result['episodes']}: {Rate(**result[name])}")
    print(f"served against direct: {Paired(**result['served_against_direct'])}")
    print(
        f"same outcome in {result['same_outcome']}, arms in the same place in {result['same_end']} "
        f"of {result['episodes']}"
    )
    sys.exit(result["served"]["count"] < result["direct"]["count"])


if __name__ == "__main__":
    main()
