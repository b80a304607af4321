"""Every command that takes data takes them by URL; a run whose server stops ends clearly, and goes on."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_data_forms import SENTENCE, SMALL, shards
from tests.data.test_batches import write

from rdt2.cli.main import main
from rdt2.data import fit_normalizer
from rdt2.data.shards import remote

pytest.importorskip("aiohttp", reason="reading by http needs the extra 'remote'")
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from servers import Ranges, ranges, web_server

BRACES = "shard-{000000..000001}.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards(tmp_path_factory.mktemp("pick"))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rdt2.vlm import TinyConfig, create_tiny_vlm

    shape = TinyConfig(
        hidden_size=64, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=96, vision_depth=2,
        vision_hidden_size=32, vision_num_heads=2, vision_intermediate_size=48, full_attention_block=1,
    )  # fmt: skip
    create_tiny_vlm(folder := tmp_path_factory.mktemp("vlm"), sentences=[SENTENCE], config=shape)
    return folder


def training(vlm: Path, data: str, out: Path, *settings: str) -> list[str]:
    """The words of a small run."""
    words = ["train", "vq", "--data", data, "--out", str(out)]
    small = (
        "batch_size=2",
        "trackers=[]",
        "held_out=0",
        "augment=false",
        "evaluate_every=0",
        "precision=fp32",
    )
    for setting in (f"start_from={vlm}", *small, *settings):
        words += ["--set", setting]
    return words


@pytest.fixture
def handler() -> type[Ranges]:
    return ranges()


@pytest.fixture
def url(
    folder: Path, handler: type[Ranges], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setenv("RDT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAIT_S", 0.002)
    with web_server(folder, handler) as address:
        yield f"{address}/{BRACES}"


@pytest.mark.usefixtures("still")
def test_every_command_takes_urls(url: str, folder: Path, vlm: Path, tmp_path: Path) -> None:
    figures, out = tmp_path / "figures.json", tmp_path / "run"

    def run(line: str) -> dict:
        main([*shlex.split(line), "--json", str(figures)])
        return json.loads(figures.read_text())

    mine = run(f"data check {url}")
    assert mine == run(f"data check {folder}")
    mine = run(f"data stats {url}")
    assert mine == run(f"data stats {folder}")
    main(["data", "augment-sheet", url, "--samples", "1", "--epochs", "1", "--out", str(tmp_path / "a.png")])
    main(["train", "tokenizer", "--data", url, "--out", str(out), *SMALL.split()])
    limits = "--max-position-mm 1e9 --max-rotation-degrees 1e9"
    mine = run(f"tokenizer check {url} --tokenizer {out / 'model'} {limits}")
    assert mine == run(f"tokenizer check {folder} --tokenizer {out / 'model'} {limits}")
    tokens = tmp_path / "tokens"
    line = f"data tokenize --tokenizer {out / 'model'} --data {url}"
    assert run(f"{line} --sidecar --out {tokens}")["samples"] == 16
    assert run(f"{line} --workers 1 --out {tmp_path / 'whole'}")["samples"] == 16
    assert run(f"data stats {tokens / 'dataset.yaml'}")["tokens"]
    mine = run(f"evaluate shards --data {url} --split all")
    assert mine["policy"] == run(f"evaluate shards --data {folder} --split all")["policy"]
    main(training(vlm, str(tokens / "dataset.yaml"), tmp_path / "vq", "steps=2", "loader_workers=1"))
    assert (tmp_path / "vq" / "model").is_dir()


def test_training_whose_server_stops_ends_clearly_and_goes_on(
    handler: type[Ranges], vlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("RDT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAIT_S", 0.002)
    data = write(tmp_path / "tokens", shards=2)
    fit_normalizer(data).save_pretrained(data)
    out = tmp_path / "vq"

    def stop() -> None:
        for _ in range(3000):
            if list(out.glob("checkpoints/step-*1")):
                break
            time.sleep(0.01)
        handler.down = True

    with web_server(data, handler) as address:
        words = training(vlm, f"{address}/{BRACES}", out, "steps=40", "save_every=1", "loader_workers=1")
        stopping = threading.Thread(target=stop, daemon=True)
        stopping.start()
        with pytest.raises(SystemExit):
            main(words)
        stopping.join()
        told = capsys.readouterr().err
        assert "its server did not answer, or broke off, 10 times" in told
        kept = sorted(out.glob("checkpoints/step-*"))[-1]
        assert f"The last checkpoint is {kept}: the same command with --resume goes on there." in told
        assert "Traceback" not in told
        handler.down = False
        main([*words, "--resume"])
    assert (out / "model").is_dir()


def test_training_on_a_folder_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The indices go to the cache; nothing else is written beside the data."""
    monkeypatch.setenv("RDT2_CACHE", str(tmp_path / "cache"))
    folder = shards(tmp_path / "data")
    for index in folder.glob("*.index"):
        index.unlink()
    before = {path.name for path in folder.iterdir()}
    folder.chmod(0o555)
    main(["train", "tokenizer", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL.split()])
    assert {path.name for path in folder.iterdir()} == before
    assert len(list((tmp_path / "cache" / "index").glob("*.index"))) == 2
    folder.chmod(0o755)
