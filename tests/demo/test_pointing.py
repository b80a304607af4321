"""What the pointing stage asks of drawn and recorded pictures."""

from __future__ import annotations

import json

import pytest
from made_up import SHORT, write_recordings
from toy import batch_of

from rdt2.data import fit_normalizer
from rdt2.demo.pointing import PointingStage
from rdt2.errors import ConfigError
from rdt2.training.cli import run_training
from rdt2.training.config import PointingTraining


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("shards"))


def test_pointing_asks_for_what_the_recordings_know(shards, tmp_path):
    stage = PointingStage(PointingTraining(batch_size=8), shards, tmp_path)
    batch = batch_of(stage, 0)
    assert len(batch["shown"]) == 2  # drawn; the others are recorded
    assert batch["actions"][:2].isnan().all()
    assert not batch["actions"][2:].isnan().any()
    recorded = stage.source.batch(0)
    assert 0 < recorded.mirrored.sum() < 6
    rows = zip(batch["told"][2:], recorded.indices, recorded.mirrored, strict=True)
    for told, number, mirrored in rows:
        red = "red" in stage.source.index.instruction(int(number))
        # as the hand that is asked for sees it: the red cube is the left hand's, the button the right hand's
        known = [0.1, 0.2, 0.25] if red else [0.3, -0.1, 0.0]
        if mirrored:
            known[0] *= -1
        assert told[:3].tolist() == pytest.approx(known, abs=1e-6)
        assert told[3:].isnan().all(), "no bowl is named"
    for row, at in enumerate(batch["hand_at"].tolist()):
        if at:  # a list of colours names no hand
            word = stage.processor.tokenizer.decode([int(batch["input_ids"][row, at])]).strip()
            assert word in ("left", "right")
    loss, parts = stage.module(batch, None)
    loss.backward()
    assert set(parts) == {"naming", "finding", "telling", "aiming", "acting"}
    assert all(value > 0 for value in parts.values())
    last = stage.module.vlm.model.language_model.layers[-2:]
    assert all(weight.grad is None for weight in last.parameters())  # left to the writing of tokens


def test_pointing_tells_of_the_bowl_where_one_is_named(shards, tmp_path):
    data = tmp_path / "bowls"
    data.mkdir()
    (data / "shard-000000.tar").symlink_to(shards / "shard-000000.tar")
    table = json.loads((shards / "instructions.json").read_text())
    sentence = "Put the red cube in the bowl with the left hand."
    (data / "instructions.json").write_text(json.dumps(dict.fromkeys(table, sentence)))
    fit_normalizer(shards).save_pretrained(data)
    stage = PointingStage(PointingTraining(batch_size=8, mirror=False), data, tmp_path / "out")
    batch = batch_of(stage, 0)
    for told in batch["told"][2:]:
        assert told.tolist() == pytest.approx([0.1, 0.2, 0.25, -0.2, 0.4, 0.5], abs=1e-6)
    asked = [int(batch["input_ids"][row, at]) for row, at in batch["asked_at"].tolist()]
    assert asked.count(stage.words["bowl"]) >= 6, "the place is asked for at the bowl's word, too"


def test_pointing_needs_recordings_that_say_where_things_are(shards, tmp_path):
    data = tmp_path / "words"
    data.mkdir()
    (data / "shard-000000.tar").symlink_to(shards / "shard-000000.tar")
    table = json.loads((shards / "instructions.json").read_text())
    (data / "instructions.json").write_text(json.dumps(dict.fromkeys(table, "Pick up the apple.")))
    fit_normalizer(shards).save_pretrained(data)
    with pytest.raises(ConfigError, match="expected recordings of the simulated cell"):
        run_training("pointing", config=None, overrides=SHORT, data=data, out=tmp_path / "run")
