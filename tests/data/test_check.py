"""The data check finds what spoils training, and says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tests.data.test_shards import SENTENCE, action, one, picture, record

from rdt2.data import ShardWriter, check_shards, cut_chunks, read_shards
from rdt2.errors import ConfigError
from rdt2.normalizer import LinearNormalizer
from rdt2.pose import rot6d_to_matrix


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
    chunk[10:, 11] += 0.15
    assert names(write(tmp_path, chunk)) == {"jump": 1}
    assert check_shards(tmp_path).ok


@pytest.mark.parametrize(
    ("rows", "metres"), [(slice(10, None), 0.3), (slice(10, 11), 0.12), (slice(None), 0.5)]
)
def test_what_no_hand_does_is_an_error(tmp_path: Path, rows: slice, metres: float) -> None:
    chunk = action()
    chunk[rows, 11] += metres
    report = check_shards(write(tmp_path, chunk))
    assert [(finding.name, finding.severity) for finding in report.findings] == [
        ("impossible motion", "error")
    ]


def test_places_in_any_order_are_no_motion(tmp_path: Path) -> None:
    chunk = action()
    chunk[:, 10] = 0.03 * np.arange(1, 25)  # 0.9 m/s
    assert check_shards(write(tmp_path / "in order", chunk)).ok
    chunk[:, 10] = chunk[np.random.default_rng(0).permutation(24), 10] / 3
    report = check_shards(write(tmp_path / "shuffled", chunk))
    assert [finding.name for finding in report.findings if finding.severity == "error"] == [
        "impossible motion"
    ]


def test_a_fast_hand_is_a_warning(tmp_path: Path) -> None:
    chunk = action()
    time = np.arange(1, 25) / 30
    chunk[:, 11] = 0.3 * np.sin(2 * np.pi * 3 * time)  # 5.6 m/s and 107 m/s2: a stroke at table tennis
    report = check_shards(write(tmp_path, chunk))
    assert "jump" in {finding.name for finding in report.findings}
    assert report.ok


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
    assert names(tmp_path) == {}, "only VQ training needs them, and asks for them"
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


# -------------------------------------------------------------------------------- samples against each other


def recorded(
    folder: Path,
    *,
    count: int = 60,
    rows: bool = False,
    swap: bool = False,
    skip: tuple[int, ...] = (),
    frozen: bool = False,
    still: bool = False,
    watching: bool = False,
) -> Path:
    """An episode of two hands that move at different times, each seen by a picture that moves with it."""
    times = np.arange(count + 24) / 30
    poses, pictures = {}, {}
    texture = np.random.default_rng(0).integers(0, 255, (60, 200, 3)).astype(np.uint8)
    for number, arm in enumerate(("right", "left")):
        # Each hand moves while the other one rests.
        speed = 0.01 * (np.sin(2 * np.pi * times / 1.5 + np.pi * number) > 0) * (1 + 0.5 * np.sin(9 * times))
        path = np.cumsum(speed) * (0 if still else 1)
        poses[arm] = np.tile(np.eye(4), (len(times), 1, 1))
        poses[arm][:, :3, :3] = Rotation.from_rotvec(np.outer(4 * path, [0.3, 1.0, -0.5])).as_matrix()
        poses[arm][:, 0, 3], poses[arm][:, 1, 3] = path, 0.5 * path**2
        shift = np.round(400 * np.cumsum(speed)).astype(int)
        pictures[arm] = [
            np.roll(texture, pixels, axis=1)[:48, :48].repeat(8, 0).repeat(8, 1) for pixels in shift
        ]
    if watching:
        # The left hand rests and its camera sees the right one faintly; the right picture is all noise.
        poses["left"][:] = np.eye(4)
        pictures["left"] = [picture // 16 for picture in pictures["right"]]
        noise = np.random.default_rng(1)
        pictures["right"] = [noise.integers(0, 255, (384, 384, 3)).astype(np.uint8) for _ in times]
    widths = dict.fromkeys(poses, np.full(len(times), 0.05))
    with ShardWriter(folder) as writer:
        for frame, chunk in cut_chunks(poses, widths, times, range(count)):
            if frame in skip:
                continue
            shown = {arm: pictures[arm][5 if frozen and arm == "left" else frame] for arm in pictures}
            left, right = ("right", "left") if swap else ("left", "right")
            if rows:
                for start in (3, 13):
                    matrix = rot6d_to_matrix(chunk[:, start : start + 6])
                    chunk[:, start : start + 6] = matrix[:, :2].reshape(-1, 6)
            writer.write(
                picture=np.concatenate([shown[left], shown[right]], axis=1),
                action=chunk,
                instruction=SENTENCE,
                tokens=np.zeros(27),
                meta={"episode": "e", "frame": frame},
            )
    return folder


def test_an_episode_that_fits_together(tmp_path: Path) -> None:
    assert names(recorded(tmp_path)) == {}


def test_left_and_right_swapped(tmp_path: Path) -> None:
    assert names(recorded(tmp_path, swap=True)) == {"left and right swapped": 1}
    assert not check_shards(tmp_path).ok


def test_a_resting_camera_that_watches_is_not_swapped(tmp_path: Path) -> None:
    assert names(recorded(tmp_path, watching=True)) == {}


def test_rotations_stored_as_rows(tmp_path: Path) -> None:
    assert names(recorded(tmp_path, rows=True)) == {"rotation rows": 1}


def test_frozen_camera(tmp_path: Path) -> None:
    report = check_shards(recorded(tmp_path, frozen=True))
    (finding,) = (finding for finding in report.findings if finding.name == "frozen camera")
    assert finding.count >= 10
    assert all("left, " in worst.detail for worst in finding.worst)
    assert finding.worst[0].score == max(worst.score for worst in finding.worst)
    still = names(recorded(tmp_path / "still", frozen=True, still=True))
    assert "frozen camera" not in still, "a still arm sees a still picture"


def test_time_gap(tmp_path: Path) -> None:
    report = check_shards(recorded(tmp_path, skip=(20, 21, 22, 23, 24)))
    assert [(finding.name, finding.count) for finding in report.findings] == [("time gap", 1)]
    assert "0.200 s after the sample before, usual 0.033 s" in report.findings[0].examples[0]


def test_chunks_that_contradict_each_other(tmp_path: Path) -> None:
    """Frame numbers that say half the rate: each chunk is where the next sample is not."""
    recorded(tmp_path / "a", count=20)
    with ShardWriter(tmp_path / "b") as writer:
        for number, sample in enumerate(read_shards(tmp_path / "a")):
            writer.write(
                picture=sample.jpeg,
                action=sample.action,
                instruction=SENTENCE,
                tokens=sample.tokens,
                meta={"episode": "e", "frame": 3 * number if number < 19 else 0},
            )
    found = names(tmp_path / "b")
    assert found["chunks disagree"] > 5
    assert found["time order"] == 1


class _Codes:
    """A tokenizer whose first token is ten times the last width in metres."""

    num_embeddings = 1024

    def encode(self, actions):  # type: ignore[no-untyped-def]
        tokens = torch.zeros(len(actions), 27, dtype=torch.long)
        tokens[:, 0] = (actions[:, -1, 0] * 1000).round().long()
        return tokens

    def decode(self, tokens):  # type: ignore[no-untyped-def]
        actions = torch.zeros(len(tokens), 24, 20)
        actions[..., 3] = actions[..., 7] = actions[..., 13] = actions[..., 17] = 1
        actions[..., 0] = tokens[:, :1] / 1000
        return actions


def test_tokens_that_do_not_decode_to_their_action(tmp_path: Path) -> None:
    chunk = np.zeros((24, 20), np.float32)
    chunk[:, [3, 7, 13, 17]] = 1
    chunk[:, 0] = 0.05
    with ShardWriter(tmp_path) as writer:
        for number, token in enumerate((50, 51, 90)):
            writer.write(
                picture=picture(number),
                action=chunk,
                instruction=SENTENCE,
                tokens=np.array([token] + [0] * 26),
            )
    plain = LinearNormalizer(*(np.full(20, value, np.float32) for value in (1, 0, -1, 1)))
    report = check_shards(tmp_path, tokenizer=_Codes(), normalizer=plain)
    (finding,) = report.findings
    assert (finding.name, finding.count) == ("tokens differ", 1)
    assert "sample 2: off by 0.040 m" in finding.examples[0]
    with pytest.raises(ConfigError, match="normalizer"):
        check_shards(tmp_path, tokenizer=_Codes())


def test_page_shows_the_worst_samples(tmp_path: Path) -> None:
    from rdt2.data.pages.check import write_check_page

    chunk = action()
    chunk[:, 9] = 0.0967
    report = check_shards(write(tmp_path, chunk, instruction="pick <b>up</b>"))
    path = write_check_page(tmp_path / "pages" / "check.html", report, title="Check of x")
    page = path.read_text()
    assert page.count('<img src="data:image/jpeg;base64,/9j/') == 1
    assert "0.0967 m, range" in page
    assert "pick &lt;b&gt;up&lt;/b&gt;" in page
    assert "gripper opening (mm)" in page
    assert "http" not in page, "a page loads nothing from elsewhere"
    assert (
        "Nothing was found"
        in write_check_page(
            tmp_path / "empty.html", check_shards(record(tmp_path / "good")), title="x"
        ).read_text()
    )


def test_the_report_is_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    """Several shards, a duplicate, a damaged picture, and a tar that is cut off."""
    recorded(tmp_path / "in", frozen=True, skip=(20, 21))
    shards = sorted((tmp_path / "in").glob("*.tar"))
    again = tmp_path / "in" / "shard-000001.tar"
    again.write_bytes(shards[0].read_bytes()[:-200_000])
    data = bytearray(shards[0].read_bytes())  # a picture that is none
    place = data.index(b"\xff\xd8")
    data[place : place + 2] = b"xx"
    (tmp_path / "in" / "shard-000002.tar").write_bytes(data)
    alone, together = (check_shards(tmp_path / "in", workers=workers) for workers in (0, 2))
    assert {"duplicate", "damaged sample", "damaged shard"} <= {each.name for each in alone.findings}
    assert together.as_dict() == alone.as_dict()
    assert {name: list(part) for name, part in together.values.items()} == {
        name: list(part) for name, part in alone.values.items()
    }


def test_what_came_before_is_found_again_however_much_came() -> None:
    from rdt2.data.check_samples import Seen, Thinned

    seen, rng = Seen(), np.random.default_rng(0)
    numbers = rng.integers(0, 2**64, 40_000, dtype=np.uint64).tolist()
    assert not any(seen.add(number) for number in numbers)
    assert all(seen.add(number) for number in numbers)
    assert not seen.add(0)
    values = Thinned(most=8)
    for value in range(100):
        values.append(value)
    assert list(values) == [0, 16, 32, 48, 64, 80, 96]
