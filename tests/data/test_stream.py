"""Streams: no sample twice, the same again with the same seed, exact resume, mixtures, URLs, damage counted."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.data.test_shards import SENTENCE, action, encode_jpeg, picture

from rdt2.data import Batch, ShardWriter, StreamingData, StreamSource, open_sources, write_dataset_yaml
from rdt2.data.augmentation import ImageCorruption
from rdt2.data.batch import fill_picture
from rdt2.data.stream import is_held_out
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


def stream(source: object, **options: object) -> StreamingData:
    return StreamingData(source, **({"batch_size": 4, "pictures": False} | options))  # type: ignore[arg-type]


def take(data: StreamingData, count: int) -> list[Batch]:
    batches = iter(data)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()  # type: ignore[attr-defined]


def seen(batches: list[Batch]) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch.tokens]


def test_an_epoch_sees_every_sample_once(folder: Path) -> None:
    data = stream(folder, pictures=True)
    batches = take(data, 20)
    first, second = seen(batches[:10]), seen(batches[10:])
    assert sorted(first) == sorted(second) == list(range(TOTAL))
    assert first != second
    assert first != sorted(first)
    batch = batches[3]
    assert batch.pictures.shape == (4, 384, 768, 3)
    assert batch.instructions == [SENTENCE] * 4
    for row in range(4):
        number = int(batch.tokens[row, 0])
        np.testing.assert_array_equal(batch.actions[row], action(number))
        assert np.abs(batch.pictures[row].astype(int) - picture(number % 4)).mean() < 2
    assert seen(take(stream(folder, shuffle=0), 10)) == list(range(TOTAL))


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_and_workers_share_no_sample(folder: Path, workers: int) -> None:
    """regression: with several ranks every rank read the same shards."""
    parts = [seen(take(stream(folder, rank=rank, world_size=2, workers=workers), 5)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(TOTAL))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 4), (3, 1), (2, 4)])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shuffle", [0, 100])
def test_more_workers_than_shards_share_them(
    tmp_path: Path, shards: int, ranks: int, workers: int, shuffle: int
) -> None:
    folder, lanes = write(tmp_path, shards=shards), ranks * workers
    whole = shards * LENGTH
    numbers: list[int] = []
    for rank in range(ranks):
        options = {"rank": rank, "world_size": ranks, "workers": workers, "shuffle": shuffle, "batch_size": 1}
        batches = take(stream(folder, **options), 4 * whole)
        again = stream(folder, **options)
        again.load_state(json.loads(json.dumps(batches[6].state)))
        assert seen(take(again, 9)) == seen(batches[7:16])
        assert set(seen(batches)) <= set(range(whole))
        numbers += seen(batches)
    if lanes <= LENGTH:  # no lane has so few samples that it has to take another's
        one_epoch = [seen(take(stream(folder, rank=r, world_size=ranks, workers=workers, shuffle=shuffle,
                                      batch_size=workers), 1)) for r in range(ranks)]  # fmt: skip
        first = [number for part in one_epoch for number in part]
        assert len(set(first)) == len(first) == lanes, "what lanes read at first is of different samples"
    assert set(numbers) == set(range(whole)), "every sample is somebody's"


def test_a_program_may_end_without_closing_its_streams(folder: Path) -> None:
    program = (
        "import sys; from rdt2.data import StreamingData\n"
        "streams = [iter(StreamingData(sys.argv[1], workers=4, batch_size=2, shuffle=0)) for _ in range(6)]\n"
        "print(*(next(each).actions.shape for each in streams))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_fewer_samples_than_workers(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for number in range(2):
            writer.write(
                picture=picture(number),
                action=action(number),
                instruction=SENTENCE,
                tokens=np.full(27, number),
            )
    batches = take(stream(tmp_path, workers=5, batch_size=4, shuffle=0, pictures=True), 10)
    assert set(seen(batches)) == {0, 1}


def test_a_split_that_few_shards_hold(folder: Path) -> None:
    for shuffle in (0, 40):
        data = stream(folder, split="held_out", held_out=0.3, workers=4, shuffle=shuffle)
        batches = take(data, 20)
        held_out = {n for n in range(TOTAL) if is_held_out(f"e{n // LENGTH}", 0.3)}
        assert 0 < len(held_out) < TOTAL / 2
        assert set(seen(batches)) == held_out
        data = stream(folder, split="held_out", held_out=0.3, workers=4, shuffle=shuffle)
        data.load_state(batches[9].state)
        assert seen(take(data, 5)) == seen(batches[10:15])
    with pytest.raises(ShardError, match="hold no usable sample of the split"):
        take(stream(folder, split="held_out", held_out=1e-9, workers=4), 1)


def test_the_order_depends_on_the_seed_only(folder: Path) -> None:
    def order(seed: int) -> list[int]:
        return seen(take(stream(folder, seed=seed, workers=3, batch_size=5, shuffle=12), 12))

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": 7, "workers": 2},
        {"shuffle": 1000, "workers": 3, "batch_size": 5},
        {"shuffle": 0},
        {"shuffle": 9, "interleave": 2, "batch_size": 2, "workers": 4},
    ],
)
def test_resume_replays_nothing_and_skips_nothing(folder: Path, options: dict[str, int]) -> None:
    """regression: resuming replayed data. Samples read ahead but not given out must come again."""
    whole = take(stream(folder, **options), 25)
    for stop in (1, 9, 10, 17):
        resumed = stream(folder, **options)
        resumed.load_state(json.loads(json.dumps(whole[stop - 1].state)))
        rest = take(resumed, 25 - stop)
        assert seen(whole[:stop] + rest) == seen(whole)
        assert rest[-1].state == whole[-1].state
    with pytest.raises(ConfigError, match="another stream: seed was 0, is 1"):
        stream(folder, seed=1, **options).load_state(whole[0].state)
    with pytest.raises(ConfigError, match="expected the state of a StreamingData"):
        stream(folder).load_state({"epoch": 0, "position": 1})


def test_workers_and_prefetch_bound_what_is_held(folder: Path) -> None:
    data = stream(folder, workers=2, prefetch=2)
    batches = iter(data)
    next(batches)
    before = threading.active_count()
    assert data.state()["batch"] == 1
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before - 2, "the workers end with the iteration"


def test_mixture_by_weight(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", first=1000, shards=3)
    (tmp_path / "blend.yaml").write_text(
        f"name: both\ntype: blend\ntrain:\n"
        f"  many: {{config_path: {folder}/dataset.yaml, weight: 3}}\n"
        f"  few: {{config_path: other/dataset.yaml, weight: 1}}\n"
    )
    sources = open_sources(tmp_path / "blend.yaml")
    assert [(each.name, each.weight, len(each.shards)) for each in sources] == [("many", 3, 8), ("few", 1, 3)]
    assert sources[1].normalizer == str(tmp_path / "other" / "normalizer.safetensors")
    batches = take(stream(tmp_path / "blend.yaml", batch_size=8), 100)
    numbers = np.array(seen(batches))
    few = (numbers >= 1000).mean()
    assert 0.19 < few < 0.31, "a quarter of 800 draws"
    # Each source goes through its own epochs: every sample of one comes before any comes again.
    assert sorted(numbers[numbers < 1000][:TOTAL]) == list(range(TOTAL))
    resumed = stream(tmp_path / "blend.yaml", batch_size=8)
    resumed.load_state(batches[36].state)
    assert seen(take(resumed, 63)) == numbers[37 * 8 :].tolist()
    assert [each.name for each in open_sources(folder / "dataset.yaml")] == [folder.name]


def test_paths_at_the_top_of_a_mixture(tmp_path: Path) -> None:
    """As the published loader reads them: for all data sets that do not give their own."""
    for number, name in enumerate("ab"):
        write(tmp_path / name, first=100 * number, shards=2)
        (tmp_path / name / "instructions.json").rename(tmp_path / "all.json")
        (tmp_path / f"{name}.yaml").write_text(f"type: single\nshards_dir: {name}\n")
    (tmp_path / "b.json").write_text((tmp_path / "all.json").read_text().replace("Pick", "Take"))
    with (tmp_path / "b.yaml").open("a") as file:
        file.write("kwargs: {instruction_path: b.json, normalizer_path: own.pt}\n")
    (tmp_path / "blend.yaml").write_text(
        "type: blend\nkwargs: {instruction_path: all.json, normalizer_path: n.pt}\n"
        "train: {a: {config_path: a.yaml, weight: 1}, b: {config_path: b.yaml, weight: 3}}\n"
    )
    first, second = open_sources(tmp_path / "blend.yaml")
    assert list(first.instructions.values()) == [SENTENCE]  # type: ignore[union-attr]
    assert list(second.instructions.values()) == [SENTENCE.replace("Pick", "Take")]  # type: ignore[union-attr]
    assert [first.normalizer, second.normalizer] == [str(tmp_path / "n.pt"), str(tmp_path / "own.pt")]
    (batch,) = take(stream(tmp_path / "blend.yaml", batch_size=8), 1)
    assert set(batch.instructions) == {SENTENCE, SENTENCE.replace("Pick", "Take")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {}", "train is no table"),
        ("train: {a: {weight: 1}}", "expected {config_path, weight}"),
        ("train: {a: {config_path: x.yaml, weight: many}}", "expected a number"),
        ("train: {a: {config_path: 3}}", "expected {config_path, weight}"),
        (
            "train: {a: {config_path: x.yaml}}\nkwargs: {instruction_path: 3}",
            "kwargs is {'instruction_path': 3}",
        ),
        ("train: {a: {config_path: x.yaml}}\nkwargs: all.json", "kwargs is 'all.json'"),
        ("name: x", "expected 'type: single'"),
        ("- 1", "expected a table"),
    ],
)
def test_a_yaml_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_sources(tmp_path / "x.yaml")


def test_held_out_episodes(folder: Path) -> None:
    """regression: evaluation ran on training data."""
    held_out = {number for number in range(TOTAL) if is_held_out(f"e{number // LENGTH}", 0.5)}
    assert 0 < len(held_out) < TOTAL
    train = set(seen(take(stream(folder, split="train", held_out=0.5), 20)))
    rest = set(seen(take(stream(folder, split="held_out", held_out=0.5), 20)))
    assert rest == held_out
    assert train == set(range(TOTAL)) - held_out
    assert not is_held_out("", 0.5)
    with pytest.raises(ShardError, match="no usable sample"):
        take(stream(folder, split="held_out", held_out=0.0), 1)


def test_corruption_belongs_to_the_sample(folder: Path) -> None:
    """The same sample and epoch look the same, in whatever batch and by whichever worker they come."""
    options = {"pictures": True, "corruption": ImageCorruption(seed=3)}

    def looks(workers: int) -> dict[int, np.ndarray]:
        batches = take(stream(folder, workers=workers, **options), 10)
        return {
            int(number): shot
            for b in batches
            for number, shot in zip(b.tokens[:, 0], b.pictures, strict=True)
        }

    one, two = looks(1), looks(2)
    assert sorted(one) == list(range(TOTAL))
    for number in one:
        np.testing.assert_array_equal(one[number], two[number])
    assert (one[0] != one[4]).any(), "equal pictures of two samples are corrupted differently"


def test_whoever_waits_for_a_batch_decodes_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def fill(*args: object, **options: object) -> None:
        threads.append(threading.current_thread().name)
        fill_picture(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("rdt2.data.stream.fill_picture", fill)
    batches = take(stream(folder, pictures=True), 20)
    assert len(threads) >= 80
    assert set(threads) == {threading.current_thread().name, "rdt2-data-0"}
    assert seen(batches) == seen(take(stream(folder), 20))


def test_more_workers_than_rows(folder: Path) -> None:
    batches = take(stream(folder, batch_size=1, workers=4, pictures=True), TOTAL)
    assert sorted(seen(batches)) == list(range(TOTAL))


def test_a_corruption_that_fails_is_no_damage(folder: Path) -> None:
    def broken(picture: np.ndarray, **_: object) -> np.ndarray:
        raise ZeroDivisionError("a mistake of ours")

    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        take(stream(folder, pictures=True, corruption=broken, max_damaged=9), 3)


# ---------------------------------------------------------------------------------------------------- remote


class _Quiet(http.server.SimpleHTTPRequestHandler):
    breaks = 0
    """So many answers more are cut off in the middle."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        if self.path.endswith("000003.tar") and _Quiet.breaks > 0:
            _Quiet.breaks -= 1
            outputfile.write(source.read(9000))
            return
        super().copyfile(source, outputfile)


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """Serves the shards on loopback; like many plain servers it knows no ranges."""
    pytest.importorskip("aiohttp", reason="reading by http needs the extra 'remote'")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_http(folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batches as from disk; a broken connection is taken up again; resume reads from the middle."""
    local = take(stream(folder, workers=2), 15)
    monkeypatch.setattr(_Quiet, "breaks", 2)
    for location in (f"{server}/shard-{{000000..000007}}.tar", server + "/"):
        data = stream(location, workers=2)
        remote = take(data, 15)
        assert seen(remote) == seen(local)
        assert data.report.skipped == []
        resumed = stream(location, workers=2)
        resumed.load_state(remote[6].state)
        assert seen(take(resumed, 8)) == seen(local)[28:]


def test_http_that_fails_is_named(server: str) -> None:
    _Quiet.breaks = 1000
    try:
        with pytest.raises(ShardError, match=r"shard-000003\.tar: reading at byte \d+ failed 4 times"):
            take(stream(f"{server}/shard-{{000003..000003}}.tar"), 3)
    finally:
        _Quiet.breaks = 0
    with pytest.raises(ShardError, match=r"shard-000099\.tar: cannot be read"):
        take(stream(f"{server}/shard-000099.tar"), 1)


def test_object_storage(folder: Path) -> None:
    """S3-style: keys of a bucket, through fsspec; its memory file system stands in for the service."""
    import fsspec

    bucket = fsspec.filesystem("memory")
    for path in folder.glob("*"):
        bucket.pipe_file(f"/bucket/pick/{path.name}", path.read_bytes())
    for location in ("memory://bucket/pick", "memory://bucket/pick/shard-{000000..000007}.tar"):
        assert seen(take(stream(location), 10)) == seen(take(stream(folder), 10))


# ---------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """One tar cut off after two samples, one picture that is none, one tar of garbage."""
    write(tmp_path)
    os.truncate(tmp_path / "shard-000001.tar", (tmp_path / "shard-000001.tar").stat().st_size // 2)
    path = tmp_path / "shard-000004.tar"
    data = path.read_bytes()
    start = data.index(b"\xff\xd8")
    path.write_bytes(data[: start + 2] + bytes(3000) + data[start + 3002 :])
    (tmp_path / "shard-000006.tar").write_bytes(b"\xff" * 2048)
    return tmp_path


def test_damage_is_an_error(damaged: Path) -> None:
    with pytest.raises(ShardError, match=r"shard-00000\d\.tar"):
        take(stream(damaged, pictures=True), 12)


def test_damage_is_left_out_and_counted(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = stream(damaged, pictures=True, max_damaged=3, workers=2)
    batches = take(data, 30)
    numbers = seen(batches)
    assert set(range(TOTAL)) - set(numbers) == {7, 8, 9, 20, 30, 31, 32, 33, 34}
    # Three pieces of damage, met again in every epoch, are three.
    assert len(data.report.skipped) == 3
    assert len(caplog.records) == 3
    assert sorted(line[:16] for line in data.report.skipped) == [
        "shard-000001.tar",
        "shard-000004.tar",
        "shard-000006.tar",
    ]
    # A row whose picture is damaged goes to the next sample, whether or not the reader waits and decodes.
    for pause in (0.0, 0.02):
        again = iter(stream(damaged, pictures=True, max_damaged=3, workers=2))
        slowly = []
        for batch in itertools.islice(again, 30):
            time.sleep(pause)
            slowly.append(batch)
        again.close()  # type: ignore[attr-defined]
        assert seen(slowly) == numbers
    resumed = stream(damaged, pictures=True, max_damaged=3, workers=2)
    resumed.load_state(batches[11].state)
    assert seen(take(resumed, 18)) == numbers[48:]
    with pytest.raises(ShardError, match="3 damaged samples or shards, at most 2"):
        take(stream(damaged, pictures=True, max_damaged=2), 30)


def test_contradictions(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rank is 2 of 2"):
        stream(folder, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="split"):
        stream(folder, split="test")
    with pytest.raises(ConfigError, match="at least 1"):
        stream(folder, prefetch=0)
    with pytest.raises(ConfigError, match="weight"):
        StreamSource("x", ("a.tar",), None, weight=0)
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
