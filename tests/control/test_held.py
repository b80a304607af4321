"""What is told of the guard's work: kinds of reasons and seconds, not a line for every tick."""

from __future__ import annotations

import pytest

from rdt2.control.held import HeldBack, kind_of


def test_numbers_of_the_tick_go_and_those_that_name_something_stay():
    for said, kind in {
        "left arm slows: 31 mm from the right arm": "left arm slows: ... mm from the right arm",
        "left arm slows: joint 4 is at its top speed": "left arm slows: joint 4 is at its top speed",
        "right arm slows: joint 2 is -3 degrees from where it stops": (
            "right arm slows: joint 2 is ... degrees from where it stops"
        ),
        "left arm slows: its posture is nearly singular (0.051, it stops at 0.020)": (
            "left arm slows: its posture is nearly singular"
        ),
        "right arm follows within its limits of 1.5 m/s": "right arm follows within its limits of 1.5 m/s",
    }.items():
        assert kind_of(said) == kind


def test_a_reason_whose_number_changes_every_tick_is_one_matter_with_its_seconds():
    """Regression: an episode counted hundreds."""
    held = HeldBack(0.008)
    for tick in range(50):
        other = "; right arm brakes" if tick >= 25 else ""
        held.note(10 + 0.008 * tick, f"left arm slows: {60 - tick} mm from the right arm{other}")
    near, brakes = held.found
    assert (near.time, near.what) == (10, "left arm slows: ... mm from the right arm")
    assert near.seconds == pytest.approx(0.4)
    assert brakes.time == pytest.approx(10.2)
    assert brakes.seconds == pytest.approx(0.2)


def test_a_reason_that_flickers_is_one_matter_and_one_that_comes_back_is_two():
    held = HeldBack(0.008)
    for tick in range(40):
        held.note(0.008 * tick, "left arm brakes" if tick % 2 else "")
    (one,) = held.found
    assert one.seconds == pytest.approx(20 * 0.008)
    held.note(2.0, "left arm brakes")
    assert [each.time for each in held.found] == pytest.approx([0.008, 2.0])
