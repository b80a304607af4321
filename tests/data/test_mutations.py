"""Whatever happens to a recording: it converts right, or is refused by name, or its check fails. Nothing else."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from motion import Motion
from mutations import (
    CLOCKED,
    FRAMES,
    LAYOUTS,
    MUTATIONS,
    NAMED,
    SENTENCE,
    Recording,
    damage_file,
    other_names,
)
from PIL import Image

from rdt2.action import ARMS, FPS, HORIZON, chunk_from_poses
from rdt2.data import check_shards
from rdt2.data.convert import convert
from rdt2.data.shards import find_shards
from rdt2.data.sources import SourceOptions
from rdt2.errors import RDT2Error

EXAMPLES = int(os.environ.get("RDT2_MUTATIONS", "60"))
"""Examples of each test; `make fuzz` tries more, with another seed each time."""
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 100,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**32 - 1)


def options(layout: str) -> SourceOptions:
    """What a person has to say in any case: UMI's zarr holds neither a rate nor a sentence."""
    return SourceOptions(fps=30.0, instruction=SENTENCE) if layout == "umi-zarr" else SourceOptions()


def converted(source: Path, layout: str, out: Path) -> bool:
    """Whether the recording converts and passes its check; a refusal names the place."""
    kind = "hdf5" if layout == "fastumi" else layout
    refusal = None
    try:
        convert(source, out, kind=kind, options=options(layout), accept_guesses=True)  # type: ignore[arg-type]
    except RDT2Error as error:
        refusal = str(error)
    if refusal is None:
        return check_shards(out).ok
    assert any(place in refusal for place in (str(source), str(out), "episode")), f"names no place: {refusal}"
    return False


def wrong(out: Path, truth: Motion) -> str | None:
    """What is wrong with the samples of a folder against the motion that was made; None: nothing."""
    count = 0
    for path in find_shards(out):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in files:
            if not name.endswith(".action.npy"):
                continue
            count += 1
            key = name.removesuffix(".action.npy")
            meta = json.loads(files[f"{key}.meta.json"])
            action = np.load(io.BytesIO(files[name]))
            frame = meta["frame"]
            after = Motion(times=truth.times[frame] + np.arange(HORIZON + 1) / FPS)
            expected = chunk_from_poses(
                {arm: after.poses[arm][0] for arm in ARMS},
                {arm: after.poses[arm][1:] for arm in ARMS},
                {arm: after.width[arm][1:] for arm in ARMS},
            )
            off = np.abs(action - expected).max()
            if off > 5e-3:
                return f"{key}: off by {off:.4f}"
            picture = np.asarray(Image.open(io.BytesIO(files[f"{key}.image.jpg"]))).astype(float)
            for arm, half in (("left", picture[:, :384]), ("right", picture[:, 384:])):
                off = np.abs(
                    half[50:300, 50:300].reshape(-1, 3).mean(0) - truth.picture[arm][frame, 0, 0]
                ).max()
                if off > 3:
                    return f"{key}: {arm} picture off by {off:.1f}"
    return None if count else "no samples, and the check passes"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unchanged(layout: str, tmp_path: Path) -> None:
    truth = Motion(FRAMES)
    (tmp_path / "in").mkdir()
    LAYOUTS[layout](Recording(truth), tmp_path / "in")
    source = tmp_path / "in" / "dataset.zarr.zip" if layout == "umi-zarr" else tmp_path / "in"
    assert converted(source, layout, tmp_path / "out")
    assert wrong(tmp_path / "out", truth) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@fuzzed
@given(seed=seeds, chosen=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=2, unique=True))
def test_numbers_and_names(layout: str, seed: int, chosen: list) -> None:
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        truth = Motion(times=clock(random) if layout in CLOCKED else None, count=FRAMES)
        recording = Recording(truth)
        if layout not in NAMED and other_names in chosen:
            chosen = [mutation for mutation in chosen if mutation is not other_names]  # cannot be seen
        for mutation in chosen:
            mutation(recording, random)
        try:
            LAYOUTS[layout](recording, source)
        except (ValueError, TypeError, OverflowError, KeyError, NotImplementedError):
            return  # nothing that this layout's own library would write
        path = source / "dataset.zarr.zip" if layout == "umi-zarr" else source
        if converted(path, layout, out):
            assert wrong(out, truth) is None, (wrong(out, truth), [mutation.__name__ for mutation in chosen])


@pytest.mark.parametrize("layout", LAYOUTS)
@fuzzed
@given(seed=seeds)
@example(seed=11984525)  # a parquet file whose column names are no text any more
def test_damaged_files(layout: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        truth = Motion(FRAMES)
        LAYOUTS[layout](Recording(truth), source)
        files = sorted(path for path in source.rglob("*") if path.is_file())
        visible = damage_file(files[int(random.integers(len(files)))], random)
        path = source / "dataset.zarr.zip" if layout == "umi-zarr" else source
        if converted(path, layout, out) and visible:
            assert wrong(out, truth) is None, wrong(out, truth)


@fuzzed
@given(seed=seeds)
def test_damaged_shards(seed: int) -> None:
    """The same of training shards: what is wrong must fail the check."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        truth = Motion(FRAMES)
        LAYOUTS["lerobot"](Recording(truth), source)
        assert converted(source, "lerobot", out)
        files = [out / "shard-000000.tar", out / "instructions.json"]
        visible = damage_file(files[int(random.integers(2))], random)
        try:
            ok = check_shards(out).ok
        except RDT2Error:
            return
        if ok and visible:
            assert wrong(out, truth) is None, wrong(out, truth)


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
