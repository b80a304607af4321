from __future__ import annotations

import json

import numpy as np
import pytest

from rdt2.action import ActionChunk
from rdt2.cli.main import main
from rdt2.data import ShardIndex, ShardWriter, split_by_episode
from rdt2.errors import ConfigError, ShardError
from rdt2.evaluation.shards import MEAN_CHUNK, STAY_STILL, evaluate_shards, trained_with
from rdt2.files import write_json


def chunk(step: float, width: float) -> np.ndarray:
    values = np.zeros((24, 20), np.float32)
    values[:, [3, 7, 13, 17]] = 1
    values[:, 0] = step * np.arange(1, 25)
    values[:, [9, 19]] = width
    return values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four episodes of six samples; the red of a picture's left half is the number of the sample."""
    out = tmp_path_factory.mktemp("shards")
    with ShardWriter(out, samples_per_shard=10) as writer:
        for number in range(24):
            picture = np.zeros((384, 768, 3), np.uint8)
            picture[:, :384, 0] = 10 * number
            picture[:, 384:, 1] = 200
            writer.write(
                picture=picture,
                action=chunk(0.001 * (number % 6), 0.05),
                instruction=f"Pick up object {number % 2}.",
                meta={"episode": number // 6},
            )
    return out


class Oracle:
    """Answers with the recorded chunk of the sample it recognises in the picture, plus an error."""

    def __init__(self, folder, error=0.0, invalid=()):
        self.actions = ShardIndex(folder).all_actions()
        self.error, self.invalid = error, invalid
        self.seeds, self.numbers, self.sizes = [], [], []

    def predict(self, observations, *, seed=None):
        self.sizes.append(len(observations))
        self.seeds += list(seed)
        chunks = []
        for observation in observations:
            assert observation.right[200, 200, 1] > 150
            number = round(observation.left[200, 200, 0] / 10)
            assert observation.instruction == f"Pick up object {number % 2}."
            self.numbers.append(number)
            values = self.actions[number].copy()
            values[:, 0] += self.error
            if number in self.invalid:
                chunks.append(ActionChunk(np.full((24, 20), np.nan), valid=False, reason="a test"))
            else:
                chunks.append(ActionChunk(values))
        return chunks


def test_a_known_error_is_measured_and_baselines_stand_beside_it(folder):
    result = evaluate_shards(Oracle(folder, error=0.004), folder, split="all", batch_size=5)
    assert result.samples == 24
    assert result.errors.position_mm == pytest.approx(2.0, abs=1e-3)  # one arm of two is 4 mm off
    assert result.errors.rotation_deg == pytest.approx(0, abs=1e-3)
    still = result.baselines[STAY_STILL]
    assert still.position_mm == pytest.approx(np.mean([k * 12.5 for k in range(6)]) / 2, rel=1e-4)
    assert still.width_mm == 0
    assert result.baselines[MEAN_CHUNK].position_mse < still.position_mse


def test_baselines_are_of_the_samples_that_were_answered(folder):
    """Regression: a policy that answers where it is easy looked better than standing still, which answered all."""
    policy = Oracle(folder, error=0.004)
    policy.invalid = [number for number in range(24) if number % 6]  # all that move further
    result = evaluate_shards(policy, folder, split="all", batch_size=5)
    assert result.valid_rate == pytest.approx(4 / 24)
    assert result.baselines[STAY_STILL].position_mm == pytest.approx(0, abs=1e-3)


def test_the_command_evaluates_what_the_models_run_held_out(folder, tmp_path, monkeypatch, capsys):
    """regression: always 5 %, so that a model trained with less was measured on what it had learnt."""
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    write_json(run / "config.json", {"stage": "expert", "config": {"held_out": 0.5}})
    write_json(run / "model" / "config.json", {"hidden_size": 64})
    asked = []

    def opened(source):
        asked.append(Oracle(folder))
        return asked[-1]

    monkeypatch.setattr("rdt2.evaluation.policies.open_policy", opened)

    def evaluated(policy, *more) -> list[int]:
        main(["evaluate", "shards", "--policy", str(policy), "--data", str(folder), *more])
        return asked[-1].numbers

    half, few = (split_by_episode(ShardIndex(folder), held_out=share)[1].tolist() for share in (0.5, 0.05))
    assert len(half) == 3 * len(few)
    assert evaluated(run / "model") == half
    assert "training held out 0.5 of the episodes" in capsys.readouterr().err
    assert evaluated(run / "model", "--held-out", "0.05") == few
    assert evaluated(run / "model" / "elsewhere") == few
    assert evaluated("demo-fm") == few
    assert evaluated("demo-fm", "--held-out", "0.5") == half

    write_json(run / "config.json", {"stage": "expert", "config": {"held_out": 0.5, "validation": "other"}})
    assert trained_with(run / "model") == 0.0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        evaluated(run / "model")
    said = capsys.readouterr().err
    assert "training held out none of the episodes" in said
    assert "Try --split all" in said


def test_counts_are_looked_at_before_a_policy_is_loaded(folder, monkeypatch, capsys):
    monkeypatch.setattr("rdt2.evaluation.policies.open_policy", lambda source: pytest.fail("loaded"))
    for option in ("--batch-size", "--limit"):
        with pytest.raises(SystemExit):
            main(["evaluate", "shards", "--policy", "demo-fm", "--data", str(folder), option, "0"])
        assert "expected at least 1" in capsys.readouterr().err


def test_only_held_out_episodes_are_read_unless_asked(folder):
    """Regression: an evaluation that reads training samples measures memory."""
    policy = Oracle(folder)
    result = evaluate_shards(policy, folder)
    training, held_out = split_by_episode(ShardIndex(folder))
    assert policy.numbers == held_out.tolist()
    assert not set(policy.numbers) & set(training.tolist())
    assert result.split == "held_out"


def test_batch_size_changes_neither_samples_nor_seeds(folder):
    one, many = Oracle(folder), Oracle(folder)
    first = evaluate_shards(one, folder, split="all", batch_size=1, seed=3)
    second = evaluate_shards(many, folder, split="all", batch_size=7, seed=3)
    assert one.numbers == many.numbers
    assert one.seeds == many.seeds == [3 + n for n in range(24)]
    assert many.sizes == [7, 7, 7, 3]
    assert first.errors == second.errors


def test_a_limit_spreads_over_the_data(folder):
    policy = Oracle(folder)
    assert evaluate_shards(policy, folder, split="all", limit=4).samples == 4
    assert policy.numbers == [0, 8, 15, 23]


def test_invalid_chunks_lower_the_valid_rate_and_do_not_enter_the_errors(folder):
    result = evaluate_shards(Oracle(folder, invalid={0, 5, 9}), folder, split="all")
    assert result.valid_rate == pytest.approx(21 / 24)
    assert result.errors.samples == 21
    assert result.errors.action_mse == pytest.approx(0, abs=1e-12)


def test_when_nothing_is_valid_the_json_says_null(folder, tmp_path):
    result = evaluate_shards(Oracle(folder, invalid=set(range(24))), folder, split="all")
    values = json.loads(write_json(tmp_path / "r.json", result.as_dict()).read_text())
    assert values["valid_rate"] == 0
    assert values["position_mm"] is None
    assert values["baselines"]["stay still"]["samples"] == 0


def test_json_names_the_four_metrics(folder):
    values = evaluate_shards(Oracle(folder), folder, name="mine").as_dict()
    assert {"action_mse", "position_mse", "rotation_deg", "width_mm", "valid_rate", "policy"} <= set(values)
    assert values["policy"] == "mine"


def test_bad_requests_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="split"):
        evaluate_shards(Oracle(folder), folder, split="validation")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate_shards(Oracle(folder), folder, limit=0)
    with pytest.raises(ShardError):
        evaluate_shards(Oracle(folder), tmp_path)


def test_the_table_reads_in_a_terminal(folder, capsys):
    from rich.console import Console

    Console(width=120).print(
        evaluate_shards(Oracle(folder, error=0.004), folder, split="all", name="mine").table()
    )
    text = capsys.readouterr().out
    assert "mine" in text
    assert "stay still" in text
    assert "2.00" in text


def test_no_figure_is_cut_where_the_table_is_narrow(folder, capsys):
    from rich.console import Console

    result = evaluate_shards(Oracle(folder, error=0.004), folder, split="all", name="runs/own/policy/fm.json")
    Console(width=80).print(result.table())
    text = capsys.readouterr().out
    assert "…" not in text
    for errors in (result.errors, *result.baselines.values()):
        assert f"{errors.position_mse:.3e}" in text
        assert f"{errors.action_mse:.5f}" in text
