"""Action tokens in files beside shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_shards import FakeTokenizer, record

from rdt2.action import ActionChunk
from rdt2.cli.main import main
from rdt2.data import (
    ShardIndex,
    TrainingData,
    check_shards,
    fit_normalizer,
    open_sources,
    tokenize_beside,
    tokenize_shards,
)
from rdt2.data.normalizers import data_normalizer
from rdt2.errors import RecordingError, ShardError
from rdt2.evaluation.shards import evaluate_shards
from rdt2.normalizer import LinearNormalizer


class Other(FakeTokenizer):
    digest = "other"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return record(tmp_path / "in", 10, tokens=False)


def expected(source: Path, normalizer: LinearNormalizer) -> np.ndarray:
    actions = ShardIndex(source, tokens=False).all_actions()
    return np.round(normalizer.normalize(actions).reshape(len(actions), -1)[:, :27] * 100).astype(int) + 200


@pytest.mark.parametrize("workers", [0, 2])
def test_token_files_are_what_training_reads(source: Path, workers: int) -> None:
    normalizer = fit_normalizer(source)
    before = ShardIndex(source)
    assert not before.has_tokens
    assert before.token_origin is None
    shards = {path: path.read_bytes() for path in source.glob("*.tar")}
    assert tokenize_beside(source, FakeTokenizer(), normalizer, batch_size=3, workers=workers) == 10
    assert {path: path.read_bytes() for path in source.glob("*.tar")} == shards
    index = ShardIndex(source)
    assert index.has_tokens
    assert index.token_origin == ("fake", normalizer.digest)
    assert index.fingerprint() != before.fingerprint()
    wanted = expected(source, normalizer)
    np.testing.assert_array_equal([index.tokens(number) for number in range(10)], wanted)
    data = TrainingData(source, split="all", batch_size=4, pictures=False)
    for step in range(3):
        batch = data.batch(step)
        np.testing.assert_array_equal(batch.tokens, wanted[batch.indices])
    # What is there already is kept; what was interrupted goes on.
    assert tokenize_beside(source, FakeTokenizer(), normalizer) == 0
    (source / "shard-000001.tar.tokens").unlink()
    assert not ShardIndex(source).has_tokens
    assert tokenize_beside(source, FakeTokenizer(), normalizer) == 4


def test_new_shards_and_files_beside_hold_the_same_tokens(source: Path, tmp_path: Path) -> None:
    normalizer = fit_normalizer(source)
    tokenize_shards(source, tmp_path / "new", FakeTokenizer(), normalizer, workers=2, batch_size=3)
    tokenize_beside(source, FakeTokenizer(), normalizer)
    one, other = ShardIndex(source), ShardIndex(tmp_path / "new")
    assert one.token_origin == other.token_origin == ("fake", normalizer.digest)
    for number in range(10):
        np.testing.assert_array_equal(one.tokens(number), other.tokens(number))
        assert one.jpeg(number) == other.jpeg(number)
    assert len(ShardIndex([*source.glob("*.tar"), *(tmp_path / "new").glob("*.tar")])) == 20


def test_shards_without_a_normalizer_get_that_of_their_tokens(source: Path) -> None:
    (source / "normalizer.safetensors").unlink(missing_ok=True)
    normalizer = fit_normalizer(source)
    tokenize_beside(source, FakeTokenizer(), normalizer)
    assert LinearNormalizer.from_pretrained(source).digest == normalizer.digest
    held = data_normalizer(open_sources(source), ShardIndex(source).token_origin)
    assert held is not None
    assert held.of_model
    # One that is there stays, and the tokens' is then known by its name.
    for file in source.glob("*.tokens"):
        file.unlink()
    other = fit_normalizer(source, mode="mean_std")
    tokenize_beside(source, FakeTokenizer(), other)
    assert LinearNormalizer.from_pretrained(source).digest == normalizer.digest
    assert ShardIndex(source).token_origin == ("fake", other.digest)


def test_data_that_may_not_be_written_have_their_tokens_elsewhere(source: Path, tmp_path: Path) -> None:
    normalizer = fit_normalizer(source)
    out = tmp_path / "tokens"
    assert tokenize_beside(source, FakeTokenizer(), normalizer, out_dir=out) == 10
    assert not list(source.glob("*.tokens"))
    index = ShardIndex(out / "dataset.yaml")
    np.testing.assert_array_equal(
        [index.tokens(number) for number in range(10)], expected(source, normalizer)
    )
    assert index.instruction(0)
    assert LinearNormalizer.from_pretrained(out).digest == normalizer.digest
    # From the yaml again: nothing is left to do.
    assert tokenize_beside(out / "dataset.yaml", FakeTokenizer(), normalizer, out_dir=out) == 0
    assert ShardIndex(out / "dataset.yaml").has_tokens


@pytest.mark.parametrize(
    "form", ["{0}/shard-000001.tar", "{0}/shard-{{000000..000001}}.tar", "{0}/part.yaml"]
)
def test_the_yaml_beside_tokens_names_no_other_shards(source: Path, tmp_path: Path, form: str) -> None:
    """Shards that were left out, to be evaluated on for example, do not come back."""
    (source / "part.yaml").write_text(
        "name: part\ntype: single\nshards_dir: shard-{000001..000002}.tar\n", encoding="utf-8"
    )
    told = ShardIndex(form.format(source))
    assert len(told) < len(ShardIndex(source))
    normalizer, out = fit_normalizer(source), tmp_path / "tokens"
    tokenize_beside(form.format(source), FakeTokenizer(), normalizer, out_dir=out)
    index = ShardIndex(out / "dataset.yaml")
    assert list(index.shards) == [str(Path(shard).absolute()) for shard in told.shards]
    assert index.has_tokens
    tars = sorted(source.glob("*.tar"))[:2]
    with pytest.raises(RecordingError, match="names one place of shards: give a folder"):
        tokenize_beside(tars, FakeTokenizer(), normalizer, out_dir=tmp_path / "two")


def test_tokens_by_url(source: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in source.iterdir():
        memory.pipe_file(f"/beside/{path.name}", path.read_bytes())
    normalizer = fit_normalizer(source)
    with pytest.raises(RecordingError, match=r"beside shards behind a URL\. Name a folder with --out"):
        tokenize_beside("memory://beside", FakeTokenizer(), normalizer)
    assert tokenize_beside("memory://beside", FakeTokenizer(), normalizer, out_dir=tmp_path / "out") == 10
    index = ShardIndex(tmp_path / "out" / "dataset.yaml")
    np.testing.assert_array_equal(
        [index.tokens(number) for number in range(10)], expected(source, normalizer)
    )


def test_tokens_of_two_tokenizers_or_normalizers_are_never_mixed(source: Path, tmp_path: Path) -> None:
    normalizer = fit_normalizer(source)
    wider = LinearNormalizer.fit(np.array([[-1.0] * 20, [1.0] * 20]))
    tokenize_beside(source, FakeTokenizer(), normalizer)
    for tokenizer, ranges, which in (
        (Other(), normalizer, "tokenizer"),
        (FakeTokenizer(), wider, "normalizer"),
    ):
        with pytest.raises(RecordingError, match=rf"shard-000000.tar.tokens: was made with another {which}"):
            tokenize_beside(source, tokenizer, ranges)
        folder = tmp_path / which
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.tokens"))
        tokenize_beside(folder, tokenizer, ranges)
        with pytest.raises(ShardError, match=f"two tokenizers or normalizers: another {which}"):
            ShardIndex([*source.glob("*.tar"), *folder.glob("*.tar")])
    stored = record(tmp_path / "stored")
    with pytest.raises(ShardError, match="one of them does not say which"):
        ShardIndex([*source.glob("*.tar"), *stored.glob("*.tar")])


def test_what_reads_no_tokens_takes_data_of_two_tokenizers(source: Path, tmp_path: Path) -> None:
    normalizer, other = fit_normalizer(source), record(tmp_path / "other", 10, tokens=False)
    tokenize_beside(source, FakeTokenizer(), normalizer)
    tokenize_beside(other, Other(), normalizer)
    for folder in (source, other):
        (folder / "dataset.yaml").write_text("name: one\nshards_dir: .\n")
    each = "{{config_path: {}/dataset.yaml}}"
    blend = f"name: both\ntrain: {{a: {each.format(source)}, b: {each.format(other)}}}\n"
    (tmp_path / "blend.yaml").write_text(blend)
    with pytest.raises(ShardError, match="of two tokenizers"):
        ShardIndex(tmp_path / "blend.yaml")
    main(
        ["data", "augment-sheet", str(tmp_path / "blend.yaml"), "--samples", "1", "--epochs", "1",
         "--out", str(tmp_path / "sheet.png")]
    )  # fmt: skip
    chunk = ActionChunk(np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2), (24, 1)))

    class Policy:
        def predict(self, observations: list, *, seed: list) -> list:
            return [chunk] * len(observations)

    assert evaluate_shards(Policy(), tmp_path / "blend.yaml", split="all", limit=4).samples == 4  # type: ignore[arg-type]


def test_tokens_of_another_shard_or_damaged_ones_are_refused_and_written_again(source: Path) -> None:
    normalizer = fit_normalizer(source)
    tokenize_beside(source, FakeTokenizer(), normalizer)
    beside = source / "shard-000000.tar.tokens"
    whole = beside.read_bytes()
    for damage in (whole[:-1], whole[:5], b"", (source / "shard-000001.tar.tokens").read_bytes()):
        beside.write_bytes(damage)
        with pytest.raises(ShardError, match=r"shard-000000.tar.tokens: .*rdt2 data tokenize --sidecar"):
            ShardIndex(source)
        assert tokenize_beside(source, FakeTokenizer(), normalizer) == 4
        assert beside.read_bytes() == whole
    record(source, 10, tokens=False, per_shard=5)
    with pytest.raises(ShardError, match="another shard than the one of that name"):
        ShardIndex(source)


def test_new_shards_say_what_made_their_tokens(source: Path, tmp_path: Path) -> None:
    normalizer = fit_normalizer(source)
    tokenize_shards(source, tmp_path / "out", FakeTokenizer(), normalizer)
    told = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert told == {"tokenizer": "fake", "normalizer": normalizer.digest}
    (tmp_path / "out" / "tokens.json").write_text("[]")
    with pytest.raises(ShardError, match="does not say what made the tokens"):
        ShardIndex(tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_check_looks_at_tokens_beside_shards(source: Path, tmp_path: Path, workers: int) -> None:
    tokenize_beside(source, FakeTokenizer(), fit_normalizer(source), out_dir=tmp_path / "tokens")
    report = check_shards(source, tokens=tmp_path / "tokens", workers=workers)
    assert report.counts["with tokens"] == 10
    report = check_shards(source, tokens=tmp_path / "tokens", workers=workers, num_embeddings=100)
    assert {finding.name: finding.count for finding in report.findings}["token range"] == 10
    (tmp_path / "tokens" / "shard-000000.tar.tokens").write_bytes(b"half")
    report = check_shards(source, tokens=tmp_path / "tokens", workers=workers)
    assert not report.ok
    (found,) = [finding for finding in report.findings if finding.name == "token file"]
    assert "is no whole file of action tokens" in found.examples[0]


def test_a_folder_of_tokens_that_is_not_there_is_named(source: Path) -> None:
    (source / "x.yaml").write_text("name: x\nshards_dir: .\nkwargs: {tokens_dir: gone}\n")
    with pytest.raises(ShardError, match=r"tokens_dir of data set 'x' is .*gone: there is no such folder"):
        ShardIndex(source / "x.yaml")
    assert len(ShardIndex(source / "x.yaml", tokens=False)) == 10
