"""Every command that takes data takes all of its forms: folder, tar, range of tars, dataset yaml, blend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rdt2.cli.main import main
from rdt2.data import ShardWriter, fit_normalizer, open_sources, write_dataset_yaml
from rdt2.errors import ConfigError, ShardError

SENTENCE = "Pick up the cup."


def shards(folder: Path, first: int = 0) -> Path:
    """Two tars of eight samples, two episodes of smooth motion, and what belongs beside them."""
    picture = np.random.default_rng(0).integers(0, 255, (384, 768, 3), dtype=np.uint8)
    with ShardWriter(folder, samples_per_shard=8) as writer:
        for number in range(16):
            action = np.zeros((24, 20), np.float32)
            action[:, [3, 7, 13, 17]] = 1
            action[:, [0, 1, 2, 10, 11, 12]] = np.arange(1, 25)[:, None] * 1e-3 * (1 + number // 8)
            action[:, [9, 19]] = 0.03 + 1e-3 * np.arange(24)[:, None]
            meta = {"episode": f"e{first + number // 8}", "frame": number % 8}
            writer.write(picture=picture, action=action, instruction=SENTENCE, meta=meta)
    fit_normalizer(folder).save_pretrained(folder)
    write_dataset_yaml(folder, name=folder.name)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    shards(folder / "a")
    shards(folder / "b", first=2)
    shutil.copy(folder / "a" / "normalizer.safetensors", folder / "b")  # one for both, as a blend needs
    (folder / "blend.yaml").write_text(
        "name: both\ntype: blend\ntrain:\n"
        "  one: {config_path: a/dataset.yaml, weight: 3}\n  two: {config_path: b/dataset.yaml, weight: 1}\n"
    )
    return folder


FORMS = ("a", "a/shard-000001.tar", "a/shard-{000000..000001}.tar", "a/dataset.yaml", "blend.yaml")
SMALL = "--set size=tiny --set steps=1 --set batch_size=4 --set trackers=[] --set held_out=0"


@pytest.mark.parametrize("form", FORMS)
def test_every_command_takes_every_form(
    place: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, figures = str(place / form), tmp_path / "figures.json"
    for line in ("data check --fast", "data stats", "data augment-sheet --samples 1 --epochs 1"):
        words = [*line.split(), data]
        if "augment" in line:
            words += ["--out", str(tmp_path / "sheet.png")]
        else:
            words += ["--json", str(figures)]
        main(words)
    samples = {"a/shard-000001.tar": 8, "blend.yaml": 32}.get(form, 16)
    assert json.loads(figures.read_text())["samples"] == samples
    out = tmp_path / "run"
    main(["train", "tokenizer", "--data", data, "--out", str(out), *SMALL.split()])
    main(["tokenizer", "check", data, "--tokenizer", str(out / "model"), "--max-position-mm", "1e9",
          "--max-rotation-degrees", "1e9", "--json", str(figures)])  # fmt: skip
    main(
        [
            "data",
            "tokenize",
            "--data",
            data,
            "--tokenizer",
            str(out / "model"),
            "--out",
            str(tmp_path / "tokens"),
        ]
    )
    assert len(list((tmp_path / "tokens").rglob("*.tar"))) == samples // 8
    assert ("whatever the weights" in " ".join(capsys.readouterr().err.split())) == (form == "blend.yaml")


def test_stats_say_where_nothing_is_left_to_train_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "stats", str(place / "a/shard-000000.tar")])
    assert "none to train on" in (said := capsys.readouterr().err)
    assert "--set held_out=0" in said
    main(["data", "stats", str(place / "a")])
    assert "none to train on" not in capsys.readouterr().err


def test_a_blend_is_checked_by_its_parts(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "check", "--fast", str(place / "blend.yaml"), "--json", str(tmp_path / "check.json")])
    figures = json.loads((tmp_path / "check.json").read_text())
    assert {name: report["counts"]["samples"] for name, report in figures.items()} == {"one": 16, "two": 16}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\ntype: single\nshards_dir: nowhere\n", r"x\.yaml: shards_dir is 'nowhere'.*no such shard"),
        (
            "name: x\ntype: single\nshard_dir: a\nshards_dir: a\n",
            r"unknown key 'shard_dir'\. Did you mean 'shards_dir'",
        ),
        ("name: x\ntrain: {a: {config_path: a/dataset.yaml, weight: 0}}", r"x\.yaml: train\.a\.weight is 0"),
        (
            "name: x\ntrain: {a: {config_path: a/dataset.yaml, weight: -1}}",
            r"x\.yaml: train\.a\.weight is -1",
        ),
        (
            "name: x\ntrain: {a: {config_path: c/dataset.yaml}}",
            r"x\.yaml: train\.a\.config_path.*cannot be read",
        ),
        (
            "name: x\ntrain: {a: {config_path: blend.yaml}}",
            r"train\.a\.config_path is 'blend.yaml', .*a mixture",
        ),
        ("name: x\ntype: singel\nshards_dir: a", r"type is 'singel' .*expected 'type: single'"),
        (
            "name: x\nshards_dir: a\nkwargs: {normaliser_path: n.pt}",
            r"x\.yaml: kwargs: unknown key 'normaliser_path'\. Did you mean 'normalizer_path'",
        ),
    ],
)
def test_what_is_wrong_with_a_yaml_is_named(place: Path, text: str, words: str) -> None:
    (place / "x.yaml").write_text(text)
    with pytest.raises((ConfigError, ShardError), match=words):
        open_sources(place / "x.yaml")


def test_the_example_files_are_read_where_their_data_lie(place: Path, request: pytest.FixtureRequest) -> None:
    configs = place / "configs" / "datasets"
    shutil.copytree(request.config.rootpath / "configs" / "datasets", configs)
    shutil.copytree(place / "a", place / "data" / "BimanualUR5eExample" / "shards")
    shutil.copy(place / "a" / "instructions.json", place / "data" / "BimanualUR5eExample")
    shutil.copytree(place / "b", place / "data" / "own")
    assert [(each.name, each.weight) for each in open_sources(configs / "blend.yaml")] == [
        ("ur5e", 3),
        ("own", 1),
    ]
    (single,) = open_sources(configs / "example.yaml")
    assert (single.name, len(single.shards)) == ("bimanual_ur5e_example", 2)


@pytest.mark.parametrize(
    ("kwargs", "name", "words"),
    [
        ("{normalizer_path: gone.pt}", "normalizer", "gone.pt: there is no such file or folder"),
        ("{normalizer_path: blend.yaml}", "normalizer", "blend.yaml"),
        ("{tokens_dir: gone}", "tokens_dir", "gone: there is no such folder"),
    ],
)
def test_a_check_says_what_else_a_yaml_names_in_vain(
    place: Path, kwargs: str, name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "x.yaml").write_text(f"name: x\nshards_dir: a\nkwargs: {kwargs}\n")
    with pytest.raises(SystemExit) as end:
        main(["data", "check", "--fast", str(place / "x.yaml"), "--json", str(tmp_path / "check.json")])
    assert end.value.code == 1
    findings = json.loads((tmp_path / "check.json").read_text())["findings"]
    assert [(each["name"], words in each["text"]) for each in findings if each["severity"] == "error"] == [
        (name, True)
    ]
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("form", ["", "dataset.yaml"])
def test_a_check_says_that_no_normalizer_comes_with_data(
    place: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(place / "a", tmp_path / "bare")
    (data / "normalizer.safetensors").unlink()
    (data / "dataset.yaml").write_text("name: bare\nshards_dir: .\n")
    main(["data", "check", "--fast", str(data / form)])
    assert "no normalizer beside the shards, and no normalizer_path in a yaml" in capsys.readouterr().out


def test_a_check_says_what_does_not_go_together(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        shutil.copytree(place / name, tmp_path / name)
    fit_normalizer(place / "a", mode="mean_std").save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "tokens.json").write_text("{}")
    shutil.copy(place / "blend.yaml", tmp_path)
    with pytest.raises(SystemExit):
        main(["data", "check", "--fast", str(tmp_path / "blend.yaml")])
    assert "normalizers differ: two normalizers meet" in capsys.readouterr().out
