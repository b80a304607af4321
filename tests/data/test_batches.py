"""Batches: functions of their step, whatever ranks and workers; remote as local; mixtures; damage counted."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.test_shards import SENTENCE, action, encode_jpeg, picture

from rdt2.data import (
    Batch,
    DataSource,
    ShardIndex,
    ShardWriter,
    TrainingData,
    open_sources,
    write_dataset_yaml,
)
from rdt2.data.augmentation import ImageCorruption
from rdt2.data.loader import batches_ahead
from rdt2.errors import ConfigError, ShardError

SHARDS, LENGTH = 8, 5
TOTAL = SHARDS * LENGTH


def write(folder: Path, *, first: int = 0, shards: int = SHARDS) -> Path:
    """Shards whose tokens tell the sample: token 0 is its number."""
    jpegs = [encode_jpeg(picture(number)) for number in range(4)]
    with ShardWriter(folder, samples_per_shard=LENGTH) as writer:
        for number in range(shards * LENGTH):
            writer.write(
                picture=jpegs[number % 4],
                action=action(number),
                instruction=SENTENCE,
                tokens=np.full(27, first + number),
                meta={"episode": f"e{number // LENGTH}"},
            )
    write_dataset_yaml(folder, name=folder.name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards"))


def data(source: object, **options: object) -> TrainingData:
    return TrainingData(source, **({"batch_size": 4, "pictures": False, "split": "all"} | options))  # type: ignore[arg-type]


def take(source: TrainingData, count: int, **options: int) -> list[Batch]:
    return list(source.batches(range(count), **options))


def seen(batches: list[Batch]) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch.tokens]


def test_an_epoch_sees_every_sample_once(folder: Path) -> None:
    batches = take(data(folder, pictures=True), 20)
    first, second = seen(batches[:10]), seen(batches[10:])
    assert sorted(first) == sorted(second) == list(range(TOTAL))
    assert first != second
    batch = batches[3]
    assert batch.pictures.shape == (4, 384, 768, 3)
    assert batch.instructions == [SENTENCE] * 4
    for row in range(4):
        number = int(batch.tokens[row, 0])
        np.testing.assert_array_equal(batch.actions[row], action(number))
        assert np.abs(batch.pictures[row].astype(int) - picture(number % 4)).mean() < 2
    assert seen(take(data(folder, shuffle=False), 10)) == list(range(TOTAL))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder: Path, workers: int) -> None:
    source = data(folder, pictures=True, corruption=ImageCorruption(seed=1), states=False)
    for ours, theirs in zip(take(source, 12, workers=workers), take(source, 12), strict=True):
        for name, value in vars(theirs).items():
            np.testing.assert_array_equal(getattr(ours, name), value)


def test_ranks_share_no_sample_and_leave_none_out(folder: Path) -> None:
    """regression: with several ranks every rank read the same shards."""
    ranks = [data(folder, batch_size=3, rank=rank, world_size=3) for rank in range(3)]
    stream = [number for step in range(10) for rank in ranks for number in seen([rank.batch(step)])]
    assert stream == seen([data(folder, batch_size=90).batch(0)])
    assert sorted(stream[:TOTAL]) == list(range(TOTAL))


def test_a_run_goes_on_with_other_ranks(folder: Path) -> None:
    """regression: resuming replayed data, or was refused."""
    whole = seen(take(data(folder), 30))
    two = [data(folder, rank=rank, world_size=2) for rank in range(2)]
    before = [number for step in range(7) for rank in two for number in seen([rank.batch(step)])]
    alone = data(folder, batch_size=8)
    alone.go_on(7, two[0].position(7))
    assert before + seen([alone.batch(7), alone.batch(8)]) == whole[: 9 * 8]
    smaller = data(folder, batch_size=2)
    smaller.go_on(7, two[0].position(7))
    assert seen([smaller.batch(8)]) == whole[58:60]


def test_a_batch_may_be_larger_than_the_data(folder: Path) -> None:
    assert sorted(seen([data(folder, batch_size=2 * TOTAL).batch(0)])) == sorted([*range(TOTAL)] * 2)


def test_corruption_by_sample_and_epoch(folder: Path) -> None:
    corrupt = ImageCorruption(seed=1)
    plain = data(folder, pictures=True, batch_size=16)
    ours = data(folder, pictures=True, batch_size=16, corruption=corrupt)
    for step in (0, 2):  # the third batch ends in the second epoch
        batch, stored = ours.batch(step), plain.batch(step)
        _, epochs = ours.samples_of(step)
        assert set(epochs) == ({0} if step == 0 else {0, 1})
        for row, number in enumerate(batch.indices):
            expected = corrupt(stored.pictures[row], sample=int(number), epoch=int(epochs[row]))
            np.testing.assert_array_equal(batch.pictures[row], expected)
    # Evaluation sees pictures as they are.
    np.testing.assert_array_equal(ours.load([3, 4]).pictures, plain.load([3, 4]).pictures)


def test_pictures_cut_where_they_are_decoded(folder: Path) -> None:
    def cut(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pictures.reshape(len(pictures), -1)[:, :6].astype(np.float32), np.ones(
            (len(pictures), 3), np.int64
        )

    whole = data(folder, pictures=True).batch(2).pictures
    (batch,) = data(folder, pictures=True, cut=cut).batches(range(2, 3), workers=1)
    assert batch.pictures is None
    np.testing.assert_array_equal(batch.patches[0], cut(whole)[0])


def test_only_pictures_take_a_piece_of_shared_memory(folder: Path) -> None:
    """Every piece costs the process that trains a connection to the worker, and a map."""

    def cut(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pictures.reshape(3, -1, 192), np.ones((len(pictures), 3), np.int64)

    (whole,) = data(folder, pictures=True).batches(range(1), workers=1)
    (parts,) = data(folder, pictures=True, cut=cut).batches(range(1), workers=1)
    assert [isinstance(each.base, torch.Tensor) for each in (whole.pictures, *parts.patches)] == [
        True,
        True,
        False,
    ]
    for batch in (whole, parts):
        for array in (batch.actions, batch.indices, batch.mirrored):
            assert not isinstance(array.base, torch.Tensor)


def test_mixture_by_weight(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", first=900, shards=3)
    (tmp_path / "blend.yaml").write_text(
        f"name: both\ntype: blend\ntrain:\n"
        f"  many: {{config_path: {folder}/dataset.yaml, weight: 3}}\n"
        f"  few: {{config_path: other/dataset.yaml, weight: 1}}\n"
    )
    sources = open_sources(tmp_path / "blend.yaml")
    assert [(each.name, each.weight, len(each.shards)) for each in sources] == [("many", 3, 8), ("few", 1, 3)]
    assert sources[1].normalizer == str(tmp_path / "other" / "normalizer.safetensors")
    numbers = np.array(seen(take(data(tmp_path / "blend.yaml", batch_size=8), 100, workers=2)))
    assert (numbers >= 900).mean() == pytest.approx(0.25, abs=0.06)
    assert sorted(numbers[numbers < 900][:TOTAL]) == list(range(TOTAL))
    held_out = data(tmp_path / "blend.yaml", split="held_out", held_out=0.3)
    assert len(held_out) == 2 * LENGTH + LENGTH, "of each source, and never none"
    assert not set(held_out.numbers) & set(data(tmp_path / "blend.yaml", split="train", held_out=0.3).numbers)


def test_yamls_of_the_published_scripts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths from where the scripts are started, one table for all, sentences in the yaml, and what is evaluated."""
    configs = tmp_path / "configs" / "datasets"
    configs.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pick").symlink_to(folder)
    (tmp_path / "data" / "all.json").write_text((folder / "instructions.json").read_text())
    for name in ("one", "two"):
        (configs / f"{name}.yaml").write_text(
            f"name: {name}\ndataset_name: {name}\ntype: single\nshards_dir: data/pick\n"
        )
    each = "{{config_path: configs/datasets/{}.yaml, {}}}"
    (configs / "blend.yaml").write_text(
        "name: blend\ntype: blend\n"
        "kwargs: {instruction_path: data/all.json, addtional_instructions: {new: Fold the cloth.}}\n"
        f"train:\n  one: {each.format('one', 'weight: 1')}\n  two: {each.format('two', 'weight: 0.5')}\n"
        f"eval:\n  two: {each.format('two', 'val_ratio: 0.01')}\n"
    )
    monkeypatch.chdir(tmp_path)
    sources = open_sources("configs/datasets/blend.yaml")
    assert [(source.name, source.weight, len(source.shards)) for source in sources] == [
        ("one", 1, 8), ("two", 0.5, 8)
    ]  # fmt: skip
    table = json.loads((tmp_path / "data" / "all.json").read_text())
    assert all(source.table(source.shards[0]) == {**table, "new": "Fold the cloth."} for source in sources)
    (configs / "one.yaml").write_text(
        "name: one\nshards_dir: data/pick\nkwargs: {addtional_instructions: {new: Press the button.}}\n"
    )
    (one,) = open_sources(configs / "one.yaml")
    assert one.instructions == {"": {**table, "new": "Press the button."}}
    write(configs / "data" / "pick", first=0, shards=2)  # what is beside the yaml goes before what is here
    (one,) = open_sources(configs / "one.yaml", instructions="ignore")
    assert len(one.shards) == 2
    (configs / "two.yaml").write_text(
        "name: two\nshards_dir: data\nkwargs: {normalizer_path: normalizer.pt}\n"
    )
    (tmp_path / "normalizer.pt").touch()  # of whatever
    shutil.rmtree(configs / "data")
    with pytest.raises(ShardError, match="datasets/data: no such"):
        open_sources(configs / "two.yaml")
    write(configs / "data", shards=2)
    (two,) = open_sources(configs / "two.yaml")
    assert two.normalizer == str(configs / "normalizer.pt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {}", "train is no table"),
        ("train: {a: {weight: 1}}", "expected {config_path, weight}"),
        ("train: {a: {config_path: x.yaml, weight: many}}", "expected a number"),
        ("shards_dir: .\nkwargs: {addtional_instructions: [a]}", "expected a table {key: sentence}"),
        ("name: x", "shards_dir is None, expected 'type: single'"),
        ("- 1", "expected a table"),
    ],
)
def test_a_yaml_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_sources(tmp_path / "x.yaml")


