"""Batches: every sample once an epoch, exact resume, ranks apart, episodes held out whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.test_shards import SENTENCE, action, encode_jpeg, picture

from rdt2.data import (
    ShardIndex,
    ShardWriter,
    TrainingData,
    action_statistics,
    fit_normalizer,
    split_by_episode,
)
from rdt2.data import dataset as dataset_module
from rdt2.errors import ConfigError, ShardError
from rdt2.normalizer import LinearNormalizer

EPISODES, LENGTH = 8, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    jpegs = [encode_jpeg(picture(number)) for number in range(4)]
    with ShardWriter(folder, samples_per_shard=13) as writer:
        for number in range(EPISODES * LENGTH):
            writer.write(
                picture=jpegs[number % 4],
                action=action(number),
                instruction=SENTENCE,
                tokens=np.full(27, number),
                meta={"episode": number // LENGTH},
            )
    return folder


def test_random_access(folder: Path) -> None:
    index = ShardIndex(folder)
    assert len(index) == EPISODES * LENGTH
    assert index.has_tokens
    for number in (39, 0, 17):
        np.testing.assert_array_equal(index.action(number), action(number))
        assert index.tokens(number)[0] == number
        assert index.instruction(number) == SENTENCE
        assert index.meta(number)["episode"] == number // LENGTH
    np.testing.assert_array_equal(index.all_actions([3, 5])[1], action(5))


def test_states_that_samples_do_not_tell_are_asked_for_in_vain(folder: Path) -> None:
    assert next(iter(TrainingData(folder, batch_size=4))).states is None
    with pytest.raises(ShardError, match="tells no state"):
        TrainingData(folder, batch_size=4, states=True)


def test_the_index_is_remembered_and_renewed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ShardIndex(folder)
    monkeypatch.setattr(dataset_module._shards, "scan_shard", lambda path: pytest.fail("scanned again"))
    np.testing.assert_array_equal(ShardIndex(folder)._place, first._place)
    monkeypatch.undo()
    (folder / ".shard-index.npz").write_bytes(b"damaged")
    assert len(ShardIndex(folder)) == len(first)


def test_an_epoch_sees_every_sample_once(folder: Path) -> None:
    data = TrainingData(folder, split="all", batch_size=4, seed=3, prefetch=2)
    batches = list(itertools.islice(data, 20))
    first, second = (np.concatenate([b.indices for b in part]) for part in (batches[:10], batches[10:]))
    assert sorted(first) == sorted(second) == list(range(40))
    assert list(first) != list(second)
    for batch in batches[:2]:
        assert batch.pictures.shape == (4, 384, 768, 3)
        assert batch.tokens.dtype == np.int64
        np.testing.assert_array_equal(batch.tokens[:, 0], batch.indices)
        np.testing.assert_array_equal(batch.actions[1], action(int(batch.indices[1])))
        assert batch.instructions == [SENTENCE] * 4


def test_order_depends_on_the_seed_only(folder: Path) -> None:
    def numbers(seed: int) -> list[int]:
        data = TrainingData(folder, batch_size=4, seed=seed, pictures=False)
        return [int(i) for batch in itertools.islice(data, 5) for i in batch.indices]

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_resume_replays_nothing_and_skips_nothing(folder: Path, prefetch: int) -> None:
    """regression: resuming replayed data. Batches made ahead but not used must not count either."""
    options = {"split": "all", "batch_size": 6, "seed": 5, "pictures": False, "prefetch": prefetch}
    whole = [batch.indices for batch in itertools.islice(TrainingData(folder, **options), 12)]
    started = TrainingData(folder, **options)
    seen = list(itertools.islice(started, 7))
    state = seen[-1].state
    assert started.state() == state
    resumed = TrainingData(folder, **options)
    resumed.load_state(state)
    rest = [batch.indices for batch in itertools.islice(resumed, 5)]
    np.testing.assert_array_equal([*(batch.indices for batch in seen), *rest], whole)
    np.testing.assert_array_equal([resumed.batch(step).indices for step in range(12)], whole)
    with pytest.raises(ConfigError, match="data state"):
        resumed.load_state({"epoch": 1})


def test_ranks_share_no_sample(folder: Path) -> None:
    """regression: with several ranks every rank read the same shards."""
    seen = []
    for rank in range(3):
        data = TrainingData(folder, split="all", batch_size=4, rank=rank, world_size=3, pictures=False)
        assert data.batches_per_epoch == 3
        seen.append(np.concatenate([b.indices for b in itertools.islice(data, data.batches_per_epoch)]))
    assert len(np.unique(np.concatenate(seen))) == 36
    once = [
        np.concatenate(
            [
                b.indices
                for b in TrainingData(folder, split="all", rank=r, world_size=3, pictures=False).once()
            ]
        )
        for r in range(3)
    ]
    assert sorted(np.concatenate(once)) == list(range(40))


def test_whole_episodes_are_held_out(folder: Path) -> None:
    """regression: evaluation ran on training data."""
    index = ShardIndex(folder)
    train, held_out = split_by_episode(index, held_out=0.25)
    assert len(held_out) == 2 * LENGTH
    assert not set(index.episodes[train]) & set(index.episodes[held_out])
    assert sorted([*train, *held_out]) == list(range(40))
    data = TrainingData(folder, split="held_out", held_out=0.25, batch_size=4, pictures=False)
    assert sorted(np.concatenate([b.indices for b in data.once()])) == sorted(held_out)


def test_without_episode_names_the_tail_is_held_out(tmp_path: Path) -> None:
    jpeg = encode_jpeg(picture())
    with ShardWriter(tmp_path) as writer:
        for number in range(60):
            writer.write(picture=jpeg, action=action(number), instruction=SENTENCE)
    train, held_out = split_by_episode(ShardIndex(tmp_path), held_out=0.1)
    assert list(held_out) == list(range(54, 60))
    assert train[-1] < 54 - 24, "chunks of the last training sample must not reach into the held-out ones"
    assert not ShardIndex(tmp_path).has_tokens


def test_a_damaged_picture_is_raised_from_the_thread(tmp_path: Path) -> None:
    """regression: a missing frame became a black picture."""
    with ShardWriter(tmp_path) as writer:
        for _ in range(4):
            writer.write(picture=b"\xff\xd8 not a picture", action=action(), instruction=SENTENCE)
    with pytest.raises(ShardError, match=r"shard-000000\.tar, sample"):
        next(iter(TrainingData(tmp_path, split="all", batch_size=2)))


def test_contradictions(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one step needs"):
        next(iter(TrainingData(folder, batch_size=500)))
    with pytest.raises(ConfigError, match="rank"):
        TrainingData(folder, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="split"):
        TrainingData(folder, split="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="held_out"):
        TrainingData(folder, held_out=0.9)


def test_normalizer_is_fitted_to_the_limits(folder: Path) -> None:
    statistics = action_statistics(folder)
    np.testing.assert_allclose(statistics.maximum[0], action(39)[-1, 0])
    normalized = fit_normalizer(folder).normalize(action(39))
    assert normalized[0, 0] == pytest.approx(-1, abs=1e-4)
    assert normalized[-1, 0] == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(normalized[:, 3:9], action(39)[:, 3:9])


def test_statistics_are_those_of_all_actions_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdt2.data.stats.BLOCK", 7)
    rows = ShardIndex(folder).all_actions().reshape(-1, 20).astype(np.float64)
    statistics = action_statistics(folder)
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(statistics, name), getattr(rows, name)(axis=0), atol=1e-9)
    fitted, wanted = fit_normalizer(folder, mode="mean_std"), LinearNormalizer.fit(rows, mode="mean_std")
    torch.testing.assert_close(fitted.scale, wanted.scale)
    torch.testing.assert_close(fitted.offset, wanted.offset)


def test_corruption_by_sample_and_epoch(folder: Path) -> None:
    from rdt2.data.augmentation import ImageCorruption

    corrupt = ImageCorruption(seed=1)
    plain = TrainingData(folder, split="all", batch_size=4, prefetch=0)
    data = TrainingData(folder, split="all", batch_size=4, corruption=corrupt, workers=3)
    for step in (0, 12):
        batch, stored = data.batch(step), plain.batch(step)
        np.testing.assert_array_equal(batch.indices, stored.indices)
        for row, number in enumerate(batch.indices):
            expected = corrupt(stored.pictures[row], sample=int(number), epoch=step // 10)
            np.testing.assert_array_equal(batch.pictures[row], expected)
    np.testing.assert_array_equal(next(iter(data)).pictures, data.batch(0).pictures)
    # Evaluation sees pictures as they are.
    np.testing.assert_array_equal(next(data.once()).pictures, next(plain.once()).pictures)
