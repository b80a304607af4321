"""Shards as other people make them: read as webdataset reads them, or refused by name; keys stay as they are."""

from __future__ import annotations

import gzip
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.data.test_shards import FakeTokenizer, action, encode_jpeg, npy, picture, write_tar

from rdt2.data import (
    ShardIndex,
    ShardWriter,
    TrainingData,
    check_shards,
    fit_normalizer,
    read_instructions,
    read_shards,
    split_by_episode,
    tokenize_shards,
)
from rdt2.data.shards import instruction_key, write_instructions
from rdt2.errors import RecordingError, ShardError

SENTENCE = "Pick up the red cube."


def sample(number: int, *, key: str = "k") -> dict[str, bytes]:
    return {
        "image.jpg": encode_jpeg(picture(number)),
        "action.npy": npy(action(number)),
        "meta.json": json.dumps({"sub_task_instruction_key": key}).encode(),
    }


def files(names: str = "{}", count: int = 6) -> dict[str, bytes]:
    """The files of samples 0, 1, ... whose keys are ``names`` with their numbers in it."""
    return {
        f"{names.format(number)}.{extension}": data
        for number in range(count)
        for extension, data in sample(number).items()
    }


def folder(path: Path, content: dict[str, bytes], table: dict[str, str] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_tar(path / "shard-000000.tar", content)
    (path / "instructions.json").write_text(json.dumps(table or {"k": SENTENCE}))
    return path


def read(path: Path) -> list[tuple[str, int]]:
    """(key, number by its action) of every sample: the same by each way of reading."""
    found = [(each.key, round(1000 * (float(each.action[-1, 0]) - 0.1))) for each in read_shards(path)]
    index = ShardIndex(path)
    assert [index.key(number) for number in range(len(index))] == [key for key, _ in found]
    assert [round(1000 * (float(index.action(n)[-1, 0]) - 0.1)) for n in range(len(index))] == [
        number for _, number in found
    ]
    batch = TrainingData(path, split="all", batch_size=len(found), shuffle=False, pictures=False).batch(0)
    np.testing.assert_array_equal(batch.actions, index.all_actions())
    assert check_shards(path).counts["samples"] == len(found)
    assert check_shards(path).ok
    return found


def refused(path: Path, words: str) -> None:
    """By every way of reading, and by the check."""
    for attempt in (
        lambda: list(read_shards(path)),
        lambda: ShardIndex(path),
    ):
        with pytest.raises(ShardError, match=words):
            attempt()
    try:
        report = check_shards(path)
    except ShardError as error:
        assert words.split(".*")[0] in str(error)  # noqa: PT017  the check may refuse the folder at once
    else:
        assert not report.ok
        assert words.split(".*")[0] in report.table()


def test_folders_in_a_tar_belong_to_the_key(tmp_path: Path) -> None:
    content = {name: data for part in (0, 1) for name, data in files(f"./ep{part}/{{}}", 3).items()}
    assert read(folder(tmp_path, content)) == [
        (f"./ep{part}/{number}", number) for part in (0, 1) for number in range(3)
    ]


def test_keys_with_dots(tmp_path: Path) -> None:
    assert read(folder(tmp_path, files("ep_0.{:03d}"))) == [(f"ep_0.{n:03d}", n) for n in range(6)]


def test_further_files_of_a_sample_are_passed_over(tmp_path: Path) -> None:
    content = {}
    for number in range(3):
        for extension, data in sample(number).items():
            content[f"{number}.depth.{extension}"] = b"not asked for"
            content[f"{number}.{extension.upper()}"] = data  # extensions have no case, as for webdataset
            content[f"{number}.txt"] = b""
        del content[f"{number}.depth.meta.json"]
    assert read(folder(tmp_path, content)) == [(str(n), n) for n in range(3)]


def test_webdataset_finds_the_same_samples(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="only for comparison")
    content = {f"._{name}": b"x" * 100 for name in files()} | files("a/b.c/{}") | files("./{}-d")
    found = read(folder(tmp_path, content))
    theirs = list(wds.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False).decode())
    assert [(each["__key__"], each["action.npy"][-1, 0]) for each in theirs] == [
        (key, np.float32(0.1 + number * 1e-3)) for key, number in found
    ]


def test_files_of_a_sample_that_lie_apart_are_refused(tmp_path: Path) -> None:
    for names in ("{}", "ep.{}", "./ep/{}"):
        content = files(names)
        apart = dict(sorted(content.items(), key=lambda item: item[0].partition(".")[2][-8:]))
        refused(folder(tmp_path / names[0] / str(len(names)), apart), "missing beside.*sort=name")


