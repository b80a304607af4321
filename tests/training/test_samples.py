"""Samples are looked through before a model is loaded, and what is held out is said."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rdt2.data import ShardIndex, encode_jpeg
from rdt2.errors import ConfigError, ShardError
from rdt2.normalizer import LinearNormalizer
from rdt2.training import samples as samples_module
from rdt2.training.cli import run_training
from rdt2.training.config import MAY_CHANGE, RunConfig, TokenizerTraining
from rdt2.training.samples import Samples
from rdt2.training.tokenizer import TokenizerStage

STILL = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2, np.float32), (24, 1))
JPEG = encode_jpeg(np.full((384, 768, 3), 90, np.uint8))


def write(
    folder: Path, actions: list[np.ndarray], *, per_episode: int = 8, tokens=None, name="shard-000000"
) -> Path:
    """Shards as other people's programs write them: nothing is checked."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for number, action in enumerate(actions):
            files = {"image.jpg": JPEG, "meta.json": json.dumps(
                {"sub_task_instruction_key": "go", "episode": number // per_episode}
            ).encode()}  # fmt: skip
            arrays = {
                "action.npy": action,
                **({} if tokens is None else {"action_token.npy": tokens[number]}),
            }
            for file, array in arrays.items():
                stream = io.BytesIO()
                np.save(stream, array)
                files[file] = stream.getvalue()
            for file, content in files.items():
                member = tarfile.TarInfo(f"{number:06d}.{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "instructions.json").write_text('{"go": "Pick up the cup."}')
    return folder


def moving(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        action = STILL.copy()
        action[:, [0, 1, 2, 10, 11, 12]] += rng.normal(0, 0.05, 6).astype(np.float32)
        out.append(action)
    return out


def take(folder: Path, **changes) -> Samples:
    return Samples(RunConfig(**{"batch_size": 4, **changes}), folder, rank=0, world_size=1)


def spoil(action: np.ndarray, kind: str) -> np.ndarray:
    action = action.copy()
    if kind == "nan":
        action[3, 4] = np.nan
    elif kind == "inf":
        action[23, 19] = np.inf
    elif kind == "padded":
        action[:, 10:] = 0
    elif kind == "quaternion":
        action[:, 3:9] = [0, 0, 0, 1, 0, 0]
    elif kind == "long":
        action[7, 3:9] *= 1.1
    elif kind == "last step":
        action[23, 13:19] = 0
    return action


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "action.npy holds NaN or infinity"),
        ("inf", "action.npy holds NaN or infinity"),
        ("padded", "6D rotation of the left arm at step 0 is .* not zeros"),
        ("quaternion", "6D rotation of the right arm .* Quaternions, Euler angles or rows"),
        ("long", "6D rotation of the right arm at step 7"),
        ("last step", "6D rotation of the left arm at step 23"),
    ],
)
def test_a_sample_that_cannot_be_learnt_from_is_named(tmp_path, kind, message):
    actions = moving(32)
    actions[17] = spoil(actions[17], kind)
    write(tmp_path, actions)
    with pytest.raises(ShardError, match=message) as error:
        take(tmp_path)
    assert "shard-000000.tar, sample 000017" in str(error.value)
    assert "1 of 32 samples looked at" in str(error.value)


def test_the_tokenizer_stage_says_so_before_its_first_step(tmp_path):
    write(tmp_path / "data", [spoil(action, "padded") for action in moving(32)])
    with pytest.raises(ShardError, match=r"the left arm at step 0.*32 of 32"):
        run_training(
            "tokenizer", config=None, overrides=["size=tiny", "batch_size=4"], data=tmp_path / "data",
            out=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_chunk_of_another_shape_is_named(tmp_path):
    actions = moving(32)
    actions[9] = actions[9][:16]
    write(tmp_path, actions)
    with pytest.raises(ShardError, match=r"sample 000009: action.npy is \(16, 20\), expected \(24, 20\)"):
        take(tmp_path)


def test_a_picture_that_does_not_decode_is_named(tmp_path):
    write(tmp_path, moving(8))
    shard = tmp_path / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    place = [at for at in range(len(content)) if content.startswith(JPEG[:4], at)][5]
    content[place : place + 4] = b"none"
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"sample 000005: image.jpg does not start like a JPEG"):
        take(tmp_path, held_out=0)


