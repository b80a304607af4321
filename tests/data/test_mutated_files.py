"""Small recordings, mutated at random: read right, refused by name, or shown with a guess; never a traceback."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from motion import Motion
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS
from rdt2.data import Episode
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import RDT2Error

h5py = pytest.importorskip("h5py")

TURNS = {
    "quaternion": (["qx", "qy", "qz", "qw"], lambda motion, arm: motion.quaternion(arm)),
    "wxyz": (["qw", "qx", "qy", "qz"], lambda motion, arm: motion.quaternion(arm)[:, [3, 0, 1, 2]]),
    "rotvec": ([f"rotvec_{n}" for n in range(3)], lambda motion, arm: motion.rotvec[arm]),
    "6d": ([f"rot6d_{n}" for n in range(6)], lambda motion, arm: motion.rot6d(arm)),
    "euler": (
        ["roll", "pitch", "yaw"],
        lambda motion, arm: Rotation.from_rotvec(motion.rotvec[arm]).as_euler("xyz"),
    ),
}


@st.composite
def recordings(draw: st.DrawFn) -> tuple[np.ndarray, list[str] | None, int]:
    """(table, names of its columns or None, damage to the file: -1 none, 0 cut off, 1 bytes changed)."""
    motion = Motion(30)
    arms = draw(st.permutations(["left", "right"]))
    words, turn = TURNS[draw(st.sampled_from(sorted(TURNS)))]
    table = motion.table(tuple(arms), lambda arm: turn(motion, arm))
    names = [f"{arm}_{name}" for arm in arms for name in ("x", "y", "z", *words, "gripper")]
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(names))))
        table, names = table[:, order], [names[column] for column in order]
    if draw(st.integers(0, 4)) == 0:
        column = draw(st.integers(0, len(names) - 1))
        table, names = np.delete(table, column, 1), [*names[:column], *names[column + 1 :]]
    table = table * draw(st.sampled_from([1.0, 1.0, 1.0, 1000.0]))
    if draw(st.integers(0, 5)) == 0:
        table[draw(st.integers(0, 29))] = draw(st.sampled_from([np.nan, np.inf, 0.0]))
    table = table[: draw(st.sampled_from([30, 30, 30, 1, 0]))]
    table = table.astype(draw(st.sampled_from(["<f8", "<f4", ">f8", "<i4", "S4"])))
    if draw(st.integers(0, 5)) == 0:
        names = names[:-1]
    return table, names if draw(st.booleans()) else None, draw(st.sampled_from([-1, -1, -1, 0, 1]))


def right(episode: Episode, motion: Motion) -> bool:
    return all(
        np.abs(episode.poses[arm] - motion.poses[arm]).max() < 1e-3
        and np.abs(episode.widths[arm] - motion.width[arm]).max() < 1e-3
        for arm in ARMS
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(recordings(), st.integers(0, 2**32 - 1))
def test_hdf5(recording: tuple[np.ndarray, list[str] | None, int], seed: int) -> None:
    table, names, damage = recording
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episode_0.hdf5"
        with h5py.File(path, "w") as file:
            file["observations/eef_pose"] = table
            if names is not None:
                file["observations/eef_pose"].attrs["names"] = names
            file["timestamp"] = np.arange(len(table)) / 30
            for arm in ARMS:
                file[f"observations/images/{arm}_wrist"] = np.zeros((len(table), 8, 8, 3), np.uint8)
        if damage >= 0:
            data, generator = bytearray(path.read_bytes()), np.random.default_rng(seed)
            for place in generator.integers(0, len(data), 20):
                data[place] ^= int(generator.integers(1, 256))
            path.write_bytes(data if damage == 1 else data[: int(generator.integers(1, len(data)))])
        try:
            source = open_source(folder, "hdf5", SourceOptions(instruction="Pick up the cup."))
            episode = source[0]
            assert episode.videos["left"][0].shape == (384, 384, 3)
        except RDT2Error:
            return
        if damage < 0 and len(episode) == 30:
            open_questions = {guess.option for guess in source.guesses}
            assert right(episode, Motion(30)) or open_questions & {"rotation", "arms"}
            assert names is None or right(episode, Motion(30)), "names leave nothing open here"