def test_tokens_without_actions_are_told_from_files_that_lie_apart(tmp_path: Path) -> None:
    content = {
        name.replace("action.npy", "action_token.npy"): data for name, data in files().items()
    }  # the reader never comes to what is in them
    refused(folder(tmp_path, content), "action.npy missing.*tokens alone.*in metres.*decode")


def test_macos_shadows_are_no_shards(tmp_path: Path) -> None:
    content = {
        name: data for real, data in files().items() for name, data in ((f"._{real}", b"x"), (real, data))
    }
    folder(tmp_path, content)
    (tmp_path / "._shard-000000.tar").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(200))
    assert read(tmp_path) == [(str(n), n) for n in range(6)]


def test_compressed_tars_are_named(tmp_path: Path) -> None:
    folder(tmp_path / "a", files())
    plain = tmp_path / "a" / "shard-000000.tar"
    (tmp_path / "a" / "shard-000001.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    refused(tmp_path / "a", "shard-000001.tar.gz")  # with half of the samples, it would be silently less
    (tmp_path / "a" / "shard-000001.tar.gz").rename(tmp_path / "a" / "shard-000000.tar.gz")
    assert len(read(tmp_path / "a")) == 6, "what is there unpacked, too, is read"
    packed = folder(tmp_path / "b", files()) / "shard-000000.tar"
    packed.write_bytes(gzip.compress(packed.read_bytes()))
    refused(tmp_path / "b", r"shard-000000.tar: it is compressed .*gzip")


def test_pointers_and_pages_in_place_of_a_tar(tmp_path: Path) -> None:
    path = folder(tmp_path, files()) / "shard-000000.tar"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 60323840\n")
    refused(tmp_path, "git lfs pull")
    table = folder(tmp_path / "table", files()) / "instructions.json"
    table.write_bytes(path.read_bytes())
    with pytest.raises(ShardError, match="git lfs pull"):
        ShardIndex(tmp_path / "table")
    path.write_text("<!DOCTYPE html>\n<html>" + " " * 2000)
    refused(tmp_path, "download the file again")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(ShardError, match=r"links to .*elsewhere\.tar"):
        ShardIndex(tmp_path)


def test_a_tar_without_samples_is_refused(tmp_path: Path) -> None:
    refused(folder(tmp_path, {"0.jpg": b"", "0.json": b"{}", "README": b""}), r"holds no sample.*0\.jpg")
    refused(folder(tmp_path, {}), r"holds no sample.*found none")


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<f2"])
def test_actions_of_other_widths(tmp_path: Path, kind: str) -> None:
    content = files()
    for number in range(6):
        content[f"{number}.action.npy"] = npy(action(number).astype(kind))
        content[f"{number}.action_token.npy"] = npy(np.arange(27) + number)
    content = dict(sorted(content.items()))
    for number, each in enumerate(read_shards(folder(tmp_path, content))):
        assert (each.action.dtype, each.tokens.dtype) == (np.float32, np.int16)  # type: ignore[union-attr]
        np.testing.assert_allclose(each.action, action(number), atol=5e-4 if kind == "<f2" else 1e-7)
        np.testing.assert_array_equal(each.tokens, np.arange(27) + number)  # type: ignore[arg-type]
    assert not check_shards(tmp_path).findings


def test_names_too_long_for_a_plain_header(tmp_path: Path) -> None:
    key = "拿起苹果" * 30
    with ShardWriter(tmp_path) as writer:
        writer.write(picture=picture(), action=action(), instruction=SENTENCE, key=key)
    assert [each.key for each in read_shards(tmp_path)] == [key]
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        assert f"{key}.action.npy" in tar.getnames()


# --------------------------------------------------------------------------------------- keys of sentences

ALIKE = (
    SENTENCE,
    "pick up the red cube",
    "Pick up the red cube",
    "Pick up the red, cube.",
    "Pick up the red cube. ",
    "把红色方块放进碗里。",
    "拿起苹果。",
    "...",
    "Pick up \ud83d.",
    "Pick up the cube. " * 30,
    "Pick up the cube. " * 31,
)


def test_sentences_that_differ_have_keys_that_differ(tmp_path: Path) -> None:
    assert instruction_key(SENTENCE) == "pick_up_the_red_cube"
    assert len({instruction_key(sentence) for sentence in ALIKE}) == len(ALIKE)
    assert all(instruction_key(sentence).isascii() for sentence in ALIKE)
    with ShardWriter(tmp_path) as writer:
        for number, sentence in enumerate(ALIKE):
            writer.write(picture=picture(number), action=action(number), instruction=sentence)
    index = ShardIndex(tmp_path)
    assert [index.instruction(number) for number in range(len(index))] == list(ALIKE)
    assert [each.instruction for each in read_shards(tmp_path)] == list(ALIKE)


def test_tables_are_written_as_people_read_them(tmp_path: Path) -> None:
    write_instructions(tmp_path, {"a": "拿起苹果。"})
    assert "拿起苹果。" in (tmp_path / "instructions.json").read_text(encoding="utf-8")


def test_keys_of_a_folder_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "instructions.json").write_text(json.dumps({"pick_up_the_red_cube": "Pick up THE red cube!"}))
    with ShardWriter(tmp_path) as writer:
        writer.write(picture=picture(), action=action(), instruction=SENTENCE)
        with pytest.raises(RecordingError, match="stands for 'Pick up THE red cube!'"):
            writer.write(
                picture=picture(),
                action=action(),
                instruction=SENTENCE,
                instruction_key="pick_up_the_red_cube",
            )
    assert [each.instruction for each in read_shards(tmp_path)] == [SENTENCE]
    assert "Pick up THE red cube!" in (read_instructions(tmp_path) or {}).values()


