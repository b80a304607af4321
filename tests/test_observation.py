from __future__ import annotations

import numpy as np
import pytest
import torch

from rdt2.errors import ObservationError
from rdt2.observation import Observation, check_instruction, jpeg_roundtrip, picture


def image(value: int = 0) -> np.ndarray:
    return np.full((384, 384, 3), value, np.uint8)


def test_the_picture_is_left_then_right():
    seen = picture(Observation(image(10), image(200), "Pick up the apple."))
    assert seen.shape == (384, 768, 3)
    assert (seen[:, :384] == 10).all()
    assert (seen[:, 384:] == 200).all()


def test_numpy_and_torch_pictures_are_equal():
    """regression: numpy pictures raised TypeError."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, 384, 384, 3), dtype=np.uint8)
    from_numpy = Observation(left, right, "Pick up the apple.")
    from_torch = Observation(torch.from_numpy(left), torch.from_numpy(right), "Pick up the apple.")
    assert isinstance(from_torch.left, np.ndarray)
    assert np.array_equal(picture(from_numpy), picture(from_torch))


def test_state_defaults_to_zeros():
    state = Observation(image(), image(), "Pick up the apple.").state
    assert state.dtype == np.float32
    assert np.array_equal(state, np.zeros(20))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"left": np.zeros((384, 384, 3), np.float32)}, "left picture is float32"),
        ({"right": np.zeros((480, 640, 3), np.uint8)}, r"right picture has shape \(480, 640, 3\)"),
        ({"right": torch.zeros(3, 384, 384, dtype=torch.uint8)}, "channels first"),
        ({"left": None}, "left picture"),
        ({"instruction": "  "}, "instruction"),
        ({"instruction": None}, "instruction"),
        ({"state": np.full(20, np.nan)}, "state holds NaN"),
        ({"state": np.zeros(14)}, r"state has shape \(14,\)"),
        ({"timestamp": float("nan")}, "timestamp"),
    ],
)
def test_bad_observations_are_refused(change: dict, match: str):
    with pytest.raises(ObservationError, match=match):
        Observation(**({"left": image(), "right": image(), "instruction": "Pick up the apple."} | change))


def test_jpeg_roundtrip_refuses_what_is_no_picture():
    with pytest.raises(ObservationError, match="float64"):
        jpeg_roundtrip(np.zeros((4, 4, 3)))


def test_instructions_unlike_those_learned_are_noticed():
    assert check_instruction("Pick up the red cube with the left hand.") == []
    assert check_instruction("") == ["it is empty"]
    found = " ".join(check_instruction("pick up the apple"))
    assert "capital" in found
    assert "full stop" in found
    assert check_instruction("拿起苹果。")
