from __future__ import annotations

import io
import re

import numpy as np
import pytest
from made_up_episodes import clip, view

from rdt2.errors import RecordingError
from rdt2.evaluation.report import (
    EpisodeView,
    Report,
    SummaryRow,
    render,
    stage_timings,
    write_report,
)
from rdt2.evaluation.statistics import Rate
from rdt2.evaluation.video import ClipWriter

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def report(*views: EpisodeView, **changes) -> Report:
    values = {
        "title": "A demo", "subtitle": "two arms", "title_zh": "演示",
        "summary": [SummaryRow("pick", Rate.of(1, 2), Rate.of(2, 2), 2.0)],
        "episodes": views, "timing": stage_timings({"vlm": [0.1, 0.2], "expert": [0.05]}),
        "settings": {"command": "rdt2 demo", "seeds": "5, 6"},
    }  # fmt: skip
    return Report(**{**values, **changes})


def test_the_page_stands_alone(tmp_path):
    path = write_report(tmp_path / "out" / "r.html", report(view(), view(success=False, reason="time is up")))
    page = path.read_text(encoding="utf-8")
    assert "data:video/mp4;base64," in page
    assert page.count("<svg") >= 3
    # Nothing is fetched from anywhere: every source and link is a data URI or an anchor of the page.
    for reference in re.findall(r'(?:src|href|srcset)="([^"]*)"', page):
        assert reference.startswith(("data:", "#")), reference
    assert "@import" not in page
    assert "url(http" not in page
    assert "prefers-color-scheme: dark" in page


def test_what_a_reader_looks_for_is_on_the_page():
    page = render(report(view(), view(success=False, reason="time is up", seed=77)))
    for text in ("Pick up the red cube.", "9 % to 91 %", "seed 77", "time is up", "rdt2 demo", "演示", "vlm"):
        assert text in page, text


def test_text_is_escaped():
    page = render(report(view(instruction="<script>alert(1)</script>")))
    assert "<script>alert" not in page


def test_drawings_take_the_colours_of_the_page_and_do_not_share_ids():
    page = render(report(view(), view()))
    assert "#01fe0" not in page  # every stand-in colour was replaced
    assert "var(--right)" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_an_episode_without_video_or_verdict_is_shown_too():
    page = render(report(view(clip=None, success=None, chunks=[]), summary=[], timing=[]))
    assert "<video" not in page
    assert "not judged" in page


def test_h264_plays_back():
    av = pytest.importorskip("av")
    found = clip()
    if found.mime != "video/mp4":
        pytest.skip("this PyAV has no H.264 encoder")
    with av.open(io.BytesIO(found.data)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == found.frames == 12
    assert frames[-1].shape == (32, 96, 3)
    assert abs(frames[-1][16, 40].astype(int) - (200, 30, 30)).max() < 25


def test_without_an_encoder_the_clip_is_an_animated_picture():
    from PIL import Image

    found = clip(codec="no-such-encoder")
    assert found.mime == "image/webp"
    assert Image.open(io.BytesIO(found.data)).n_frames == 12
    assert 'class="clip"' in render(report(view(clip=found)))


def test_bad_frames_are_refused():
    writer = ClipWriter(96, 32)
    with pytest.raises(RecordingError, match="frame 0"):
        writer.add(np.zeros((96, 32, 3), np.uint8))
    with pytest.raises(RecordingError, match="at least one frame"):
        ClipWriter(96, 32).close()
    with pytest.raises(RecordingError, match="even"):
        ClipWriter(95, 32)


def test_stage_timings_are_medians_in_milliseconds_longest_share_first():
    first, second = stage_timings({"short": [0.001] * 3, "long": [0.1, 0.2, 0.9], "never": []})
    assert (first.stage, first.calls) == ("long", 3)
    assert first.median_ms == pytest.approx(200)
    assert second.share == pytest.approx(0.003 / 1.203)
