"""Whatever happens to a recording: it converts right, or is refused by name, or its check fails. Nothing else."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from motion import Motion
from mutations import (
    MUTATIONS,
    change_json,
    change_shard,
    change_table,
    cut_short,
    damage_file,
    fewer_names,
    other_columns,
    other_names,
    other_sentence,
    repeat_frames,
)
from recordings import CLOCKED, FRAMES, INSIDE, KIND, LAYOUTS, NAMED, SENTENCE, Recording

from rdt2.action import ARMS, FPS, HORIZON, chunk_from_poses
from rdt2.data import check_shards, decode_jpeg, read_shards
from rdt2.data.convert import convert
from rdt2.data.sources import SourceOptions
from rdt2.errors import RDT2Error

EXAMPLES = int(os.environ.get("RDT2_MUTATIONS", "20"))
"""Examples of each test; `make fuzz` tries more, with another seed each time."""
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="RDT2_MUTATIONS" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**32 - 1)


def options(layout: str) -> SourceOptions:
    """What a person has to say in any case: UMI's zarr holds neither a rate nor a sentence."""
    return SourceOptions(fps=30.0, instruction=SENTENCE) if layout in INSIDE else SourceOptions()


def write(layout: str, recordings: Sequence[Recording], folder: Path) -> Path:
    """The recordings in a folder of their own; the path to convert."""
    folder.mkdir()
    LAYOUTS[layout](recordings, folder)
    return folder / INSIDE.get(layout, "")


def converted(source: Path, layout: str, out: Path) -> bool:
    """Whether the recording converts and passes its check; a refusal names the place."""
    kind = KIND.get(layout, layout)
    try:
        convert(source, out, kind=kind, options=options(layout), accept_guesses=True)  # type: ignore[arg-type]
    except RDT2Error as error:
        refusal = str(error)
    else:
        return check_shards(out).ok
    places = (str(source), str(out), "shard-", "episode")
    assert any(place in refusal for place in places), f"names no place: {refusal}"
    return False


def wrong(
    out: Path, truths: Sequence[Motion], sentences: Sequence[str | None] = (SENTENCE,) * 2
) -> str | None:
    """What is wrong with the samples of a folder against the motions that were made; None: nothing."""
    count = 0
    for sample in read_shards(out):
        count += 1
        frame = sample.meta["frame"]
        number = int(str(sample.meta["episode"]).split("_")[-1])
        truth, sentence = truths[number], sentences[number]
        after = Motion(times=truth.times[frame] + np.arange(HORIZON + 1) / FPS, number=truth.number)
        expected = chunk_from_poses(
            {arm: after.poses[arm][0] for arm in ARMS},
            {arm: after.poses[arm][1:] for arm in ARMS},
            {arm: after.width[arm][1:] for arm in ARMS},
        )
        off = np.abs(sample.action - expected).max()
        if not off <= 5e-3:
            return f"{sample.key}: off by {off:.4f}"
        if sentence is not None and sentence.strip() and sample.instruction != sentence.strip():
            return f"{sample.key}: {sample.instruction!r} instead of {sentence!r}"
        picture = decode_jpeg(sample.jpeg).astype(float)
        for arm, half in (("left", picture[:, :384]), ("right", picture[:, 384:])):
            off = np.abs(half[50:300, 50:300].reshape(-1, 3).mean(0) - truth.picture[arm][frame, 0, 0]).max()
            if off > 3:
                return f"{sample.key}: {arm} picture off by {off:.1f}"
    return None if count else "no samples, and the check passes"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unchanged(layout: str, tmp_path: Path) -> None:
    recordings = [Recording(Motion(FRAMES)), Recording(Motion(FRAMES - 3, number=1))]
    source = write(layout, recordings, tmp_path / "in")
    assert converted(source, layout, tmp_path / "out")
    assert wrong(tmp_path / "out", [recording.truth for recording in recordings]) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@fuzzed
