"""What a policy sees: two wrist pictures and a sentence."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from numbers import Real
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

    Pictures and state are copies and read-only: a camera may fill its buffer again at once.

    Raises:
        ObservationError: for pictures that are not RGB uint8 (384, 384, 3) (:func:`wrist_picture` makes them), an
            empty instruction, or a state that is not 20 finite numbers.
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
        object.__setattr__(self, "state", _checked_state(self.state))
        if self.timestamp is not None and not (
            isinstance(self.timestamp, Real) and math.isfinite(self.timestamp)
        ):
            raise ObservationError(f"the timestamp is {self.timestamp!r}; expected seconds, or None.")


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, on whatever device
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.asarray(value, dtype=object)


def _checked_picture(value: Any, side: str) -> np.ndarray:
    array = _to_numpy(value)
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    check_colours(array, f"the {side} picture")
    if array.shape != shape:
        raise ObservationError(
            f"the {side} picture has shape {array.shape}, expected {shape}; crop and resize it with "
            "rdt2.observation.wrist_picture(picture), as the pictures of recordings are."
        )
    return _frozen(array, np.uint8)


def _checked_state(value: Any) -> np.ndarray:
    try:
        state = _frozen(_to_numpy(value), np.float32)
    except (TypeError, ValueError) as error:
        raise ObservationError(
            f"the state is {value!r:.60}, expected {ACTION_DIM} numbers; pass zeros if it is not known."
        ) from error
    if state.shape != (ACTION_DIM,):
        raise ObservationError(f"the state has shape {state.shape}, expected ({ACTION_DIM},).")
    if not np.isfinite(state).all():
        raise ObservationError("the state holds NaN or infinite values; pass zeros if it is not known.")
    return state


def _frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    """A copy that nobody else holds and nobody changes."""
    own: np.ndarray = np.array(array, dtype=dtype)
    own.flags.writeable = False
    return own


def check_colours(array: np.ndarray, what: str, channels: tuple[int, ...] = (3,)) -> None:
    """Raises ObservationError for what is no colour picture of 8 bits: uint8 (h, w, c)."""
    if array.dtype.kind not in "biuf":
        raise ObservationError(
            f"{what} is {array.tolist()!r:.60}, expected a picture: uint8 RGB (height, width, 3)."
        )
    if array.dtype != np.uint8:
        raise ObservationError(
            f"{what} is {array.dtype}, expected uint8 RGB in 0..255; multiply pictures in 0..1 by 255 and convert "
            "them, and save those of 16 bits as 8-bit RGB."
        )
    if array.ndim != 3 or array.shape[2] not in channels:
        hint = "expected one colour picture (height, width, 3)"
        if array.ndim == 3 and array.shape[0] in (3, 4):
            hint = "it has the channels first: move them last"
        raise ObservationError(f"{what} has shape {array.shape}; {hint}.")


def wrist_picture(image: Any, *, crop: int | None = None, bgr: bool = False) -> UInt8[ndarray, "384 384 3"]:
    """A camera's picture as the models see it: its centred square, resized to 384 x 384, RGB.

    Converters do the same with recorded pictures; what a policy sees later must be cut the same way.

    Args:
        image: uint8 (h, w, 3), or (h, w, 4), whose alpha is left out: array, torch tensor or PIL picture.
        crop: side in pixels of the square; None takes the largest.
        bgr: the channels are blue, green, red, as OpenCV reads them.

    Raises:
        ObservationError: no colour picture of 8 bits, or smaller than the crop.
    """
    array = _to_numpy(image)
    check_colours(array, "the picture", channels=(3, 4))
    height, width = array.shape[:2]
    side = min(height, width) if crop is None else crop
    if not 1 <= side <= min(height, width):
        raise ObservationError(
            f"a square of {side} pixels is asked for, the picture is {height} x {width}; choose a crop of 1 to "
            f"{min(height, width)}, or none."
        )
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(array[top : top + side, left : left + side, :3])
    if side != IMAGE_SIZE:
        import cv2

        # INTER_AREA averages what it shrinks; growing, linear is the smooth choice.
        method = cv2.INTER_AREA if side > IMAGE_SIZE else cv2.INTER_LINEAR
        square = cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=method)
    return np.ascontiguousarray(square[..., ::-1]) if bgr else square


def picture(observation: Observation) -> UInt8[ndarray, "384 768 3"]:
    """The one picture the models see: left | right."""
    return np.concatenate([observation.left, observation.right], axis=1)


def jpeg_bytes(image: UInt8[ndarray, "h w 3"], quality: int = JPEG_QUALITY) -> bytes:
    """An RGB picture as baseline JPEG with 4:2:0 chroma, bit for bit as the training pictures were compressed.

    Raises:
        ObservationError: it is no uint8 (h, w, 3).
    """
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ObservationError(f"a picture is {image.dtype} {image.shape}, expected uint8 (h, w, 3).")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def jpeg_roundtrip(image: UInt8[ndarray, "h w 3"], quality: int = JPEG_QUALITY) -> UInt8[ndarray, "h w 3"]:
    """Compresses an RGB picture to JPEG and back, since the models only ever saw such pictures.

    Both policies apply it. Bit for bit what the training pictures had, see :func:`jpeg_bytes`.
    """
    from PIL import Image

    return np.array(Image.open(io.BytesIO(jpeg_bytes(image, quality))))


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
