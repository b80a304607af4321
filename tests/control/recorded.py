"""A recording made of nothing, in the middle of which a person drives."""

from __future__ import annotations

import numpy as np
from fake_robot import ConstantPolicy, fake_robot, fake_settings

from rdt2.control import DiskRecorder, LoopConfig, Steer, run_episode

SENTENCE = "Pick up the red cube with the left hand."


class Scripted:
    """Drives between two times of the robot's clock since its start, with what `act` says at the time."""

    def __init__(self, robot, begins, ends, act):
        self.clock, self.start, self.begins, self.ends, self.act = (
            robot.clock,
            robot.clock.now(),
            begins,
            ends,
            act,
        )

    def steer(self):
        since = self.clock.now() - self.start
        return self.act(since - self.begins) if self.begins <= since < self.ends else None


def make_recording(folder):
    """The files of an episode of some seconds."""
    robot, settings = fake_robot(), fake_settings()
    recorder = DiskRecorder(folder, policy={"policy": "constant"})
    recorder.begin(robot.clock, settings)
    up = Steer({"left": np.array([0, 0, 0.1, 0, 0, 0])}, {"left": 0.03})
    result = run_episode(
        robot, ConstantPolicy(), SENTENCE, settings=settings, recorder=recorder, config=LoopConfig(latency=0.1),
        pilot=Scripted(robot, 0.5, 2.0, lambda _: up), max_seconds=2.0,
    )  # fmt: skip
    return recorder.end(result)