@given(seed=seeds, chosen=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=2, unique=True))
def test_numbers_and_names(layout: str, seed: int, chosen: list) -> None:
    """One episode alone, one of two, or both of two are mutated."""
    random = np.random.default_rng(seed)
    unseen = [] if layout in NAMED else [other_names, fewer_names]
    # UMI's zarr holds neither sentences nor a clock, and its arrays have three columns alike.
    unseen += [other_sentence, repeat_frames, other_columns] if layout in INSIDE else []
    chosen = [mutation for mutation in chosen if mutation not in unseen]
    with tempfile.TemporaryDirectory() as folder:
        # A video with other pictures than rows is matched by time, so its even pictures need even rows.
        even = layout not in CLOCKED or (layout == "lerobot-v3" and cut_short in chosen)
        times = np.arange(FRAMES) / FPS if even else clock(random)
        truths = [Motion(times=times), Motion(FRAMES, number=1)][: int(random.integers(1, 3))]
        recordings = [Recording(truth) for truth in truths]
        visible = True
        try:
            # One dataset has one list of names, so all its episodes are named alike.
            every, alike = (other_names in chosen or random.random() < 0.5 for _ in range(2))
            for recording in recordings if every else recordings[-1:]:
                own = np.random.default_rng(seed) if alike else random
                for mutation in chosen:
                    visible &= mutation(recording, own) is not False
            source = write(layout, recordings, Path(folder) / "in")
        except (
            ValueError,
            TypeError,
            OverflowError,
            KeyError,
            IndexError,
            NotImplementedError,
            struct.error,
        ):
            return  # nothing that this layout's own library would write
        if converted(source, layout, Path(folder) / "out") and visible:
            found = wrong(Path(folder) / "out", truths, [recording.sentence for recording in recordings])
            assert found is None, (found, [mutation.__name__ for mutation in chosen])


@pytest.mark.parametrize("layout", LAYOUTS)
@fuzzed
@given(seed=seeds)
@example(seed=11984525)
def test_damaged_files(layout: str, seed: int) -> None:
    """A file is damaged; once it is mended, the same command makes the shards."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        out, truths = Path(folder) / "out", [Motion(FRAMES), Motion(FRAMES, number=1)]
        source = write(layout, [Recording(truth) for truth in truths], Path(folder) / "in")
        whole = shutil.copytree(Path(folder) / "in", Path(folder) / "whole")
        files = sorted(path for path in (Path(folder) / "in").rglob("*") if path.is_file())
        visible = damage_file(files[int(random.integers(len(files)))], random)
        if converted(source, layout, out):
            assert not visible or wrong(out, truths) is None, wrong(out, truths)
        elif not any(out.glob("*.tar")):
            shutil.rmtree(Path(folder) / "in")
            whole.rename(Path(folder) / "in")
            assert converted(source, layout, out), "mended, and refused all the same"
            assert wrong(out, truths) is None


@pytest.mark.parametrize("layout", ["lerobot", "lerobot-v3"])
@fuzzed
@given(seed=seeds)
def test_changed_tables(layout: str, seed: int) -> None:
    """LeRobot's descriptions of itself: another value, type, order or encoding."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        out, truths = Path(folder) / "out", [Motion(FRAMES), Motion(FRAMES, number=1)]
        source = write(layout, [Recording(truth) for truth in truths], Path(folder) / "in")
        files = sorted(path for path in source.rglob("*") if path.suffix in (".json", ".jsonl", ".parquet"))
        path = files[int(random.integers(len(files)))]
        (change_table if path.suffix == ".parquet" else change_json)(path, random)
        if converted(source, layout, out):
            assert wrong(out, truths) is None, (wrong(out, truths), path.name)


@fuzzed
@given(seed=seeds)
def test_shards(seed: int) -> None:
    """The same of training shards, and of shards made from them: what is wrong must fail the check."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        out, again = Path(folder) / "out", Path(folder) / "again"
        truths = [Motion(FRAMES), Motion(FRAMES, number=1)]
        source = write("hdf5", [Recording(truth) for truth in truths], Path(folder) / "in")
        assert converted(source, "hdf5", out)
        shard, table = out / "shard-000000.tar", out / "instructions.json"
        kind = int(random.integers(4))
        if kind == 0:
            visible = damage_file([shard, table][int(random.integers(2))], random)
        elif kind == 1:
            visible = change_json(table, random)
        else:
            visible = change_shard(shard, random)
        try:
            ok = check_shards(out).ok
        except RDT2Error:
            ok = False
        if ok and visible:
            assert wrong(out, truths) is None, wrong(out, truths)
        if converted(out, "shards", again) and visible:
            assert wrong(again, truths) is None, wrong(again, truths)


def clock(random: np.random.Generator) -> np.ndarray:
    """Times of the frames: even, with jitter, with frames dropped, or with a pause."""
    times = np.arange(FRAMES) / FPS
    kind = str(random.choice(["even", "jitter", "dropped", "pause"]))
    if kind == "jitter":
        times = times + random.uniform(-0.004, 0.004, FRAMES)
        times -= times[0]
    elif kind == "dropped":
        times = np.delete(np.arange(FRAMES + 1) / FPS, int(random.integers(1, FRAMES)))
    elif kind == "pause":
        times[int(random.integers(1, FRAMES)) :] += float(random.uniform(1, 20))
    return times