def test_a_source_for_another_process_opens_its_own_files(folder: Path) -> None:
    source = data(folder)
    source.batch(0)
    assert seen([pickle.loads(pickle.dumps(source)).batch(1)]) == seen([source.batch(1)])


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """regression: one descriptor a shard, which fails near a thousand shards."""
    monkeypatch.setattr("rdt2.data.shards.ranges._MAX_OPEN", 2)
    monkeypatch.setattr("rdt2.data.dataset._MAX_MAPPED", 2)
    before = len(os.listdir("/proc/self/fd"))
    take(data(write(tmp_path)), 20)
    assert len(os.listdir("/proc/self/fd")) <= before + 5


# ---------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """One tar cut off after two samples, one picture that is none, one tar of garbage."""
    write(tmp_path)
    os.truncate(tmp_path / "shard-000001.tar", (tmp_path / "shard-000001.tar").stat().st_size // 2)
    path = tmp_path / "shard-000004.tar"
    content = path.read_bytes()
    start = content.index(b"\xff\xd8")
    path.write_bytes(content[: start + 2] + bytes(3000) + content[start + 3002 :])
    (tmp_path / "shard-000006.tar").write_bytes(b"\xff" * 2048)
    return tmp_path


def test_damage_is_an_error(damaged: Path) -> None:
    for name in ("shard-000001.tar", "shard-000006.tar"):
        with pytest.raises(ShardError, match=name):
            data(damaged)
        (damaged / name).unlink()
    with pytest.raises(ShardError, match=r"shard-000004\.tar, sample 20"):
        take(data(damaged, pictures=True), 12, workers=2)


def test_damage_is_left_out_and_counted(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = data(damaged, pictures=True, max_damaged=3)
    numbers = seen(take(source, 30, workers=2))
    assert set(range(TOTAL)) - set(numbers) == {7, 8, 9, 20, 30, 31, 32, 33, 34}
    # Three pieces of damage, met again in every epoch, are three.
    assert len(source.damaged) == len(caplog.records) == 3
    assert sorted(line[:16] for line in source.damaged) == [f"shard-00000{n}.tar" for n in (1, 4, 6)]
    assert seen(take(data(damaged, pictures=True, max_damaged=3), 30)) == numbers
    with pytest.raises(ShardError, match="3 damaged samples or shards, at most 2"):
        take(data(damaged, pictures=True, max_damaged=2), 30)


def test_an_error_of_ours_is_no_damage(folder: Path) -> None:
    def broken(picture: np.ndarray, **_: object) -> np.ndarray:
        raise ZeroDivisionError("a mistake of ours")

    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        take(data(folder, pictures=True, corruption=broken, max_damaged=9), 3)


def test_workers_that_end_or_hang_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """regression: a worker ended for want of memory left a traceback of a library; one that hangs, nothing at all."""
    with pytest.raises(ShardError, match=r"ended from outside .*fewer loader_workers"):
        list(batches_ahead(lambda step: os.kill(os.getpid(), signal.SIGKILL), range(3), workers=1))
    monkeypatch.setattr("rdt2.data.loader._PATIENCE_S", 0.2)
    with pytest.raises(ShardError, match=r"no batch came for 0\.2 s"):
        list(batches_ahead(lambda step: time.sleep(1), range(3), workers=1))


def test_contradictions(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rank is 2 of 2"):
        data(folder, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="split"):
        data(folder, split="test")
    with pytest.raises(ConfigError, match="held_out"):
        data(folder, split="train", held_out=0.9)
    with pytest.raises(ConfigError, match="weight"):
        DataSource("x", ("a.tar",), weight=0)
    with pytest.raises(ConfigError, match="empty or absurd range"):
        open_sources("memory://bucket/shard-{000007..000001}.tar")
    with pytest.raises(ConfigError, match="no way to read it"):
        open_sources("nosuchprotocol://bucket/pick")
    with pytest.raises(ShardError, match=r"cannot be listed|holds no"):
        open_sources("memory://nowhere")
    with pytest.raises(ShardError, match="no such shard"):
        open_sources(tmp_path / "nowhere")


def test_webdataset_reads_the_same_tars(folder: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="only for comparison")
    samples = list(wds.WebDataset(str(folder / "shard-000002.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [str(number) for number in range(10, 15)]
    np.testing.assert_array_equal(samples[3]["action.npy"], action(13))
    assert samples[3]["meta.json"]["episode"] == "e2"


def test_many_tables_of_sentences(folder: Path, tmp_path: Path) -> None:
    """Tars of two folders whose tables say other things by the same key."""
    for name, text in (("a", "Go left."), ("b", "Go right.")):
        write(tmp_path / name, shards=1)
        (tmp_path / name / "instructions.json").write_text(
            (folder / "instructions.json").read_text().replace(SENTENCE, text)
        )
    index = ShardIndex([tmp_path / "a", tmp_path / "b"])
    assert [index.instruction(number) for number in (0, LENGTH)] == ["Go left.", "Go right."]
    assert index.instruction_counts() == {"Go left.": LENGTH, "Go right.": LENGTH}
