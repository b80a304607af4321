"""Does a dataset written here open in lerobot with equal values? Two steps, since lerobot needs its own environment.

    python scripts/check_lerobot.py write FOLDER     (environment of this project)
    python scripts/check_lerobot.py read FOLDER      (environment with lerobot[dataset]==0.6.1)

`make check-lerobot` does both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SENTENCES = ("Pick up the cup.", "Fold the cloth.")


def write(folder: Path) -> None:
    """Two episodes of a made-up motion, and beside them what lerobot must find."""
    from scipy.spatial.transform import Rotation

    from rdt2.action import ARMS, state_vector
    from rdt2.data import Episode
    from rdt2.data.lerobot_writer import write_lerobot

    states, pictures, episodes = [], [], []
    for number, sentence in enumerate(SENTENCES):
        count = 40 + 10 * number
        times = np.arange(count) / 30
        poses, widths, videos = {}, {}, {}
        for index, arm in enumerate(ARMS):
            poses[arm] = np.tile(np.eye(4), (count, 1, 1))
            turns = np.stack([0.4 * np.sin(times), 0.3 + times, 0.2 * np.cos(times) + index], 1)
            poses[arm][:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
            poses[arm][:, :3, 3] = np.stack([0.1 * times, 0.2 * np.sin(times + number), 0.3 + 0 * times], 1)
            widths[arm] = 0.04 + 0.03 * np.sin(3 * times + index)
            # The brightness tells the frame, the arm and the episode.
            levels = 40 + 3 * np.arange(count) + 20 * index
            videos[arm] = [np.full((384, 384, 3), level, np.uint8) for level in levels]
            pictures.append(levels / 255)
        episode = Episode(videos=videos, poses=poses, widths=widths, timestamps=times, instruction=sentence)
        states.append(state_vector(poses, widths))
        episodes.append(episode)
    write_lerobot(episodes, folder / "dataset")
    right, left = (np.concatenate(pictures[index::2]) for index in range(2))
    np.savez(folder / "expected.npz", state=np.concatenate(states), right=right, left=left)


def read(folder: Path) -> None:
    """Compare what lerobot reads with what was written; exits with 1 where they differ."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    expected = np.load(folder / "expected.npz")
    dataset = LeRobotDataset("local/check", root=folder / "dataset", video_backend="pyav")
    assert len(dataset) == len(expected["state"]), (
        f"{len(dataset)} frames, {len(expected['state'])} were written"
    )
    assert dataset.num_episodes == len(SENTENCES), f"{dataset.num_episodes} episodes"
    for number in range(len(dataset)):
        item = dataset[number]
        np.testing.assert_allclose(item["observation.state"], expected["state"][number], atol=1e-6)
        assert item["task"] == SENTENCES[int(item["episode_index"])]
        for arm in ("right", "left"):
            level = float(item[f"observation.images.{arm}_wrist"].mean())
            assert abs(level - expected[arm][number]) < 0.01, f"frame {number}, {arm}: {level:.3f}"
    print(f"lerobot reads {len(dataset)} frames of {dataset.num_episodes} episodes, all equal")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "read"):
        sys.exit(__doc__)
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
