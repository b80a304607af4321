"""Episodes as a page: both cameras, both paths in 3-D, widths, and the chunk that follows the cursor."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS, FPS, HORIZON, SIDES
from rdt2.data.episode import decoded_picture
from rdt2.data.pages import render
from rdt2.data.shards import write_atomic
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

_SIDE = 192
"""Pictures are shown this large; a frame of both cameras is about 12 kB."""
_QUALITY = 75


def write_view_page(path: str | Path, episodes: Iterable[Episode], *, title: str, every: int = 3) -> Path:
    """Write the page; returns its path.

    every: show every n-th recorded frame; paths keep all.

    Raises:
        ConfigError: no episodes. RecordingError: it cannot be written.
    """
    if every < 1:
        raise ConfigError(f"every is {every}, expected 1 or more.")
    shown = [_episode(episode, every) for episode in episodes]
    if not shown:
        raise ConfigError(f"{path}: there is no episode to show.")
    # Inside a script element only "<" could end it; JSON may write it as an escape.
    data = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render("view.html.j2", title=title, data=data, horizon=HORIZON / FPS))
    return Path(path).absolute()


def _episode(episode: Episode, every: int) -> dict[str, Any]:
    frames = list(range(0, len(episode), every))
    times = np.asarray(episode.timestamps) - episode.timestamps[0]
    return {
        "name": episode.source or "episode",
        "instruction": " / ".join(episode.sentences),
        "times": np.round(times, 4).tolist(),
        "frames": frames,
        "pictures": [base64.b64encode(_picture(episode, frame)).decode() for frame in frames],
        "arms": {
            arm: {
                "positions": np.round(np.asarray(episode.poses[arm])[:, :3, 3], 4).tolist(),
                # Columns of the rotation: the gripper's axes.
                "axes": np.round(np.asarray(episode.poses[arm])[:, :3, :3].swapaxes(1, 2), 3).tolist(),
                "widths": np.round(np.asarray(episode.widths[arm]), 4).tolist(),
            }
            for arm in ARMS
        },
    }


def _picture(episode: Episode, frame: int) -> bytes:
    """Left | right of a frame, small, as JPEG."""
    import simplejpeg
    from PIL import Image

    halves = [
        np.asarray(Image.fromarray(decoded_picture(episode.videos[arm][frame])).resize((_SIDE, _SIDE)))
        for arm in SIDES
    ]
    return simplejpeg.encode_jpeg(np.concatenate(halves, axis=1), quality=_QUALITY, colorspace="RGB")
