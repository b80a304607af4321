from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco")

from made_up_episodes import Still, record, settings

from rdt2.action import ActionChunk
from rdt2.cli.evaluate import EvaluateCell
from rdt2.cli.main import parse
from rdt2.errors import CheckpointError, ConfigError
from rdt2.evaluation.cell import evaluate_cell, loop_config, run_trial
from rdt2.evaluation.policies import Deprived, open_policy
from rdt2.evaluation.results import CellEvaluation
from rdt2.evaluation.scenes import Trial, draw_trials, task_named, trials_for
from rdt2.observation import Observation
from rdt2.policy import FMPolicy
from rdt2.policy.spec import PolicySpec


def test_counts_intervals_and_episodes_are_in_the_json(no_simulation):
    seen = []
    result = evaluate_cell(Still(), "ur5e", "pick", episodes=6, seed=2, on_episode=seen.append)
    values = json.loads(json.dumps(result.as_dict()))
    assert (values["success"], values["episodes"], values["followed"]) == (3, 6, 6)
    assert values["success_interval"] == pytest.approx([0.1876, 0.8124], abs=1e-4)
    assert [r["index"] for r in values["records"]] == list(range(6))
    assert values["by_hand"]["right"]["count"] == 3
    assert values["by_hand"]["left"]["count"] == 0
    assert len(seen) == 6


def test_settings_reach_the_trials(no_simulation):
    evaluate_cell(
        Still(), "fr3", "place", episodes=2, scenery="unseen", unseen_shapes=True, swap_instruction=True
    )
    trial, _, robot = no_simulation[0]
    assert robot == "fr3"
    assert (trial.task_kind, trial.scenery, trial.unseen_shapes, trial.swap_instruction) == (
        "place", "unseen", True, True,
    )  # fmt: skip


def test_bad_requests_are_refused(no_simulation):
    with pytest.raises(ConfigError, match="workers"):
        evaluate_cell(Still(), "ur5e", "pick", workers=0)
    with pytest.raises(ConfigError, match="PolicySpec"):
        evaluate_cell(Still(), "ur5e", "pick", workers=2)
    with pytest.raises(CheckpointError):
        evaluate_cell("no/such/folder/at/all", "ur5e", "pick", episodes=1)
    with pytest.raises(ConfigError, match="nothing in press has a shape that training never had"):
        evaluate_cell(Still(), "ur5e", "press", episodes=1, unseen_shapes=True)
    result = evaluate_cell(Still(), "ur5e", "all", episodes=1, unseen_shapes=True)
    assert {each.task for each in result.records} == {"pick", "place"}, "and all are those that have one"


def test_the_table_names_conditions_and_intervals(capsys):
    from rich.console import Console

    result = CellEvaluation(
        settings(scenes__scenery="unseen", policy__blind=True),
        episodes_each=2,
        records=[record(0, True), record(1, False, "right", "blue")],
        wall_seconds=3,
    )
    Console(width=120).print(result.table())
    text = capsys.readouterr().out
    for word in ("unseen scenes", "black pictures", "1/2", "50 %", "9 to 91 %", "left hand"):
        assert word in text, word


def test_a_deaf_policy_sees_and_is_told_nothing_about_the_scene():
    policy = Still()
    picture = np.full((384, 384, 3), 90, np.uint8)
    Deprived(policy, deaf=True).predict([Observation(picture, picture, "Pick up the apple.")], seed=1)
    (seen,) = policy.seen
    assert seen.left.max() == seen.right.max() == 90
    assert seen.instruction == "Do something."


def test_a_blind_policy_sees_black_and_hears_the_sentence():
    policy = Still()
    picture = np.full((384, 384, 3), 90, np.uint8)
    Deprived(policy, blind=True).predict([Observation(picture, picture, "Pick up the apple.")], seed=1)
    (seen,) = policy.seen
    assert seen.left.max() == seen.right.max() == 0
    assert seen.instruction == "Pick up the apple."
    assert picture.max() == 90


