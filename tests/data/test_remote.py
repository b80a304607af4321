"""Shards by URL: as from disk, read ahead, from web servers and S3; servers that refuse, stop and come back."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from servers import Ranges, ranges, s3_service, tell_s3, web_server
from tests.data.test_batches import data, seen, take, write

from rdt2.data import ShardIndex, check_shards
from rdt2.data.loader import batches_ahead, next_step
from rdt2.data.mixture import DataSource
from rdt2.data.normalizers import data_normalizer
from rdt2.data.shards import remote, signed
from rdt2.data.shards.index import load_index
from rdt2.data.shards.ranges import RangeReader
from rdt2.errors import NormalizerError, ShardError

pytest.importorskip("aiohttp", reason="reading by http needs the extra 'remote'")
BRACES = "shard-{000000..000007}.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of indices, and a process that has asked nobody anything."""
    monkeypatch.setenv("RDT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAIT_S", 0.002)
    monkeypatch.setattr(signed, "_signed", {})
    for name in ("_answered", "_waited_for"):
        monkeypatch.setattr(remote, name, set())


@pytest.fixture
def handler() -> type[Ranges]:
    return ranges()


@pytest.fixture
def server(folder: Path, handler: type[Ranges]) -> Iterator[str]:
    with web_server(folder, handler) as url:
        yield url


# ------------------------------------------------------------------------------------------------ web servers


@pytest.mark.parametrize("indexed", [True, False])
def test_http(
    folder: Path, server: str, handler: type[Ranges], indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches as from disk, with and without indices beside the shards; a broken answer is asked for again."""
    handler.breaks = 2
    local, expected = data(folder, pictures=True).batch(3), seen(take(data(folder), 10))
    if not indexed:
        monkeypatch.setattr("rdt2.data.shards.index.SUFFIX", ".nowhere")
    for location in (f"{server}/{BRACES}", server + "/"):
        distant = data(location, pictures=True)
        np.testing.assert_array_equal(distant.batch(3).pictures, local.pictures)
        assert seen(take(distant, 10, workers=2)) == expected
        assert distant.damaged == []
    assert (handler.asked["shard-000000.tar.nowhere"] == 0) is indexed


def test_what_comes_next_is_on_its_way(server: str, handler: type[Ranges]) -> None:
    """regression: a worker waited for its samples instead of decoding the ones before; each is fetched once."""
    url, reader = f"{server}/shard-000000.tar", RangeReader()
    parts = [(url, begin, begin + 10) for begin in range(0, 100, 10)]
    first = reader.read([parts[0], parts[1], parts[0]], then=parts[1:4])
    assert [len(part) for part in first] == [10, 10, 10]
    ahead = dict(reader._ahead)
    assert list(ahead) == parts[1:4]
    ahead[parts[3]].result()
    handler.down = True  # what came before can be had still
    assert reader.read(parts[1:4], then=parts[2:3]) == [
        remote_part.result() for remote_part in ahead.values()
    ]
    assert handler.asked["shard-000000.tar"] == 4
    assert list(reader._ahead) == parts[2:3]
    reader.read([])
    assert reader._ahead == {}


def test_a_worker_knows_its_next_step() -> None:
    made = list(batches_ahead(next_step, range(10, 17), workers=2))
    assert made == [12, 13, 14, 15, 16, None, None]
    assert list(batches_ahead(next_step, [5, 3, 9], workers=1)) == [3, 9, None]
    assert next_step(3) is None


def test_a_worker_reads_ahead(folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of its next step are those it is asked for."""
    asked = []
    read = ShardIndex.read

    def noted(self: ShardIndex, numbers: list[int], members: list[int], then: list[int] = ()) -> object:  # type: ignore[assignment]
        asked.append((list(numbers), list(then)))
        return read(self, numbers, members, then=then)

    monkeypatch.setattr(ShardIndex, "read", noted)

    def make(step: int) -> list[object]:
        source.batch(step)
        return asked[-1]

    source = data(f"{server}/{BRACES}")
    made = list(batches_ahead(make, range(5), workers=2))
    assert [then for _, then in made] == [made[2][0], made[3][0], made[4][0], [], []]
    source = data(folder)
    assert [then for _, then in batches_ahead(make, range(5), workers=2)] == [[]] * 5


def test_some_shards_on_disk_and_some_by_url(
    folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """regression: many threads read from disk at once, and closed each other's files."""
    monkeypatch.setattr("rdt2.data.shards.ranges._MAX_OPEN", 1)
    both = [*sorted(folder.glob("*.tar"))[:6], f"{server}/shard-000006.tar", f"{server}/shard-000007.tar"]
    assert seen(take(data(both), 10, workers=1)) == seen(take(data(folder), 10))


def test_http_that_fails_is_named(server: str, handler: type[Ranges]) -> None:
    source = data(f"{server}/shard-{{000003..000003}}.tar")
    handler.breaks = 1000
    with pytest.raises(
        ShardError, match=r"shard-000003\.tar: its server did not answer, or broke off, 10 times"
    ):
        take(source, 3)
    with pytest.raises(ShardError, match=r"shard-000099\.tar: there is no such file"):
        data(f"{server}/shard-000099.tar")


def test_a_server_without_ranges_is_refused(folder: Path) -> None:
    """It would send a whole shard for each sample."""

    class Whole(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with web_server(folder, Whole) as url, pytest.raises(ShardError, match="HTTP ranges"):
        data(f"{url}/{BRACES}")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, r"no permission to read it .*Authorization"),
        (401, "no permission"),
        (410, "its server refuses .*410"),
    ],
)
def test_a_refusal_is_not_asked_again(folder: Path, handler: type[Ranges], status: int, words: str) -> None:
    class Refusing(handler):  # type: ignore[misc, valid-type]
        def do_GET(self) -> None:
            type(self).asked["all"] += 1
            self.send_error(status)

        do_HEAD = do_GET

    with web_server(folder, Refusing) as url, pytest.raises(remote.Unreachable, match=words):
        remote.read_url(f"{url}/shard-000000.tar", 0, 10)
    assert Refusing.asked["all"] == 1


