"""What a policy sees: two wrist pictures and a sentence."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ACTION_DIM
from rdt2.errors import ObservationError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray

IMAGE_SIZE = 384
JPEG_QUALITY = 95
"""Quality (4:2:0 chroma) of the JPEG pictures the released models were trained on."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One moment: both wrist cameras, the instruction, and the (unused so far) proprioceptive state.

    Raises:
        ObservationError: for pictures that are not RGB uint8 (384, 384, 3), an empty instruction, or a state
            that is not 20 finite numbers.
    """

    left: UInt8[ndarray, "384 384 3"]
    """RGB picture of the left arm's wrist camera (camera1); a torch tensor is converted."""
    right: UInt8[ndarray, "384 384 3"]
    """RGB picture of the right arm's wrist camera (camera0); a torch tensor is converted."""
    instruction: str
    """Short English, "Verb + object.": capital first letter, full stop."""
    state: Float[ndarray, " 20"] = field(default_factory=lambda: np.zeros(ACTION_DIM, np.float32))
    """Proprioception. The released models were trained with zeros and expect zeros."""
    timestamp: float | None = None
    """When the pictures were taken, in seconds of the robot's clock."""
    compressed: bool = False
    """The pictures have been through JPEG at the recording: policies then leave out that step of theirs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", _checked_picture(self.left, "left"))
        object.__setattr__(self, "right", _checked_picture(self.right, "right"))
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise ObservationError(
                f"the instruction is {self.instruction!r}; expected a sentence such as 'Pick up the apple.'"
            )
        state = np.array(_to_numpy(self.state), dtype=np.float32)
        if state.shape != (ACTION_DIM,):
            raise ObservationError(f"the state has shape {state.shape}, expected ({ACTION_DIM},).")
        if not np.isfinite(state).all():
            raise ObservationError("the state holds NaN or infinite values; pass zeros if it is not known.")
        object.__setattr__(self, "state", state)
        if self.timestamp is not None and not np.isfinite(self.timestamp):
            raise ObservationError(f"the timestamp is {self.timestamp}; expected seconds, or None.")


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, on whatever device
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _checked_picture(value: Any, side: str) -> np.ndarray:
    array = _to_numpy(value)
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    if array.dtype != np.uint8:
        raise ObservationError(
            f"the {side} picture is {array.dtype}, expected uint8 RGB in 0..255; multiply pictures in 0..1 "
            "by 255 and convert them."
        )
    if array.shape != shape:
        channels_first = array.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
        hint = "it has the channels first: move them last" if channels_first else "crop and resize it"
        raise ObservationError(f"the {side} picture has shape {array.shape}, expected {shape}; {hint}.")
    return array


def picture(observation: Observation) -> UInt8[ndarray, "384 768 3"]:
    """The one picture the models see: left | right."""
    return np.concatenate([observation.left, observation.right], axis=1)


def jpeg_roundtrip(image: UInt8[ndarray, "h w 3"], quality: int = JPEG_QUALITY) -> UInt8[ndarray, "h w 3"]:
    """Compresses an RGB picture to JPEG and back, since the models only ever saw such pictures.

    Both policies apply it. Baseline JPEG with 4:2:0 chroma, bit for bit what the training pictures had.
    """
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ObservationError(f"a picture is {image.dtype} {image.shape}, expected uint8 (h, w, 3).")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.array(Image.open(buffer))


def check_instruction(text: str) -> list[str]:
    """What in an instruction differs from those the models learned ("Verb + object."); else empty."""
    stripped = text.strip()
    if not stripped:
        return ["it is empty"]
    found = []
    if text != stripped:
        found.append("it has spaces around it")
    if "\n" in stripped or "  " in stripped:
        found.append("it has line breaks or double spaces")
    if not stripped[0].isupper():
        found.append("it does not begin with a capital letter")
    if not stripped.endswith("."):
        found.append("it does not end with a full stop")
    if not stripped.isascii():
        found.append("it has letters outside plain English")
    if len(stripped.split()) < 3:
        found.append("it has fewer than three words; name a verb and an object: 'Pick up the apple.'")
    if len(stripped.split()) > 25:
        found.append("it is longer than 25 words")
    return found