def test_a_short_episode_in_the_cell_is_filmed():
    from rdt2.evaluation.film import EpisodeFilm

    trial, films = draw_trials("pick", 1, seed=0)[0], []

    def watch(cell):
        films.append(EpisodeFilm(cell))
        return films[0]

    policy = Still()
    done, result = run_trial(trial, policy, "handheld", config=loop_config(12), max_seconds=0.7, watch=watch)
    assert not done.success
    assert not done.followed
    assert done.judged
    assert done.reason == "time is up"
    assert done.seconds == pytest.approx(0.7, abs=0.01)
    assert done.chunks == len(result.cycles) == 2
    assert policy.seeds == [1000 * trial.seed, 1000 * trial.seed + 1]
    assert policy.seen[0].instruction == done.instruction
    assert policy.seen[0].left.max() > 100  # a lit table, not black
    view = films[0].view(done, result, title="pick")
    assert view.clip is not None
    assert view.clip.frames == pytest.approx(8, abs=1)
    assert len(view.chunks) == 2
    # The predicted path begins where the arm was seen to be: nothing was asked to move.
    for arm in ("left", "right"):
        assert np.abs(view.chunks[0].positions[arm] - view.positions[arm][0]).max() < 1e-3
    assert films[0].seconds["vlm"] == [0.002, 0.002]
    assert len(films[0].seconds["simulation and pictures"]) == 1


class Slow(Still):
    """Takes longer than a chunk has steps to spare, on any machine."""

    def predict(self, observations, *, seed=None, promised=None):
        time.sleep(0.45)
        return super().predict(observations, seed=seed)


def test_at_its_real_latency_a_slow_policy_is_waited_for_as_the_help_says():
    """Regression: the example in the help was refused where a prediction takes a while; it did not say how to wait."""
    (example,) = (line for line in EvaluateCell.__doc__.splitlines() if "--latency real" in line)
    command = parse(shlex.split(example.partition("  the arms wait")[0])[1:])
    config = command.driving.config(None)
    result = evaluate_cell(Slow(), "handheld", "press", episodes=1, config=config, max_seconds=0.8)
    (done,) = result.records
    assert (done.reason, done.pauses, done.chunks) == ("time is up", 0, 1)
    assert done.inference_ms > 450
    assert result.settings["computer"], "it is as good as the computer it has"
    with pytest.raises(ConfigError, match=r"left, and \d+ have to be driven .* mode synchronous"):
        evaluate_cell(
            Slow(), "handheld", "press", episodes=1, config=loop_config(latency=None), max_seconds=0.8
        )


class Down(Still):
    """Asks both hands to go on down through the table."""

    def predict(self, observations, *, seed=None, promised=None):
        (chunk,) = super().predict(observations, seed=seed)
        values = chunk.values.copy()
        values[:, [2, 12]] = 4e-3 * np.arange(1, 25)[:, None]  # z of the gripper points to its fingertips
        return [ActionChunk(values, timing=chunk.timing)]


def test_the_arms_stop_above_the_table_of_the_scene_and_go_on_looking():
    trial = draw_trials("pick", 1, seed=0)[0]
    done, result = run_trial(trial, Down(), "handheld", config=loop_config(), max_seconds=3)
    assert done.pauses == 0
    assert "left arm stays over the table: the wish is ... mm too low" in done.slowed
    assert all(0 < seconds <= done.seconds for seconds in done.slowed.values())
    assert [event for event in done.events if event.kind == "held back" and "too low" in event.what]
    assert [event.time for event in done.events] == sorted(event.time for event in done.events)
    last = result.cycles[-1]
    for arm in ("left", "right"):
        height = last.tcp[arm][2, 3] - trial.scene().table_height
        # The fingers' pads reach 10 mm beyond the TCP and are 3 mm clear; leaning, the lower one needs more.
        assert 0.011 < height < 0.033


def test_an_invalid_chunk_moves_nothing_and_the_record_says_why():
    trial = draw_trials("press", 1, seed=0)[0]
    done, result = run_trial(trial, Still(valid=False), "handheld", config=loop_config(), max_seconds=3)
    assert not result.cycles
    assert done.pauses == 1
    assert "a test" in done.reason
    (pause,) = (event for event in done.events if event.kind == "pause")
    assert "a test" in pause.what
    assert 0 < pause.time < 1


