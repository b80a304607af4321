"""The README's pictures: left and right in the order of what the model sees."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
PATH = Path(__file__).resolve().parent.parent / "scripts" / "pictures.py"
SHADES = {"left": 50, "right": 100, "front": 150}


class PlainCell:
    """Each camera sees one shade."""

    def render(self, camera: str, *, size: tuple[int, int]) -> np.ndarray:
        return np.full((size[1], size[0], 3), SHADES[camera], np.uint8)


def test_the_film_shows_left_and_right_as_the_model_sees_them() -> None:
    spec = importlib.util.spec_from_file_location("pictures", PATH)
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    frame = np.asarray(pictures.Film(PlainCell(), "Press the button.")._frame())
    row = frame[pictures.WRIST // 2, :, 0]
    assert row[:: pictures.WRIST // 2].tolist()[1::2] == [50, 100, 150]
