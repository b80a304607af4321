"""Hand-eye calibration: finds what is true, says how sure it is, and says what a motion left open."""

from __future__ import annotations

import numpy as np
import pytest
from handeye_tracks import START, WORLD, planned, recorded
from scipy.spatial.transform import Rotation

from rdt2.calibration.handeye import difference, errors, held_out, solve
from rdt2.calibration.motion import Excitation
from rdt2.calibration.track import Track
from rdt2.errors import CalibrationError


def about_one_axis(times: np.ndarray) -> np.ndarray:
    turns = np.zeros((len(times), 3))
    turns[:, 2] = 0.5 * np.sin(times)
    poses = np.tile(START, (len(times), 1, 1))
    poses[:, :3, :3] = START[:3, :3] @ Rotation.from_rotvec(turns).as_matrix()
    return poses


@pytest.fixture(scope="module")
def found():
    tracker, arm = recorded(planned)
    return solve(tracker, arm)


def test_finds_offset_base_and_delay(found) -> None:
    """Regression (PITFALLS 42): only y and z were solved, and rotation vectors subtracted component by component."""
    off = difference(found.offset, WORLD.offset)
    assert np.linalg.norm(off[:3]) < 0.5e-3
    assert np.degrees(np.linalg.norm(off[3:])) < 0.1
    assert abs(found.delay - 0.02) < 0.002
    assert np.linalg.norm(found.base[:3, 3] - WORLD.base[:3, 3]) < 2e-3


def test_says_what_it_is_worth(found) -> None:
    normalised = np.linalg.inv(found.uncertainty.covariance)
    error = difference(found.offset, WORLD.offset)
    assert error @ normalised @ error < 22.5  # of 999 in 1000: chi square, 6 degrees of freedom
    assert found.uncertainty.position_mm.max() < 0.2
    assert 1e-6 * normalised[0, 0] > 22.5  # a millimetre is no error that it allows for
    assert found.noise_mm == pytest.approx(0.5, rel=0.15)
    assert found.noise_deg == pytest.approx(0.1, rel=0.15)
    assert found.uncertainty.undetermined() == []


def test_jumps_are_left_out(found) -> None:
    tracker, _ = recorded(planned)
    _, clean = recorded(planned)
    position, _ = clean.at(tracker.times - 0.02)
    wanted = WORLD.base[:3, :3] @ position.T + WORLD.base[:3, 3:]
    off = np.linalg.norm((tracker.poses @ WORLD.offset)[:, :3, 3] - wanted.T, axis=1)
    assert (off > 0.05).sum() > 5
    assert not found.kept[off > 0.05].any()
    assert found.kept.mean() > 0.9


def test_errors_on_what_was_held_out() -> None:
    tracker, arm = recorded(planned)
    mm, degrees = held_out(tracker, arm)
    assert 0.3 < mm < 2.0  # of single poses: their noise, and the lever
    assert degrees < 0.4
    found = solve(tracker, arm)
    assert np.median(errors(found, tracker, arm)[0]) == pytest.approx(mm, rel=0.2)


def test_what_the_motion_left_open_is_named() -> None:
    found = solve(*recorded(about_one_axis))
    said = found.uncertainty.undetermined()
    assert said
    assert said[0].startswith("the motion determines where the TCP is along its z not at all")


def test_a_known_delay_is_taken() -> None:
    found = solve(*recorded(planned), delay=0.02)
    assert (found.delay, found.delay_error) == (0.02, 0.0)
    assert np.linalg.norm(difference(found.offset, WORLD.offset)[:3]) < 0.5e-3


def test_small_motion_is_worth_little() -> None:
    """Regression (PITFALLS 42): as small as the published script's motion, 0.02 rad."""
    found = solve(*recorded(lambda times: Excitation(1.1, 0.02, 15.0).poses(START, times)), delay=0.02)
    assert found.uncertainty.position_mm.max() > 0.5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t, a: (t, Track(a.times + 100, a.poses, a.name)), "recorded together for 0.0 s"),
        (
            lambda t, a: (t, Track(a.times, np.tile(START, (len(a), 1, 1)), a.name)),
            "turned at 0.0 degrees/s at most",
        ),
        (lambda t, a: (Track(t.times, t.poses[::-1].copy(), t.name), a), "did not turn alike|agree between"),
    ],
)
def test_what_does_not_belong_together(spoil, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        solve(*spoil(*recorded(planned)))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.arange(10.0), "has 10 poses, expected 30"),
        (np.zeros(40), "expected seconds that increase"),
        (np.full(40, np.nan), "pose 0 of 40 is not finite"),
    ],
)
def test_tracks_that_are_none(times, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        Track(times, np.tile(np.eye(4), (len(times), 1, 1)), "tracker")


def test_slopes_are_those_of_the_residuals() -> None:
    """Also away from where the search begins, and with the delay."""
    from scipy.optimize._numdiff import approx_derivative

    from rdt2.calibration.handeye import _Problem

    tracker, arm = recorded(planned)
    problem = _Problem(tracker, arm, fixed_delay=None)
    _, seen = problem.start(0.02)
    theta = np.array([0.01, -0.02, 0.03, 0.2, -0.1, 0.3, 0.05, 0.02, -0.04, -0.3, 0.2, 0.1, 0.003])
    sigma = np.array([1e-3, 2e-3])
    residuals = problem.residuals(theta)
    seen &= np.linalg.norm(residuals[:, 3:], axis=1) < 1.0
    some = np.flatnonzero(seen)[::20]
    told = problem.slopes(theta, some, sigma)
    measured = approx_derivative(lambda t: problem.whitened(t, some, sigma), theta, method="3-point")
    np.testing.assert_allclose(told[:, :12], measured[:, :12], atol=2e-3 * np.abs(measured).max())
    np.testing.assert_allclose(told[:, 12], measured[:, 12], atol=0.05 * np.abs(measured[:, 12]).max())