def test_physics_that_break_down_are_an_episode_that_failed(monkeypatch):
    """Regression: the evaluation ended, and --resume came to the same scene again."""
    from rdt2.errors import SimulationError
    from rdt2.sim.cell import Cell

    original = Cell.advance_to

    def breaks(self, time):
        if time > 0.5:
            raise SimulationError("the simulation became unstable")
        original(self, time)

    monkeypatch.setattr(Cell, "advance_to", breaks)
    trial = draw_trials("press", 1, seed=0)[0]
    done, _ = run_trial(trial, Still(), "handheld", config=loop_config(), max_seconds=3)
    assert not done.success
    assert done.judged
    assert "became unstable" in done.reason


def test_an_unknown_robot_is_refused():
    with pytest.raises(ConfigError, match="ur10"):
        run_trial(Trial(0, 1, "pick"), Still(), "ur10", config=loop_config())
    with pytest.raises(ConfigError, match="expected a simulated one"):
        run_trial(Trial(0, 1, "pick"), Still(), "bimanual_ur5e", config=loop_config())


def test_ctrl_c_in_an_episode_ends_the_evaluation():
    class Interrupt(Still):
        def predict(self, observations, *, seed=None, promised=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(Trial(0, 1, "pick"), Interrupt(), "handheld", config=loop_config())


def test_sigterm_in_an_episode_ends_the_process_that_evaluates():
    """Regression: it ended the episode, which counted as a failure, and the evaluation went on."""
    code = (
        "import os, signal; from test_cell import Still, Trial, loop_config, run_trial\n"
        "class Ended(Still):\n"
        "    def predict(self, observations, *, seed=None):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return super().predict(observations, seed=seed)\n"
        "run_trial(Trial(0, 1, 'pick'), Ended(), 'handheld', config=loop_config())\n"
    )
    here = os.path.dirname(__file__)
    ended = subprocess.run([sys.executable, "-c", code], cwd=here, timeout=120)
    assert ended.returncode == -signal.SIGTERM


def test_an_own_sentence_finds_scenes_in_which_it_names_something():
    trials = trials_for("pick up the RED cube with the left hand", ["place", "pick"], 3, seed=0)
    assert len(trials) == 3
    for trial in trials:
        task = trial.task(trial.scene())
        assert (task.kind, task.hand, task.target) == ("pick", "left", "red cube")
        assert trial.instruction == "pick up the RED cube with the left hand"


def test_a_sentence_that_names_nothing_is_run_and_not_judged():
    (trial,) = trials_for("Juggle three knives.", ["press"], 1, seed=0)
    assert trial.task(trial.scene()) is None
    assert task_named(trial.scene(), "Press the blue thing with the left hand.") is None
    done, _ = run_trial(trial, Still(), "handheld", config=loop_config(), max_seconds=0.2)
    assert not done.judged
    assert done.instruction == "Juggle three knives."


def test_a_policy_spec_travels_to_worker_processes():
    import pickle

    spec = PolicySpec(policy="demo-fm", steps=3)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(PolicySpec(policy="demo-fm", steps=3))


def test_every_matrix_of_the_untrained_policy_is_another() -> None:
    def matrices(policy: FMPolicy) -> dict[str, torch.Tensor]:
        found = {}
        for model in (policy.vlm, policy.expert):
            tensors = itertools.chain(model.named_parameters(), model.named_buffers())
            found |= {f"{type(model).__name__}.{name}": tensor for name, tensor in tensors if tensor.ndim > 1}
        return found

    trained, untrained = (matrices(open_policy(name)) for name in ("demo-fm", "untrained"))  # type: ignore[arg-type]
    assert len(trained) > 60
    assert trained.keys() == untrained.keys()
    for name, tensor in trained.items():
        here, there = (t.to_dense() if t.is_mkldnn else t for t in (tensor, untrained[name]))
        assert not torch.equal(here, there), name
