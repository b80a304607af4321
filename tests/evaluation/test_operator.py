"""Episodes that an operator looks on at: what is judged, what is run again, what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up_episodes import record

pytest.importorskip("mujoco")

from rdt2.errors import ConfigError
from rdt2.evaluation import cell as evaluation
from rdt2.evaluation.cell import evaluate_cell
from rdt2.evaluation.judge import Judge
from rdt2.evaluation.results import read_evaluation
from rdt2.sim.cell import Cell, cell_settings
from rdt2.sim.drawing import make_scene
from rdt2.sim.pace import Paced
from rdt2.sim.tasks import task_for


class Touching:
    """An operator who stops the second run of all, and marks."""

    def __init__(self):
        self.runs, self.touched = 0, False


def test_an_episode_that_was_stopped_is_run_again_and_marks_are_kept(tmp_path, monkeypatch):
    operator, seen = Touching(), []

    def run(trial, policy, robot, *, config, max_seconds, watch=None, desk=None):
        assert desk is operator
        operator.runs += 1
        operator.touched = operator.runs == 2
        seen.append(trial.index)
        task = trial.task(trial.scene())
        done = record(trial.index, True, task.hand, task.colour, trial.task_kind)
        mark = "failure" if trial.index == 1 else None
        return replace(done, seed=trial.seed, instruction=task.instruction, mark=mark), None

    monkeypatch.setattr(evaluation, "run_trial", run)
    path = tmp_path / "result.json"
    result = evaluate_cell("untrained", "ur5e", "pick", episodes=3, json=path, desk=operator)
    assert seen == [0, 1, 1, 2]
    assert result.episodes == 3
    assert [each.mark for each in read_evaluation(path).records] == [None, "failure", None]
    assert result.success == 3  # a mark counts nothing


def test_one_operator_looks_at_one_cell():
    with pytest.raises(ConfigError, match="--workers"):
        evaluate_cell("untrained", "ur5e", "pick", episodes=2, workers=2, desk=Touching())


def test_what_is_asked_for_now_is_judged():
    said = ["Pick up the yellow cube."]
    scene = make_scene("press", seed=5)
    with Cell.of(cell_settings("handheld"), scene) as cell:
        first = task_for(scene)
        said = [first.instruction]
        judge = Judge(cell, first, lambda: said[-1])
        assert judge.task == first
        listening = len(cell.listeners)
        assert not judge.done
        others = [item for item in scene.objects if item.name != first.target]
        said.append(first.instruction.replace(scene.object(first.target).colour, others[0].colour))
        cell.advance_to(0.5)
        assert not judge.done
        assert judge.task.target == others[0].name
        assert len(cell.listeners) == listening  # the first one's judge has gone
        said.append("Dance on the table.")
        assert not judge.done
        assert judge.task is None
        assert not judge.success
        assert [(event.time, event.kind, event.what) for event in judge.told] == [
            (0.5, "told", said[1]),
            (0.5, "told", said[2]),
        ]


class Simulated:
    def __init__(self):
        self.time = 5.0

    def now(self):
        return self.time

    def sleep_until(self, time):
        self.time = max(self.time, time)


def test_paced_time_does_not_run_ahead_of_the_walls(monkeypatch):
    wall = [1000.0]
    monkeypatch.setattr("rdt2.sim.pace.wall.monotonic", lambda: wall[0])
    monkeypatch.setattr("rdt2.sim.pace.wall.sleep", lambda seconds: wall.__setitem__(0, wall[0] + seconds))
    clock = Paced(Simulated())
    for k in range(1, 11):
        clock.sleep_until(5.0 + 0.1 * k)
    assert clock.now() == pytest.approx(6.0)
    assert wall[0] == pytest.approx(1001.0)
    wall[0] += 30.0  # a long prediction is not made up for
    clock.sleep_until(6.1)
    began = wall[0]
    clock.sleep_until(6.6)
    assert wall[0] - began == pytest.approx(0.5, abs=0.01)
