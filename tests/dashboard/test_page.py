"""The operator's page in a real browser: what a person presses happens, and what happens is seen."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("viser", reason="the extra 'dashboard' is not installed")
pytest.importorskip("playwright", reason="the extra 'browser' is not installed")

from moving import Operated
from PIL import Image
from playwright import sync_api

from rdt2.dashboard import Looking
from rdt2.dashboard.messages import Asked, State
from rdt2.dashboard.page import Page
from rdt2.errors import ConfigError

pytestmark = pytest.mark.realtime

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENT = 60_000
"""Milliseconds: without a GPU, beside other tests, a page takes its time."""
SHOTS = os.environ.get("RDT2_SCREENSHOTS")
"""A folder in which to keep what was seen."""
SENTENCE = "Pick up the orange cylinder with the right hand."


@pytest.fixture
def open_page(browser):
    pages = []

    def opened(url, size=DESK):
        page = browser.new_page(viewport=size)
        pages.append(page)
        page.goto(url)
        status(page).wait_for(timeout=PATIENT)
        return page

    yield opened
    for page in pages:
        page.close()


def status(page):
    return page.get_by_role("status")


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click(timeout=PATIENT)


def says(page, words, patient=PATIENT):
    sync_api.expect(status(page)).to_contain_text(words, timeout=patient)


def scene(page, name=None):
    """The left part of the page, where the arms are drawn and the panel is not."""
    picture = page.screenshot(timeout=PATIENT)
    if SHOTS and name:
        Path(SHOTS, f"{name}.png").write_bytes(picture)
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)
    return pixels[200:, :850]


def changed(first, second):
    """The share of pixels that differ by more than a little."""
    return float((np.abs(first - second).max(axis=2) > 12).mean())


def soon(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def test_type_press_start_see_it_move_press_emergency_stop_see_it_still(open_page):
    with Operated(Looking(dashboard=True, dashboard_port=0), seconds=60.0) as operated:
        page = open_page(operated.desk.url)
        says(page, "Nothing moves until you press start")
        time.sleep(2.0)
        ready = scene(page, "ready")
        assert len(np.unique(ready.reshape(-1, 3), axis=0)) > 50, "the arms are not drawn"
        box = page.get_by_label("Instruction").or_(page.locator("input[value^='Pick up']")).first
        box.fill(SENTENCE)
        press(page, "Start")
        soon(lambda: operated.policy.told and operated.policy.told[-1] == SENTENCE)
        soon(lambda: len(operated.policy.told) > 12)
        moving = scene(page, "moving")
        assert changed(ready, moving) > 0.01
        says(page, SENTENCE)

        press(page, "EMERGENCY STOP")
        says(page, "The arms stay stopped until you release it")
        soon(lambda: operated.desk._state.stage == "over")
        robot = operated.robot
        time.sleep(1.0)
        places = [arm.state().pose for arm in robot.arms.values()]
        still = scene(page, "emergency")
        time.sleep(2.0)
        for before, arm in zip(places, robot.arms.values(), strict=True):
            # measured with noise
            assert np.linalg.norm(arm.state().pose[:3, 3] - before[:3, 3]) < 0.005
        assert changed(still, scene(page)) < 0.005
        assert not robot.faults() or all("stopped" in fault for fault in robot.faults())

        # back in time: the same arms, elsewhere
        page.get_by_role("slider").first.focus()
        page.keyboard.press("Home")
        soon(lambda: changed(still, scene(page, "timeline")) > 0.01)

        press(page, "Mark: failure")
        says_mark = page.get_by_role("button", name="marked: failure")
        says_mark.wait_for(timeout=PATIENT)
        press(page, "Go on")
        operated.join()
        (record,) = operated.records
        assert record.mark == "failure"
        assert record.reason.startswith("emergency stop on the page")
        assert record.instruction == SENTENCE
        assert (record.hand, record.colour) == ("right", "orange")


def test_a_phone_shows_it_all_in_its_width_and_in_chinese(open_page):
    with Operated(Looking(dashboard=True, dashboard_port=0), robot="handheld", seconds=1.0) as operated:
        page = open_page(operated.desk.url, PHONE)
        says(page, "Nothing moves until you press start")
        scene(page, "phone")
        for name in ("EMERGENCY STOP", "Start", "Tell the arms"):
            place = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= 390
            assert place["width"] > 340
            assert place["height"] >= 30
        page.get_by_role("combobox", name="Language").click(timeout=PATIENT)
        page.get_by_role("option", name="中文").click(timeout=PATIENT)
        says(page, "机械臂不会运动")
        scene(page, "phone-chinese")
        press(page, "开始")
        says(page, "本次结束")
        press(page, "继续")
        operated.join()


@pytest.mark.parametrize(
    "command",
    ["evaluate cell --policy demo-fm --dashboard --max-seconds 0.5", "demo --dashboard --task press"],
)
def test_a_whole_command_behind_a_key(command, browser, tmp_path):
    """The lines of README and docs/dashboard.md, short, from another machine: without its key nobody gets in."""
    figures = tmp_path / "figures.json"
    short = ["--dashboard-host", "0.0.0.0", "--dashboard-port", "0", "--episodes", "1", "--robot", "handheld"]
    words = [sys.executable, "-m", "rdt2.cli.main", *command.split(), *short, "--json", str(figures)]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(words, **pipes, text=True, cwd=tmp_path) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"(http://127\.0\.0\.1:\d+/)\?key=\w+", line):
                    break
            else:
                pytest.fail("".join(said))
            rest = threading.Thread(target=process.stderr.read)  # or its pipe would be full
            rest.start()
            with browser.new_context(viewport=DESK) as context:
                page = context.new_page()
                assert page.goto(found[1]).status == 401
                assert "wants its key" in page.content()
                page.goto(found[0])
                assert page.url == found[1]
                says(page, "Nothing moves until you press start", 3 * PATIENT)  # the policy is loaded first
                # Not the click of a mouse, for which a page that is drawn by a busy CPU must hold still.
                page.get_by_role("button", name="Start", exact=True).dispatch_event("click", timeout=PATIENT)
                if command.startswith("demo"):  # where each scene waits for the operator
                    says(page, "Episode over", 2 * PATIENT)
                    page.get_by_role("button", name="Go on", exact=True).dispatch_event(
                        "click", timeout=PATIENT
                    )
                assert process.wait(100) == 0
            rest.join()
        finally:
            process.kill()
    told = json.loads(figures.read_text())
    assert (told["episodes"], len(told["records"])) == (1, 1)
    assert told["records"][0]["chunks"] >= 1


def test_other_pages_are_refused(open_page):
    import urllib.error
    import urllib.request

    with Operated(Looking(dashboard=True, dashboard_port=0), robot="handheld", seconds=1.0) as operated:
        request = urllib.request.Request(operated.desk.url, headers={"Origin": "https://evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
        assert urllib.request.urlopen(operated.desk.url).status == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dashboard_host": "no.such.host.example"}, "cannot listen"),
        ({"dashboard_port": 70000}, "0 to 65535"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_in_words(options, words):
    with pytest.raises(ConfigError, match=words):
        Operated(Looking(dashboard=True, **options))


@pytest.fixture(scope="module")
def unwatched():
    """A page that no browser shows, and what it asks for. One for all: viser does not start twice in a process."""
    asked = []
    page = Page("127.0.0.1", 0, None, asked.append)
    yield page, asked
    page.close()


def test_go_on_and_start_are_two_buttons(unwatched):
    """Regression: they were one, and a second press of Go on was a start."""
    page, asked = unwatched
    asked.clear()
    for stage, paused, shown in (
        ("ready", False, "start"),
        ("over", False, "next"),
        ("running", True, "next"),
        ("running", False, ""),
    ):
        page.take(State(stage, SENTENCE, False, None, False, False, paused=paused))
        visible = {"start": page._start.visible, "next": page._next.visible}
        assert [name for name, seen in visible.items() if seen] == ([shown] if shown else []), stage
    for name in ("start", "next"):
        page._pressed("start", name)
    assert asked == [Asked("start", "start"), Asked("start", "next")]


@pytest.mark.parametrize("typed", ["停！", "停下", "别动", "stop", "Stop it now."])
@pytest.mark.parametrize("stage", ["running", "ready"])
def test_a_stop_that_is_typed_as_an_instruction_stops(unwatched, typed, stage):
    """Regression: the policy was told it, and the arms moved on."""
    page, asked = unwatched
    asked.clear()
    page.take(State(stage, SENTENCE, False, None, False, False))
    page._text.value = typed
    page._tell() if stage == "running" else page._pressed("start", "start")
    assert asked == [Asked("stop")]
    assert page._text.value == SENTENCE  # the next start does not mean it


def test_what_is_typed_and_not_sent_is_meant_by_start(unwatched):
    page, asked = unwatched
    asked.clear()
    page.take(State("ready", SENTENCE, False, None, False, False))
    page._text.value = "Pick it up."
    page._pressed("start", "start")
    assert asked == [Asked("say", "Pick it up."), Asked("start", "start")]
