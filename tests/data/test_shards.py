"""Shards: written whole or not at all, read without trust, errors that name file and sample."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rdt2.data import (
    ReadReport,
    ShardWriter,
    decode_jpeg,
    encode_jpeg,
    read_instructions,
    read_shards,
    tokenize_shards,
)
from rdt2.data import shards as shards_module
from rdt2.data.shards import writing
from rdt2.errors import RecordingError, ShardError
from rdt2.normalizer import LinearNormalizer

SENTENCE = "Pick up the red cube with the left hand."


def picture(seed: int = 0) -> np.ndarray:
    image = np.zeros((384, 768, 3), np.uint8)
    image[..., :] = np.random.default_rng(seed).integers(30, 220, 3)
    image[100:200, 100:200] = 255
    return image


def action(seed: int = 0) -> np.ndarray:
    chunk = np.zeros((24, 20), np.float32)
    for start in (0, 10):
        chunk[:, start : start + 3] = np.linspace(0, 0.1 + seed * 1e-3, 24)[:, None]
        chunk[:, start + 3] = chunk[:, start + 7] = 1
        chunk[:, start + 9] = 0.05
    return chunk


def record(folder: Path, count: int = 6, *, per_shard: int = 4, tokens: bool = True) -> Path:
    with ShardWriter(folder, samples_per_shard=per_shard) as writer:
        for number in range(count):
            writer.write(
                picture=picture(number),
                action=action(number),
                instruction=SENTENCE,
                tokens=np.arange(27) + number if tokens else None,
                meta={"episode": number // 3},
            )
    return folder


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def npy(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def sample_files(**replaced: bytes) -> dict[str, bytes]:
    files = {
        "image.jpg": encode_jpeg(picture()),
        "action.npy": npy(action()),
        "action_token.npy": npy(np.zeros(27, np.int16)),
        "meta.json": json.dumps({"sub_task_instruction_key": "k"}).encode(),
    }
    files.update({name.replace("__", "."): data for name, data in replaced.items()})
    return {f"118.{name}": data for name, data in files.items() if data}


def one(tmp_path: Path, **replaced: bytes) -> Path:
    write_tar(tmp_path / "shard-000003.tar", sample_files(**replaced))
    (tmp_path / "instructions.json").write_text(json.dumps({"k": SENTENCE}))
    return tmp_path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "instructions.json",
        "shard-000000.tar",
        "shard-000000.tar.index",
        "shard-000001.tar",
        "shard-000001.tar.index",
    ]
    samples = list(read_shards(tmp_path))
    assert [sample.key for sample in samples] == [str(number) for number in range(6)]
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.action, action(number))
        assert sample.tokens is not None
        assert sample.tokens.dtype == np.int16
        np.testing.assert_array_equal(sample.tokens, np.arange(27) + number)
        assert sample.instruction == SENTENCE
        assert np.abs(sample.picture().astype(int) - picture(number)).mean() < 2


def test_tars_are_readable_by_others(tmp_path: Path) -> None:
    """The member names and their order are the published ones."""
    record(tmp_path, 1)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        assert tar.getnames() == ["0.image.jpg", "0.action.npy", "0.action_token.npy", "0.meta.json"]
    assert list(read_instructions(tmp_path).values()) == [SENTENCE]


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (record(tmp_path / name) / "shard-000000.tar" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_instruction_json_is_accepted_too(tmp_path: Path) -> None:
    one(tmp_path)
    os.rename(tmp_path / "instructions.json", tmp_path / "instruction.json")
    assert next(read_shards(tmp_path)).instruction == SENTENCE


@pytest.mark.parametrize("table", [{}, {"k": "  "}])
def test_missing_instruction_is_an_error(tmp_path: Path, table: dict[str, str]) -> None:
    """A missing key must not become an empty sentence, silently."""
    one(tmp_path)
    (tmp_path / "instructions.json").write_text(json.dumps(table))
    with pytest.raises(ShardError, match=r"shard-000003\.tar, sample 118: .*'k'"):
        list(read_shards(tmp_path))


def test_meta_without_key_and_folder_without_table(tmp_path: Path) -> None:
    one(tmp_path, meta__json=b"{}")
    with pytest.raises(ShardError, match="sub_task_instruction_key"):
        list(read_shards(tmp_path))
    (tmp_path / "instructions.json").unlink()
    with pytest.raises(ShardError, match=r"instructions\.json"):
        list(read_shards(tmp_path))
    assert next(read_shards(tmp_path, instructions="ignore")).instruction is None


class _Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, ("/tmp/rdt2-evil-pickle",)


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"action__npy": npy(np.zeros((16, 14), np.float32))}, r"\(16, 14\), expected \(24, 20\)"),
        ({"action__npy": npy(action().astype(np.complex64))}, "<c8, expected <f4"),
        ({"action__npy": npy(action())[:-7]}, "bytes"),
        ({"action__npy": b"hello"}, "no .npy file"),
        ({"action__npy": npy(np.array([_Evil()], dtype=object), allow_pickle=True)}, "expected"),
        ({"action_token__npy": npy(np.zeros(26, np.int16))}, r"\(26,\), expected \(27,\)"),
        ({"action_token__npy": npy(np.full(27, 70_000))}, "70000 to 70000, too far for int16"),
        ({"action_token__npy": npy(np.zeros(27))}, "<f8, expected <i2"),
        ({"image__jpg": b"\x89PNG\r\n\x1a\n" + bytes(100)}, "JPEG"),
        ({"image__jpg": b""}, r"image\.jpg missing"),
        ({"meta__json": b"{"}, "no JSON"),
        ({"meta__json": b"[1]"}, "list"),
    ],
)
def test_damaged_samples_are_named(tmp_path: Path, replaced: dict[str, bytes], words: str) -> None:
    with pytest.raises(ShardError, match=words) as caught:
        list(read_shards(one(tmp_path, **replaced)))
    assert "shard-000003.tar, sample 118" in str(caught.value)
    assert not Path("/tmp/rdt2-evil-pickle").exists()
    report = ReadReport()
    assert list(read_shards(tmp_path, on_error="skip", report=report)) == []
    assert len(report.skipped) == 1


def test_absurd_shape_is_refused_before_allocating(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    bomb = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(ShardError, match="expected"):
        list(read_shards(one(tmp_path, action__npy=bomb)))


def test_picture_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="384 x 768"):
        decode_jpeg(encode_jpeg(np.zeros((10, 20, 3), np.uint8)))
    with pytest.raises(ShardError, match="cannot be decoded"):
        decode_jpeg(b"\xff\xd8" + bytes(50))


@pytest.mark.parametrize("cut", [1, 700, 1024, 5000])
def test_truncated_tar(tmp_path: Path, cut: int) -> None:
    """A cut tar is an error even where it was cut between two samples (no end mark)."""
    record(tmp_path, 4)
    path = tmp_path / "shard-000000.tar"
    end = max(member.offset + member.size for member in shards_module.scan_tar(path))
    os.truncate(path, -(-end // 512) * 512 if cut == 1024 else end - cut)
    with pytest.raises(ShardError, match="cut off"):
        list(read_shards(tmp_path))
    report = ReadReport()
    kept = list(read_shards(tmp_path, on_error="skip", report=report))
    assert 2 <= len(kept) <= 4
    assert len(report.skipped) == 1


def test_garbage_in_a_header(tmp_path: Path) -> None:
    record(tmp_path, 2)
    path = tmp_path / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    fourth = list(shards_module.scan_tar(path))[4]
    data[fourth.offset - 512 : fourth.offset - 500] = b"\xffgarbage\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(ShardError, match="no tar header at byte"):
        list(read_shards(tmp_path))


def test_full_disk_leaves_earlier_shards_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path, samples_per_shard=2)
    for number in range(3):
        writer.write(picture=picture(number), action=action(), instruction=SENTENCE)

    def full(self: tarfile.TarFile, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(RecordingError, match=r"No space left.*1 earlier shard.*Free some space"):
        writer.write(picture=picture(), action=action(), instruction=SENTENCE)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000000.tar", "shard-000000.tar.index"]
    assert len(list(read_shards(tmp_path, instructions="ignore"))) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_really_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "partial_file", lambda path: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(RecordingError, match="No space left"):
        record(tmp_path, 20, per_shard=50)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_no_half_shard(tmp_path: Path) -> None:
    def recording() -> None:
        with ShardWriter(tmp_path) as writer:
            writer.write(picture=picture(), action=action(), instruction=SENTENCE)
            assert not list(tmp_path.glob("shard-*.tar"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording()
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_wrong_values(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    good = {"picture": picture(), "action": action(), "instruction": SENTENCE}
    for wrong in (
        {"picture": picture()[:, :384]},
        {"action": action()[:10]},
        {"action": np.full((24, 20), np.nan, np.float32)},
        {"instruction": " "},
        {"tokens": np.zeros(26)},
        {"key": "a.b"},
    ):
        with pytest.raises(RecordingError):
            writer.write(**(good | wrong))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="holds no shard"):
        list(read_shards(tmp_path))
    with pytest.raises(ShardError, match="no such shard"):
        list(read_shards(tmp_path / "nowhere"))


class FakeTokenizer:
    digest = "fake"

    def encode(self, actions):  # type: ignore[no-untyped-def]
        import torch

        assert actions.dtype == torch.float32
        return (actions.reshape(len(actions), -1)[:, :27] * 100).round().long() + 200


def test_tokenize_shards(tmp_path: Path) -> None:
    from rdt2.data import fit_normalizer

    source = record(tmp_path / "in", tokens=False)
    assert next(read_shards(source)).tokens is None
    normalizer = fit_normalizer(source)
    assert tokenize_shards(source, tmp_path / "out", FakeTokenizer(), normalizer, batch_size=4) == 6
    before, after = list(read_shards(source)), list(read_shards(tmp_path / "out"))
    for old, new in zip(before, after, strict=True):
        expected = np.round(normalizer.normalize(old.action).reshape(-1)[:27] * 100) + 200
        np.testing.assert_array_equal(new.tokens, expected)
        assert (old.key, old.shard, old.jpeg, old.meta) == (new.key, new.shard, new.jpeg, new.meta)
    # A second run finds everything done.
    assert tokenize_shards(source, tmp_path / "out", FakeTokenizer(), normalizer) == 0
    with pytest.raises(RecordingError, match="folder of their own"):
        tokenize_shards(source, source, FakeTokenizer(), normalizer)


def test_tokens_of_another_tokenizer_are_no_interrupted_run(tmp_path: Path) -> None:
    from rdt2.data import fit_normalizer

    class Other(FakeTokenizer):
        digest = "other"

        def encode(self, actions):  # type: ignore[no-untyped-def]
            return super().encode(actions) + 1

    source, out = record(tmp_path / "in", tokens=False), tmp_path / "out"
    normalizer = fit_normalizer(source)
    tokenize_shards(source, out, FakeTokenizer(), normalizer)
    before = (out / "shard-000000.tar").read_bytes()
    with pytest.raises(
        RecordingError, match=r"out: was begun with another tokenizer \(fake there, other here\)"
    ):
        tokenize_shards(source, out, Other(), normalizer)
    wider = LinearNormalizer.fit(np.array([[-1.0] * 20, [1.0] * 20]))
    with pytest.raises(RecordingError, match=r"out: was begun with another normalizer \([0-9a-f]+ there, "):
        tokenize_shards(source, out, FakeTokenizer(), wider)
    # A folder of before it was written down: the tokens themselves tell.
    (out / "tokens.json").unlink()
    for tokenizer, ranges in ((Other(), normalizer), (FakeTokenizer(), wider)):
        with pytest.raises(RecordingError, match=r"shard-000000.tar: holds tokens of another tokenizer"):
            tokenize_shards(source, out, tokenizer, ranges)
    with ShardWriter(tmp_path / "other") as writer:
        writer.write(picture=picture(), action=action() + np.float32(0.01), instruction=SENTENCE)
    with pytest.raises(RecordingError, match=r"shard-000000.tar: holds samples of another recording"):
        tokenize_shards(tmp_path / "other", out, FakeTokenizer(), normalizer)
    assert (out / "shard-000000.tar").read_bytes() == before


def test_real_recording(real: Path) -> None:
    samples = {"shard-000000.tar": 0, "shard-000001.tar": 0}
    for sample in read_shards(real, instructions={"pika_task": "Pick up the bottle."}):
        samples[sample.shard] += 1
        assert sample.tokens is not None
        assert 0 <= sample.tokens.min() <= sample.tokens.max() < 1024
    assert samples == {"shard-000000.tar": 448, "shard-000001.tar": 266}