@pytest.mark.parametrize(
    "table",
    [
        {"task_1": "把红色方块放进碗里。", "task_2": "拿起苹果。"},
        {"a": SENTENCE, "b": "pick up the red cube", "unused": "Wave."},
        {"": "把红色方块放进碗里。"},
        {"7": SENTENCE},
    ],
)
def test_tokenizing_keeps_keys_and_sentences(tmp_path: Path, table: dict[str, str]) -> None:
    keys = [7] if "7" in table else [key for key in table if key != "unused"]
    content = {
        f"ep.{number}/{number}.x.{extension}": data
        for number, key in zip(range(4), itertools.cycle(keys), strict=False)
        for extension, data in sample(number, key=key).items()  # type: ignore[arg-type]
    }
    source = folder(tmp_path / "in", content, table)
    (source / "shard-000000.tar").rename(source / "train-part.tar")
    assert tokenize_shards(source, tmp_path / "out", FakeTokenizer(), fit_normalizer(source)) == 4
    assert read_instructions(tmp_path / "out") == table
    before, after = list(read_shards(source)), list(read_shards(tmp_path / "out"))
    for old, new in zip(before, after, strict=True):
        assert (old.jpeg, old.instruction) == (new.jpeg, new.instruction)
        assert dict(new.meta) == {name: str(value) for name, value in old.meta.items()}
        assert (new.key, new.tokens is not None) == (old.key.replace(".x", "_x"), True)
    index = ShardIndex(tmp_path / "out")
    assert [index.instruction(number) for number in range(4)] == [each.instruction for each in before]


def test_an_instruction_key_that_is_none(tmp_path: Path) -> None:
    for key in (["k"], {"k": 1}, True, None):
        path = folder(tmp_path, {f"0.{name}": data for name, data in sample(0, key=key).items()})  # type: ignore[arg-type]
        for read_it in (lambda path=path: list(read_shards(path)), lambda path=path: ShardIndex(path)):
            with pytest.raises(ShardError, match=r"meta\.json has no 'sub_task_instruction_key'"):
                read_it()


@pytest.mark.parametrize(
    "told", [{"timestamp": 1e308}, {"frame": 10**30}, {"episode": "\ud83d"}, {"state": [None]}]
)
def test_metas_that_tell_nonsense(tmp_path: Path, told: dict[str, object]) -> None:
    content = {}
    for number in range(3):
        content |= {f"{number}.{name}": data for name, data in sample(number).items()}
        meta = {"sub_task_instruction_key": "k", "episode": "e", **(told if number else {"frame": 0})}
        content[f"{number}.meta.json"] = json.dumps(meta).encode()
    assert check_shards(folder(tmp_path, content)).counts["samples"] == 3
    assert len(np.concatenate(split_by_episode(ShardIndex(tmp_path)))) <= 3
    assert TrainingData(tmp_path, split="all", batch_size=3, pictures=False).batch(0).actions.shape == (
        3,
        24,
        20,
    )


def test_a_header_that_breaks_off(tmp_path: Path) -> None:
    content = files(count=1)
    content["0.action.npy"] = content["0.action.npy"].replace(b"(24, 20), }", b"(24, 20 , {")
    with pytest.raises(ShardError, match=r"action\.npy is no \.npy file"):
        list(read_shards(folder(tmp_path, content)))
    assert "action.npy is no .npy file" in check_shards(tmp_path).table()


@pytest.mark.parametrize("told", [{"timestamp": "soon"}, {"frame": None}, {"timestamp": float("nan")}])
def test_times_that_are_no_numbers(tmp_path: Path, told: dict[str, object]) -> None:
    content = files(count=1)
    content["0.meta.json"] = json.dumps({"sub_task_instruction_key": "k", **told}).encode()
    with pytest.raises(ShardError, match=r"sample 0: .* in meta\.json is .*, expected a number"):
        ShardIndex(folder(tmp_path, content))
    assert "expected a number" in check_shards(tmp_path).table()
