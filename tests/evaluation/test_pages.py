"""Pages as a person sees them, on a phone and on a desk."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from made_up_episodes import clip, record, view

from rdt2.calibration.outcome import Outcome, plot, write_page
from rdt2.data import ShardWriter, check_shards, open_sources
from rdt2.data.pages.axes import ticks
from rdt2.data.pages.check import write_check_page
from rdt2.data.pages.view import write_view_page
from rdt2.data.sources import open_source
from rdt2.evaluation.report import Report, SummaryRow, render, stage_timings
from rdt2.evaluation.results import Event
from rdt2.evaluation.statistics import Rate

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 900}}
SHOTS = os.environ.get("RDT2_SCREENSHOTS")
"""A folder in which to keep what was seen."""
OVERFLOWS = """() => [...document.querySelectorAll("body *")].filter(element => {
  const {left, right} = element.getBoundingClientRect();
  return right > innerWidth + 1 || left < -1;
}).map(element => element.tagName + " " + element.textContent.trim().slice(0, 40))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each kind of page, made of nothing."""
    folder = tmp_path_factory.mktemp("pages")
    long = "Pick up the red cube with the left hand and put it down beside the blue one."
    told = [
        Event(1.0, "held back", "the left arm's speed in the way to the table", 0.3),
        Event(2.0, "pause", "late"),
    ]
    report = Report(
        title="Two wrist pictures and a sentence move two arms",
        subtitle="The policy runs/some/long/folder/of/a/run/fm.json on two UR5e arms in simulation.",
        summary=[SummaryRow("all tasks", Rate.of(1, 2), Rate.of(2, 2), 2.0)],
        episodes=[view(events=told, instruction=long), view(clip=None, success=False, reason="time is up")],
        timing=stage_timings({"simulation and pictures": [0.1, 0.2]}),
        settings={"command": "rdt2 evaluate cell --policy runs/some/long/folder/of/a/run/fm.json --task all"},
        records=[record(0, True), record(1, False)],
    )
    (folder / "report.html").write_text(render(report), encoding="utf-8")
    with ShardWriter(folder / "shards") as writer:
        for number in range(40):
            action = np.zeros((24, 20), np.float32)
            action[:, [3, 7, 13, 17]] = 1
            action[:, 0] = 0.002 * np.arange(24)
            action[:, [9, 19]] = 0.3 if number == 7 else 0.05
            picture = np.full((384, 768, 3), 60 + number, np.uint8)
            writer.write(picture=picture, action=action, instruction=long, meta={"episode": number // 20})
    (source,) = open_sources(folder / "shards")
    checked = check_shards(source.shards)
    write_check_page(folder / "check.html", checked, title="Check of shards")
    episodes = open_source(folder / "shards", "shards")
    assert checked.counts["episodes"] == len(episodes) == 2  # one count of episodes
    write_view_page(folder / "view.html", (episodes[k] for k in range(2)), title=str(folder / "shards"))
    times = np.linspace(0, 30, 200)
    found = Outcome(
        "Latencies of the right side",
        [("arm", "31.2 ms (30.9 to 31.6 with 95 %); the yaml said 30 ms")],
        {},
        plots=[
            plot(
                "A joint",
                {"commanded": (times, 1e-15 * times), "measured": (times, 0 * times)},
                x="s",
                y="rad",
            )
        ],
    )
    write_page(found, folder / "calibration.html")
    return folder


@pytest.mark.realtime
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["report", "check", "view", "calibration"])
def test_nothing_is_cut_off(name, size, pages, browser):
    page = browser.new_page(viewport=SIZES[size])
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"file://{pages / name}.html")
    page.wait_for_load_state("load")
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}-{size}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    assert page.evaluate(OVERFLOWS) == []
    assert problems == []
    page.close()


@pytest.mark.realtime
def test_a_video_starts_muted_and_looped_with_its_controls_below(pages, browser):
    page = browser.new_page(viewport=SIZES["phone"])
    page.goto(f"file://{pages / 'report.html'}")
    video = page.locator("video")
    video.scroll_into_view_if_needed()
    if clip().mime != "video/mp4":
        pytest.skip("this PyAV has no H.264 encoder")
    assert page.evaluate("(({muted, loop, controls}) => [muted, loop, controls])(document.querySelector('video'))") == [
        True, True, False,
    ]  # fmt: skip
    page.wait_for_function("document.querySelector('video').currentTime > 0", timeout=60_000)
    button = page.locator(".player button")
    assert button.bounding_box()["y"] >= (lambda box: box["y"] + box["height"])(video.bounding_box())
    button.click()
    page.wait_for_function(
        "document.querySelector('video').paused && document.querySelector('.player button').textContent === 'Play'",
        timeout=60_000,
    )
    page.close()


def test_left_comes_first_and_is_labelled_everywhere(pages):
    for name in ("report", "check", "view"):
        text = (pages / f"{name}.html").read_text("utf-8")
        text = re.sub(r"<style>.*?</style>|<script.*?</script>", "", text, flags=re.S)
        words = re.findall(r"\b(left|right)\b", re.sub(r'"[^"]*"|<[^>]*>|>[^<]* cube [^<]*', " ", text))
        assert words.index("left") < words.index("right"), name


def test_findings_with_pictures_come_before_distributions(pages):
    page = (pages / "check.html").read_text("utf-8")
    assert page.index("<img") < page.index("Distributions")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0, 1e-15, ["0.000"]),
        (3e-16, 4e-16, ["0.000"]),
        (5.0, 5.0, ["5.000"]),
        (-0.0004, 0.0011, ["-0.00025", "0.00000", "0.00025", "0.00050", "0.00075", "0.00100"]),
        (0, 100, ["0", "25", "50", "75", "100"]),
        (-41, 41, ["-40", "-20", "0", "20", "40"]),
        (0.01, 0.07, ["0.02", "0.04", "0.06"]),
        (-3e-17, 0.9, ["0.0", "0.2", "0.4", "0.6", "0.8"]),
    ],
)
def test_numbers_at_an_axis_are_round(low, high, told):
    assert [text for _, text in ticks(low, high)] == told


def test_no_axis_tells_rounding_errors(pages):
    assert "e-1" not in re.sub(r'd="[^"]*"', "", (pages / "calibration.html").read_text("utf-8"))
    assert ">0.000<" in (pages / "calibration.html").read_text("utf-8")
    assert not re.search(r">-?[\d.]+e-\d+<", (pages / "check.html").read_text("utf-8"))
