"""Episodes on a page and in rerun."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from motion import Motion

from rdt2.action import ARMS
from rdt2.data import Episode
from rdt2.data.pages.view import write_view_page
from rdt2.errors import ConfigError


@pytest.fixture
def episode() -> Episode:
    motion = Motion(31)
    return Episode(
        videos={arm: [np.full((384, 384, 3), 40 + 5 * k, np.uint8) for k in range(31)] for arm in ARMS},
        poses=motion.poses,
        widths=motion.width,
        timestamps=motion.times,
        instruction="Pick up </script> the cup.",
        source="cups, episode_0",
    )


def test_the_page_holds_the_episode(episode: Episode, tmp_path: Path) -> None:
    path = write_view_page(tmp_path / "new" / "view.html", [episode, episode], title="Cups", every=10)
    page = path.read_text()
    assert "http" not in page, "a page loads nothing from elsewhere"
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    first, second = json.loads(data)
    assert first == second
    assert first["instruction"] == episode.instruction
    assert first["frames"] == [0, 10, 20, 30]
    for row, frame in enumerate(first["frames"]):
        shown = simplejpeg.decode_jpeg(base64.b64decode(first["pictures"][row]), colorspace="RGB")
        assert shown.shape == (192, 384, 3)
        assert abs(shown.mean() - (40 + 5 * frame)) < 2
    for arm in ARMS:
        np.testing.assert_allclose(first["arms"][arm]["positions"], episode.poses[arm][:, :3, 3], atol=1e-4)
        np.testing.assert_allclose(first["arms"][arm]["widths"], episode.widths[arm], atol=1e-4)
        axes = np.array(first["arms"][arm]["axes"])
        np.testing.assert_allclose(axes[7][2], episode.poses[arm][7, :3, 2], atol=1e-3)


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no episode"):
        write_view_page(tmp_path / "view.html", [], title="x")


def test_rerun(episode: Episode, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra 'view' is not installed")
    from rdt2.data.pages.rerun import write_rerun

    assert write_rerun([episode], tmp_path / "cups.rrd") == 1
    data = (tmp_path / "cups.rrd").read_bytes()
    assert data[:4] == b"RRF2"
    for entity in (b"episode_000/right/camera", b"episode_000/left/chunk", b"episode_000/left/width"):
        assert entity in data