def test_a_named_normalizer_that_is_not_there(server: str, folder: Path) -> None:
    """regression: none was used, without a word."""
    source = DataSource("x", (f"{server}/shard-000000.tar",), normalizer=f"{server}/normalizer.safetensors")
    with pytest.raises(NormalizerError, match=r"normalizer\.safetensors: there is no such file"):
        data_normalizer([source])
    assert data_normalizer([DataSource("x", (f"{server}/shard-000000.tar",))]) is None


# -------------------------------------------------------------------------------------------- servers that stop


def test_a_server_that_comes_back(folder: Path, server: str, handler: type[Ranges]) -> None:
    source = data(f"{server}/{BRACES}")
    handler.down = True
    back = threading.Timer(0.3, lambda: setattr(handler, "down", False))
    back.start()
    assert seen([source.batch(step) for step in range(10)]) == seen(take(data(folder), 10))
    back.join()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_does_not_come_back_is_no_damage(
    server: str, handler: type[Ranges], workers: int
) -> None:
    """regression: samples that could not be fetched counted as damaged, and others stood in for them."""
    source = data(f"{server}/{BRACES}", max_damaged=100)
    handler.down = True
    with pytest.raises(remote.NoAnswer, match=r"did not answer, or broke off, 10 times"):
        list(source.batches(range(4), workers=workers))
    assert source.damaged == []


def test_an_index_that_could_not_be_finished_is_not_kept(
    server: str, handler: type[Ranges], monkeypatch: pytest.MonkeyPatch
) -> None:
    """regression: it was kept, and said for ever that the rest of the shard is damaged."""
    monkeypatch.setattr("rdt2.data.shards.index.SUFFIX", ".nowhere")
    url = f"{server}/shard-000003.tar"
    remote.size_of_url(url)
    read = remote.read_url

    def stops(location: str, begin: int = 0, end: int | None = None) -> bytes:
        handler.down = begin == 0 and (end or 0) > 1024  # the headers, not the ends that it is known by
        return read(location, begin, end)

    with monkeypatch.context() as patch:
        patch.setattr("rdt2.data.shards.ranges.read_url", stops)
        with pytest.raises(remote.NoAnswer):
            load_index(url)
    handler.down = False
    assert load_index(url).samples == 5


# ------------------------------------------------------------------------------------------------------- checks


