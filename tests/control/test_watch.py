"""What devices say is doubted for the right reasons, and doubt is counted in time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fake_robot import fake_settings
from scipy.spatial.transform import Rotation

from rdt2.control.watch import Budget, Watch
from rdt2.errors import SafetyError
from rdt2.robot import ArmState, Frame, GripperState

PICTURE = np.random.default_rng(0).integers(0, 255, (384, 384, 3), np.uint8)


def watch(error=0.002):
    return Watch(
        fake_settings(
            {
                f"arms.{side}.{device}clock_error": error
                for side in ("right", "left")
                for device in ("", "gripper.", "camera.")
            }
            | {"safety.command_timeout": 0.7}  # pictures that are older leave less of a chunk
        )
    )


def arm(stamp, sequence):
    return ArmState(stamp, sequence, np.eye(4), np.zeros(6), np.zeros(0))


def states(of, now, *, stamp=None, sequence=0):
    of.states(
        {"left": arm(now if stamp is None else stamp, sequence)},
        {"left": GripperState(now, sequence, 0.05)},
        now=now,
    )


def pictures(of, now, *, left=None, right=None, moved=0.0, turned=0.0):
    pose = np.eye(4)
    pose[0, 3] = moved
    pose[:3, :3] = Rotation.from_rotvec([0, 0, turned]).as_matrix()
    frames = {"left": left or Frame(now - 0.07, 1, PICTURE), "right": right or Frame(now - 0.07, 1, PICTURE)}
    of.pictures(frames, lambda side, time: pose, now=now)


def test_what_is_fresh_passes():
    of = watch()
    for k in range(50):
        states(of, 0.008 * k, sequence=k)
    pictures(of, 10.0)


def test_stamps_from_the_future_are_refused():
    """Regression: a frozen camera stamped 3 s ahead passed for ever."""
    with pytest.raises(SafetyError, match=r"left camera is stamped 3\.000 s ahead"):
        pictures(watch(), 10.0, left=Frame(13.0, 1, PICTURE))
    with pytest.raises(SafetyError, match=r"left arm is stamped 0\.010 s ahead"):
        states(watch(), 10.0, stamp=10.01)
    states(watch(error=0.02), 10.0, stamp=10.01)  # within what its clock may be off


def test_a_device_that_repeats_itself_under_new_stamps_is_stale():
    of = watch()
    states(of, 10.0, sequence=7)
    states(of, 10.09, sequence=7)
    with pytest.raises(SafetyError, match=r"left arm is 0\.12 s old, the limit is 0\.10 s"):
        states(of, 10.12, sequence=7)
    of = watch()
    for k in range(8):
        pictures(of, 10 + k / 30)
    with pytest.raises(SafetyError, match="camera"):
        pictures(of, 10.3, left=Frame(10.29, 1, PICTURE), right=Frame(10.29, 9, PICTURE))


def test_a_gripper_that_says_nothing_is_noticed():
    of = watch()
    with pytest.raises(SafetyError, match=r"left gripper is 0\.50 s old"):
        of.states({"left": arm(10.0, 1)}, {"left": GripperState(9.5, 1, 0.05)}, now=10.0)
    with pytest.raises(SafetyError, match="width of the left gripper is nan"):
        of.states({"left": arm(10.0, 2)}, {"left": GripperState(10.0, 2, np.nan)}, now=10.0)


def test_pictures_of_two_moments_are_no_observation():
    """Regression: pictures 240 ms apart passed as one observation."""
    with pytest.raises(SafetyError, match=r"240 ms apart.* the one of the left camera is the older"):
        pictures(watch(), 10.0, left=Frame(9.76, 1, PICTURE), right=Frame(10.0, 1, PICTURE))
    with pytest.raises(SafetyError, match=r"0\.26 s old"):
        pictures(watch(), 10.0, left=Frame(9.74, 1, PICTURE))


def test_a_frozen_camera_is_noticed_when_its_arm_moves_however_it_counts_and_stamps():
    """Regression: a repeated frame with a new stamp was invisible."""
    of = watch()
    for k in range(20):
        frame = Frame(10 + k / 30, k, PICTURE.copy())
        pictures(of, 10 + k / 30, left=frame, right=frame, moved=0.0)  # at rest a picture may repeat
    frame = Frame(11.0, 30, PICTURE.copy())
    with pytest.raises(SafetyError, match="very same picture since the arm moved by 8 mm"):
        pictures(of, 11.0, left=frame, right=frame, moved=0.008)


def test_a_frozen_camera_is_noticed_when_its_arm_turns_on_the_spot():
    """Regression: only the way of the TCP counted, and a hand that turns about it has none."""
    of, frames = watch(), [Frame(10 + k / 10, k, PICTURE.copy()) for k in range(3)]
    for frame, turned in zip(frames[:2], (0.0, 0.01), strict=True):
        pictures(of, frame.timestamp, left=frame, right=frame, turned=turned)
    with pytest.raises(SafetyError, match="moved by 0 mm and turned by 3 degrees: it is frozen"):
        pictures(of, frames[2].timestamp, left=frames[2], right=frames[2], turned=0.05)


@pytest.mark.parametrize("field", ["pose", "velocity", "joints", "wrench"])
def test_states_that_are_no_numbers_are_refused(field):
    """Regression: a velocity or a wrench of NaN passed."""
    state = dataclasses.replace(arm(10.0, 0), joints=np.zeros(6), wrench=np.zeros(6))
    wrong = getattr(state, field).copy()
    wrong.flat[-1] = np.nan
    watch().states({"left": state}, {}, now=10.0)
    with pytest.raises(SafetyError, match="state of the left arm holds NaN or infinite"):
        watch().states({"left": dataclasses.replace(state, **{field: wrong})}, {}, now=10.0)


def test_a_budget_counts_seconds_of_a_fault_and_faults_of_a_minute_not_cycles():
    """Regressions: five failed cycles, 0.13 s, ended an episode; ten faults in ten seconds did not."""
    budget = Budget(per_minute=5, seconds=1.0)
    for now in np.arange(0.0, 0.7, 0.008):
        assert not budget.fault(now)  # a gap of 0.7 s is waited out
    budget.good()
    assert not budget.fault(5.0)
    assert "went on for 1.1 s" in budget.fault(6.1)

    budget = Budget(per_minute=5, seconds=1.0)
    told = []
    for second in range(10):
        told.append(budget.fault(float(second)))
        budget.good()
    assert not any(told[:5])
    assert "fault 6 within a minute" in told[5]

    budget = Budget(per_minute=2, seconds=1.0)
    for minute in range(5):
        assert not budget.fault(61.0 * minute)
        budget.good()

    budget = Budget(per_minute=5, seconds=1.0)
    budget.fault(0.0)
    budget.pass_over(60.0)
    assert not budget.fault(60.5)
    assert "went on for 1.5 s" in budget.fault(61.5)
