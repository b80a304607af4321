"""The simulated cell as LeRobot drives it: simulated time goes on by 1/30 s with every action."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.robots import Robot

from rdt2.action import ARMS
from rdt2.data.sources.lerobot import STATE_NAMES
from rdt2.errors import ConfigError
from rdt2.observation import IMAGE_SIZE

from .config_rdt2sim import RDT2SimConfig

if TYPE_CHECKING:
    from rdt2.sim.gym import CellTargetsEnv

logger = logging.getLogger(__name__)

NAMES = tuple(f"{name}.pos" for name in STATE_NAMES)
"""The 20 columns of a state or action; LeRobot's rollouts look only at what ends with ".pos" or ".vel"."""


class RDT2Sim(Robot):
    """Two arms over a table. Actions are absolute: position (m), first two COLUMNS of the rotation and opening (m) of
    the right, then the left arm, in the cell's frame, as the observation's state.

    `success` and `instruction` tell of the task of the scene.
    """

    config_class = RDT2SimConfig
    name = "rdt2sim"

    def __init__(self, config: RDT2SimConfig) -> None:
        super().__init__(config)
        self.config = config
        self._env: CellTargetsEnv | None = None
        self._observed: dict[str, Any] = {}
        self.success, self.instruction = False, ""

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        pictures = {f"{arm}_wrist": (IMAGE_SIZE, IMAGE_SIZE, 3) for arm in ARMS}
        return {**self.action_features, **pictures}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(NAMES, float)

    @property
    def is_connected(self) -> bool:
        return self._env is not None

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """A simulated cell knows where everything is."""

    def configure(self) -> None:
        """Nothing to set."""

    def connect(self, calibrate: bool = True) -> None:
        """Lay the table."""
        from rdt2.sim.gym import CellTargetsEnv

        if self._env is not None:
            raise ConfigError("the cell is connected already.")
        env = CellTargetsEnv(
            self.config.arms, self.config.task, scenery=self.config.scenery, max_seconds=24 * 3600.0
        )
        self._observed, info = env.reset(options={"scene_seed": self.config.scene_seed})
        self._env, self.success, self.instruction = env, False, info["instruction"]
        logger.info("Scene %d: %s", self.config.scene_seed, self.instruction)

    def get_observation(self) -> dict[str, Any]:
        """Both wrist pictures uint8 (384, 384, 3) RGB, and the state when they were taken."""
        self._connected()
        state = dict(zip(NAMES, map(float, self._observed["state"]), strict=True))
        return {**state, **{f"{side}_wrist": self._observed[side] for side in ARMS}}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Drive there for 1/30 s. What cannot be driven lets the arms rest, and is logged."""
        env = self._connected()
        if missing := [name for name in NAMES if name not in action]:
            raise ConfigError(
                f"an action lacks {', '.join(missing[:3])} and so on; it has {sorted(action)[:3]}."
            )
        self._observed, _, _, _, info = env.step(np.array([action[name] for name in NAMES], np.float32))
        if info["fault"]:
            logger.warning("not driven: %s", info["fault"])
        if info["success"] and not self.success:
            self.success = True
            logger.info("Done after %.1f s: %s", env.cell.time, self.instruction)
        return action

    def disconnect(self) -> None:
        """Say how it went, and put the cell away."""
        logger.info("%s: %s", "success" if self.success else "no success", self.instruction)
        self._connected().close()
        self._env = None

    def _connected(self) -> CellTargetsEnv:
        if self._env is None:
            raise ConfigError("the cell is not connected. Call connect() first.")
        return self._env
