"""Samples by number, the index that finds them, episodes held out whole, statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from rdt2.errors import ShardError
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
    assert TrainingData(folder, batch_size=4).batch(0).states is None
    with pytest.raises(ShardError, match="tells no state"):
        TrainingData(folder, batch_size=4, states=True)


def test_the_index_is_written_with_the_shards_and_renewed(folder: Path, tmp_path: Path) -> None:
    """One that is damaged, cut off, or of another shard is made anew."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = tmp_path / "shard-000000.tar.index"
    whole = index.read_bytes()
    wanted = ShardIndex(folder).fingerprint()
    for content in (b"damaged", whole[:-100], (tmp_path / "shard-000001.tar.index").read_bytes(), None):
        if content is None:
            index.unlink()
        else:
            index.write_bytes(content)
        assert ShardIndex(tmp_path).fingerprint() == wanted
        assert index.read_bytes() == whole


def test_shards_in_a_folder_that_may_not_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDT2_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data"
    place.mkdir()
    for path in folder.glob("*[rn]"):
        (place / path.name).write_bytes(path.read_bytes())
    place.chmod(0o555)
    assert ShardIndex(place).fingerprint() == ShardIndex(folder).fingerprint()
    assert not list(place.glob("*.index*"))
    assert len(list((tmp_path / "cache" / "index").glob("*.index"))) == 4
    place.chmod(0o755)


def test_many_processes_make_one_index(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*[rn]"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ShardIndex(tmp_path).fingerprint(), range(4)))
    assert set(found) == {ShardIndex(folder).fingerprint()}
    assert not list(tmp_path.glob("*lock*"))


def test_whole_episodes_are_held_out(folder: Path) -> None:
    """regression: evaluation ran on training data."""
    index = ShardIndex(folder)
    train, held_out = split_by_episode(index, held_out=0.4)
    assert len(held_out) == 3 * LENGTH
    assert not index.episodes_of(train) & index.episodes_of(held_out)
    assert sorted([*train, *held_out]) == list(range(40))
    data = TrainingData(folder, split="held_out", held_out=0.4, batch_size=4, pictures=False)
    assert data.numbers.tolist() == held_out.tolist()


def test_an_episode_that_was_trained_on_is_never_held_out_of_more_data(tmp_path: Path) -> None:
    """Or going on with a model on more recordings would be judged on what it has learnt."""
    trained: set[str] = set()
    for episodes in range(2, 61):
        index = Named(f"episode_{number:06d}" for number in range(episodes))
        train, held_out = split_by_episode(index, held_out=0.05)  # type: ignore[arg-type]
        assert len(held_out) >= 1
        assert len(train) + len(held_out) == episodes
        assert not trained & {index.names[number] for number in held_out}
        trained |= {index.names[number] for number in train}


class Named:
    """An index of one sample an episode."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names, self.sources = list(names), [None]

    def span(self, part: int) -> range:
        return range(len(self.names))

    def episode_runs(self, part: int) -> Iterator[tuple[str, range]]:
        return ((name, range(number, number + 1)) for number, name in enumerate(self.names))


def test_without_episode_names_the_tail_is_held_out(tmp_path: Path) -> None:
    jpeg = encode_jpeg(picture())
    with ShardWriter(tmp_path) as writer:
        for number in range(60):
            writer.write(picture=jpeg, action=action(number), instruction=SENTENCE)
    train, held_out = split_by_episode(ShardIndex(tmp_path), held_out=0.1)
    assert list(held_out) == list(range(54, 60))
    assert train[-1] < 54 - 24, "chunks of the last training sample must not reach into the held-out ones"
    assert not ShardIndex(tmp_path).has_tokens


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