@pytest.mark.parametrize("file", ["action.npy", "meta.json", "image.jpg"])
def test_so_many_damaged_samples_are_left_out(tmp_path, file):
    """Of what is trained on and of what is evaluated, and in every stage."""
    write(tmp_path, moving(32))
    shard = tmp_path / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    for number in (2, 30):  # the last episodes are held out
        begin = content.find(f"{number:06d}.{file}".encode()) + 512
        content[begin : begin + 8] = b"nonsense"
    shard.write_bytes(content)
    with pytest.raises(ShardError, match="sample 0000"):
        take(tmp_path, held_out=0.25)
    taken = take(tmp_path, held_out=0.25, max_damaged=2)
    train(taken)
    for number in range(taken.held_out_batches(8)):
        taken.held_out_batch(number, taken.held_out_batches(8))
    left_out = {*taken.train.damaged, *taken.held_out.damaged}
    assert {line.split("sample ")[1][:6] for line in left_out} == {"000002", "000030"}
    with pytest.raises(ShardError, match="at most 1 are to be left out"):
        train(take(tmp_path, held_out=0, max_damaged=1))
    stage = TokenizerStage(
        TokenizerTraining(size="tiny", batch_size=4, normalizer=str(fitted(tmp_path)), max_damaged=2),
        tmp_path,
    )
    assert stage.load(0)["actions"].isfinite().all()


def train(taken: Samples, steps: int = 12) -> None:
    """On each sample, and more."""
    for step in range(steps):
        taken.train.count_damage(taken.batch(step))


def fitted(folder: Path) -> Path:
    """The folder of a normalizer of other data."""
    LinearNormalizer.fit(np.stack(moving(8))).save_pretrained(folder / "fitted")
    return folder / "fitted"


def test_tokens_that_are_none_are_named(tmp_path):
    tokens = np.zeros((32, 27), np.int16)
    tokens[5, 3] = 1024
    write(tmp_path, moving(32), tokens=tokens)
    with pytest.raises(
        ShardError, match=r"sample 000005: action_token.npy holds 0 to 1024, expected 0 to 1023"
    ):
        Samples(RunConfig(batch_size=4), tmp_path, rank=0, world_size=1, tokens=True)


def test_of_many_samples_an_even_part_is_looked_at_and_the_others_when_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(samples_module, "LOOKED_AT", 8)
    monkeypatch.setattr(samples_module, "DECODED", 4)
    actions = moving(64)
    actions[5] = spoil(actions[5], "nan")
    write(tmp_path, actions)
    found = take(tmp_path, held_out=0)
    assert "the actions of 8 of 64 samples and the pictures of 4 of 64 samples" in found.notes[1]
    step = next(step for step in range(16) if 5 in found.train.samples_of(step)[0])
    with pytest.raises(ShardError, match=r"sample 000005: action.npy holds NaN"):
        found.batch(step)


@pytest.mark.parametrize("kind", ["nan", "padded", "tokens"])
def test_samples_that_cannot_be_learnt_from_count_as_damaged(tmp_path, monkeypatch, kind):
    """Regression: one past those looked at when a run begins ended it, whatever max_damaged said."""
    actions, tokens = moving(64), np.zeros((64, 27), np.int16)
    for number in (0, 5):  # the first is looked at
        if kind == "tokens":
            tokens[number, 3] = 1024
        else:
            actions[number] = spoil(actions[number], kind)
    write(tmp_path, actions, tokens=tokens)
    monkeypatch.setattr(samples_module, "LOOKED_AT", 8)

    def opened(**changes) -> Samples:
        settings = RunConfig(batch_size=4, held_out=0, **changes)
        return Samples(settings, tmp_path, rank=0, world_size=1, tokens=True)

    with pytest.raises(ShardError, match=r"shard-000000.tar, sample 000000: .*max_damaged"):
        opened()
    found = opened(max_damaged=2)
    assert any("1 cannot be learnt from and are left out" in line for line in found.notes)
    for step in range(16):
        batch = found.batch(step)
        found.train.count_damage(batch)
        assert np.isfinite(batch.actions).all()
        assert batch.tokens.max() == 0
        assert not {0, 5} & set(batch.indices.tolist())
    assert {line.split("sample ")[1][:6] for line in found.train.damaged} == {"000000", "000005"}
    assert len(found.train.damaged) == 2, "each is counted once"
    with pytest.raises(ShardError, match="at most 1 are to be left out"):
        train(opened(max_damaged=1), 16)
    assert "max_damaged" in MAY_CHANGE, "so that such a run can go on"
    if kind == "tokens":  # are nothing to those who do not learn them
        train(Samples(RunConfig(batch_size=4, held_out=0), tmp_path, rank=0, world_size=1), 16)


