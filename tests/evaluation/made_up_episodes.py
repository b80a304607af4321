"""Policies, records, settings and films made of nothing, for fast tests of evaluations."""

from __future__ import annotations

import numpy as np

from rdt2.action import ActionChunk
from rdt2.evaluation.report import ChunkView, EpisodeView
from rdt2.evaluation.results import EpisodeRecord
from rdt2.evaluation.video import Clip, ClipWriter


class Still:
    """Stays where it is, and remembers what it was shown."""

    keeps_promises, patience = False, None

    def __init__(self, valid: bool = True):
        self.seen, self.seeds, self.valid = [], [], valid

    def predict(self, observations, *, seed=None, promised=None):
        self.seen += observations
        self.seeds.append(seed)
        values = np.zeros((24, 20), np.float32)
        values[:, [3, 7, 13, 17]] = 1
        values[:, [9, 19]] = 0.08
        timing = {"vlm": 0.002, "expert": 0.001, "total": 0.003}
        if not self.valid:
            return [ActionChunk(values, valid=False, reason="a test", timing=timing)]
        return [ActionChunk(values, timing=timing)]


def record(
    index: int, success: bool, hand: str = "left", colour: str = "red", task: str = "pick"
) -> EpisodeRecord:
    return EpisodeRecord(
        index=index,
        task=task,
        seed=100 + index,
        instruction="Pick up the red cube with the left hand.",
        hand=hand,
        target="red cube",
        colour=colour,
        success=success,
        followed=True,
        judged=True,
        seconds=9.0,
        reason="done" if success else "time is up",
        chunks=20,
        pauses=0,
        slowed={},
        collisions=0,
        inference_ms=50.0,
    )


def settings(**changes):
    """As far as they are told to a reader."""
    scenes = {
        "tasks": ["pick"], "seed": 0, "scenery": "seen", "unseen_shapes": False, "swap_instruction": False,
    }  # fmt: skip
    policy = {"policy": "p", "blind": False, "no_instruction": False, "steps": 5}
    loop = {"mode": "chunking", "latency": 0.1}
    found = {"policy": policy, "robot": {"robot": "ur5e"}, "scenes": scenes, "loop": loop, "versions": {}}
    for name, value in changes.items():
        part, _, key = name.partition("__")
        found[part] = {**found[part], key: value}
    return found


def clip(codec: str = "libx264") -> Clip:
    writer = ClipWriter(96, 32, fps=10, codec=codec)
    for k in range(12):
        frame = np.zeros((32, 96, 3), np.uint8)
        frame[:, : 8 * k] = (200, 30, 30)
        writer.add(frame)
    return writer.close()


def view(**changes) -> EpisodeView:
    times = np.arange(60) / 30
    sides = {"right": -0.2, "left": 0.2}
    paths = {arm: np.stack([0.1 * times, 0 * times + y, 0.2 - 0.05 * times], 1) for arm, y in sides.items()}
    widths = {arm: np.full(60, 0.05) for arm in paths}
    chunk = ChunkView(0.0, {arm: paths[arm][:24] for arm in paths}, {arm: widths[arm][:24] for arm in paths})
    values = {
        "title": "pick on ur5e", "instruction": "Pick up the red cube.", "seed": 5,
        "success": True, "followed": True, "seconds": 2.0, "reason": "",
        "times": times, "positions": paths, "widths": widths,
        "chunks": [chunk],
        "clip": clip(),
    }  # fmt: skip
    return EpisodeView(**{**values, **changes})
