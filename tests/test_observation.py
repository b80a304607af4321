from __future__ import annotations

import numpy as np
import pytest
import torch

from rdt2.errors import ObservationError
from rdt2.observation import Observation, check_instruction, jpeg_roundtrip, picture, wrist_picture


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
        ({"left": None}, "^the left picture is None, expected a picture: uint8 RGB"),
        ({"left": "left.png"}, r"^the left picture is 'left\.png', expected a picture"),
        ({"left": [[1, 2], [3]]}, r"^the left picture is \[\[1, 2\], \[3\]\], expected a picture"),
        ({"instruction": "  "}, "instruction"),
        ({"instruction": None}, "instruction"),
        ({"state": np.full(20, np.nan)}, "state holds NaN"),
        ({"state": np.zeros(14)}, r"state has shape \(14,\)"),
        ({"state": "unknown"}, "state is 'unknown'"),
        ({"timestamp": float("nan")}, "timestamp"),
        ({"timestamp": "now"}, "timestamp is 'now'"),
        ({"left": np.zeros((384, 512, 3), np.uint8)}, "wrist_picture"),
        ({"left": np.zeros((384, 384), np.uint8)}, r"has shape \(384, 384\); expected one colour picture"),
        ({"left": np.zeros((384, 384, 3), np.uint16)}, "left picture is uint16"),
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


def test_a_camera_may_fill_its_buffer_again():
    """regression: the observation kept a view of it, and the prediction was of another moment."""
    left, right, state = image(10), torch.from_numpy(image(20)), np.ones(20, np.float32)
    observation = Observation(left, right, "Pick up the apple.", state=state)
    left[:], right[:], state[:] = 200, 200, 0
    assert (observation.left == 10).all()
    assert (observation.right == 20).all()
    assert (observation.state == 1).all()
    for array in (observation.left, observation.right, observation.state):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert picture(observation).flags.writeable


def test_a_wrist_picture_is_the_middle_square_as_converters_make_it():
    pytest.importorskip("cv2")
    from rdt2.data.sources.options import SourceOptions
    from rdt2.data.sources.pictures import to_picture

    wide = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for crop in (None, 384, 300):
        ours = wrist_picture(wide, crop=crop)
        assert ours.shape == (384, 384, 3)
        assert np.array_equal(ours, to_picture(wide, SourceOptions(crop=crop), where="test"))
    assert np.array_equal(wrist_picture(wide, crop=384), wide[48:432, 128:512])
    assert np.array_equal(wrist_picture(wide[..., ::-1], bgr=True), wrist_picture(wide))
    with_alpha = np.concatenate([wide, wide[..., :1]], axis=-1)
    assert np.array_equal(wrist_picture(torch.from_numpy(with_alpha)), wrist_picture(wide))
    Observation(wrist_picture(wide), wrist_picture(wide), "Pick up the apple.")
    for wrong, crop, match in (
        (wide, 481, "a square of 481"),
        (wide, 0, "a square of 0"),
        (wide.transpose(2, 0, 1), None, "channels first"),
        (wide[..., 0], None, "one colour picture"),
        (wide.astype(np.uint16), None, "uint16"),
    ):
        with pytest.raises(ObservationError, match=match):
            wrist_picture(wrong, crop=crop)
