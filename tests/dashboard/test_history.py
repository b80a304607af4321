"""The timeline: what was when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rdt2.dashboard.history import History
from rdt2.dashboard.messages import Chunk, Pictures, Scene, Shot

BEGAN = 100.0


def pose(x):
    found = np.eye(4)
    found[0, 3] = x
    return found


def shot(since, **changes):
    values = {
        "time": BEGAN + since,
        "since": since,
        "places": np.zeros((1, 7), np.float32),
        "measured": {"left": pose(since)},
        "widths": {"left": 0.05},
        "wish": {"left": pose(since + 0.02)},
        "made": {"left": pose(since + 0.01)},
        "wish_widths": {"left": 0.03},
        "made_widths": {"left": 0.04},
        "taken": True,
    }
    return Shot(**values | changes)


@pytest.fixture
def history():
    found = History()
    found.take(Scene("cubes", (), {}, ("left",)))
    return found


def test_the_cursor_finds_the_moment_its_chunk_and_its_pictures(history):
    history.take(Pictures(BEGAN - 5.0, {}, "waiting"))
    for k in range(60):
        history.take(shot(k / 30))
        if k % 6 == 0:
            history.take(Pictures(BEGAN + k / 30 - 0.07, {}, str(k)))
            history.take(Chunk(k / 30 - 0.07, {}, {}, delay=0.17, inference=0.1))
    assert history.end == pytest.approx(59 / 30)
    assert history.at(1.0).since == pytest.approx(1.0)
    assert history.at(-1.0).since == 0.0
    assert history.at(99.0).since == pytest.approx(59 / 30)
    assert history.pictures_at(BEGAN + 1.0).sentence == "30"
    assert history.pictures_at(BEGAN).sentence == "0"  # not that of the robot that waited
    # the chunk of the picture at 0.73 s was there at 0.90 s, the next at 1.10 s
    assert history.chunk_at(1.0).since == pytest.approx(24 / 30 - 0.07)


def test_lines_are_the_chunk_what_safety_made_what_was_sent_and_what_was_measured(history):
    history.take(shot(0.0))
    history.take(shot(1.0, taken=False))
    history.take(shot(2.0, wish={}, wish_widths={}))  # brakes
    times, asked, made, sent, measured = history.lines("left", "x")
    np.testing.assert_allclose(times, [0, 1, 2])
    np.testing.assert_allclose(measured, [0, 1000, 2000])
    np.testing.assert_allclose(made, [10, 1010, 2010])
    np.testing.assert_allclose(asked, [20, 1020, 2010])
    np.testing.assert_allclose(
        sent, [10, 10, 2010]
    )  # at 1 s it came too late: the devices still had the one before
    _, asked, made, _, measured = history.lines("left", "width")
    np.testing.assert_allclose([asked[0], made[0], measured[0]], [30, 40, 50])


def test_timings_are_milliseconds(history):
    history.take(Pictures(BEGAN - 0.07, {}, ""))
    history.take(shot(0.0, age=0.002, period=0.009))
    history.take(Pictures(BEGAN - 0.05, {}, ""))
    history.take(Chunk(-0.05, {}, {}, delay=0.05, inference=0.04))
    _, inference, delay, period, picture, age = history.timings()
    assert inference[0] == pytest.approx(40)
    assert delay[0] == pytest.approx(50)
    assert period[0] == pytest.approx(9)
    assert picture[0] == pytest.approx(50)
    assert age[0] == pytest.approx(2)


def test_a_reason_that_goes_on_is_one_event(history):
    for k in range(30):
        near = f"left arm slows: {40 - k} mm from the right arm"
        history.take(shot(k / 30, held=near if 3 <= k < 20 else ""))
    history.take(shot(2.0, held="left arm slows: 9 mm from the right arm", fault="the picture is old; wait"))
    assert [(round(e.began, 1), round(e.ended, 1), e.fault) for e in history.events] == [
        (0.1, 0.6, False),
        (2.0, 2.0, False),
        (2.0, 2.0, True),
    ]


def test_a_new_scene_forgets_the_last(history):
    history.take(shot(0.0))
    history.take(Scene("another", (), {}, ("left",)))
    assert history.newest is None
    assert history.at(0.0) is None
    idle = replace(shot(0.0), since=None)
    history.take(idle)
    assert history.newest is idle
