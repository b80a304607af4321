"""A policy without weights, and a small folder of shards."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.action import ActionChunk


class Still:
    """Stays where it is."""

    valid = True
    keeps_promises, patience = False, None

    def predict(self, observations, *, seed=None, promised=None):
        values = np.zeros((24, 20), np.float32)
        values[:, [3, 7, 13, 17]] = 1
        values[:, [9, 19]] = 0.05
        reason = "" if self.valid else "token 3 of 27 is no action token"
        return [
            ActionChunk(values, valid=self.valid, reason=reason, timing={"vlm": 0.01}) for _ in observations
        ]


@pytest.fixture
def still(monkeypatch):
    """Every policy name loads this policy."""
    from rdt2.evaluation import policies

    policy = Still()
    monkeypatch.setattr(policies, "open_policy", lambda source: policy)
    return policy


@pytest.fixture
def shards(tmp_path):
    from rdt2.data import ShardWriter

    folder = tmp_path / "shards"
    with ShardWriter(folder) as writer:
        for number in range(12):
            action = np.zeros((24, 20), np.float32)
            action[:, [3, 7, 13, 17]] = 1
            action[:, 0] = 0.001 * np.arange(24)
            action[:, [9, 19]] = 0.05
            writer.write(
                picture=np.full((384, 768, 3), 9 * number + 40, np.uint8),
                action=action,
                instruction="Pick up the red cube with the left hand.",
                meta={"episode": number // 3},
            )
    return folder
