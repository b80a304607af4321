"""Wrist cameras: lens, exposure, whose hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from boards import photographs

from rdt2.calibration.lens import Board, exposure, fisheye, from_corners, waved
from rdt2.errors import CalibrationError

SIZE = (384, 384)
MATRIX = np.array([[150.0, 0, 195.0], [0, 151.0, 188.0], [0, 0, 1.0]])
DISTORTION = np.array([0.05, -0.01, 0.004, -0.001])
BOARD = Board()


def seen(random: np.random.Generator, count: int = 20):
    """Corners of a board held before a fisheye lens, and where it shows them."""
    corners, points = [], []
    while len(points) < count:
        turn = random.normal(0, 0.35, 3)
        way = np.array([*random.uniform(-0.2, 0.1, 2), random.uniform(0.12, 0.25)])
        shown, _ = cv2.fisheye.projectPoints(
            BOARD.corners[None], turn[None, None], way[None, None], MATRIX, DISTORTION
        )
        inside = ((shown[0] > 2) & (shown[0] < 382)).all(axis=1)
        if inside.sum() >= 12:
            corners.append(BOARD.corners[inside])
            points.append(shown[0][inside] + 0.1 * random.normal(size=(inside.sum(), 2)))
    return corners, points


def test_a_fisheye_lens_is_found() -> None:
    lens = from_corners(*seen(np.random.default_rng(0)), SIZE)
    np.testing.assert_allclose(lens.matrix, MATRIX, atol=1.5)
    rays = np.array([[[0.3, 0.2, 1.0], [-1.0, 0.5, 1.0], [0, 1.2, 1.0]]])
    still = np.zeros((1, 1, 3))
    told, true = (
        cv2.fisheye.projectPoints(rays, still, still, k, d)[0]
        for k, d in ((lens.matrix, lens.distortion), (MATRIX, DISTORTION))
    )
    assert np.abs(told - true).max() < 1.0
    assert lens.error < 0.3
    assert lens.as_dict()["pictures"] == 20


def test_few_corners_are_enough_and_nonsense_is_none() -> None:
    """Regression: with few corners the solution ran away, to 59 pixels, and a crop was written from it."""
    small = []
    for picture in photographs(12):
        small.append(np.full((384, 384, 3), 40, np.uint8))
        small[-1][38:346, 38:346] = cv2.resize(picture, (308, 308), interpolation=cv2.INTER_AREA)
    lens = fisheye(small, BOARD)
    np.testing.assert_allclose(np.diag(lens.matrix)[:2], 150 * 308 / 384, atol=3)
    assert lens.error < 0.5
    random = np.random.default_rng(0)
    corners, points = seen(random, 9)
    with pytest.raises(CalibrationError, match=r"do not (fit a lens|determine the lens)"):
        from_corners(corners, [random.permutation(each) for each in points], SIZE)


def test_corners_are_found_in_a_picture() -> None:
    drawn = cv2.cvtColor(BOARD.picture(40), cv2.COLOR_GRAY2RGB)
    picture = np.full((384, 480, 3), 255, np.uint8)
    picture[60 : 60 + drawn.shape[0], 70 : 70 + drawn.shape[1]] = drawn
    numbers, points = BOARD.find(picture)
    assert len(numbers) == 35
    expected = BOARD.corners[numbers][:, :2] / 0.03 * 40 + (70, 60)
    assert np.abs(points - expected).max() < 1.5


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([np.zeros((384, 384, 3), np.uint8)] * 9, "0 of 9 pictures show 8 corners"),
        ([np.zeros((384, 384, 3), np.uint8), np.zeros((480, 480, 3), np.uint8)], "2 sizes"),
    ],
)
def test_pictures_without_a_board(pictures, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        fisheye(pictures, BOARD)


def test_exposure_is_told() -> None:
    grey = np.full((8, 8, 3), 120, np.uint8)
    assert exposure(grey, 20000) == ("", None)
    told, better = exposure(grey // 10, 2000)
    assert told.startswith("too dark: its mean is 12 of 255 with 2000 us. About 21333 us are right")
    assert better == pytest.approx(2000 * 128 / 12)
    told, better = exposure(grey // 10, 20000, longest=30000)
    assert "longer than 30000 us leaves no time for the next picture: it needs more light" in told
    assert better == 30000
    assert exposure(grey // 10, 30000, longest=30000)[1] is None
    told, better = exposure(np.full_like(grey, 255), 20000)
    assert told.startswith("too bright: 100 %")
    assert better == pytest.approx(20000 * 128 / 255)
    assert exposure(np.full_like(grey, 255), None)[1] is None


def test_whose_hand_was_waved() -> None:
    before = {"right": np.full((8, 8, 3), 100, np.uint8), "left": np.full((8, 8, 3), 90, np.uint8)}
    after = {"right": before["right"].copy(), "left": before["left"] + np.uint8(40)}
    assert waved(before, after) == "left"
    for same in (before, {name: picture + np.uint8(30) for name, picture in before.items()}):
        with pytest.raises(CalibrationError, match="does not tell whose hand"):
            waved(before, same)
