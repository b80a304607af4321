"""A cell in which both arms go up and down, at an operator's word."""

from __future__ import annotations

import threading

import numpy as np

from rdt2.action import HORIZON, ActionChunk, chunk_from_poses
from rdt2.control import LoopConfig
from rdt2.dashboard import Looking
from rdt2.dashboard.desk import Desk
from rdt2.evaluation.cell import run_trial
from rdt2.evaluation.scenes import Trial

SIDES = ("right", "left")


class Waves:
    """Moves both hands along their own x axes, to and fro, and remembers the sentences it was told."""

    keeps_promises, patience = False, None

    def __init__(self):
        self.told = []

    def predict(self, observations, *, seed=None):
        (observation,) = observations
        self.told.append(observation.instruction)
        direction = 1 if len(self.told) // 8 % 2 else -1
        motion = np.repeat(np.eye(4)[None], HORIZON, axis=0)
        motion[:, 0, 3] = 0.003 * direction * np.arange(1, HORIZON + 1)
        widths = np.linspace(0.08, 0.03, HORIZON)
        still = {side: np.eye(4) for side in SIDES}
        return [ActionChunk(chunk_from_poses(still, {s: motion for s in SIDES}, {s: widths for s in SIDES}))]


class Nobody:
    """A recorder that does nothing."""

    def on_cycle(self, observation, chunk, time):
        pass

    def on_frame(self, moment):
        pass


class Operated:
    """Runs trials in a thread until it is closed; `records` grows, `robot` is the one that is driven."""

    def __init__(self, looking, *, robot="ur5e", episodes=1, seconds=20.0, goes_on=False):
        self.policy, self.records, self.error = Waves(), [], None
        self.desk = Desk(looking, goes_on=goes_on)
        self._thread = threading.Thread(target=self._run, args=(robot, episodes, seconds), daemon=True)
        self._thread.start()

    def _run(self, robot, episodes, seconds):
        try:
            for index in range(episodes):
                trial = Trial(index, 3 + index, "pick")
                config = LoopConfig(latency=0.1, execute_steps=6)
                record, _ = run_trial(
                    trial,
                    self.policy,
                    robot,
                    config=config,
                    max_seconds=seconds,
                    desk=self.desk,
                    watch=self._watch,
                )
                self.records.append(record)
        except BaseException as error:
            self.error = error

    def _watch(self, cell):
        self.robot = cell.robot()
        return Nobody()

    def join(self, seconds=60.0):
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.desk.close()


if __name__ == "__main__":
    import sys

    with Operated(Looking(dashboard=True, dashboard_port=int(sys.argv[1])), episodes=3) as operated:
        operated.join(3600)
