"""Recordings as the simulated cell makes them, made up: what the stages of training are tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdt2.data import ShardWriter, fit_normalizer, write_dataset_yaml

SENTENCES = ("Pick up the red cube with the left hand.", "Press the blue button with the right hand.")
# As the cell's recordings say: x and y in widths of the picture, depth in metres; the button only in one picture.
OBJECTS = {
    "red cube": {"left": [0.1, 0.2, 0.3], "right": [-0.4, 0.0, 0.25]},
    "blue button": {"left": [0.7, 0.2, 0.3], "right": [0.3, -0.1, 0.2]},
    "bowl": {"left": [-0.2, 0.4, 0.4], "right": [0.25, 0.1, 0.3]},
}
SHORT = (
    "steps=2",
    "batch_size=4",
    "warmup_steps=1",
    "log_every=1",
    "evaluate_samples=4",
    "trackers=[]",
    "precision=fp32",
)


def write_recordings(folder: Path) -> Path:
    """48 samples of 4 episodes: smooth random motion of both hands under random pictures."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number in range(48):
            steps = np.linspace(0, 1, 24, dtype=np.float32)[:, None]
            action = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.05] * 2, np.float32), (24, 1))
            for first in (0, 10):
                action[:, first : first + 3] = steps * rng.normal(0, 0.1, 3).astype(np.float32)
                action[:, first + 9 : first + 10] = 0.044 + 0.04 * steps * rng.uniform(-1, 1)
            writer.write(
                picture=rng.integers(0, 255, (384, 768, 3), dtype=np.uint8), action=action,
                instruction=SENTENCES[number % 2],
                meta={"episode": number // 12, "objects": OBJECTS, "state": rng.normal(0, 1, 20).tolist()},
            )  # fmt: skip
    fit_normalizer(folder).save_pretrained(folder)
    write_dataset_yaml(folder, name="toy")
    return folder