def test_a_check_by_url_finds_the_same(folder: Path, tmp_path: Path, handler: type[Ranges]) -> None:
    """regression: shards by URL were refused."""
    place = tmp_path / "shards"
    shutil.copytree(folder, place)
    whole = (place / "shard-000002.tar").read_bytes()
    (place / "shard-000002.tar").write_bytes(whole[: len(whole) // 2])
    (place / "shard-000003.tar").write_bytes(
        (place / "shard-000003.tar").read_bytes().replace(b"\xff\xd8", b"\0\0")
    )
    local = check_shards(place).as_dict()
    assert {found["name"] for found in local["findings"]} >= {"damaged shard", "damaged sample"}
    with web_server(place, handler) as url:
        for workers in (0, 1):
            assert check_shards(f"{url}/{BRACES}", workers=workers).as_dict() == local
    assert handler.asked["shard-000001.tar"] == 2  # small enough for one piece
    handler.down = True
    with web_server(place, handler) as url, pytest.raises(remote.NoAnswer):
        check_shards(f"{url}/{BRACES}")


# ---------------------------------------------------------------------------------------------------------- S3


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_service(monkeypatch) as address:
        yield address


@pytest.fixture
def bucket(folder: Path, service: str) -> str:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="robots")
    for path in folder.iterdir():
        client.upload_file(str(path), "robots", f"pick/{path.name}")
    return "s3://robots/pick"


def test_s3(folder: Path, bucket: str, service: str, tmp_path: Path) -> None:
    """A folder of a bucket and a range of tars: as from disk; indices are kept, and signed addresses read."""
    expected = seen(take(data(folder), 10))
    for location in (bucket, f"{bucket}/{BRACES}"):
        assert seen(take(data(location), 10, workers=1)) == expected
    indices = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "index").glob("*.index")}
    assert len(indices) == 8
    data(bucket)
    assert {path: path.stat().st_mtime_ns for path in indices} == indices
    assert all(place and place.server in service for _, place in signed._signed.values())
    assert check_shards(bucket).as_dict() == check_shards(folder).as_dict()


def test_s3_without_signed_addresses(folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signed address does not give, the S3 client does: encrypted files, requester pays, other credentials."""
    monkeypatch.setattr(remote, "_sign", lambda url, _: url.replace("s3://", "http://127.0.0.1:9/"))
    assert seen(take(data(bucket), 10)) == seen(take(data(folder), 10))
    assert signed._signed
    assert all(place is None for _, place in signed._signed.values())


def test_s3_by_the_settings_of_fsspec(
    folder: Path, bucket: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is, and whose, may stand in fsspec's own configuration."""
    import fsspec
    import s3fs

    mine = {"endpoint_url": service, "key": "someone", "secret": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "s3", mine)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    assert seen(take(data(bucket), 10)) == seen(take(data(folder), 10))
    assert signed._signed
    assert all(place is not None for _, place in signed._signed.values())


def _nothing(service: str, patch: pytest.MonkeyPatch) -> None:
    pass


def _without_rights(service: str, patch: pytest.MonkeyPatch) -> None:
    tell_s3(service, "reset-auth", "0")


def _without_credentials(service: str, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    patch.setenv("AWS_CONFIG_FILE", "/nowhere")


@pytest.mark.parametrize(
    ("prepare", "location", "words"),
    [
        (
            _without_rights,
            "pick",
            r"bucket 'robots' does not let you read it .*AWS_PROFILE.*AWS_ENDPOINT_URL",
        ),
        (_without_rights, f"pick/{BRACES}", "bucket 'robots' does not let you read it .*AWS_PROFILE"),
        (_without_credentials, "pick", "bucket 'robots' does not let you read it .*AWS_PROFILE"),
        (
            _without_credentials,
            f"pick/{BRACES}",
            "bucket 'robots' does not let you .*credentials.*AWS_PROFILE",
        ),
        (_nothing, "../rabots/pick", r"rabots/pick: there is no bucket 'rabots' .*AWS_ENDPOINT_URL"),
        (_nothing, f"../rabots/pick/{BRACES}", r"there is no bucket 'rabots' .*AWS_ENDPOINT_URL"),
        (_nothing, "pock", r"s3://robots/pock: holds no \*\.tar"),
        (_nothing, "pick/shard-000009.tar", r"s3://robots/pick/shard-000009\.tar: there is no such file"),
    ],
)
def test_s3_that_refuses(
    bucket: str,
    service: str,
    prepare: Callable[..., None],
    location: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    prepare(service, monkeypatch)
    s3fs.S3FileSystem.clear_instance_cache()
    url = location.replace("../", "s3://") if location.startswith("../") else f"s3://robots/{location}"
    with pytest.raises(ShardError, match=words):
        data(url)
    with pytest.raises(ShardError, match=words):
        check_shards(url)


def test_object_storage(folder: Path) -> None:
    """Any other file system of fsspec; the one in memory stands for them."""
    import fsspec

    store = fsspec.filesystem("memory")
    for path in folder.glob("*"):
        store.pipe_file(f"/bucket/pick/{path.name}", path.read_bytes())
    for location in ("memory://bucket/pick", f"memory://bucket/pick/{BRACES}"):
        assert seen(take(data(location), 10)) == seen(take(data(folder), 10))