@pytest.mark.parametrize("memory", [1 << 20, 0])
def test_the_tokenizer_leaves_such_chunks_out_wherever_it_reads_them(tmp_path, monkeypatch, memory):
    actions = moving(64)
    for number in (3, 60):  # the last episode is held out
        actions[number] = spoil(actions[number], "nan")
    write(tmp_path, actions, per_episode=32)
    monkeypatch.setattr("rdt2.training.tokenizer.IN_MEMORY", memory)
    monkeypatch.setattr(samples_module, "LOOKED_AT", 2)
    settings = {"size": "tiny", "batch_size": 16, "normalizer": str(fitted(tmp_path)), "linear_start": 64}
    stage = TokenizerStage(TokenizerTraining(**settings, max_damaged=2), tmp_path)
    assert np.isfinite(stage._held_out).all()
    for step in range(4):
        assert stage.load(step)["actions"].isfinite().all()
    with pytest.raises(ShardError, match=r"action.npy holds NaN"):
        TokenizerStage(TokenizerTraining(**settings), tmp_path)


# ------------------------------------------------------------------------------------------- what is held out


def test_what_is_held_out_is_said_and_can_be_set(tmp_path):
    write(tmp_path, moving(64), per_episode=32)
    found = take(tmp_path)
    assert found.notes[0] == (
        "training on 32 samples of 1 episode; 32 samples of 1 episode are held out to be evaluated "
        "(--set held_out=0 trains on all)"
    )
    everything = take(tmp_path, held_out=0)
    assert (len(everything.train), len(everything.held_out)) == (64, 0)
    assert everything.notes[0].startswith("training on all 64 samples; none is held out")
    write(tmp_path, moving(64), per_episode=4)
    quarter = take(tmp_path, held_out=0.25)
    assert (len(quarter.train), len(quarter.held_out)) == (52, 12), (
        "3 of 16 episodes: each name decides for itself"
    )


def test_few_samples_are_counted_out(tmp_path):
    write(tmp_path, moving(20), per_episode=100)
    with pytest.raises(ConfigError, match=r"of 20 samples none is left to train on.*take held_out=0"):
        take(tmp_path)
    assert len(take(tmp_path, held_out=0).train) == 20
    many = take(tmp_path, held_out=0, batch_size=64)
    assert "a step sees 64 samples, more than the 20 there are: some twice" in many.notes
    assert set(many.batch(0).indices) == set(range(20))


def test_a_validation_set_of_its_own(tmp_path):
    write(tmp_path / "train", moving(16))
    write(tmp_path / "other", moving(40))
    found = take(tmp_path / "train", validation=str(tmp_path / "other"))
    assert (len(found.train), len(found.held_out)) == (16, 40)
    assert found.notes[0].startswith("training on all 16 samples of 2 episodes; evaluated on the 40 samples")
    assert found.held_out_batch(0, 1).indices.tolist() == [0, 13, 26, 39], (
        "as many as a step, spread over all"
    )
    batches = [take(tmp_path / "train", batch_size=size).held_out.batch_size for size in (4, 100)]
    assert batches == [4, 32]
    sparse = [found.held_out_batch(n, 3).indices.tolist() for n in range(3)]
    assert (sparse[0][0], sparse[2][-1], len({*sparse[0], *sparse[1], *sparse[2]})) == (0, 39, 12)


def test_a_run_that_holds_nothing_out_trains_and_evaluates_nothing(tmp_path):
    from rdt2.data import fit_normalizer

    data = write(tmp_path / "data", moving(20), per_episode=100)
    fit_normalizer(data).save_pretrained(data)
    result = run_training(
        "tokenizer", config=None, data=data, out=tmp_path / "out",
        overrides=["size=tiny", "batch_size=4", "steps=2", "held_out=0", "trackers=[]", "evaluate_every=1"],
    )  # fmt: skip
    assert result.metrics == {}
    assert (result.model / "config.json").is_file()
    assert "eval/" not in (tmp_path / "out" / "metrics.jsonl").read_text()


def test_the_name_of_samples_is_that_of_what_they_hold(tmp_path):
    names = [ShardIndex(write(tmp_path / name, moving(8), per_episode=n)).fingerprint() for name, n in
             (("a", 8), ("b", 8), ("c", 4))]  # fmt: skip
    assert names[0] == names[1] != names[2]
