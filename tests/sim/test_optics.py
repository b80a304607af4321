"""A lens that bends straight lines, a sensor that trembles."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from rdt2.robot.world import CameraWorld, CellSettings
from rdt2.sim.optics import Optics

GREY = np.full((384, 384, 3), 120, np.uint8)


def dot(x: int, y: int) -> np.ndarray:
    picture = np.zeros((384, 384, 3), np.uint8)
    picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    return picture


def middle(picture: np.ndarray) -> tuple[float, float]:
    rows, columns = (picture[..., 0] > 100).nonzero()
    return float(columns.mean()), float(rows.mean())


def test_nothing_is_changed_when_all_is_off() -> None:
    assert Optics(CameraWorld(), seed=[0])(GREY, 1) is GREY


def test_noise_is_as_strong_as_told_and_other_in_every_picture() -> None:
    optics = Optics(CameraWorld(noise=5), seed=[3, 0])
    one, two = optics(GREY, 1).astype(float), optics(GREY, 2).astype(float)
    assert one.std() == pytest.approx(5, rel=0.05)
    assert one.mean() == pytest.approx(120, abs=0.2)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05
    np.testing.assert_array_equal(one, Optics(CameraWorld(noise=5), seed=[3, 0])(GREY, 1))
    assert (optics(np.full_like(GREY, 255), 1) > 200).all(), "bright pixels do not become dark ones"


def test_a_fisheye_draws_the_middle_larger_and_keeps_the_corners() -> None:
    optics = Optics(CameraWorld(fisheye=0.25), seed=[0])
    x, y = middle(optics(dot(211, 191), 1))
    assert x - 191.5 == pytest.approx(1.25 * (211 - 191.5), abs=0.6)
    assert y == pytest.approx(191.5, abs=0.8)
    x, y = middle(optics(dot(379, 379), 1))
    assert (x, y) == pytest.approx((379, 379), abs=2)
    assert (optics(GREY, 1) == 120).all(), "no black corners"


@pytest.mark.parametrize("wrong", [{"delay": -0.1}, {"noise": float("nan")}, {"fish_eye": 0.2}])
def test_values_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        CellSettings(cameras=wrong)


def test_every_setting_says_what_it_is() -> None:
    for part in CellSettings.model_fields.values():
        for field in part.annotation.model_fields.values():
            assert field.description
