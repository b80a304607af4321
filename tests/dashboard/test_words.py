"""Every word in both languages, and the guard's reasons wholly in Chinese."""

from __future__ import annotations

import re

import pytest

from rdt2.control.shadow import REASONS
from rdt2.dashboard import words
from rdt2.dashboard.desk import (
    DISTURBED,
    DRY,
    EMERGENCY,
    GONE,
    LET_GO,
    PAUSE,
    STOP,
    TOO_LATE,
    TOO_SOON,
    UNMOVED,
)
from rdt2.dashboard.keyboard import ENDED, FAILED, LEFT, TYPED

SAID = [
    "right arm stays in its workspace: the wish is 31 mm outside",
    "left arm stays over the table: the wish is 4 mm too low",
    "right arm comes back slowly: it is 12 mm outside of what is allowed",
    "left arm follows within its limits of 0.25 m/s",
    "right arm stops: the other arm is in its way",
    "left arm stops: it would touch itself",
    "left arm slows: 31 mm from the right arm",
    "right arm slows: 44 mm from itself",
    "right arm slows: joint 4 is at its top speed",
    "left arm slows: joint 2 is 5 degrees from where it stops",
    "right arm slows: its posture is nearly singular (0.045, it stops at 0.020)",
    "right arm brakes; left arm brakes",
    "right arm presses no harder: something holds it",
    "left arm gives way: it would touch the right arm",
    *(f"left arm stops: {why}" for why in REASONS.values()),
    EMERGENCY,
    STOP,
    TYPED,
    LEFT,
    ENDED,
    FAILED,
    PAUSE,
    DRY,
    LET_GO,
    GONE,
    DISTURBED,
    TOO_LATE,
    TOO_SOON,
    f"{STOP}; {UNMOVED}",
    "time is up",
    "release the emergency stop first",
]


@pytest.mark.parametrize("text", SAID)
def test_what_the_loop_says_is_said_in_chinese(text):
    chinese = words.reason(text, "zh")
    assert not re.search("[a-zA-Z]", chinese), chinese
    assert re.findall(r"\d+\.?\d*", text) == re.findall(r"\d+\.?\d*", chinese) or "mm from the" in text
    assert words.reason(text, "en") == text


def test_sides_stay_what_they_are_in_chinese():
    assert words.reason("left arm slows: 31 mm from the right arm", "zh") == "左臂减速：距右臂 31 毫米"


def test_an_obstacle_keeps_the_name_that_its_yaml_gives_it():
    assert words.reason("left arm slows: 31 mm from the shelf", "zh") == "左臂减速：距 shelf 31 毫米"


def test_what_a_driver_says_is_shown_as_it_is():
    assert words.reason("left gripper: no reply on ttyUSB0", "zh") == "left gripper: no reply on ttyUSB0"


def test_every_word_is_there_in_both_languages():
    for key, (english, chinese) in words._WORDS.items():
        assert english, key
        assert re.search("[一-鿿]", chinese), key
