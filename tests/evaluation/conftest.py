from __future__ import annotations

from dataclasses import replace

import pytest
from made_up_episodes import record


@pytest.fixture
def no_simulation(monkeypatch):
    """Episodes end at once: success for the right hand."""
    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell

    ran = []

    def run(trial, policy, robot, *, config, max_seconds, watch=None, desk=None):
        ran.append((trial, policy, robot))
        task = trial.task(trial.scene())
        done = record(trial.index, task.hand == "right", task.hand, task.colour, trial.task_kind)
        return replace(done, seed=trial.seed, instruction=task.instruction), None

    monkeypatch.setattr(cell, "run_trial", run)
    return ran
