"""The data check finds what spoils training, and says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.data.test_shards import SENTENCE, action, one, picture, record

from rdt2.data import ShardWriter, check_shards
from rdt2.normalizer import LinearNormalizer


def names(folder: Path, **options: object) -> dict[str, int]:
    report = check_shards(folder, **options)  # type: ignore[arg-type]
    json.dumps(report.as_dict())
    assert all(finding.name in report.table() for finding in report.findings)
    return {finding.name: finding.count for finding in report.findings}


def write(
    folder: Path, chunk: np.ndarray, *, instruction: str = SENTENCE, image: np.ndarray | None = None
) -> Path:
    with ShardWriter(folder) as writer:
        writer.write(
            picture=picture() if image is None else image,
            action=chunk,
            instruction=instruction,
            tokens=np.zeros(27),
        )
    return folder


def test_good_data(tmp_path: Path) -> None:
    report = check_shards(record(tmp_path))
    assert report.ok
    assert report.findings == []
    assert report.counts["samples"] == 6
    assert report.counts["episodes"] == 2
    assert "nothing found" in report.table()


def test_rotation_that_is_not_one(tmp_path: Path) -> None:
    chunk = action()
    chunk[3, 3:9] = 0.3
    found = names(write(tmp_path, chunk))
    assert found["rotation"] == 1


def test_jump(tmp_path: Path) -> None:
    chunk = action()
    chunk[10:, 11] += 0.4
    assert names(write(tmp_path, chunk)) == {"jump": 1}


def test_width_outside_the_normalizer(tmp_path: Path) -> None:
    chunk = action()
    chunk[:, 9] = 0.0967
    assert names(write(tmp_path, chunk)) == {"width": 1}
    wide = LinearNormalizer.fit(np.stack([action()[0], chunk[-1]]))
    assert names(tmp_path, normalizer=wide) == {}


@pytest.mark.parametrize(
    "sentence", ["pick up the cube.", "Pick up the cube", "Pick. Up the cube.", "Pick up. "]
)
def test_wording(tmp_path: Path, sentence: str) -> None:
    assert names(write(tmp_path, action(), instruction=sentence)) == {"instruction wording": 1}


def test_black_picture(tmp_path: Path) -> None:
    image = picture()
    image[:, 384:] = 0
    report = check_shards(write(tmp_path, action(), image=image))
    assert [finding.name for finding in report.findings] == ["black picture"]
    assert "right" in report.findings[0].examples[0]


def test_tokens(tmp_path: Path) -> None:
    record(tmp_path, tokens=False)
    assert names(tmp_path) == {"tokens missing": 6}
    assert names(record(tmp_path), num_embeddings=28) == {"token range": 4}


def test_duplicates(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for _ in range(3):
            writer.write(
                picture=picture(), action=action(), instruction=SENTENCE, tokens=np.zeros(27), key="7"
            )
    # Equal keys one after the other cannot be told from one sample with its files twice: damaged.
    assert "damaged shard" in names(tmp_path)
    with ShardWriter(tmp_path) as writer:
        for _ in range(3):
            writer.write(picture=picture(), action=action(), instruction=SENTENCE, tokens=np.zeros(27))
    assert names(tmp_path) == {"duplicate": 2}


def test_missing_instruction(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "instructions.json").write_text("{}")
    report = check_shards(tmp_path)
    assert not report.ok
    assert [finding.name for finding in report.findings] == ["instruction missing"]


def test_damage_is_a_finding(tmp_path: Path) -> None:
    assert names(one(tmp_path, action__npy=b"no")) == {"damaged sample": 1}
    record(tmp_path)
    os.truncate(tmp_path / "shard-000000.tar", 30_000)
    found = names(tmp_path)
    assert found["damaged shard"] == 1


def test_real_recording_has_widths_outside_the_normalizer(real: Path) -> None:
    report = check_shards(
        real,
        normalizer=LinearNormalizer.from_pretrained(real / "normalizer.pt"),
        instructions={"pika_task": "Pick up the bottle."},
        decode=False,
    )
    assert report.counts["samples"] == 714
    assert report.ok
    assert [finding.name for finding in report.findings] == ["width"]
    assert report.width_range[1] == pytest.approx(0.0967, abs=1e-4)
    assert "0.0967" in report.table()
