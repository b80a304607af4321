"""RDT2's simulated cell with two arms as a benchmark of vla-eval.

    benchmarks:
      - benchmark: "vla_eval_rdt2.cell:CellBenchmark"
        params: {robot: ur5e, tasks: [pick]}

Observations have `images` {left, right} of both wrists (384, 384, 3), `task_description` and `state`; an action is one
row of 20, absolute in the frame of the state, and 1/30 s of motion (`rdt2.sim.gym.CellTargetsEnv`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult, repeat_last_hold
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec

from rdt2.action import ACTION_DIM, FPS
from rdt2.sim.gym import CellTargetsEnv
from vla_eval_rdt2.server import COLUMNS, STATE


class CellBenchmark(StepBenchmark):
    """Tasks over a table; success is what `rdt2 evaluate cell` calls success.

    Args:
        robot: ur5e, fr3 or handheld.
        tasks: names of `rdt2.sim.tasks.TASKS`.
        scenery: what textures, light and table height are drawn from: seen or unseen.
        seed: of the first scene of each task; the others follow.
        max_seconds: simulated length of an episode that does not succeed.
    """

    render_backends: ClassVar[frozenset[str]] = frozenset({"gpu", "cpu"})

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        """The cell finds an OpenGL that works by itself."""
        return {}

    def __init__(
        self,
        robot: str = "ur5e",
        tasks: list[str] | None = None,
        scenery: str = "seen",
        seed: int = 0,
        max_seconds: float = 20.0,
        **_: Any,
    ) -> None:
        super().__init__()
        self.tasks, self.seed, self.max_seconds = tasks or ["pick"], seed, max_seconds
        self._env: CellTargetsEnv | None = None
        self._make = lambda task: CellTargetsEnv(robot, task, scenery=scenery, max_seconds=max_seconds)

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": name, "suite": "rdt2-cell"} for name in self.tasks]

    def get_metadata(self) -> dict[str, Any]:
        return {"max_steps": round(self.max_seconds * FPS), "action_dim": ACTION_DIM, "hz": FPS}

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {"actions": DimSpec("actions", ACTION_DIM, "rdt2_two_arms_absolute", description=COLUMNS)}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {"image": IMAGE_RGB, "language": LANGUAGE, "state": STATE}

    def get_metric_keys(self) -> dict[str, str]:
        return {"success": "mean", "seconds": "mean", "collisions": "mean"}

    def get_hold_action(self, last_action: dict[str, Any] | None) -> dict[str, Any]:
        """Absolute targets: the last one; before it, where the arms are."""
        if last_action is None:
            return {"actions": np.asarray(self._last_result.obs[0]["state"], np.float32)}
        return repeat_last_hold(last_action, ACTION_DIM)

    def reset(self, task: dict[str, Any]) -> Any:
        self.cleanup()
        self._env = self._make(task["name"])
        return self._env.reset(options={"scene_seed": self.seed + int(task.get("episode_idx", 0))})

    def step(self, action: dict[str, Any]) -> StepResult:
        assert self._env is not None, "reset first"
        observation, reward, terminated, truncated, info = self._env.step(action["actions"])
        return StepResult((observation, info), reward, terminated or truncated, info)

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        observation, info = raw_obs
        return {
            "images": {side: observation[side] for side in ("left", "right")},
            "task_description": info["instruction"],
            "state": observation["state"],
        }

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        assert self._env is not None, "reset first"
        assert self._env.cell is not None, "reset first"
        info = step_result.info
        return {
            "success": bool(info["success"]),
            "seconds": round(self._env.cell.time, 2),
            "collisions": int(info["collisions"]),
        }

    def render(self) -> np.ndarray | None:
        return None if self._env is None else self._last_result.obs[0]["right"]

    def cleanup(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
